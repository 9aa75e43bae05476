"""What a plan says before it starts: how long, in which order, and whether that is too long."""

import json
import math
import re
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from adapters.base import Target
from bench.commands import run as run_command
from bench.commands.run import Options, run, scenarios, told, within_budget
from bench.errors import BadInput
from bench.measure import plan as planning
from bench.measure.plan import Expectation, Limits
from bench.measure.runner import Runner
from bench.report.numbers import duration
from bench.results.store import FILE, Store
from tests.unit.made_records import made, scenario


def test_a_plan_takes_the_median_of_earlier_runs_and_its_pauses() -> None:
    argo, pods = scenario("argo", "chain", 3), scenario("pods", "chain", 3)
    plan = planning.make([argo, pods], 2, seed=1, limits=Limits(jitter_seconds=10))
    earlier = [made(argo, number) for number in range(3)]
    middle = sorted(r.client.makespan_monotonic_ns for r in earlier if r.client)[1] / 1e9
    known = planning.learned(earlier)
    found = planning.expected(plan, plan.slots, known)
    assert found.seconds == pytest.approx(2 * middle + sum(slot.jitter_seconds for slot in plan.slots))
    assert found.unknown == 2
    assert planning.expected(plan, plan.slots[:1], known).seconds < found.seconds


def test_a_plan_takes_what_comes_between_runs_and_deployments(tmp_path: Path) -> None:
    """Learned from neighbours of one plan, by whether an orchestrator or its configuration was changed in between."""
    argo, tuned, pods = (
        scenario("argo", "chain", 3),
        scenario("argo", "chain", 3, configuration="tuned"),
        scenario("pods", "chain", 3),
    )
    end, earlier = 0.0, []
    for number, (of, gap, plan_id) in enumerate(
        (
            (pods, 0, "one"),
            (argo, 50, "one"),
            (argo, 2, "one"),
            (tuned, 30, "one"),
            (pods, 1000, "another"),
            (argo, 40, "another"),
        )
    ):
        record = made(of, number)
        assert record.client is not None
        long = record.client.first_terminal_ns - record.client.submit_ns
        begin = int((end + gap + record.client.jitter_seconds) * 1e9)
        client = record.client.model_copy(update={"submit_ns": begin, "first_terminal_ns": begin + long})
        end = client.first_terminal_ns / 1e9
        sample = record.sample.model_copy(update={"plan_id": plan_id})
        earlier.append(record.model_copy(update={"client": client, "sample": sample}))
    known = planning.learned(reversed(earlier))
    assert known.between[argo.target, "argo", True] == pytest.approx(40, abs=1e-6)
    assert known.between[argo.target, "argo", False] == pytest.approx(2, abs=1e-6)
    assert (pods.target, "pods", True) not in known.between, "what lies between two plans was no deployment"
    plan = planning.make([argo, tuned], 2, seed=1)
    found = planning.expected(plan, plan.slots, known)
    runs = sum(known.makespans[plan.scenarios[slot.scenario].key] for slot in plan.slots)
    switches = 1 + sum(a.scenario != b.scenario for a, b in zip(plan.slots, plan.slots[1:], strict=False))
    stays = len(plan.slots) - switches
    assert found.seconds == pytest.approx(runs + 40 * switches + 2 * stays, abs=1e-3) and found.whole
    with_pods = planning.make([argo, pods], 1, seed=1)
    assert not planning.expected(with_pods, with_pods.slots, known).gaps_known
    assert planning.learned([*earlier, *earlier]) == known, "what is read twice counts once"
    idle = planning.make([argo, tuned], 1, seed=1, limits=Limits(idle_seconds=60))
    plain = planning.make([argo, tuned], 1, seed=1)
    assert planning.expected(idle, idle.slots, known).seconds == pytest.approx(
        planning.expected(plain, plain.slots, known).seconds + 2 * 2 * 60
    ), "each of two deployments is left alone for a while, and watched as long"


def test_a_night_between_two_runs_is_no_deployment() -> None:
    argo, tuned = scenario("argo", "chain", 3), scenario("argo", "chain", 3, configuration="tuned")
    first, then = made(argo), made(tuned, 1)
    assert first.client and then.client
    for hours, known in ((12, False), (0.1, True)):
        later = first.client.first_terminal_ns + int(hours * 3600e9)
        client = then.client.model_copy(update={"submit_ns": later, "first_terminal_ns": later + 10**9})
        found = planning.learned([first, then.model_copy(update={"client": client})])
        assert bool(found.between) == known


def test_warm_ups_are_in_the_time_that_a_plan_takes() -> None:
    asked = [scenario("argo", "chain", 3), scenario("argo", "chain", 10)]
    (up,) = planning.warm_ups(asked)
    plan = planning.make([*asked, up], 2, seed=1)
    warm_up = made(up, cold=True)
    assert warm_up.client is not None
    seconds = planning.expected(plan, plan.slots, planning.learned([warm_up])).seconds
    assert seconds == pytest.approx(warm_up.client.makespan_monotonic_ns / 1e9), "one deployment, never left"


def test_another_limit_is_another_plan() -> None:
    """A run that was void under one would count under the other, and nothing stored would tell."""
    asked = [scenario("argo", "chain", 3)]
    digests = {
        planning.request_digest(asked, 3, None, Limits(**{name: value}))
        for name, value in (
            ("max_steal", 0.2),
            ("max_steal", 0.9),
            ("deadline_seconds", 9.0),
            ("jitter_seconds", 9.0),
        )
    }
    assert len(digests) == 4


def test_a_block_has_each_scenario_once_and_switches_no_more_than_it_must() -> None:
    """Orchestrators, their configurations and the scenarios of these come in another order in each block."""
    asked = [
        scenario(name, "chain", steps, configuration=configuration)
        for steps in (1, 10)
        for name in ("argo", "prefect", "airflow")
        for configuration in ("default", "tuned")
    ]
    plan = planning.make([*asked, *planning.warm_ups(asked)], 40, seed=3, limits=Limits(jitter_seconds=1))
    assert len(plan.scenarios) == 12 + 6 and len(plan.slots) == 40 * 12
    blocks = [plan.slots[start : start + 12] for start in range(0, len(plan.slots), 12)]
    orders = set()
    for number, block in enumerate(blocks):
        assert {slot.index for slot in block} == {number}
        assert sorted(slot.scenario for slot in block) == list(range(12)), "a warm-up has no turn of its own"
        of = [plan.scenarios[slot.scenario] for slot in block]
        places = [(each.orchestrator, each.configuration) for each in of]
        assert len([place for place, _ in groupby(places)]) == 6
        assert len([name for name, _ in groupby(places, key=lambda place: place[0])]) == 3
        orders.add(tuple(slot.scenario for slot in block))
    assert len(orders) > 35
    assert {blocks[n][0].scenario for n in range(40)} >= set(range(6)), "each of them comes first somewhere"


def test_a_warm_up_for_each_configuration_and_none_where_it_is_not_wanted(tmp_path: Path) -> None:
    asked = Options(("prefect", "calls"), tmp_path, workloads=("chain", "pipeline"))
    found = scenarios(asked, Target.LOCAL)
    ups = [each for each in found if each.warm_up]
    own = {each.configuration for each in found if each.orchestrator == "prefect"}
    assert {(each.orchestrator, each.workload, each.steps) for each in ups} == {("prefect", "chain", 1)}
    assert sorted(each.configuration for each in ups) == sorted(own), (
        "floors and noop have nothing to warm up"
    )
    plan = planning.make(found, 1, seed=1)
    for each in found:
        number = plan.warm_up(each)
        assert (number is None) == (each.orchestrator != "prefect")
        assert number is None or plan.scenarios[number].configuration == each.configuration
    for other in (
        replace(asked, warm_up=False),
        replace(asked, workloads=("pipeline",), faults=("exception",)),
    ):
        assert not any(each.warm_up for each in scenarios(other, Target.LOCAL))


def test_what_is_said_of_it() -> None:
    assert told(Expectation(1500, 0)) == "about 25 min by earlier runs"
    assert told(Expectation(1500, 0, gaps_known=False)) == (
        "at least 25 min by earlier runs; deployments are not all in it"
    )
    assert told(Expectation(0, 3)) == "at least 0 s by earlier runs; 3 runs of unknown length"
    assert [duration(value) for value in (4, 89.6, 90, 5399, 5400)] == [
        "4 s",
        "90 s",
        "2 min",
        "90 min",
        "1.5 h",
    ]


def test_a_plan_over_budget_is_refused_with_what_would_do() -> None:
    asked = Options(("noop",), Path("results"))
    within_budget(Expectation(3600, 0), asked)
    within_budget(Expectation(3500, 0), replace(asked, budget_hours=1.0))
    short = replace(asked, budget_hours=0.5)
    with pytest.raises(BadInput, match=r"more than the budget of 0\.5 h") as refused:
        within_budget(Expectation(3500, 0), short)
    assert "--budget 1" in refused.value.remedy
    with pytest.raises(BadInput) as refused:
        within_budget(Expectation(3.44 * 3600, 0), short)
    assert refused.value.remedy.endswith("--budget 3.5"), "what it says to type is enough"
    with pytest.raises(BadInput) as refused:
        within_budget(Expectation(3500, 0), replace(short, begun=short.begun - 3600))
    assert refused.value.remedy.endswith("--budget 2"), "what a pilot took is gone"


def test_no_run_begins_once_the_budget_is_used_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.locked(tmp_path) as store:
        runner = Runner(store, Target.LOCAL)
        plan = planning.make([scenario("noop", target="local", configuration="default")], 3, seed=1)
        runs = runner.run(plan)
        next(runs)
        runner.until = time.monotonic()
        assert list(runs) == [], "what is under way ends, and no more begins"
        runner.until = math.inf
        assert len(list(runner.run(plan))) == 2


def test_a_budget_that_is_used_up_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Options(("noop",), tmp_path, n=3, target=Target.LOCAL, controls=False, budget_hours=1.0)
    monkeypatch.setattr("bench.commands.run.within_budget", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run(replace(asked, begun=asked.begun - 3601, fresh=True))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "the budget of 1 h is used up: 0 of 3 samples are stored" in said
    assert "the same command without --fresh goes on with the rest" in said
    run(asked)
    records = Store(tmp_path).records()
    assert len(records) == 3 and len({record.sample.plan_id for record in records}) == 1


def test_a_plan_that_was_only_printed_is_the_one_that_is_carried_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        "orchestrators": ("noop",),
        "results": tmp_path,
        "n": 3,
        "target": Target.LOCAL,
        "controls": False,
    }
    run(Options(**asked, plan_only=True))
    shown = capsys.readouterr().out
    assert shown.count("noop/pipeline-7/default") == 3 and "by earlier runs" in shown
    assert Store(tmp_path).records() == []
    (stored,) = (tmp_path / planning.PLANS).glob("*.json")
    run(Options(**asked))
    assert re.search(r"noop/pipeline-7/default +3 +(not known|0\.)", capsys.readouterr().out), (
        "what is to come"
    )
    assert {record.sample.plan_id for record in Store(tmp_path).records()} == {stored.stem}


def test_a_printed_plan_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Options(("noop",), tmp_path, n=2, target=Target.LOCAL, controls=False, plan_only=True, as_json=True))
    assert len(json.loads(capsys.readouterr().out)["slots"]) == 2


def test_a_damaged_line_of_the_published_results_refuses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.locked(tmp_path) as store:
        store.append(made())
    with (tmp_path / FILE).open("a") as file:
        file.write("<<<<<<< HEAD\n")
    monkeypatch.setattr(run_command, "PUBLISHED", tmp_path)
    assert [record.run_id for record in run_command.published()] == [made().run_id]
    monkeypatch.setattr(run_command, "PUBLISHED", tmp_path / "nothing")
    assert run_command.published() == []
