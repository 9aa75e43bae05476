"""Choosing: figures only from stored runs, nothing guessed, needs and limits that exclude, scores that add up."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.lineage import QUESTIONS
from bench.capabilities import Conformance, Verdict, save
from bench.choose import CRITERIA, Choice, Option, Team, choose
from bench.cli import app
from bench.records import LineageAnswer, Resources, RunRecord, Strike, Usage, Window
from bench.store import Store
from tests.unit.made_records import EPOCH, SECOND, MadeRun, made, scenario

FAST, SLOW = Option("argo", "default"), Option("dagster", "default")
RUNNER = CliRunner()


def pipelines(name: str, handoff: float, ids: Sequence[int] = range(6), **fields: Any) -> list[RunRecord]:
    """Samples in the blocks of the floor's."""
    of = scenario(name, configuration=fields.pop("configuration", "default"))
    return [made(of, number, handoff, resources=idle(0.5), **fields) for number in ids]


def idle(gib: float) -> Resources:
    usage = Usage(component="server", role="api", cpu_seconds=0.1, seconds=60, memory_bytes=int(gib * 2**30))
    window = Window(seconds=60, parts=(usage,))
    return Resources(idle=window, run=window)


def struck(name: str, fault: str, recovered: bool, number: int) -> RunRecord:
    of = scenario(name, "chain", 1, fault=fault)
    at = EPOCH + number * 1000 * SECOND
    return MadeRun(of, seed=number).record(
        run_id=f"run-{name}-{fault}-{number}",
        sample={"index": number},
        strike=Strike(at_ns=at, target="pod"),
        status="succeeded" if recovered else "failed",
    )


def asked(name: str, answered: int) -> RunRecord:
    answers = tuple(
        LineageAnswer(
            question=each,
            verdict="answered" if number < answered else "absent",
            facts={},
            missing=(),
            wrong=(),
            source="a store",
            query="all of it",
        )
        for number, each in enumerate(QUESTIONS)
    )
    return made(scenario(name, fault="exception"), 90, lineage=answers)


def complete(name: str, handoff: float, answered: int, lost: int = 0) -> list[RunRecord]:
    """All four figures of an orchestrator; `lost` of three runs per fault do not recover."""
    return [
        *pipelines(name, handoff),
        *(
            struck(name, fault, number >= 50 + lost, number)
            for fault in ("exception", "sigkill", "pod-deleted")
            for number in (50, 51, 52)
        ),
        asked(name, answered),
    ]


def stored() -> list[RunRecord]:
    floor = [made(scenario("pods"), number, 0.5) for number in range(6)]
    return [*floor, *complete("argo", 1.0, 11), *complete("dagster", 6.0, 4, lost=1)]


def ranked(found: Choice) -> list[Option]:
    return [each.option for each in found.ranked]


def test_the_better_by_every_figure_is_first_by_every_weighting() -> None:
    found = choose(stored(), [], Team())
    assert ranked(found) == [FAST, SLOW]
    best, other = found.ranked
    assert (best.first, other.first) == (1.0, 0.0)
    assert best.score == pytest.approx(sum(best.worths.values()) / len(CRITERIA))
    assert other.figures["retries"].value == pytest.approx(2 / 3)
    assert other.figures["lineage"].value == 4
    assert best.worths["lineage"] == pytest.approx(11 / 13)
    assert best.worths["memory"] == pytest.approx(1 / 1.5)
    assert best.worths["latency"] == pytest.approx(1 / best.figures["latency"].value)
    assert best.low < best.score <= best.high


def test_a_figure_names_the_runs_it_rests_on() -> None:
    found = choose(stored(), [], Team())
    for each in found.ranked:
        for figure in each.figures.values():
            assert figure.n == len(figure.runs) > 0
            assert all(each.option.orchestrator in run for run in figure.runs)


def test_weights_decide_and_a_criterion_of_none_is_not_asked_for() -> None:
    records = [record for record in stored() if not record.lineage]
    assert choose(records, [], Team()).ranked == ()
    found = choose(records, [], Team(weights={"memory": 1}))
    assert [each.score for each in found.ranked] == [pytest.approx(1 / 1.5)] * 2
    assert "do not tell it from dagster default" in found.verdict


def test_what_was_not_measured_is_not_guessed() -> None:
    records = [*stored(), *pipelines("prefect", 1.0)]
    found = choose(records, [], Team())
    assert ranked(found) == [FAST, SLOW]
    assert found.unmeasured[Option("prefect", "default")] == ("retries", "lineage")
    assert found.unmeasured[Option("kfp", "default")] == tuple(CRITERIA)


def test_first_runs_after_a_switch_are_no_latency() -> None:
    records = [r for r in stored() if r.scenario.orchestrator != "argo" or r.scenario.workload != "pipeline"]
    cold = [*records, asked("argo", 11), *pipelines("argo", 1.0, cold=True)]
    assert "latency" in choose(cold, [], Team()).unmeasured[FAST]


def test_a_tuned_configuration_has_faults_and_lineage_from_what_it_is_made_of() -> None:
    records = [*stored(), *pipelines("dagster", 0.6, configuration="tuned")]
    found = choose(records, [], Team())
    tuned = next(each for each in found.ranked if each.option.configuration == "tuned")
    assert {name: figure.of for name, figure in tuned.figures.items()} == {
        "latency": "",
        "retries": "default",
        "lineage": "default",
        "memory": "",
    }


def test_other_configurations_borrow_nothing() -> None:
    records = [*stored(), *pipelines("dagster", 0.6, configuration="metadata")]
    found = choose(records, [], Team())
    assert found.unmeasured[Option("dagster", "metadata")] == ("retries", "lineage")


def verdict(name: str, **outcomes: Any) -> Conformance:
    return Conformance(
        adapter=name,
        target="kind",
        configuration="default",
        adapter_sha256="0",
        recorded_at="2026-09-21T12:00:00Z",
        environment=made().environment,
        verdicts={each: Verdict(outcome=outcome, reason="so") for each, outcome in outcomes.items()},
    )


def test_needs_and_limits_exclude_with_a_reason() -> None:
    verdicts = [verdict("argo", approval_waits="yes"), verdict("dagster", approval_waits="never")]
    found = choose(stored(), verdicts, Team(needs=("approval_waits",)))
    assert ranked(found) == [FAST]
    assert found.excluded[SLOW] == "a run waits for approval before promote: no: so"
    assert found.excluded[Option("kfp", "default")].endswith("never asked")
    assert "the only one" in found.verdict
    found = choose(stored(), [], Team(limits={"lineage": 5, "retries": 0.5}))
    assert ranked(found) == [FAST] and "at least 5" in found.excluded[SLOW]
    found = choose(stored(), [], Team(weights={"retries": 1}, limits={"latency": 1.2}))
    assert SLOW in found.excluded and "at most 1.2" in found.excluded[SLOW]


def test_a_limit_asks_for_a_figure_that_does_not_count() -> None:
    records = [record for record in stored() if not record.lineage]
    found = choose(records, [], Team(weights={"memory": 1}, limits={"lineage": 1}))
    assert found.ranked == () and found.unmeasured[FAST] == ("lineage",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"needs": ["speed"]}, "there is no capability 'speed'; there are deploy_twice"),
        ({"weights": {"speed": 1}}, "there is no criterion 'speed'; there are latency"),
        ({"weights": {"latency": -1}}, "a weight is 0 or more"),
        ({"weights": {"latency": 0}}, "all weights are 0"),
        ({"weights": {"latency": float("nan")}}, "a weight is 0 or more"),
        ({"limits": {"lineage": 14}}, "a limit of lineage is from 0 to 13, not 14"),
    ],
)
def test_a_team_that_asks_for_what_there_is_not(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Team.model_validate(given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    store = Store(results)
    for record in stored():
        store.append(record)
    save(results, verdict("argo", approval_waits="yes"))
    return results


def test_the_command_says_who_why_and_from_what(folder: Path) -> None:
    done = RUNNER.invoke(app, ["choose", "--results", str(folder)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "Argo default: even at the worse ends" in said
    assert "recovered exception: 2 of 3" in said
    assert "Not ranked: airflow default: no stored figure of latency, retries, lineage, memory" in said
    assert "bench run -o kfp --target kind -c default --n 6" in said


def test_its_json_names_the_runs_and_what_would_measure_the_rest(folder: Path, tmp_path: Path) -> None:
    team = tmp_path / "team.toml"
    team.write_text('needs = ["gate_passes"]\n[weights]\nlatency = 2\nlineage = 1\n')
    done = RUNNER.invoke(
        app,
        ["choose", "--results", str(folder), "--team", str(team), "--needs", "approval_waits", "--json"],
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["shares"] == {"latency": pytest.approx(2 / 3), "lineage": pytest.approx(1 / 3)}
    assert [each["orchestrator"] for each in said["ranked"]] == ["argo"]
    assert said["ranked"][0]["figures"]["latency"]["runs"] == [
        f"run-argo-default-pipeline-{number}" for number in range(6)
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weight", "latency"], "--weight latency: not NAME=NUMBER"),
        (["--weight", "speed=1"], "there is no criterion 'speed'"),
        (["--needs", "speed"], "there is no capability 'speed'"),
        (["--target", "moon"], "target"),
        (["--team", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_bad_input_is_said_in_a_line(folder: Path, words: list[str], said: str) -> None:
    done = RUNNER.invoke(app, ["choose", "--results", str(folder), *words])
    assert said in str(getattr(done.exception, "message", "")), done.exception


def test_nothing_to_rank_ends_with_1(folder: Path) -> None:
    done = RUNNER.invoke(app, ["choose", "--results", str(folder), "--target", "local"])
    assert done.exit_code == 1
    assert "Nothing can be ranked." in done.output
