"""What every adapter must do, whatever the orchestrator. A file per adapter and target subclasses `Conformance`."""

import itertools
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import adapters
from adapters.base import (
    Approves,
    Driver,
    Gap,
    Listens,
    RunHandle,
    RunOutcome,
    RunRequest,
    Runtime,
    Schedules,
    Status,
    Target,
    Timeline,
    Unsupported,
)
from adapters.workloads import PIPELINE, SWEEP
from bench.analysis.verify import verify
from bench.measure.observe import scene_of
from bench.measure.triggers import due_soon
from bench.results.records import Scenario
from tests.conformance.overlap import BESIDE, watched
from tests.conftest import one_at_a_time


@dataclass(frozen=True)
class Ran:
    """A run that is over, as all three clocks saw it."""

    request: RunRequest
    handle: RunHandle
    outcome: RunOutcome
    timeline: Timeline
    ledger: list[dict[str, Any]]

    def events(self, kind: str, step: str | None = None) -> list[dict[str, Any]]:
        """Ledger events of one kind, of one step or of all."""
        return [e for e in self.ledger if e["event"] == kind and step in (None, e["step"])]

    def outputs(self, step: str) -> dict[str, str]:
        """What the step left."""
        (event,) = self.events("finish", step)
        outputs: dict[str, str] = event["data"]["outputs"]
        return outputs

    def scenario(self, orchestrator: str, target: Target) -> Scenario:
        """The scenario that this run is one of."""
        return Scenario(
            orchestrator=orchestrator,
            target=target.value,
            workload=self.request.workload,
            configuration=self.request.configuration,
            steps=self.request.steps,
            parameters=dict(self.request.parameters),
        )


class Bench:
    """Starts runs on one deployed adapter."""

    def __init__(self, name: str, target: Target, configuration: str) -> None:
        self.name, self.target, self.configuration = name, target, configuration
        adapter = adapters.load(name)
        self.runtime: Runtime = adapter.runtime(target)
        self.driver: Driver = adapter.driver(target)
        self.scene: Any = scene_of(target)

        self.requests: dict[str, RunRequest] = {}

    def request(self, workload: str, steps: int = 7, deadline: float = 600, **parameters: Any) -> RunRequest:
        """A run of its own, not started yet."""
        request = RunRequest(
            run_id=f"conf-{os.urandom(4).hex()}",
            workload=workload,
            configuration=self.configuration,
            parameters=parameters,
            steps=steps,
            deadline_seconds=deadline,
        )
        return self.known(request)

    def known(self, request: RunRequest) -> RunRequest:
        """Remember a request for when its run is over."""
        self.requests[request.run_id] = request
        return request

    def submit(self, workload: str, steps: int = 7, deadline: float = 600, **parameters: Any) -> RunHandle:
        """Prepare and submit."""
        return self.start(self.request(workload, steps, deadline, **parameters))

    def start(self, request: RunRequest) -> RunHandle:
        """Prepare and submit a request."""
        self.driver.prepare(request)
        return self.driver.submit(request)

    def finish(self, handle: RunHandle, deadline: float = 600) -> Ran:
        """Wait for the end and read everything."""
        outcome = self.driver.wait(handle, deadline)
        timeline = self.driver.timeline(handle)
        ledger = self.scene.ledger(handle.run_id)
        return Ran(self.requests[handle.run_id], handle, outcome, timeline, ledger)

    def run(self, workload: str, steps: int = 7, deadline: float = 600, **parameters: Any) -> Ran:
        """Submit and finish."""
        return self.finish(self.submit(workload, steps, deadline, **parameters), deadline)


MUST_PASS = {
    "gate_passes",
    "gate_fails",
    "retry_once",
    "parameters",
    "timeline",
    "two_at_once_are_kept_apart",
    "undeploy_leaves_nothing",
}
"""What no adapter may lack anywhere (names of tests without `test_`): no gap can be declared for these."""


FOUND = "found"
"""Property of a test: what it found, in words for the table."""
AT_WORK_SECONDS = 90
"""So long is a scheduled run at work that the next, a minute later, is due before it ends."""


def fault(step: str, kind: str, *attempts: int) -> str:
    """The `fault` parameter."""
    return json.dumps({"step": step, "kind": kind, "on_attempts": list(attempts)})


def did_its_work(ran: Ran, adapter: str, target: Target) -> None:
    """The run did what its workload says, and the orchestrator's record agrees with the ledger."""
    assert ran.outcome.status is Status.SUCCEEDED, ran.outcome.reason
    verdict = verify(ran.scenario(adapter, target), ran.ledger, ran.timeline)
    assert verdict.ok, verdict.problems


@pytest.mark.variant
class Deployed:
    """One deployment for the tests of a class: what one orchestrator alone has, or a configuration of its own."""

    adapter: ClassVar[str]
    target: ClassVar[Target]
    configuration: ClassVar[str] = "default"

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls) -> Iterator[Bench]:
        bench = Bench(cls.adapter, cls.target, cls.configuration)
        bench.runtime.deploy(cls.configuration)
        yield bench
        if cls.target is Target.LOCAL:
            bench.runtime.undeploy()
        else:
            bench.runtime.scale(False)


class Conformance(ABC):
    """The suite. Tests of one class share one deployment and, where they only read, one pipeline run."""

    adapter: ClassVar[str]
    target: ClassVar[Target]
    configuration: ClassVar[str] = "default"
    gaps: ClassVar[tuple[Gap, ...]] = ()
    always_whole: ClassVar[bool] = False
    """Everything is asked in every run of the tests; else only `MUST_PASS`, and the rest when verdicts are stored."""
    stored_only: ClassVar[frozenset[str]] = frozenset({"schedule_fires", "schedule_overlaps"})
    """What is left out without it in any case: a schedule's shortest grid is a minute."""
    overlap: ClassVar[str] = BESIDE
    """What becomes of a scheduled run that is due while the last one is at work, as the vendor ships it."""

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls) -> Bench:
        bench = Bench(cls.adapter, cls.target, cls.configuration)
        try:
            bench.runtime.deploy(cls.configuration)
        except Unsupported as reason:
            pytest.skip(reason.message)
        return bench

    @pytest.fixture(scope="class")
    @classmethod
    def pipeline(cls, bench: Bench, shared: Path) -> Ran:
        # There is one service, and what it serves is looked at.
        with one_at_a_time(shared / f"promotion-{cls.target}"):
            return bench.run("pipeline")

    def check(self, ran: Ran) -> None:
        """See `did_its_work`."""
        did_its_work(ran, self.adapter, self.target)

    def test_deploy_twice(self, bench: Bench) -> None:
        bench.runtime.deploy(self.configuration)
        assert bench.runtime.health() == ""

    def test_gate_passes(self, pipeline: Ran) -> None:
        self.check(pipeline)
        assert tuple(dict.fromkeys(e["step"] for e in pipeline.events("start"))) == PIPELINE
        assert pipeline.outputs("promote")["promoted"] == "true"
        assert pipeline.outputs("monitor")["served_sha256"] == pipeline.outputs("train")["model_sha256"]

    def test_submit_twice_is_one_run(self, bench: Bench, pipeline: Ran) -> None:
        again = bench.driver.submit(pipeline.request)
        assert again.native_id == pipeline.handle.native_id
        bench.driver.wait(pipeline.handle, 60)
        assert len(bench.scene.ledger(pipeline.handle.run_id)) == len(pipeline.ledger)

    def test_gate_fails(self, bench: Bench) -> None:
        ran = bench.run("pipeline", min_score_gate=1.0)
        self.check(ran)
        assert {e["step"] for e in ran.events("start")} == {"ingest", "preprocess", "train", "eval"}

    def test_timeline(self, pipeline: Ran) -> None:
        """Complete, in order, and no further from the ledger than its resolution and a pod's start-up."""
        attempts = pipeline.timeline.attempts
        assert [a.step for a in attempts] == list(PIPELINE)
        tolerance = pipeline.timeline.resolution_seconds + 0.5
        for attempt in attempts:
            assert attempt.started is not None and attempt.finished is not None
            (start,) = pipeline.events("start", attempt.step)
            (finish,) = pipeline.events("finish", attempt.step)
            assert attempt.started <= start["wall_ns"] / 1e9 + tolerance
            assert attempt.finished >= finish["wall_ns"] / 1e9 - tolerance
        for earlier, later in itertools.pairwise(attempts):
            assert earlier.finished is not None and later.started is not None
            assert earlier.finished <= later.started + pipeline.timeline.resolution_seconds

    def test_logs(self, bench: Bench, pipeline: Ran) -> None:
        assert pipeline.outputs("train")["model_sha256"] in bench.driver.logs(pipeline.handle, "train")

    def test_parameters(self, bench: Bench) -> None:
        ran = bench.run("chain", steps=1, fibo=12)
        self.check(ran)
        assert ran.outputs("probe")["value"] == "144"

    def test_chain(self, bench: Bench) -> None:
        ran = bench.run("chain", steps=4)
        self.check(ran)
        assert [e["index"] for e in ran.events("start")] == [0, 1, 2, 3]

    def test_fanout(self, bench: Bench) -> None:
        ran = bench.run("fanout", steps=4, sleep_seconds=30)
        self.check(ran)
        assert {e["index"] for e in ran.events("start")} == {0, 1, 2, 3}
        last_start = max(e["user_start_ns"] for e in ran.events("finish"))
        assert last_start < min(e["user_end_ns"] for e in ran.events("finish")), "not at the same time"

    def test_sweep(self, bench: Bench) -> None:
        ran = bench.run("sweep", steps=15, deadline=900)
        self.check(ran)
        scores = [float(e["data"]["outputs"]["score"]) for e in ran.events("finish", "eval")]
        assert len(scores) == len(SWEEP)
        # KFP's metadata store hands a metric on with six decimals.
        assert float(ran.outputs("select")["score"]) == pytest.approx(max(scores), abs=1e-6)
        assert ran.outputs("register")["model_version"]

    def test_retry_once(self, bench: Bench) -> None:
        ran = bench.run("chain", steps=1, fault=fault("probe", "exception", 1))
        self.check(ran)
        assert [e["attempt"] for e in ran.events("start")] == [1, 2]
        assert [a.attempt for a in ran.timeline.attempts] == [1, 2]

    def test_killed_process_is_retried(self, bench: Bench) -> None:
        ran = bench.run("chain", steps=1, fault=fault("probe", "exit137", 1))
        self.check(ran)
        assert Counter(e["event"] for e in ran.ledger)["start"] == 2

    def test_retries_as_shipped(self, bench: Bench) -> None:
        """None of the five tries a failed step again unless it is told to."""
        plain = bench.request("chain", steps=1, fault=fault("probe", "exception", 1))
        handle = bench.start(bench.known(plain.model_copy(update={"retries_as_shipped": True})))
        ran = bench.finish(handle)
        assert ran.outcome.status is Status.FAILED, ran.outcome
        assert [e["attempt"] for e in ran.events("start")] == [1]
        assert [a.attempt for a in ran.timeline.attempts] == [1]

    def test_two_at_once_are_kept_apart(self, bench: Bench) -> None:
        first = bench.submit("chain", steps=1, fibo=10)
        second = bench.submit("chain", steps=1, fibo=11)
        one, two = bench.finish(first), bench.finish(second)
        self.check(one)
        self.check(two)
        assert (one.outputs("probe")["value"], two.outputs("probe")["value"]) == ("55", "89")

    def test_caches_are_off(self, bench: Bench) -> None:
        """The same parameters twice: a cache would leave the second run's steps out."""
        for _ in range(2):
            ran = bench.run("chain", steps=1, fibo=14)
            self.check(ran)
            assert len(ran.events("start")) == 1

    def test_timeout(self, bench: Bench) -> None:
        handle = bench.submit("chain", steps=1, deadline=20, sleep_seconds=600)
        outcome = bench.driver.wait(handle, 20)
        assert outcome.status is Status.TIMEOUT
        assert bench.driver.cancel(handle.run_id)

    def test_cancel(self, bench: Bench) -> None:
        handle = bench.submit("chain", steps=1, sleep_seconds=600)
        with bench.scene.watch(handle.run_id) as watcher:
            assert watcher.wait_for("running", 120), "the step's pod never ran"
        assert bench.driver.cancel(handle.run_id)
        assert not bench.driver.cancel(handle.run_id)
        assert [e for e in bench.scene.ledger(handle.run_id) if e["event"] == "finish"] == []

    def test_schedule_fires(self, bench: Bench) -> None:
        """Once, not before it is due, and with the parameters that were scheduled."""
        driver = bench.driver
        assert isinstance(driver, Schedules), "the adapter has no schedules"
        request = bench.known(due_soon(bench.request("chain", steps=1, fibo=12)))
        assert request.due is not None
        try:
            driver.schedule(request)
            assert bench.scene.ledger(request.run_id) == []
            ran = self.came(bench, driver.scheduled(request, 300), request.due * 10**9)
            assert ran.outputs("probe")["value"] == "144"
        finally:
            driver.cancel(request.run_id)

    def test_schedule_overlaps(self, bench: Bench, record_property: Callable[[str, object], None]) -> None:
        """A schedule's second run is due while the first is at work: the table says what becomes of it."""
        driver = bench.driver
        assert isinstance(driver, Schedules), "the adapter has no schedules"
        plain = bench.request("chain", steps=1, sleep_seconds=AT_WORK_SECONDS)
        request = bench.known(due_soon(plain, firings=2))
        assert request.due is not None
        second = request.run_id.replace(str(request.due), str(request.due + 60))
        try:
            driver.schedule(request)
            driver.scheduled(request, 300)
            found = watched(
                lambda: [e for run_id in (request.run_id, second) for e in bench.scene.ledger(run_id)],
                AT_WORK_SECONDS + 60,
            )
        finally:
            for run_id in (request.run_id, second):
                while driver.cancel(run_id):
                    pass
        record_property(FOUND, found)
        assert found == self.overlap

    def test_event_triggers(self, bench: Bench) -> None:
        """Listening starts nothing; the event starts the run, with the parameters that it brings."""
        driver = bench.driver
        assert isinstance(driver, Listens), "the adapter has no data events"
        request = bench.request("chain", steps=1, fibo=13)
        try:
            driver.listen(request)
            assert bench.scene.ledger(request.run_id) == []
            handle = driver.publish(request, 300)
            ran = self.came(bench, handle, handle.submit_ns)
            assert ran.outputs("probe")["value"] == "233"
        finally:
            driver.cancel(request.run_id)

    def came(self, bench: Bench, handle: RunHandle, earliest_ns: int) -> Ran:
        """A run of one step that the orchestrator started itself: once, not earlier, and gone when it is cancelled."""
        ran = bench.finish(handle)
        self.check(ran)
        (start,) = ran.events("start")
        assert start["wall_ns"] >= earliest_ns
        assert bench.driver.cancel(handle.run_id)
        assert not bench.driver.cancel(handle.run_id)
        return ran

    def test_approval_waits(self, bench: Bench, shared: Path) -> None:
        driver = bench.driver
        assert isinstance(driver, Approves), "the adapter has no approvals"
        plain = bench.request("pipeline")
        request = bench.known(plain.model_copy(update={"approval": True}))
        handle = bench.start(request)
        assert driver.waits(handle, 300)
        before = bench.scene.ledger(request.run_id)
        assert [e["step"] for e in before if e["event"] == "finish"] == [*PIPELINE[:5]]
        with one_at_a_time(shared / f"promotion-{self.target}"):
            driver.approve(request.run_id)
            ran = bench.finish(handle)
        self.check(ran)
        assert ran.outputs("promote")["promoted"] == "true"

    def test_undeploy_leaves_nothing(self, bench: Bench) -> None:
        bench.runtime.undeploy()
        assert bench.runtime.health() != ""
        assert self.leftovers(bench) == []
        bench.runtime.deploy(self.configuration)
        assert bench.runtime.health() == ""

    @abstractmethod
    def leftovers(self, bench: Bench) -> list[str]:
        """What `undeploy` should have removed and is still there; each adapter knows its own."""


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class KindConformance(Conformance):
    """The suite on the kind cluster."""

    target: ClassVar[Target] = Target.KIND

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def stopped(cls) -> Iterator[None]:
        """Leave the CPU to the next class."""
        yield
        adapters.load(cls.adapter).runtime(cls.target).scale(False)


class LocalConformance(Conformance):
    """The suite on this machine: what is left over is known without asking the adapter."""

    target: ClassVar[Target] = Target.LOCAL

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def ended(cls) -> Iterator[None]:
        """Leave nothing of this adapter to the next class."""
        yield
        adapters.load(cls.adapter).runtime(cls.target).undeploy()

    def leftovers(self, bench: Bench) -> list[str]:
        where = bench.scene.where
        return [
            *(set(where.servers.names()) - {"ledger", "serving", "postgres"}),
            *(name for name in where.postgres.databases() if self.adapter in name),
            *(str(path) for path in where.state.root.glob(self.adapter)),
        ]
