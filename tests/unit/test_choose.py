"""Choosing: figures only from stored runs, nothing guessed, needs and limits that exclude, scores that add up."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.lineage import QUESTIONS
from bench.analysis.cells import cells, makespan
from bench.choice.options import Figure, Option, figures_of
from bench.choice.ranking import CRITERIA, Choice, Team, choose
from bench.cli import app
from bench.errors import BadInput
from bench.report.capabilities import Conformance, Verdict, save
from bench.results.records import LineageAnswer, Resources, RunRecord, Strike, Usage, Window
from bench.results.store import Store
from tests.unit.made_records import EPOCH, SECOND, MadeRun, made, scenario

FAST, SLOW = Option("argo", "default"), Option("dagster", "default")
RUNNER = CliRunner()


def pipelines(name: str, handoff: float, ids: Sequence[int] = range(6), **fields: Any) -> list[RunRecord]:
    """Samples in the blocks of the floor's, each after a deployment of its own."""
    of = scenario(name, configuration=fields.pop("configuration", "default"))
    gib = fields.pop("gib", 0.5)
    return [
        made(of, number, handoff, resources=idle({"server": gib + number / 1000}), **fields) for number in ids
    ]


def idle(gib: Mapping[str, float]) -> Resources:
    parts = tuple(
        Usage(component=name, role="api", cpu_seconds=0.1, seconds=60, memory_bytes=int(size * 2**30))
        for name, size in gib.items()
    )
    window = Window(seconds=60, parts=parts)
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
    assert found.verdict == "argo default: the brackets of all others are below its own"
    assert best.score == pytest.approx(sum(best.worths.values()) / len(CRITERIA))
    assert other.figures["retries"].value == pytest.approx(2 / 3)
    assert other.figures["lineage"].value == 4
    assert best.worths["lineage"] == pytest.approx(11 / 13)
    assert best.worths["memory"] == pytest.approx(1 / 1.5025)
    plain = [r for r in stored() if r.scenario.workload == "pipeline" and not r.scenario.fault]
    ours, floors = (
        [makespan(r) or 0 for r in plain if r.scenario.orchestrator == n] for n in ("argo", "pods")
    )
    ratios = sorted(one / floor for one, floor in zip(ours, floors, strict=True))
    assert best.figures["latency"].value == pytest.approx((ratios[2] + ratios[3]) / 2)
    assert best.worths["latency"] == pytest.approx(2 / (ratios[2] + ratios[3]))
    assert best.bracket is not None and best.bracket[0] < best.score < best.bracket[1]


def figures(records: Sequence[RunRecord], option: Option = FAST) -> Mapping[str, Figure]:
    return figures_of(cells(records), "kind")[option]


def test_a_figure_names_the_runs_it_rests_on_and_no_others() -> None:
    floor = [made(scenario("pods"), number, 0.5) for number in (1, 4)]
    records = [*floor, *complete("argo", 1.0, 11)]
    found = figures(records)
    latency = found["latency"]
    assert latency.n == 2 and latency.interval and latency.interval.level == 0.5
    assert latency.runs == tuple(
        f"run-{name}-default-pipeline-{n}" for name in ("argo", "pods") for n in (1, 4)
    )
    assert found["retries"].n == len(found["retries"].runs) == 9
    assert found["lineage"].runs == ("run-argo-default-pipeline-90",)
    assert found["memory"].n == 6


def test_one_look_at_idle_servers_is_one_however_many_runs_come_after_it() -> None:
    look = idle({"server": 0.5})
    records = [made(scenario(), number, resources=look) for number in range(6)]
    memory = figures(records)["memory"]
    assert (memory.n, memory.known, len(memory.runs)) == (1, False, 1)


def test_looks_beside_different_work_are_looks_at_the_same_servers() -> None:
    one = made(scenario(), 0, resources=idle({"server": 0.5}))
    other = made(scenario("argo", "chain", 10), 1, resources=idle({"server": 0.7}))
    memory = figures([one, other])["memory"]
    assert (memory.n, memory.known, memory.runs) == (2, True, (other.run_id, one.run_id))
    assert memory.value == pytest.approx(0.6, rel=1e-6)


def test_a_look_that_missed_a_server_is_no_figure() -> None:
    whole = made(scenario(), 0, resources=idle({"server": 0.1, "scheduler": 2.0}))
    part = made(scenario("argo", "chain", 10), 1, resources=idle({"server": 0.1}))
    assert figures([whole, part])["memory"].value == pytest.approx(2.1, rel=1e-6)


def test_answers_to_an_older_query_are_not_counted() -> None:
    old = [asked("argo", 3).model_copy(update={"run_id": f"old-{n}"}) for n in range(3)]
    old = [
        r.model_copy(update={"lineage": tuple(a.model_copy(update={"query": "less"}) for a in r.lineage)})
        for r in old
    ]
    new = asked("argo", 11).model_copy(update={"recorded_at": "2026-09-22T12:00:00Z"})
    lineage = figures([*old, new])["lineage"]
    assert (lineage.value, lineage.n, lineage.runs) == (11, 1, (new.run_id,))


def test_wrong_answers_count_against_it() -> None:
    record = asked("argo", 11)
    lie = tuple(
        a.model_copy(update={"verdict": "wrong"}) if a.question == QUESTIONS[0] else a for a in record.lineage
    )
    assert figures([record.model_copy(update={"lineage": lie})])["lineage"].value == 9


def test_faults_weigh_the_same_however_often_each_struck() -> None:
    records = [
        struck("argo", "exception", True, 50),
        struck("argo", "pod-deleted", True, 51),
        *(struck("argo", "sigkill", False, number) for number in range(60, 80)),
    ]
    retries = figures(records)["retries"]
    assert retries.value == pytest.approx(2 / 3)
    assert retries.interval and retries.interval.low < retries.value < retries.interval.high


def elsewhere(records: Sequence[RunRecord], day: int, **facts: str) -> list[RunRecord]:
    """The same, measured on another machine on another day."""
    return [
        record.model_copy(
            update={
                "recorded_at": f"2026-09-{day}T12:00:00Z",
                "environment": record.environment.model_copy(
                    update={"blocking": {**record.environment.blocking, **facts}}
                ),
            }
        )
        for record in records
    ]


def test_times_of_two_environments_are_not_set_beside_each_other() -> None:
    """Counts are, and say so."""
    newer = [r for r in stored() if r.scenario.orchestrator == "pods" or r.scenario.orchestrator == "argo"]
    older = [r for r in stored() if r.scenario.orchestrator in ("pods", "dagster")]
    renamed = [r.model_copy(update={"run_id": f"old-{r.run_id}"}) for r in older]
    records = [*newer, *elsewhere(renamed, 11, cores="384")]
    found = choose(records, [], Team())
    assert ranked(found) == [FAST]
    assert found.unmeasured[SLOW] == ("latency",), "what idle servers hold is no time"
    counted = choose(records, [], Team(weights={"retries": 1}))
    assert [each.figures["retries"].differs for each in counted.ranked] == [(), ("cores",)]


def test_the_floor_is_of_the_same_environment() -> None:
    records = [r for r in stored() if r.scenario.orchestrator != "pods"]
    floor = elsewhere([made(scenario("pods"), number, 0.1) for number in range(6)], 25, cores="384")
    assert "latency" not in figures([*records, *floor])


def test_an_option_whose_pipelines_failed_is_out() -> None:
    records = stored()
    failing = [
        r.model_copy(update={"status": "failed"})
        if (r.scenario.orchestrator, r.scenario.key.endswith("/default")) == ("argo", True)
        and r.sample.index in (1, 2)
        else r
        for r in records
    ]
    found = choose(failing, [], Team())
    assert found.excluded[FAST] == "2 of 6 pipelines failed"
    assert ranked(found) == [SLOW]
    assert ranked(choose(failing, [], Team(weights={"lineage": 1}))) == [FAST, SLOW]


def test_what_was_measured_once_wins_nothing() -> None:
    floor = made(scenario("pods"), 0, 0.5)
    records = [floor, *pipelines("argo", 1.0, [0]), *pipelines("dagster", 6.0, [0])]
    found = choose(records, [], Team(weights={"latency": 1}))
    assert [each.bracket for each in found.ranked] == [None, None]
    assert "measured once" in found.verdict


def test_each_figure_is_the_one_measured_last() -> None:
    older = asked("argo", 3).model_copy(update={"run_id": "older"})
    newer = elsewhere([asked("argo", 11)], 25, kubernetes="v1.35.0")
    assert figures([older, *newer])["lineage"].value == 11
    newest = elsewhere([older], 26, kubernetes="v1.36.0")
    assert figures([*newest, *newer])["lineage"].value == 3


def test_runs_with_parameters_of_their_own_are_not_looked_at() -> None:
    other = made(scenario("argo", parameters={"k": 9}), 0, resources=idle({"server": 9.0}))
    found = choose([*stored(), other.model_copy(update={"run_id": "k-9"})], [], Team())
    assert found.ranked[0].figures["memory"].value < 1


def test_first_in_is_the_share_of_even_weightings() -> None:
    """One is better by d in one of two criteria, the other by e in the other: d ÷ (d + e) of all weights."""
    records = [*stored(), *(r for r in complete("prefect", 1.0, 5) if not r.scenario.fault)]
    records = [r for r in records if r.scenario.orchestrator != "dagster"]
    records += [*pipelines("dagster", 1.0, gib=0.1), asked("dagster", 9)]
    found = choose(records, [], Team(weights={"lineage": 5, "memory": 1}))
    best, other = (next(r for r in found.ranked if r.option == option) for option in (FAST, SLOW))
    d, e = best.worths["lineage"] - other.worths["lineage"], other.worths["memory"] - best.worths["memory"]
    assert d > 0 and e > 0
    assert best.first == pytest.approx(d / (d + e), abs=0.015)


def test_equal_options_share_the_lead() -> None:
    found = choose(stored(), [], Team(weights={"memory": 1}))
    assert [each.first for each in found.ranked] == [0.5, 0.5]


def test_what_cannot_be_there_is_out_with_its_reason() -> None:
    refused = made(scenario("kfp"), 0, status="unsupported", reason="no image", client=None, breakdown=None)
    assert choose([*stored(), refused], [], Team()).excluded[Option("kfp", "default")] == "no image"


def test_weights_decide_and_a_criterion_of_none_is_not_asked_for() -> None:
    records = [record for record in stored() if not record.lineage]
    assert choose(records, [], Team()).ranked == ()
    found = choose(records, [], Team(weights={"memory": 1}))
    assert [each.score for each in found.ranked] == [pytest.approx(1 / 1.5025)] * 2
    assert "do not tell it from dagster default" in found.verdict


def test_what_was_not_measured_is_not_guessed() -> None:
    records = [*stored(), *pipelines("prefect", 1.0)]
    found = choose(records, [], Team())
    assert ranked(found) == [FAST, SLOW]
    assert found.unmeasured[Option("prefect", "default")] == ("retries", "lineage")
    assert found.unmeasured[Option("kfp", "default")] == tuple(CRITERIA)


def test_which_way_to_fail_an_option_has_never_met_is_said() -> None:
    few = [struck("prefect", "exception", True, 70), struck("prefect", "pod-deleted", True, 71)]
    found = choose([*stored(), *pipelines("prefect", 1.0), asked("prefect", 9), *few], [], Team())
    prefect = Option("prefect", "default")
    assert found.unmeasured[prefect] == ("retries",)
    assert found.not_struck[prefect] == ("sigkill",)


def test_memory_without_a_run_may_be_of_an_older_environment_which_it_names() -> None:
    def now(record: RunRecord) -> RunRecord:
        facts = {**record.environment.blocking, "cpu": "newer"}
        return record.model_copy(
            update={
                "run_id": f"{record.run_id}-now",
                "sample": record.sample.model_copy(update={"plan_id": "now"}),
                "environment": record.environment.model_copy(update={"blocking": facts}),
                "recorded_at": "2026-11-01T12:00:00Z",
                "resources": None,
            }
        )

    again = [now(r) for r in stored() if r.scenario.workload == "pipeline" and not r.scenario.fault]
    (best, *_) = choose([*stored(), *again], [], Team()).ranked
    assert best.figures["memory"].differs == ("cpu",) and best.figures["latency"].differs == ()


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


def test_what_is_tuned_from_pods_has_them_from_pods() -> None:
    assert Option("prefect", "pods-tuned").base == Option("prefect", "pods")
    assert Option("prefect", "tuned").base == Option("prefect", "default")
    assert Option("prefect", "pods").base == Option("prefect", "pods")


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
    of_pods = verdict("dagster", approval_waits="yes").model_copy(update={"configuration": "pods-tuned"})
    assert SLOW in choose(stored(), [of_pods], Team(needs=("approval_waits",))).excluded
    tuned = of_pods.model_copy(update={"configuration": "tuned"})
    assert SLOW in ranked(choose(stored(), [tuned], Team(needs=("approval_waits",))))
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
        ({"weights": {"latency": -1}}, "greater than or equal to 0"),
        ({"weights": {"latency": float("inf")}}, "finite number"),
        ({"weights": {"latency": True}}, "valid number"),
        ({"limits": {"latency": "3"}}, "valid number"),
        ({"weights": {"latency": 0}}, "all weights are 0"),
        ({"weights": {"latency": float("nan")}}, "finite number"),
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
    save(results, verdict("argo", approval_waits="yes", gate_passes="yes"))
    return results


def test_the_command_says_who_why_and_from_what(folder: Path) -> None:
    done = RUNNER.invoke(app, ["choose", "--results", str(folder)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "Argo default: the brackets of all others are below its own." in said
    assert "recovered exception: 2 of 3" in said
    assert (
        "Not ranked: airflow default: no stored figure that counts of latency, retries (never struck by "
        "exception, sigkill, pod-deleted), lineage, memory" in said
    )
    assert "What counts for retries: a chain of one step, struck in every way in which another option" in said
    assert "memory: the same for all that are ranked, so it decides nothing" in said
    assert said.count("decides nothing") == 1
    assert "bench run -o airflow,pods --target kind -c default --n 6 --results" in said


def test_what_is_known_of_an_option_that_is_not_ranked_is_said() -> None:
    records = [r for r in stored() if r.scenario.orchestrator != "dagster" or r.scenario.fault != "sigkill"]
    found = choose(records, [], Team())
    assert found.unmeasured[SLOW] == ("retries",)
    assert found.known[SLOW].keys() == {"latency", "lineage", "memory"}


def test_a_criterion_by_which_all_are_worth_the_same_is_said_to_decide_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    floor = [made(scenario("pods"), number, 0.5) for number in range(6)]
    for record in (*floor, *complete("argo", 1.0, 11), *complete("dagster", 6.0, 4)):
        store.append(record)
    said = " ".join(RUNNER.invoke(app, ["choose", "--results", str(tmp_path)]).output.split())
    assert "retries: the same for all that are ranked, so it decides nothing" in said
    assert "lineage: the same" not in said


def test_where_nothing_of_kind_is_stored_the_target_is_what_is(tmp_path: Path) -> None:
    Store(tmp_path).append(made(scenario("prefect", target="local"), 0))
    given = ["choose", "--results", str(tmp_path), "--json"]
    assert json.loads(RUNNER.invoke(app, given).stdout)["team"]["target"] == "local"
    said = json.loads(RUNNER.invoke(app, [*given, "--target", "kind"]).stdout)
    assert said["team"]["target"] == "kind"


def test_where_figures_are_missing_it_says_by_which_something_can_be_ranked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in stored():
        if record.scenario.workload == "pipeline" and not record.scenario.fault:
            store.append(record)
    given = ["choose", "--results", str(tmp_path)]
    done = RUNNER.invoke(app, given)
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    where = f"--results {tmp_path} --target kind"
    assert f"By what is stored alone: bench choose {where} --weight latency=0.25,memory=0.25" in said
    again = RUNNER.invoke(app, [*given, "--weight", "latency=0.25,memory=0.25"])
    assert again.exit_code == 0 and "By what is stored alone" not in again.output
    nothing = RUNNER.invoke(app, [*given, "--weight", "lineage=1"])
    assert nothing.exit_code == 1 and "By what is stored alone" not in nothing.output


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
        f"run-{name}-default-pipeline-{number}" for name in ("argo", "pods") for number in range(6)
    ]
    assert said["team"]["needs"] == ["gate_passes", "approval_waits"]
    assert len(said["stale_verdicts"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weight", "latency"], "--weight latency: not NAME=NUMBER"),
        (["--weight", "speed=1"], "there is no criterion 'speed'"),
        (["--weight", "latency=1", "--weight", "latency=2"], "latency was given before"),
        (["--needs", "speed"], "there is no capability 'speed'"),
        (["--target", "moon"], "target"),
        (["--team", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_bad_input_is_said_in_a_line(folder: Path, words: list[str], said: str) -> None:
    done = RUNNER.invoke(app, ["choose", "--results", str(folder), *words])
    assert isinstance(done.exception, BadInput) and said in done.exception.message


def test_nothing_to_rank_ends_with_1(folder: Path) -> None:
    done = RUNNER.invoke(app, ["choose", "--results", str(folder), "--target", "local"])
    assert done.exit_code == 1
    assert "Nothing can be ranked." in done.output
