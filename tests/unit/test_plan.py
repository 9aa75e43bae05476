"""What a plan says before it starts: how long, in which order, and whether that is too long."""

import json
from pathlib import Path

import pytest

from adapters.base import Target
from bench import plan as planning
from bench.drawing import duration
from bench.errors import BadInput
from bench.plan import Expectation
from bench.run_command import Options, run, told, within_budget
from bench.store import Store
from tests.unit.made_records import made, scenario


def test_a_plan_takes_the_median_of_earlier_runs_and_its_pauses() -> None:
    argo, pods = scenario("argo", "chain", 3), scenario("pods", "chain", 3)
    plan = planning.make([argo, pods], 2, seed=1, jitter_seconds=10)
    earlier = [made(argo, number) for number in range(3)]
    middle = sorted(r.client.makespan_monotonic_ns for r in earlier if r.client)[1] / 1e9
    found = planning.expected(plan, plan.slots, earlier)
    assert found.seconds == pytest.approx(2 * middle + sum(slot.jitter_seconds for slot in plan.slots))
    assert found.unknown == 2
    assert planning.expected(plan, plan.slots[:1], earlier).seconds < found.seconds


def test_what_is_said_of_it() -> None:
    assert told(Expectation(1500, 0)) == "at least 25 min by earlier runs, deployments not counted"
    assert told(Expectation(0, 3)).endswith("; 3 runs of unknown length")
    assert [duration(value) for value in (4, 89.6, 90, 5399, 5400)] == [
        "4 s",
        "90 s",
        "2 min",
        "90 min",
        "1.5 h",
    ]


def test_a_plan_over_budget_is_refused_with_what_would_do() -> None:
    within_budget(Expectation(3600, 0), None)
    within_budget(Expectation(3600, 0), 1.0)
    with pytest.raises(BadInput, match=r"more than the budget of 0\.5 h") as refused:
        within_budget(Expectation(3600, 0), 0.5)
    assert "--budget 1" in refused.value.remedy


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
    assert shown.count("noop/pipeline-7/default") == 3 and "at least" in shown
    assert Store(tmp_path).records() == []
    (stored,) = (tmp_path / planning.PLANS).glob("*.json")
    run(Options(**asked))
    assert {record.sample.plan_id for record in Store(tmp_path).records()} == {stored.stem}


def test_a_printed_plan_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Options(("noop",), tmp_path, n=2, target=Target.LOCAL, controls=False, plan_only=True, as_json=True))
    assert len(json.loads(capsys.readouterr().out)["slots"]) == 2
