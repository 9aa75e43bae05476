"""Faults: what goes wrong on purpose, how it is caused, and what a stored run shows of it.

A fault inside the step is a parameter of the core, which notes the moment in the ledger before it strikes. A
fault from outside is the harness's own, which notes it in the record.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from adapters.base import BenchError, Target
from adapters.lineage import SHAPING
from bench.results.records import RunRecord, Scenario, Strike
from core.config import PipelineConfig

log = structlog.get_logger()

STRUCK = {"chain": "probe", "pipeline": "train"}
"""The step that a fault strikes, by workload; of a chain only one of a single step, or every step would be struck."""
LOOK_SECONDS = 0.25
WORK_SECONDS = 15
"""How long a step works that is struck from outside, so that it is struck at work."""


@dataclass(frozen=True)
class Fault:
    """One way to go wrong. `inside` is the core's name of it; None where the harness causes it."""

    name: str
    title: str
    inside: str | None
    targets: tuple[Target, ...] = (Target.LOCAL, Target.KIND, Target.K8S)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("exception", "a step raises, once", "exception"),
        Fault("sigkill", "a step's process is killed with SIGKILL, once", "sigkill"),
        Fault(
            "pod-deleted",
            f"the pod of a step that works {WORK_SECONDS} s is deleted without grace, once",
            None,
            (Target.KIND, Target.K8S),
        ),
    )
}

POLICIES = {
    "equal": "equal policy: three attempts, no delay of ours between them, in every orchestrator (Argo's "
    "`retryPolicy` is `Always`, as its default does not retry a deleted pod)",
    "shipped": "as shipped: no retry setting of ours, what each orchestrator does by itself",
}
"""What the pipelines of all adapters say of retries."""


class Struck(Protocol):
    """Where a pod can be deleted, and the ledger read."""

    def ledger(self, run_id: str) -> list[dict[str, Any]]:
        """The run's ledger events in order."""

    def delete_pod(self, name: str) -> None:
        """Delete a pod of the pipelines at once."""


def parameters(scenario: Scenario) -> dict[str, str | int | float]:
    """What the pipeline's config takes for the scenario's fault; nothing without one.

    Runs whose lineage is asked say all parameters that shape the model: none is left to a default of the core's
    that an orchestrator could not know.
    """
    if not scenario.fault:
        return {}
    step = STRUCK[scenario.workload]
    inside = FAULTS[scenario.fault].inside
    if inside is None:
        return {("train_seconds" if step == "train" else "sleep_seconds"): str(WORK_SECONDS)}
    strike: dict[str, str | int | float] = {
        "fault": json.dumps({"step": step, "kind": inside, "on_attempts": [1]})
    }
    if asks_lineage(scenario):
        defaults = PipelineConfig()
        return {**{name: str(getattr(defaults, name)) for name in SHAPING}, **strike}
    return strike


def asks_lineage(scenario: Scenario) -> bool:
    """Whether the thirteen questions are asked after it: the whole pipeline, with one failed attempt of `train`."""
    return scenario.workload == "pipeline" and scenario.fault == "exception"


@dataclass
class Injector:
    """Deletes the pod of a run's first attempt once it is at work."""

    scene: Struck
    run_id: str
    step: str
    strike: Strike | None = None
    error: str = ""
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
                    name = started[0]["pod_name"]
                    at = time.time_ns()
                    self.scene.delete_pod(name)
                    self.strike = Strike(at_ns=at, target=f"pod {name}")
                    return
            except BenchError as error:
                self.error = error.message
                log.warning("the fault could not be caused", run=self.run_id, why=error.message)
                return

    def stop(self) -> None:
        """No strike after this."""
        self._over.set()


@contextmanager
def injected(scene: Any, scenario: Scenario, run_id: str) -> Iterator[Injector | None]:
    """Cause the scenario's fault while the block lasts, where the harness is the one to cause it."""
    if not scenario.fault or FAULTS[scenario.fault].inside is not None:
        yield None
        return
    injector = Injector(scene, run_id, STRUCK[scenario.workload])
    thread = threading.Thread(target=injector.work, name=f"fault-{run_id}", daemon=True)
    thread.start()
    try:
        yield injector
    finally:
        injector.stop()
        thread.join(30)


def struck_ns(record: RunRecord) -> int | None:
    """When the fault struck, wall nanoseconds; None where it never did."""
    if record.strike is not None:
        return record.strike.at_ns
    for event in record.ledger:
        if event["event"] == "effect" and event["data"].get("effect") == "fault":
            return int(event["wall_ns"])
    return None
