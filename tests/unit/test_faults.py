"""Faults: what is asked of a run, how the harness strikes, and what stored clocks say of the aftermath."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.base import BenchError, Component, RunHandle, RunOutcome, Status, Target, Unsupported
from adapters.noop import NoopAdapter
from adapters.workloads import Member
from bench.analysis.cells import cells
from bench.analysis.statistics import median
from bench.commands.run import Options, scenarios
from bench.errors import BadInput
from bench.faults import aftermath, inject
from bench.measure import plan as planning
from bench.measure.runner import Runner, _disturbed
from bench.report.brief import failing
from bench.report.build import build
from bench.report.contents import contents
from bench.results.records import Pressure, RunRecord, Strike, Verification
from bench.results.store import Store
from tests.unit.conftest import wait_for
from tests.unit.made_records import SECOND, MadeRun, made, scenario


def struck(recovers: bool = True, lies: bool = False, number: int = 0, again: float = 4.0) -> RunRecord:
    """A run of one step, killed by its own SIGKILL 0.2 s after it began, and tried again `again` seconds later."""
    of = scenario("argo", "chain", 1, fault="sigkill")
    run = MadeRun(of, seed=number)
    run.ledger.clear(), run.attempts.clear(), run.pods.clear()
    first = run.add(Member("probe", 0), run.accepted)
    start = run.ledger[0]
    at = start["wall_ns"] + SECOND // 5
    run.ledger[1] = {
        **start,
        "event": "effect",
        "wall_ns": at,
        "data": {"effect": "fault", "target": "sigkill"},
    }
    run.attempts[0] = run.attempts[0].model_copy(update={"finished": at / 1e9 + 0.5, "status": "Failed"})
    if recovers:
        run.add(Member("probe", 0), at + int(again * SECOND), attempt=2)
        last = run.ledger[-1]["wall_ns"]
    else:
        last = at + SECOND
    if lies:
        run.attempts.pop()
    run.last_look, run.first_terminal = last, last + SECOND
    assert first["event"] == "finish"
    return run.record(
        sample={"index": number}, status="succeeded" if recovers else "failed", breakdown=None, reason=""
    )


def test_what_a_recovered_run_shows() -> None:
    found = aftermath.aftermath(struck())
    assert found is not None
    assert (found.recovered, found.attempts, found.claimed, found.finishes) == (True, 2, 2, 1)
    assert found.noticed == pytest.approx(0.5, abs=1e-3)
    assert found.resumed is not None and 4 < found.resumed < 7
    assert found.done is not None and found.done > found.resumed


def test_what_a_lost_run_shows() -> None:
    found = aftermath.aftermath(struck(recovers=False))
    assert found is not None
    assert (found.recovered, found.attempts, found.finishes, found.resumed) == (False, 1, 0, None)
    assert found.done is not None


def test_an_orchestrator_that_counts_wrong_is_seen() -> None:
    found = aftermath.aftermath(struck(lies=True))
    assert found is not None and (found.attempts, found.claimed) == (2, 1)
    assert found.noticed is None, "the end it tells is that of the second attempt"


def test_work_done_twice_is_seen() -> None:
    record = struck()
    finish = next(event for event in record.ledger if event["event"] == "finish")
    twice = record.model_copy(update={"ledger": (*record.ledger, finish)})
    found = aftermath.aftermath(twice)
    assert found is not None and found.finishes == 2
    assert aftermath.verdict([found]) == "at least once (2 times in 1 of 1)"


def test_the_verdict_is_over_all_runs_of_a_row() -> None:
    once = aftermath.aftermath(struck())
    never = aftermath.aftermath(struck(recovers=False))
    assert once is not None and never is not None
    twice = replace(once, finishes=2)
    assert aftermath.verdict([]) == ""
    assert aftermath.verdict([once, once]) == "exactly once"
    assert aftermath.verdict([once, never]) == "at most once (not done in 1 of 2)"
    assert aftermath.verdict([once, twice, twice]) == "at least once (2 times in 2 of 3)"
    assert aftermath.verdict([never, twice]) == "neither (not done in 1 of 2; 2 times in 1 of 2)"


def test_success_without_the_work_is_no_recovery() -> None:
    record = struck(recovers=False).model_copy(update={"status": "succeeded"})
    found = aftermath.aftermath(record)
    assert found is not None and not found.recovered


def test_a_step_that_never_came_after_it_is_no_recovery_and_a_wrong_count_is_one() -> None:
    for problem, recovered in (
        ("promote did not finish", False),
        ("probe[0]: 2 attempts in the ledger, 1", True),
    ):
        record = struck().model_copy(update={"verification": Verification(ok=False, problems=(problem,))})
        found = aftermath.aftermath(record)
        assert found is not None and found.recovered == recovered


def test_a_void_run_says_nothing_of_its_fault() -> None:
    """It was repeated: the machine was too busy for it to count."""
    assert aftermath.aftermath(struck().model_copy(update={"status": "void"})) is None


def test_a_run_that_was_never_struck_says_nothing() -> None:
    assert aftermath.aftermath(made()) is None
    unharmed = made(scenario("argo", "chain", 1, fault="sigkill"))
    assert aftermath.aftermath(unharmed) is None


def test_a_strike_from_outside_counts_from_when_it_was_sent() -> None:
    record = struck()
    ledger = tuple(event for event in record.ledger if event["event"] != "effect")
    at = inject.struck_ns(record)
    assert at is not None
    outside = record.model_copy(
        update={"ledger": ledger, "strike": Strike(at_ns=at - SECOND, target="pod p")}
    )
    found = aftermath.aftermath(outside)
    assert found is not None and found.noticed == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(
    ("fault", "workload", "asked"),
    [
        ("", "chain", {}),
        ("exception", "chain", {"fault": {"step": "probe", "kind": "exception", "on_attempts": [1]}}),
        (
            "exception",
            "pipeline",
            {
                "dataset_uri": "bookstore://generated",
                "n_books": 200,
                "seed": 42,
                "k": 5,
                "min_score_gate": 0.05,
                "fault": {"step": "train", "kind": "exception", "on_attempts": [1]},
            },
        ),
        ("sigkill", "pipeline", {"fault": {"step": "train", "kind": "sigkill", "on_attempts": [1]}}),
        ("pod-deleted", "chain", {"sleep_seconds": 15}),
        ("pod-deleted", "pipeline", {"train_seconds": 15}),
        ("servers-deleted", "chain", {"sleep_seconds": 15}),
        (
            "promote-killed-naive",
            "pipeline",
            {
                "fault": {"step": "promote", "kind": "kill-between-writes", "on_attempts": [1]},
                "promote_order": "naive",
            },
        ),
    ],
)
def test_what_the_pipeline_is_asked(fault: str, workload: str, asked: dict[str, Any]) -> None:
    found = inject.parameters(scenario("argo", workload, 1, fault=fault))
    texts = {name: str(value) for name, value in found.items()}
    assert {name: json.loads(v) if v[0] in "{0123456789" else v for name, v in texts.items()} == asked


class FakeScene:
    def __init__(self) -> None:
        self.started = threading.Event()
        self.deleted: list[str] = []
        self.servers: list[str] = []
        self.crashed: list[str] = []

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        other = {"event": "start", "step": "ingest", "pod_name": "pod-of-another-step"}
        mine = {"event": "start", "step": "probe", "pod_name": f"{run_id}-pod"}
        return [other, mine] if self.started.is_set() else [other]

    def delete_pod(self, name: str) -> None:
        self.deleted.append(name)

    def delete_servers(self, components: Sequence[Component]) -> list[str]:
        self.servers += [each.name for each in components]
        return self.servers

    def crash(self, components: Sequence[Component]) -> list[str]:
        self.crashed += [each.name for each in components]
        return self.crashed


def test_the_pod_is_struck_once_and_only_when_its_step_is_at_work() -> None:
    scene = FakeScene()
    of = scenario("argo", "chain", 1, fault="pod-deleted")
    with inject.injected(scene, of, "run-1") as injector:
        assert injector is not None
        threading.Event().wait(3 * inject.LOOK_SECONDS)
        assert scene.deleted == [] and injector.strike is None
        scene.started.set()
        wait_for(lambda: injector.strike is not None, "the strike", 30)
    assert scene.deleted == ["run-1-pod"]
    assert injector.strike is not None and injector.strike.target == "pod run-1-pod"


PARTS = [
    Component(name=name, namespace="airflow", selector=f"app={name}", role=role)
    for name, role in (("scheduler", "scheduler"), ("api-server", "server"), ("postgres", "database"))
]


@pytest.mark.parametrize(
    ("fault", "servers", "crashed", "target"),
    [
        ("servers-deleted", ["scheduler", "api-server"], [], "pods scheduler, api-server"),
        ("database-crashed", [], ["postgres"], "pods postgres"),
    ],
)
def test_an_orchestrator_is_struck_and_not_the_step_at_work(
    fault: str, servers: list[str], crashed: list[str], target: str
) -> None:
    scene = FakeScene()
    scene.started.set()
    with inject.injected(scene, scenario("airflow", "chain", 1, fault=fault), "run-1", PARTS) as injector:
        assert injector is not None
        wait_for(lambda: injector.strike is not None, "the strike", 30)
    assert (scene.servers, scene.crashed, scene.deleted) == (servers, crashed, [])
    assert injector.strike is not None and injector.strike.target == target
    assert injector.struck_orchestrator


def test_an_orchestrator_counts_as_struck_while_it_is_still_being_struck() -> None:
    """Its driver's request may break before the last of its servers is gone."""
    seen: list[bool] = []

    class Slow(FakeScene):
        def delete_servers(self, components: Sequence[Component]) -> list[str]:
            seen.append(part.struck_orchestrator)
            raise BenchError("the second one is not there")

    scene = Slow()
    scene.started.set()
    part = inject.Injector(scene, "run-1", "probe", "servers", PARTS)
    part.work()
    assert seen == [True] and part.struck_orchestrator and part.strike is None
    assert part.error == "the second one is not there"


def test_what_an_orchestrator_has_not_cannot_be_struck() -> None:
    inject.check("database", PARTS)
    with pytest.raises(Unsupported, match="it names no database here"):
        inject.check("database", PARTS[:2])
    mysql = Component(name="mysql", namespace="kubeflow", selector="app=mysql", role="database")
    with pytest.raises(Unsupported, match="in mysql; only PostgreSQL"):
        inject.check("database", [mysql])


class Answering:
    """A driver whose server is away at first."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        if self.refusals:
            self.refusals -= 1
            raise BenchError("503", "bench doctor")
        seen = {"last_non_terminal_ns": 1, "first_terminal_ns": 2, "first_terminal_monotonic_ns": 2}
        return RunOutcome(status=Status.SUCCEEDED, native_status="Succeeded", **seen)


@pytest.mark.parametrize("fault", ["servers-deleted", "pod-deleted"])
def test_servers_that_a_fault_took_are_asked_until_they_answer_and_no_others(
    fault: str, tmp_path: Path
) -> None:
    scene = FakeScene()
    server = Component(name="server", namespace="prefect", selector="app=server", role="server")
    part = inject.Injector(scene, "run-1", "probe", inject.FAULTS[fault].takes, (server,))
    part.begun, part.strike = True, Strike(at_ns=1, target="it")
    handle = RunHandle(run_id="run-1", native_id="1", submit_ns=0, accepted_ns=0)
    with Store.locked(tmp_path) as store:
        runner, driver = Runner(store, Target.KIND), Answering(2)
        if fault == "pod-deleted":
            with pytest.raises(BenchError, match="503"):
                runner._answer(lambda seconds: driver.wait(handle, seconds), part)
        else:
            outcome = runner._answer(lambda seconds: driver.wait(handle, seconds), part)
            assert (outcome.status, driver.refusals) == (Status.SUCCEEDED, 0)


def test_a_step_that_went_on_to_its_end_was_not_noticed_to_fail() -> None:
    """The servers were lost, not the step: when it ended says nothing of the fault."""
    record = made(scenario("argo", "chain", 1, fault="servers-deleted"))
    start = next(event for event in record.ledger if event["event"] == "start")
    strike = Strike(at_ns=start["wall_ns"] + 1, target="pods workflow-controller")
    found = aftermath.aftermath(record.model_copy(update={"strike": strike}))
    assert found is not None
    assert (found.recovered, found.attempts, found.finishes) == (True, 1, 1)
    assert (found.noticed, found.resumed) == (None, None) and found.done is not None
    said = failing(cells([record.model_copy(update={"strike": strike})]))
    assert "The orchestrator itself is struck on **kind**" in said and "1 of 1; over after" in said


def cut_short(*writes: str, finished: bool = False, fault: str = "promote-killed") -> RunRecord:
    """A pipeline whose promote announced these writes in its first attempt; it failed, or was tried again."""
    whole = made(scenario("argo", "pipeline", 7, fault=fault))
    start = next(e for e in whole.ledger if e["step"] == "promote" and e["event"] == "start")
    ledger = [e for e in whole.ledger if e["step"] not in ("promote", "monitor")]
    ledger.append(start)
    ledger += [
        {**start, "event": "effect", "wall_ns": start["wall_ns"] + n + 1, "data": {"effect": name}}
        for n, name in enumerate(writes)
    ]
    if finished:
        later = {**start, "attempt": 2, "wall_ns": start["wall_ns"] + 4 * SECOND}
        ledger += [later, {**later, "event": "finish"}]
    status = "succeeded" if finished else "failed"
    verification = Verification(ok=finished, problems=() if finished else ("promote did not finish",))
    return whole.model_copy(
        update={"ledger": tuple(ledger), "status": status, "verification": verification, "breakdown": None}
    )


@pytest.mark.parametrize(
    ("write", "left"),
    [
        ("registry.champion", "registry changed, service not"),
        ("registry.intent", "intent noted, nothing changed"),
    ],
)
def test_what_a_promotion_left_that_was_cut_short(write: str, left: str, tmp_path: Path) -> None:
    record = cut_short(write)
    found = aftermath.aftermath(record)
    assert found is not None
    assert (found.recovered, found.left) == (False, left)
    assert aftermath.verdict([found]) == f"at most once (not done in 1 of 1: {left})"
    said = failing(cells([record]))
    assert "A promotion is cut short on **kind**" in said and f"0 of 1; {left}" in said
    assert left in build([record], tmp_path)[0].read_text(encoding="utf-8")


def test_what_cannot_be_struck_is_said_beside_what_was(tmp_path: Path) -> None:
    refused = made(scenario("dagster", "pipeline", 7, fault="promote-killed"), number=1).model_copy(
        update={"status": "unsupported", "reason": inject.SPARED, "ledger": (), "client": None}
    )
    said = failing(cells([cut_short("registry.intent"), refused]))
    assert f"on **kind**, unsupported: dagster (promote-killed): {inject.SPARED}." in said


def test_a_promotion_that_was_done_again_left_nothing_undone() -> None:
    found = aftermath.aftermath(cut_short("registry.champion", finished=True))
    assert found is not None
    assert (found.recovered, found.attempts, found.finishes) == (True, 2, 1)
    assert found.resumed is not None and found.resumed == pytest.approx(4, abs=0.01)


def test_a_promotion_that_came_to_its_second_write_was_not_struck() -> None:
    """Process 1 of a container is spared its own SIGKILL: what it did then is no answer."""
    spared = made(scenario("dagster", "pipeline", 7, fault="promote-killed"))
    assert aftermath.aftermath(spared) is None
    with pytest.raises(Unsupported, match="first process of its container"):
        _disturbed(spared, None)
    assert _disturbed(cut_short("registry.intent"), None).status == "failed"
    ended_before = cut_short()
    assert (_disturbed(ended_before, None).status, inject.spared(ended_before)) == ("void", False)


def test_a_run_that_ends_before_it_is_struck_is_not_struck() -> None:
    scene = FakeScene()
    with inject.injected(scene, scenario("argo", "chain", 1, fault="pod-deleted"), "run-1") as injector:
        pass
    scene.started.set()
    assert injector is not None and injector.strike is None and scene.deleted == []


def test_a_fault_that_did_not_strike_makes_the_run_void(tmp_path: Path) -> None:
    of = scenario("noop", "chain", 1, target="local", fault="sigkill")
    plan = planning.make([of], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["noop"] = NoopAdapter()
        (record,) = runner.run(plan)
        assert (record.status, record.reason) == ("void", "the fault did not strike")
        assert len(list(planning.missing(plan, store))) == 1, "the next command tries again"


def options(**fields: Any) -> Options:
    values: dict[str, Any] = {
        "orchestrators": ("prefect",),
        "results": Path("none"),
        "workloads": ("chain",),
        "steps": (1,),
        "configurations": ("default",),
        **fields,
    }
    return Options(**values)


def test_all_faults_are_those_of_the_target_and_floors_stay_out() -> None:
    local = scenarios(options(faults=("all",)), Target.LOCAL)
    assert [(each.orchestrator, each.fault) for each in local] == [
        ("prefect", "exception"),
        ("prefect", "sigkill"),
    ]
    kind = scenarios(options(faults=("all",)), Target.KIND)
    assert [each.fault for each in kind] == [
        "exception",
        "sigkill",
        "oom",
        "pod-deleted",
        "servers-deleted",
        "database-crashed",
    ]
    assert len({each.key for each in kind}) == 6
    whole = scenarios(options(faults=("all",), workloads=("pipeline",)), Target.LOCAL)
    assert [each.fault for each in whole][2:] == ["promote-killed", "promote-killed-naive"]


def test_a_control_has_no_servers_to_lose() -> None:
    struck = scenarios(options(orchestrators=("pods",), faults=("all",)), Target.KIND)
    assert [each.fault for each in struck] == ["exception", "sigkill", "oom", "pod-deleted"]


def test_the_work_of_a_fault_is_the_shortest_that_has_its_step() -> None:
    assert inject.usual_workload(("sigkill", "promote-killed")) == "chain"
    assert inject.usual_workload(("promote-killed", "promote-killed-naive")) == "pipeline"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"faults": ("meteor",)}, "one of: all, exception, sigkill, oom, pod-deleted, promote-killed"),
        ({"faults": ("promote-killed",)}, "--workload pipeline"),
        ({"faults": ("servers-deleted",)}, "--target kind"),
        ({"faults": ("pod-deleted",)}, "--target kind"),
        ({"faults": ("sigkill",), "workloads": ("fanout",)}, "--workload chain --steps 1"),
        ({"faults": ("sigkill",), "steps": (1, 4)}, "--workload chain --steps 1"),
        ({"faults": ("sigkill",), "parameters": {"fault": "null"}}, "leave --set fault"),
    ],
)
def test_faults_that_cannot_be(fields: dict[str, Any], says: str) -> None:
    with pytest.raises((BadInput, BenchError)) as refused:
        scenarios(options(**fields), Target.LOCAL)
    assert says in refused.value.remedy


def test_fault_runs_have_a_table_of_their_own_and_are_in_no_other(tmp_path: Path) -> None:
    records = [struck(number=n) for n in range(3)] + [struck(recovers=False, number=3)]
    usual = made(scenario("argo", "chain", 1), number=9)
    found = contents([*records, usual])
    (table,) = found["retries"]
    (row,) = table["rows"]
    assert (row["n"], row["recovered"], row["attempts"], row["claimed"]) == (4, 3, "1 to 2", "1 to 2")
    assert row["interval"]["interval"]["low"] == pytest.approx(0.194, abs=1e-3), "exact binomial, 3 of 4"
    assert [r["n"] for t in found["tables"] for r in t["rows"] if r["orchestrator"] == "argo"] == [1]
    assert found["failures"] == [], "a lost run is what was measured, not something that went wrong"
    page, *_ = build([*records, usual], tmp_path)
    assert "3 of 4" in page.read_text(encoding="utf-8")
    raw = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    lines = range(row["raw"]["first_line"], row["raw"]["last_line"] + 1)
    assert {json.loads(raw[n - 1])["run_id"] for n in lines} == {r.run_id for r in records}


def test_a_row_of_a_busy_machine_is_marked_and_work_of_ours_is_named(tmp_path: Path) -> None:
    """Its times are the machine's too; a pod is deleted in a step that works longer than others."""
    records = [
        struck(number=n).model_copy(update={"pressure": Pressure(cpu_some=share, steal=0.002)})
        for n, share in enumerate((0.2, 0.88, 0.85))
    ]
    (row,) = contents(records)["retries"][0]["rows"]
    assert (row["pressure"], row["steal"], row["busy"]) == (0.85, 0.002, True)
    assert "| 85 % (0.2 %), **busy** |" in build(records, tmp_path)[0].read_text(encoding="utf-8")
    calm = records[:1]
    assert "| 20 % (0.2 %) |" in build(calm, tmp_path)[0].read_text(encoding="utf-8")
    assert (
        "; " in (said := failing(cells(calm)))
        and ", busy" not in said
        and ", busy" in failing(cells(records))
    )
    (bare,) = contents([struck()])["retries"][0]["rows"]
    assert (bare["pressure"], bare["steal"], bare["busy"]) == (None, None, False)
    assert f"works {inject.WORK_SECONDS} s" in inject.FAULTS["pod-deleted"].title


def test_records_without_a_fault_keep_the_seal_they_were_stored_with() -> None:
    plain = made()
    body = plain.model_dump(mode="json")
    assert "fault" not in body["scenario"] and "strike" not in body
    assert RunRecord.model_validate(body) == plain
    hurt = struck().model_dump(mode="json")
    assert hurt["scenario"]["fault"] == "sigkill"


def test_over_is_of_runs_that_recovered_and_never_of_one_that_was_cut() -> None:
    back = [struck(number=n) for n in range(2)]
    cut, lost = (
        struck(recovers=False, number=7 + n).model_copy(update={"status": status})
        for n, status in enumerate(("timeout", "failed"))
    )
    after = [found for record in (*back, cut, lost) if (found := aftermath.aftermath(record)) is not None]
    assert after[2].done is None and after[3].done is not None
    assert aftermath.over(after) == aftermath.over(after[:2]) == median([a.done for a in after[:2] if a.done])
    assert aftermath.over(after[2:]) == after[3].done and aftermath.over(after[2:3]) is None
