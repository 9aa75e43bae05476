"""What an adapter is: two small protocols and the frozen values that cross them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field


class BenchError(Exception):
    """An error for people: what happened, and what to type next."""

    def __init__(self, message: str, remedy: str = "", kept: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.kept = kept


class UnknownAdapter(BenchError):
    """No such orchestrator, or its SDK is not installed."""


class Unsupported(BenchError):
    """What this adapter cannot do here, and why: becomes a cell of the table, never silence."""


class TargetUnusable(BenchError):
    """Nothing can be measured on the target now: another command holds it, or it refuses us whatever we ask."""


class TargetUnreachable(TargetUnusable):
    """The target (cluster or local servers) does not answer."""


class Frozen(BaseModel):
    """An immutable value that is stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(StrEnum):
    LOCAL = "local"
    KIND = "kind"
    K8S = "k8s"


class Status(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class Configuration(Frozen):
    """How an orchestrator is set up: `default` is what the vendor ships, `tuned` differs in one named knob."""

    name: str
    task: str = "pod"
    """What one step is: `pod`, `process`, `call` (in a process that is older) or `nothing`."""
    knob: str | None = None
    value: str | None = None
    source: str = ""
    """Where the vendor documents the knob."""


class RunRequest(Frozen):
    """One run to be started. `parameters` are fields of `core.config.PipelineConfig`."""

    run_id: str
    workload: str
    configuration: str
    parameters: Mapping[str, str | int | float] = Field(default_factory=dict)
    steps: int = 7
    """Length of a chain or width of a fan-out; the number of steps on the path for the others."""
    deadline_seconds: float = 1800.0
    variant: str = "s3"
    """Where artifacts travel: `s3`, `volume` (a shared volume: does not survive a second node), or `folder` (local)."""
    due: int | None = None
    """When a schedule is to start it: seconds since the epoch, a whole minute. The run id then ends in `-DUE`."""
    firings: int = 1
    """In how many minutes in a row, from `due` on, the schedule starts it; ids of those after the first are theirs or
    end in their own minute."""
    approval: bool = False
    """Whether the run waits before promote until somebody approves it."""
    retries_as_shipped: bool = False
    """Whether steps have the retry settings that the vendor ships, and none of ours (three attempts, no delay)."""


class RunHandle(Frozen):
    """A started run. Times are the client's wall clock in nanoseconds since the epoch."""

    run_id: str
    native_id: str
    submit_ns: int
    """Just before the request left."""
    accepted_ns: int
    """Just after the orchestrator's answer arrived."""


class RunOutcome(Frozen):
    """How a run ended and between which two looks that was seen (an interval, since a watch has latency)."""

    status: Status
    last_non_terminal_ns: int
    first_terminal_ns: int
    first_terminal_monotonic_ns: int
    reason: str = ""
    native_status: str = ""


class Attempt(Frozen):
    """One attempt of one step, by the orchestrator's own clock. Times are seconds since the epoch."""

    step: str
    index: int | None = None
    attempt: int = 1
    native_id: str = ""
    pod_name: str | None = None
    started: float | None = None
    finished: float | None = None
    status: str = ""
    message: str = ""


class Timeline(Frozen):
    """What the orchestrator itself says happened in a run."""

    run_id: str
    native_status: str
    resolution_seconds: float
    started: float | None = None
    finished: float | None = None
    attempts: tuple[Attempt, ...] = ()
    skipped: tuple[str, ...] = ()
    """Steps that the orchestrator says it left out (a gate that did not pass)."""


class Component(Frozen):
    """A part of an orchestrator that can be sampled and killed."""

    name: str
    namespace: str
    selector: str
    role: str
    """controller, scheduler, database, worker, …"""


class Runtime(Protocol):
    """How an orchestrator is installed and kept on one target."""

    def deploy(self, configuration: str) -> None:
        """Install, or change to `configuration`; returns when it is healthy. Repeatable."""

    def undeploy(self) -> None:
        """Take everything away that `deploy` made."""

    def scale(self, on: bool) -> None:
        """Start or stop the orchestrator's own processes; nothing else changes."""

    def health(self) -> str:
        """Empty when healthy, otherwise what is wrong."""

    def components(self) -> tuple[Component, ...]:
        """The orchestrator's own parts."""

    def versions(self) -> Mapping[str, str]:
        """Versions and settings that make results comparable or not."""


class Driver(Protocol):
    """How an orchestrator is used, the same on each of its targets."""

    def prepare(self, request: RunRequest) -> None:
        """Make sure that the definition `request` needs is there. Not timed."""

    def submit(self, request: RunRequest) -> RunHandle:
        """Start a run. Submitting the same run id twice starts one run only."""

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Block until the run ends or `deadline_seconds` have passed; then status TIMEOUT."""

    def cancel(self, run_id: str) -> bool:
        """End a run and remove what it left, a schedule or listener made for it too; False where there was none."""

    def timeline(self, handle: RunHandle) -> Timeline:
        """The orchestrator's own record of the run."""

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step printed, as the orchestrator kept it."""


@runtime_checkable
class Schedules(Protocol):
    """A driver whose orchestrator starts runs itself, by a schedule."""

    def schedule(self, request: RunRequest) -> None:
        """Have the orchestrator start the run once, at `request.due`; returns when it knows. Prepares too; not timed.

        Raises `BenchError` where that cannot be had in time.
        """

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """The run that the schedule has started; waits for it until `deadline_seconds` after `request.due`.

        `submit_ns` and `accepted_ns` of the handle are the moment it was due. Raises `BenchError` where none comes.
        """


@runtime_checkable
class Listens(Protocol):
    """A driver whose orchestrator starts runs itself, when a data event comes."""

    def listen(self, request: RunRequest) -> None:
        """Have the orchestrator start the run when its data event comes; returns when it would. Not timed."""

    def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """Send the event, and find the run that it has started.

        `submit_ns` of the handle is just before the event left, `accepted_ns` just after it was taken. Raises
        `BenchError` where it is refused, or where no run has come of it after `deadline_seconds`.
        """


@runtime_checkable
class Approves(Protocol):
    """A driver whose orchestrator lets a run wait until somebody approves it (`RunRequest.approval`)."""

    def waits(self, handle: RunHandle, deadline_seconds: float) -> bool:
        """Wait until the run waits for an approval; False where it did not come to that in time."""

    def approve(self, run_id: str) -> None:
        """Let it go on. Raises `BenchError` where nothing waits."""


class Adapter(Protocol):
    """An orchestrator: a runtime per target, and one driver."""

    name: str
    title: str

    def targets(self) -> tuple[Target, ...]:
        """Where it can run."""

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """On `target`, `default` first; empty where it cannot run there."""

    def workloads(self) -> tuple[str, ...]:
        """Which workloads it can run."""

    def runtime(self, target: Target) -> Runtime:
        """Raises `Unsupported` where the target is not one of `targets()`."""

    def driver(self, target: Target) -> Driver:
        """Raises `Unsupported` where the target is not one of `targets()`."""


@dataclass(frozen=True)
class Gap:
    """A capability an adapter does not have, with the evidence for saying so."""

    capability: str
    kind: str
    """`never` (cites the vendor's versioned documentation) or `notyet` (ours to close)."""
    reason: str
