"""A killed `bench run` loses no sample and repeats none: 100 kills at seeded random moments."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from adapters.base import Target
from bench.measure import plan as planning
from bench.measure.plan import Plan
from bench.measure.runner import Runner
from bench.results.records import RunRecord, Scenario
from bench.results.store import Store

SCENARIOS = [
    Scenario(
        orchestrator="noop",
        target="local",
        workload=workload,
        configuration="default",
        steps=7,
        parameters={"sleep_seconds": "0.002"},
    )
    for workload in ("pipeline", "chain")
]
N = 120
KILLS = 100


def _carry_out(folder: Path, plan: Plan) -> None:
    with Store.locked(folder) as store:
        runner = Runner(store, Target.LOCAL)
        runner.clean()
        for _ in runner.run(plan):
            continue


def _forked(folder: Path, plan: Plan, kill_after: float | None) -> bool:
    """Carry out the plan in a child; kill it after some seconds. True where it came to its end by itself."""
    child = os.fork()
    if child == 0:
        try:
            _carry_out(folder, plan)
        except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happened
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)  # the moment of the kill is the test's input, not a wait for something
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.waitstatus_to_exitcode(status) == 0
    return True


@pytest.mark.slow
def test_hundred_kills(tmp_path: Path) -> None:
    source = random.Random(20261123)
    plan = planning.make(SCENARIOS, N, seed=1)
    planning.save(tmp_path, plan)
    killed = 0
    while killed < KILLS:
        if _forked(tmp_path, plan, source.uniform(0.0, 0.12)):
            # All samples are in: go on with another plan in the same store, so that every kill hits a live run.
            plan = planning.make(SCENARIOS, N, seed=killed + 2)
            planning.save(tmp_path, plan)
            continue
        killed += 1
    assert _forked(tmp_path, plan, None)

    store = Store(tmp_path)
    records = store.records()
    assert store.verify() == []
    for path in (tmp_path / "plans").glob("*.json"):
        stored = Plan.model_validate_json(path.read_text())
        valid = [r.sample for r in records if r.sample.plan_id == stored.plan_id and r.status != "void"]
        answered = [(sample.scenario, sample.index) for sample in valid]
        planned = [(stored.scenarios[slot.scenario].key, slot.index) for slot in stored.slots]
        assert sorted(answered) == sorted(planned), "a sample was lost or repeated"
    started = (tmp_path / "journal.jsonl").read_text().count('"ended":false')
    assert started == len(records), "every run that was started has a record"
    assert planning.left_behind(tmp_path) == []
    assert any(record.status == "void" for record in records), "no kill hit a run under way"
    assert len({record.run_id for record in records}) == len(records)


def test_a_run_under_way_is_recorded_as_void_and_repeated(tmp_path: Path) -> None:
    plan = planning.make(SCENARIOS[:1], 1, seed=1)
    planning.save(tmp_path, plan)
    started = planning.Started(
        plan_id=plan.plan_id, slot=plan.slots[0], number=1, run_id=plan.run_id(plan.slots[0], 1)
    )
    planning.note_start(tmp_path, started)
    _carry_out(tmp_path, plan)
    records = Store(tmp_path).records()
    assert [(r.status, r.sample.number) for r in records] == [("void", 1), ("succeeded", 2)]


def test_the_journal_survives_a_torn_line(tmp_path: Path) -> None:
    plan = planning.make(SCENARIOS[:1], 2, seed=1)
    (tmp_path / "journal.jsonl").write_text('{"plan_id": "torn')
    started = planning.Started(plan_id=plan.plan_id, slot=plan.slots[0], number=1, run_id="r1")
    planning.note_start(tmp_path, started)
    assert planning.left_behind(tmp_path) == [started]
    planning.note_end(tmp_path, started)
    assert planning.left_behind(tmp_path) == []


def test_a_run_that_never_ends_is_cut_and_recorded(tmp_path: Path) -> None:
    endless = SCENARIOS[0].model_copy(update={"parameters": {"sleep_seconds": "3600"}})
    plan = planning.make([endless], 1, seed=1)
    with Store.locked(tmp_path) as store:
        records: list[RunRecord] = list(Runner(store, Target.LOCAL, deadline_seconds=0.05).run(plan))
    assert [record.status for record in records] == ["timeout"]
    assert "still running" in records[0].reason


def test_the_same_request_finds_its_unfinished_plan(tmp_path: Path) -> None:
    plan = planning.make(SCENARIOS, 2, seed=None)
    planning.save(tmp_path, plan)
    store = Store(tmp_path)
    assert planning.unfinished(tmp_path, store, planning.request_digest(SCENARIOS, 2, None)) == plan
    assert planning.unfinished(tmp_path, store, planning.request_digest(SCENARIOS, 3, None)) is None
    _carry_out(tmp_path, plan)
    assert planning.unfinished(tmp_path, Store(tmp_path), plan.request_sha256) is None
