"""Carrying out a plan: deploy, submit, observe, record; nothing lost and nothing repeated when it is cut short."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, default_int_handler, signal
from typing import Any, TypeVar

import structlog

import adapters
from adapters.base import (
    Adapter,
    BenchError,
    Component,
    Configuration,
    Driver,
    RunHandle,
    RunOutcome,
    RunRequest,
    Runtime,
    Status,
    Target,
    TargetUnreachable,
    TargetUnusable,
    Timeline,
    Unsupported,
)
from adapters.lineage import reader
from bench.analysis.breakdown import breakdown
from bench.analysis.verify import same_digest, verify
from bench.faults import inject
from bench.lineage import questions
from bench.measure import plan as planning
from bench.measure import together, triggers
from bench.measure.environment import fingerprint
from bench.measure.observe import EmptyScene, Gauge, Scene, scene_of
from bench.measure.plan import Plan, Slot, Started
from bench.measure.resources import Look, between, watched
from bench.results.records import (
    ClientClock,
    Environment,
    PodClock,
    Pressure,
    RecordStatus,
    Resources,
    RunRecord,
    Scenario,
    Window,
)
from bench.results.store import Store
from core.codedigest import code_digest

log = structlog.get_logger()

STATUS: dict[Status, RecordStatus] = {
    Status.SUCCEEDED: "succeeded",
    Status.TIMEOUT: "timeout",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}


Answer = TypeVar("Answer")
NOBODY = "nobody"
"""No run has this id: what asks the ledger for it asks only whether it answers."""
UNOBSERVED_TRIES = 2
"""Samples of a scenario that cannot be observed until it is given up for this command."""
NOISY_TRIES = 3
"""How often a sample is taken in one command where the machine is too busy with others."""


class NotDeployed(BenchError):
    """This orchestrator could not be deployed; others may still be measured."""


class NotObserved(BenchError):
    """What became of a run is not known, and it is void; others may still be measured."""


@dataclass(frozen=True)
class Progress:
    """What is going on: for whoever shows it."""

    event: str
    """`deploying`, `warming up`, `warmed up`, `running`, `recorded`, `void`, `unsupported`, `cleaning`."""
    scenario: Scenario
    index: int = 0
    done: int = 0
    total: int = 0
    record: RunRecord | None = None
    message: str = ""


@dataclass
class Gauged:
    """What was seen of the machine, and of the orchestrator's own parts, around a sample."""

    pressure: Pressure | None = None
    resources: Resources | None = None


@dataclass
class Runner:
    """Carries out plans of one target, writing to one store."""

    store: Store
    target: Target
    deadline_seconds: float = 1800.0
    idle_seconds: float = 0.0
    """How long an orchestrator is watched doing nothing, after each deployment."""
    max_steal: float = 1.0
    """The share of CPU time that others may have taken from this machine: a run with more is void and repeated."""
    keep: bool = False
    """Leave runs on the orchestrator after they were recorded."""
    context: str = ""
    """Of a kubeconfig: which cluster of somebody else's the target is."""
    until: float = math.inf
    """No deployment and no run begins after that, by the monotonic clock."""
    tell: Callable[[Progress], None] = lambda progress: None
    _adapters: dict[str, Adapter] = field(default_factory=dict)
    _drivers: dict[str, list[Driver]] = field(default_factory=dict)
    """By orchestrator; more than one where several runs are submitted at once, each through its own."""
    _runtimes: dict[str, Runtime] = field(default_factory=dict)
    _active: tuple[str, str] | None = None
    """Orchestrator and configuration that are scaled up."""
    _doubtful: bool = False
    """Whether all of the active one is up is not known: it was struck, or a run of it could not be observed."""
    _idle: Window | None = None
    """What the active one uses without a run."""
    _scenes: dict[str, Scene] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where results, plans and the journal are."""
        return self.store.folder

    def _adapter(self, name: str) -> Adapter:
        if name not in self._adapters:
            self._adapters[name] = adapters.load(name)
        return self._adapters[name]

    def _able(self, name: str) -> Adapter:
        """The adapter, where it can be used on a cluster of somebody else's; elsewhere it says itself what it cannot.

        Raises `Unsupported`.
        """
        adapter = self._adapter(name)
        if self.target is Target.K8S and self.target not in adapter.targets():
            raise Unsupported(f"{adapter.title} is not wired for k8s yet", "--target kind measures it")
        return adapter

    def _driver(self, name: str) -> Driver:
        return self._some_drivers(name, 1)[0]

    def _some_drivers(self, name: str, count: int) -> list[Driver]:
        made = self._drivers.setdefault(name, [])
        while len(made) < count:
            made.append(self._able(name).driver(self.target))
        return made[:count]

    def _runtime(self, name: str) -> Runtime:
        if name not in self._runtimes:
            self._runtimes[name] = self._able(name).runtime(self.target)
        return self._runtimes[name]

    def _scene(self, scenario: Scenario) -> Scene:
        stepless = self._task(scenario) == "nothing"
        name = "empty" if stepless else self.target.value
        if name not in self._scenes:
            self._scenes[name] = scene_of(self.target, stepless)
        return self._scenes[name]

    def clean(self) -> list[RunRecord]:
        """End what an earlier, killed harness left, and record each run that has no record yet as void.

        Raises `TargetUnreachable` where that cannot be found out: going on could measure beside a live run.
        """
        records = []
        known = {record.run_id for record in self.store.records()}
        for started in planning.left_behind(self.folder):
            plan = planning.load(self.folder, started.plan_id)
            if plan is None:
                log.warning("its plan cannot be read: end this run by hand", run=started.run_id)
                continue
            scenario = plan.scenarios[started.slot.scenario]
            if scenario.target != self.target.value:
                continue
            if plan.context != self.context:
                log.warning("a run was left on another cluster", run=started.run_id, context=plan.context)
                continue
            self.tell(Progress("cleaning", scenario, started.slot.index))
            self._cancel(scenario.orchestrator, started)
            if started.run_id in known:  # killed after its record was stored
                planning.note_end(self.folder, started)
                continue
            record = self._void(plan, started, "the harness was stopped while this run was under way")
            records.append(record)
            self.tell(Progress("void", scenario, started.slot.index, record=record, message=record.reason))
        return records

    def run(self, plan: Plan) -> Iterator[RunRecord]:
        """Carry out what `plan` still lacks; yields each record once it is stored."""
        total = len(plan.slots)
        slots = list(planning.missing(plan, self.store))
        given_up: set[int] = set()
        unobserved: Counter[int] = Counter()
        with _terminable():
            for position, slot in enumerate(slots):
                scenario = plan.scenarios[slot.scenario]
                if time.monotonic() > self.until:
                    return
                if slot.scenario in given_up:
                    continue
                done = total - len(slots) + position
                try:
                    cold = self._ready(scenario, slot, done, total)
                except Unsupported as gap:
                    given_up.add(slot.scenario)
                    yield self._told_unsupported(plan, slot, gap)
                    continue
                except NotDeployed as error:
                    given_up.add(slot.scenario)
                    record = self._not_deployed(plan, slot, error)
                    said = told("failed to deploy", error)
                    self.tell(Progress("void", scenario, slot.index, record=record, message=said))
                    yield record
                    continue
                try:
                    if cold and (first := plan.warm_up(scenario)) is not None:
                        warm_up = self._warmed_up(
                            plan, slot.model_copy(update={"scenario": first}), done, total
                        )
                        yield warm_up
                        cold = not _worked(warm_up)
                    for _ in range(NOISY_TRIES):
                        self.tell(Progress("running", scenario, slot.index, done, total))
                        record = self._sample(plan, slot, cold)
                        noisy = self._noise(record)
                        kind = "void" if noisy else "recorded"
                        self.tell(Progress(kind, scenario, slot.index, done + 1, total, record, noisy))
                        yield record
                        if not noisy or time.monotonic() > self.until:
                            break
                        cold = False
                except Unsupported as gap:
                    given_up.add(slot.scenario)
                    yield self._told_unsupported(plan, slot, gap)
                except NotObserved as error:
                    unobserved[slot.scenario] += 1
                    if unobserved[slot.scenario] == UNOBSERVED_TRIES:
                        given_up.add(slot.scenario)
                    self.tell(
                        Progress(
                            "void", scenario, slot.index, done, total, message=told("not observed", error)
                        )
                    )

    def _ready(self, scenario: Scenario, slot: Slot, done: int, total: int) -> bool:
        """Deploy the scenario's configuration where it is not there yet; True where that was a switch.

        Where the command begins, what an earlier one left running is no switch unless a server is new.

        Only the orchestrator under test is scaled up: the one measured before is stopped first, and where that
        fails the command ends, since nothing measured beside it would count.

        Raises `NotDeployed` where this one does not come up; what it had started is stopped again.
        """
        triggers.check(
            scenario, self._driver(scenario.orchestrator), self._adapter(scenario.orchestrator).title
        )
        if part := inject.takes(scenario.fault):
            inject.check(part, self._components(scenario))
        wanted = scenario.orchestrator, scenario.configuration
        if self._active == wanted and not self._doubtful:
            return False
        self.tell(Progress("deploying", scenario, slot.index, done, total))
        runtime, begins = self._runtime(scenario.orchestrator), self._active is None
        if self._active is not None and self._active[0] != scenario.orchestrator:
            self._runtime(self._active[0]).scale(False)
        self._active = None
        scene = self._scene(scenario)
        scene.refuse_foreign(component.namespace for component in runtime.components())
        scene.quiet(scenario.orchestrator)
        left = self._running(scenario) if begins else set()
        try:
            runtime.deploy(scenario.configuration)
            if wrong := runtime.health():
                raise BenchError(
                    f"{scenario.orchestrator} is not healthy after deploy: {wrong}", "bench doctor"
                )
        except Unsupported:
            raise
        except BenchError as error:
            if isinstance(error, TargetUnusable) and not self._is_only_its_server(error, scenario):
                raise
            _stopped(runtime, scenario.orchestrator)
            raise NotDeployed(error.message, error.remedy, error.kept) from error
        self._active, self._doubtful = wanted, False
        self._idle = self._watched_idle(scenario, slot, done, total) if self.idle_seconds else None
        return not left or left != self._running(scenario)

    def _running(self, scenario: Scenario) -> set[str]:
        """The pods or processes of the orchestrator's servers, as far as they can be looked at."""
        seen = self._look(scenario).parts if self._components(scenario) else {}
        return {each for reading in seen.values() for each in reading.cpu}

    def _warmed_up(self, plan: Plan, slot: Slot, done: int, total: int) -> RunRecord:
        """The first run after a deployment: stored, and no sample of what was asked for.

        The pause before it is that of the sample it precedes: an orchestrator that works on a time grid is met at
        every phase of it.
        """
        scenario = plan.scenarios[slot.scenario]
        index = sum(key == scenario.key for key, _ in self.store.done(plan.plan_id))
        self.tell(Progress("warming up", scenario, index, done, total))
        record = self._sample(plan, slot.model_copy(update={"index": index}), cold=True)
        self.tell(Progress("warmed up", scenario, index, done, total, record))
        return record

    def _watched_idle(self, scenario: Scenario, slot: Slot, done: int, total: int) -> Window:
        """What the orchestrator that was just deployed uses while nothing runs.

        Servers work for a while after they are ready: as long again is waited first.
        """
        self.tell(Progress("watching idle", scenario, slot.index, done, total))
        time.sleep(self.idle_seconds)
        return watched(lambda: self._look(scenario), self._components(scenario), self.idle_seconds)

    def _components(self, scenario: Scenario) -> tuple[Component, ...]:
        return self._runtime(scenario.orchestrator).components()

    def _look(self, scenario: Scenario) -> Look:
        return self._scene(scenario).look(self._components(scenario))

    def _task(self, scenario: Scenario) -> str:
        """What a step would be, also where the scenario cannot run."""
        adapter = self._adapter(scenario.orchestrator)
        for target in (self.target, *adapter.targets()):
            for configuration in adapter.configurations(target):
                if configuration.name == scenario.configuration:
                    return configuration.task
        return "pod"

    def _configuration(self, scenario: Scenario) -> Configuration:
        for configuration in self._adapter(scenario.orchestrator).configurations(self.target):
            if configuration.name == scenario.configuration:
                return configuration
        raise BenchError(
            f"{scenario.orchestrator} has no configuration '{scenario.configuration}'", "bench orchestrators"
        )

    def _request(self, plan: Plan, slot: Slot, number: int) -> RunRequest:
        scenario = plan.scenarios[slot.scenario]
        return RunRequest(
            run_id=plan.run_id(slot, number),
            workload=scenario.workload,
            configuration=scenario.configuration,
            parameters={**inject.parameters(scenario), **scenario.parameters},
            steps=scenario.steps,
            deadline_seconds=self.deadline_seconds,
            variant=scenario.variant,
            retries_as_shipped=scenario.retries == "shipped",
        )

    def _sample(self, plan: Plan, slot: Slot, cold: bool) -> RunRecord:
        scenario = plan.scenarios[slot.scenario]
        number = self.store.tries(plan.plan_id, scenario.key, slot.index) + 1
        if scenario.trigger != "event":  # whose pause comes once the orchestrator listens
            time.sleep(slot.jitter_seconds)
        request = triggers.request_for(scenario, self._request(plan, slot, number))
        requests = together.members(request, scenario.concurrent)
        drivers = self._some_drivers(scenario.orchestrator, len(requests))
        started = Started(
            plan_id=plan.plan_id,
            slot=slot,
            number=number,
            run_id=request.run_id,
            members=tuple(each.run_id for each in requests) if len(requests) > 1 else (),
        )
        planning.note_start(self.folder, started)
        measure = self._several if len(requests) > 1 else self._one
        try:
            for driver, each in zip(drivers, requests, strict=True):
                # After the pause: a connection that was closed meanwhile is opened here, not timed.
                driver.prepare(each)
            record = measure(plan, started, requests, cold)
            if noisy := self._noise(record):
                record = record.model_copy(update={"status": "void", "reason": noisy})
        except KeyboardInterrupt:
            self._interrupted(plan, started)
            raise
        except Unsupported:
            self._cancel(scenario.orchestrator, started)
            planning.note_end(self.folder, started)
            raise
        except BenchError as error:
            if isinstance(error, TargetUnusable) and not self._is_only_its_server(error, scenario):
                raise  # nothing can be said of the run now: the next command ends it and records it as void
            self._cancel(scenario.orchestrator, started)
            self._void(plan, started, f"the harness could not observe it: {error.message}")
            self._doubtful = True
            raise NotObserved(error.message, error.remedy, error.kept) from error
        stored = self.store.append(record)
        if not self.keep or record.status in ("timeout", "void"):
            self._cancel(scenario.orchestrator, started)
        planning.note_end(self.folder, started)
        return stored

    def _is_only_its_server(self, error: TargetUnusable, scenario: Scenario) -> bool:
        """Whether the target itself answers, and just the orchestrator's own server did not."""
        if not isinstance(error, TargetUnreachable):
            return False
        try:
            self._scene(scenario).ledger(NOBODY)
        except BenchError:
            return False
        return True

    def _one(self, plan: Plan, started: Started, requests: Sequence[RunRequest], cold: bool) -> RunRecord:
        """The usual sample: one run, watched by all three clocks."""
        (request,) = requests
        scenario = plan.scenarios[started.slot.scenario]
        driver, scene = self._driver(scenario.orchestrator), self._scene(scenario)
        triggers.arm(scenario, driver, request, started.slot.jitter_seconds)
        with (
            self._gauged(scenario) as gauged,
            (EmptyScene() if scenario.observer else scene).watch(request.run_id) as watcher,
            inject.injected(
                scene,
                scenario,
                request.run_id,
                self._components(scenario) if inject.takes(scenario.fault) else (),
            ) as injector,
        ):
            handle, begin = triggers.start(scenario, driver, request)
            outcome = self._answer(lambda seconds: driver.wait(handle, seconds), injector)
            kept = outcome.status is not Status.CANCELLED
            timeline = self._answer(lambda _: driver.timeline(handle), injector) if kept else None
        record = self._record(plan, started, handle, outcome, begin, timeline, watcher.pods(), cold, gauged)
        if scenario.fault:
            record = _disturbed(record, injector)
        if injector is not None and injector.struck_orchestrator:
            self._doubtful = True  # it may be on its way still: the next sample sees to it that all is up
        return self._asked(record, handle) if questions.is_asked(record) else record

    def _answer(self, ask: Callable[[float], Answer], injector: inject.Injector | None) -> Answer:
        """What it answers within the seconds given; an orchestrator that a fault has struck is asked until it does."""
        end = time.monotonic() + self.deadline_seconds
        while True:
            try:
                return ask(max(0.0, end - time.monotonic()))
            except BenchError:
                if injector is None or not injector.struck_orchestrator or time.monotonic() > end:
                    raise
            time.sleep(inject.LOOK_SECONDS)

    def _several(self, plan: Plan, started: Started, requests: Sequence[RunRequest], cold: bool) -> RunRecord:
        """A sample of several runs at once: each is checked as one alone would be; pods are not watched."""
        scenario = plan.scenarios[started.slot.scenario]
        drivers = self._some_drivers(scenario.orchestrator, len(requests))
        with self._gauged(scenario) as gauged:
            ended = together.run(drivers, requests, self.deadline_seconds)
        each = [
            self._record(plan, started, run.handle, run.outcome, run.begin_ns, run.timeline, (), cold, gauged)
            for run in ended
        ]
        return together.as_one(started.run_id, each, [run.begin_ns for run in ended])

    def _cancel(self, orchestrator: str, started: Started) -> None:
        """End what a sample has on the orchestrator, and remove what it left: by the driver that submitted it."""
        drivers = self._some_drivers(orchestrator, len(started.run_ids))
        for driver, run_id in zip(drivers, started.run_ids, strict=True):
            driver.cancel(run_id)

    def _noise(self, record: RunRecord) -> str:
        """Why this machine was too busy with others for the run to count; empty where it was not."""
        steal = record.pressure.steal if record.pressure else None
        if steal is None or steal <= self.max_steal:
            return ""
        return f"{steal:.1%} of CPU time was taken by others; the limit is {self.max_steal:.1%}"

    @contextmanager
    def _gauged(self, scenario: Scenario) -> Iterator[Gauged]:
        """Look at the machine and at the orchestrator's own parts before and after the block."""
        gauged = Gauged()
        before = None if scenario.observer else self._look(scenario)
        gauge = Gauge.read()
        yield gauged
        gauged.pressure = Gauge.read().since(gauge)
        if before is not None:
            gauged.resources = self._resources(scenario, before, self._look(scenario))

    def _resources(self, scenario: Scenario, before: Look, after: Look) -> Resources | None:
        """What the orchestrator used; None where nothing of it could be read."""
        run = between(before, after, self._components(scenario))
        if not run.parts and run.api_requests is None and self._idle is None:
            return None
        return Resources(idle=self._idle, run=run)

    def _asked(self, record: RunRecord, handle: RunHandle) -> RunRecord:
        """The record with what the orchestrator's own store answers; without, where its adapter has no reader."""
        name = record.scenario.orchestrator
        read = reader(self._adapter(name))
        if read is None:
            return record
        scene, driver = self._scene(record.scenario), self._driver(name)
        answers = questions.asked(
            lambda: read(driver, handle),
            lambda: scene.forget(record.run_id),
            scene.told,
            questions.truth(record.ledger, handle, code_digest()),
        )
        return record.model_copy(update={"lineage": answers})

    def _interrupted(self, plan: Plan, started: Started) -> None:
        """End the run under way. What fails here is left to the next command, which finds it in the journal."""
        try:
            self._cancel(plan.scenarios[started.slot.scenario].orchestrator, started)
            self._void(plan, started, "interrupted")
        except BenchError as error:
            log.warning("could not end the run; the next command will", run=started.run_id, why=error.message)

    def _record(
        self,
        plan: Plan,
        started: Started,
        handle: RunHandle,
        outcome: RunOutcome,
        begin: int,
        timeline: Timeline | None,
        pods: tuple[PodClock, ...],
        cold: bool,
        gauged: Gauged,
    ) -> RunRecord:
        slot = started.slot
        scenario = plan.scenarios[slot.scenario]
        scene = self._scene(scenario)
        ledger = scene.ledger(handle.run_id)
        client = ClientClock(
            jitter_seconds=slot.jitter_seconds,
            submit_ns=handle.submit_ns,
            accepted_ns=handle.accepted_ns,
            last_non_terminal_ns=outcome.last_non_terminal_ns,
            first_terminal_ns=outcome.first_terminal_ns,
            makespan_monotonic_ns=outcome.first_terminal_monotonic_ns - begin,
        )
        status: RecordStatus = STATUS[outcome.status]
        verification = verify(scenario, ledger, timeline)
        reason = outcome.reason
        if status == "succeeded" and not verification.ok and not scenario.fault:
            status, reason = "failed", "; ".join(verification.problems)
        elif status == "failed":
            reason = "; ".join(filter(None, (reason, last_error(ledger))))
        configuration = self._configuration(scenario)
        knob = f"{configuration.knob}={configuration.value}" if configuration.knob else None
        record = RunRecord(
            sample=plan.sample(slot, started.number),
            run_id=handle.run_id,
            scenario=scenario,
            knob=knob,
            task=configuration.task,
            status=status,
            reason=reason,
            cold=cold,
            client=client,
            timeline=timeline,
            pods=pods,
            ledger=tuple(ledger),
            breakdown=None
            if scenario.fault or scenario.observer or scenario.concurrent > 1
            else breakdown(scenario, client, timeline, pods, ledger, configuration.task),
            verification=verification,
            pressure=gauged.pressure,
            resources=gauged.resources,
            environment=self._environment(scenario),
            recorded_at=_now(),
        )
        if other := same_digest(record, self.store.records()):
            record = record.model_copy(update={"status": "failed", "reason": other})
        return record

    def _environment(self, scenario: Scenario) -> Environment:
        return fingerprint(self._scene(scenario).facts(), self._runtime(scenario.orchestrator).versions())

    def _void(self, plan: Plan, started: Started, reason: str) -> RunRecord:
        environment = self._environment(plan.scenarios[started.slot.scenario])
        record = self._without_run(
            plan, started.slot, started.number, started.run_id, "void", reason, environment
        )
        planning.note_end(self.folder, started)
        return record

    def _told_unsupported(self, plan: Plan, slot: Slot, gap: Unsupported) -> RunRecord:
        """Stored and told; the plan needs no sample of that scenario any more."""
        record = self._unsupported(plan, slot, gap)
        self.tell(Progress("unsupported", record.scenario, slot.index, message=gap.message))
        return record

    def _unsupported(self, plan: Plan, slot: Slot, gap: Unsupported) -> RunRecord:
        scenario = plan.scenarios[slot.scenario]
        number = self.store.tries(plan.plan_id, scenario.key, slot.index) + 1
        reason = gap.message + (f" (remedy: {gap.remedy})" if gap.remedy else "")
        here = fingerprint({}, {})
        return self._without_run(plan, slot, number, plan.run_id(slot, number), "unsupported", reason, here)

    def _not_deployed(self, plan: Plan, slot: Slot, error: BenchError) -> RunRecord:
        """Void: nothing was measured, and the next command tries again."""
        number = self.store.tries(plan.plan_id, plan.scenarios[slot.scenario].key, slot.index) + 1
        reason = f"failed to deploy: {error.message}"
        return self._without_run(
            plan, slot, number, plan.run_id(slot, number), "void", reason, fingerprint({}, {})
        )

    def _without_run(
        self,
        plan: Plan,
        slot: Slot,
        number: int,
        run_id: str,
        status: RecordStatus,
        reason: str,
        environment: Environment,
    ) -> RunRecord:
        scenario = plan.scenarios[slot.scenario]
        return self.store.append(
            RunRecord(
                sample=plan.sample(slot, number),
                run_id=run_id,
                scenario=scenario,
                task=self._task(scenario),
                status=status,
                reason=reason,
                environment=environment,
                recorded_at=_now(),
            )
        )


def _worked(warm_up: RunRecord) -> bool:
    """Whether the orchestrator has done a step since it was deployed."""
    verification = warm_up.verification
    return warm_up.status in ("succeeded", "void") and verification is not None and verification.ok


def _disturbed(record: RunRecord, injector: inject.Injector | None) -> RunRecord:
    """The record of a run with a fault: void where the fault never struck, since nothing was tested then.

    Raises `Unsupported` where it never can.
    """
    if injector is not None:
        record = record.model_copy(update={"strike": injector.strike})
    if inject.struck_ns(record) is None:
        if inject.spared(record):
            raise Unsupported(inject.SPARED)
        why = "the fault did not strike" + (f": {injector.error}" if injector and injector.error else "")
        return record.model_copy(update={"status": "void", "reason": why})
    return record


def _stopped(runtime: Runtime, name: str) -> None:
    """Stop what a failed deploy left running: it must not take CPU from those measured next."""
    try:
        runtime.scale(False)
    except BenchError as error:
        log.warning("could not stop what a failed deploy started", orchestrator=name, why=error.message)


def told(what: str, error: BenchError) -> str:
    """All that an error says: what happened, what was kept (such as log lines), what to type next."""
    parts = (
        f"{what}: {error.message}",
        error.kept,
        f"next: {error.remedy}" if error.remedy else "",
    )
    return "\n".join(part for part in parts if part)


def last_error(ledger: Sequence[Mapping[str, Any]]) -> str:
    """What the last attempt that failed said of it, empty where none did."""
    failed = [event for event in ledger if event["event"] == "failed"]
    return f"{failed[-1]['step']}: {failed[-1]['data'].get('error', '')}" if failed else ""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""
    before = signal(SIGTERM, default_int_handler)
    try:
        yield
    finally:
        signal(SIGTERM, before)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
