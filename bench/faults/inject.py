"""Faults: what goes wrong on purpose, how it is caused, and what a stored run shows of it.

A fault inside the step is a parameter of the core, which notes the moment in the ledger before it strikes. A
fault from outside is the harness's own, which notes it in the record.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog

from adapters.base import BenchError, Component, Target, Unsupported
from adapters.lineage import SHAPING
from bench.analysis.upkeep import DATABASE
from bench.results.records import RunRecord, Scenario, Strike
from core.config import PipelineConfig

log = structlog.get_logger()

STRUCK = {"chain": "probe", "pipeline": "train"}
"""The step that most faults strike, by workload; of a chain only one of a single step, or every step would be struck.
"""
PROMOTE = "promote"
LOOK_SECONDS = 0.25
WORK_SECONDS = 15
"""How long a step works that is struck from outside, so that it is struck at work."""
SPARED = "a step is the first process of its container here, which is spared the SIGKILL that it sends itself"
POSTGRES = "postgres"
"""What the component is called that a database has to be."""
Part = Literal["servers", "database"]
"""What of an orchestrator: its components whose role is `database`, or all others."""
ABSENT: Mapping[Part, str] = {
    "servers": "it has no servers here",
    "database": "it names no database here",
}


@dataclass(frozen=True)
class Fault:
    """One way to go wrong. `inside` is the core's name of it; None where the harness causes it."""

    name: str
    title: str
    inside: str | None
    targets: tuple[Target, ...] = (Target.LOCAL, Target.KIND, Target.K8S)
    step: str = ""
    """The one step of the pipeline that it can strike; empty where any step would do."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What else the pipeline is told."""
    takes: Part | None = None
    """What of the orchestrator it strikes, while a step is at work that is left alone; None where it strikes a step."""

    @property
    def fails_a_step(self) -> bool:
        """Whether a step fails as any may: no promotion left half done, no loss of what the orchestrator is made of."""
        return not (self.step or self.takes)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("exception", "a step raises, once", "exception"),
        Fault("sigkill", "a step's process is killed with SIGKILL, once", "sigkill"),
        Fault(
            "oom",
            "a step takes all the memory that its container may have, and the kernel kills it, once",
            "oom",
            (Target.KIND, Target.K8S),  # elsewhere nothing limits a step's memory
        ),
        Fault(
            "pod-deleted",
            f"the pod of a step that works {WORK_SECONDS} s is deleted without grace, once",
            None,
            (Target.KIND, Target.K8S),
        ),
        Fault(
            "promote-killed",
            "promote, in the safe order, is killed with SIGKILL between its two writes, once",
            "kill-between-writes",
            step=PROMOTE,
        ),
        Fault(
            "promote-killed-naive",
            "promote, in the naive order (a stand-in for annotate and restart), is killed with SIGKILL between its "
            "two writes, once",
            "kill-between-writes",
            step=PROMOTE,
            parameters={"promote_order": "naive"},
        ),
        Fault(
            "servers-deleted",
            f"the pods of all the orchestrator's servers, but no database, are deleted without grace while a step "
            f"works {WORK_SECONDS} s, once",
            None,
            (Target.KIND, Target.K8S),
            takes="servers",
        ),
        Fault(
            "database-crashed",
            f"the orchestrator's PostgreSQL crashes, ends all connections and recovers, while a step works "
            f"{WORK_SECONDS} s, once",
            None,
            (Target.KIND, Target.K8S),
            takes="database",
        ),
    )
}

POLICIES = {
    "equal": "equal policy: three attempts, no delay of ours between them, in every orchestrator (Argo's "
    "`retryPolicy` is `Always`, as its default does not retry errors, such as a lost pod that it had seen at work; its "
    "pipeline, and no other, allows `promote` in the naive order one attempt)",
    "shipped": "as shipped: no retry setting of ours, what each orchestrator does by itself",
}
"""What the pipelines of all adapters say of retries."""


class Struck(Protocol):
    """Where pods can be deleted, servers ended, and the ledger read."""

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        """The run's ledger events in order."""

    def delete_pod(self, name: str) -> None:
        """Delete a pod of the pipelines at once."""

    def delete_servers(self, components: Sequence[Component]) -> list[str]:
        """Delete all pods of these parts of an orchestrator at once; their names."""

    def crash(self, components: Sequence[Component]) -> list[str]:
        """Have these PostgreSQL servers crash and recover; the names of their pods."""


def struck_step(fault: str, workload: str) -> str | None:
    """The step at which a fault strikes; None where that workload has none for it."""
    own = FAULTS[fault].step
    if own:
        return own if workload == "pipeline" else None
    return STRUCK.get(workload)


def usual_workload(faults: Sequence[str]) -> str:
    """The shortest in which they can strike: a single step, but for those of one step of the pipeline, or for none."""
    return "pipeline" if all(name in FAULTS and FAULTS[name].step for name in faults) else "chain"


def parameters(scenario: Scenario) -> dict[str, str | int | float]:
    """What the pipeline's config takes for the scenario's fault; nothing without one.

    Runs whose lineage is asked say all parameters that shape the model: none is left to a default of the core's
    that an orchestrator could not know.
    """
    if not scenario.fault:
        return {}
    step = struck_step(scenario.fault, scenario.workload)
    inside = FAULTS[scenario.fault].inside
    if inside is None:
        return {("train_seconds" if step == "train" else "sleep_seconds"): str(WORK_SECONDS)}
    strike: dict[str, str | int | float] = {
        "fault": json.dumps({"step": step, "kind": inside, "on_attempts": [1]}),
        **FAULTS[scenario.fault].parameters,
    }
    if asks_lineage(scenario):
        defaults = PipelineConfig()
        return {**{name: str(getattr(defaults, name)) for name in SHAPING}, **strike}
    return strike


def asks_lineage(scenario: Scenario) -> bool:
    """Whether the thirteen questions are asked after it: the whole pipeline, with one failed attempt of `train`."""
    return scenario.workload == "pipeline" and scenario.fault == "exception"


def takes(fault: str) -> Part | None:
    """What of the orchestrator a fault strikes; None where it strikes a step, or there is none."""
    return FAULTS[fault].takes if fault else None


def struck_parts(part: Part, components: Iterable[Component]) -> tuple[Component, ...]:
    """Those of the orchestrator's components that are this part of it."""
    return tuple(each for each in components if (each.role == DATABASE) == (part == "database"))


def check(part: Part, components: Iterable[Component]) -> None:
    """Raises `Unsupported` where the orchestrator lacks this part, or it cannot be struck."""
    struck = struck_parts(part, components)
    if not struck:
        raise Unsupported(ABSENT[part])
    if part == "database" and (others := [each.name for each in struck if each.name != POSTGRES]):
        raise Unsupported(
            f"it keeps what it knows in {others[0]}; only PostgreSQL is made to crash and recover"
        )


@dataclass
class Injector:
    """Deletes the pod of a run's first attempt once it is at work; or strikes a part of the orchestrator then."""

    scene: Struck
    run_id: str
    step: str
    takes: Part | None = None
    components: tuple[Component, ...] = ()
    strike: Strike | None = None
    error: str = ""
    begun: bool = False
    """It strikes, or has: from then on the orchestrator may not answer."""
    _over: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Look until the step has started, then strike."""
        while not self._over.wait(LOOK_SECONDS):
            try:
                started = [
                    event
                    for event in self.scene.ledger(self.run_id)
                    if event["event"] == "start" and event["step"] == self.step
                ]
                if started:
                    self.begun = True
                    at = time.time_ns()
                    self.strike = Strike(at_ns=at, target=self._cause(started[0]["pod_name"]))
                    return
            except BenchError as error:
                self.error = error.message
                log.warning("the fault could not be caused", run=self.run_id, why=error.message)
                return

    def _cause(self, pod: str) -> str:
        """Do what the fault is; what was struck."""
        if self.takes is None:
            self.scene.delete_pod(pod)
            return f"pod {pod}"
        strike = self.scene.delete_servers if self.takes == "servers" else self.scene.crash
        return "pods " + ", ".join(strike(self.components))

    @property
    def struck_orchestrator(self) -> bool:
        """Whether it was the orchestrator itself that was struck: it may not answer for a while."""
        return self.takes is not None and self.begun

    def stop(self) -> None:
        """No strike after this."""
        self._over.set()


@contextmanager
def injected(
    scene: Any, scenario: Scenario, run_id: str, components: Sequence[Component] = ()
) -> Iterator[Injector | None]:
    """Cause the scenario's fault while the block lasts, where the harness is the one to cause it.

    `components` are the orchestrator's own, which some faults strike.
    """
    if not scenario.fault or FAULTS[scenario.fault].inside is not None:
        yield None
        return
    part = takes(scenario.fault)
    step = struck_step(scenario.fault, scenario.workload) or ""
    injector = Injector(scene, run_id, step, part, struck_parts(part, components) if part else ())
    thread = threading.Thread(target=injector.work, name=f"fault-{run_id}", daemon=True)
    thread.start()
    try:
        yield injector
    finally:
        injector.stop()
        thread.join(30)


def spared(record: RunRecord) -> bool:
    """Whether a step that was to kill itself between its two writes went on to its end in that very attempt."""
    own = FAULTS[record.scenario.fault].step
    return any(e["event"] == "finish" and (e["step"], e["attempt"]) == (own, 1) for e in record.ledger)


def struck_ns(record: RunRecord) -> int | None:
    """When the fault struck, wall nanoseconds; None where it never did.

    A step that is killed between its two writes cannot say so: what counts is when it announced the first, in an
    attempt that never came to its second.
    """
    if record.strike is not None:
        return record.strike.at_ns
    for event in record.ledger:
        if event["event"] == "effect" and event["data"].get("effect") == "fault":
            return int(event["wall_ns"])
    if record.scenario.fault and (own := FAULTS[record.scenario.fault].step):
        first = [event for event in record.ledger if (event["step"], event["attempt"]) == (own, 1)]
        if [event["event"] for event in first] == ["start", "effect"]:
            return int(first[-1]["wall_ns"])
    return None
