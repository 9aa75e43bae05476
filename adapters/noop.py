"""The control that runs nothing: what is left is the harness's own cost."""

import time

from adapters.base import (
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
)
from adapters.runtimes import NothingToInstall
from adapters.workloads import WORKLOADS


class NoopDriver:
    """A run is accepted and over at once, or after its `sleep_seconds`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def prepare(self, request: RunRequest) -> None:
        """Nothing."""

    def submit(self, request: RunRequest) -> RunHandle:
        """Accept."""
        now = time.time_ns()
        self._seconds[request.run_id] = float(request.parameters.get("sleep_seconds", 0))
        return RunHandle(
            run_id=request.run_id, native_id=request.run_id, submit_ns=now, accepted_ns=time.time_ns()
        )

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Sleep as long as was asked for, at most until the deadline."""
        seconds = self._seconds.pop(handle.run_id, 0.0)
        time.sleep(min(seconds, deadline_seconds))
        late = seconds > deadline_seconds
        return RunOutcome(
            status=Status.TIMEOUT if late else Status.SUCCEEDED,
            last_non_terminal_ns=handle.accepted_ns,
            first_terminal_ns=time.time_ns(),
            first_terminal_monotonic_ns=time.monotonic_ns(),
            reason=f"still running after {deadline_seconds:.0f} s" if late else "",
            native_status="done",
        )

    def cancel(self, run_id: str) -> bool:
        """Nothing outlives the harness."""
        return False

    def timeline(self, handle: RunHandle) -> Timeline:
        """No steps."""
        return Timeline(run_id=handle.run_id, native_status="done", resolution_seconds=1e-9)

    def logs(self, handle: RunHandle, step: str) -> str:
        """None."""
        return ""


class NoopAdapter:
    """The harness alone."""

    name = "noop"
    title = "no-op (harness alone)"

    def targets(self) -> tuple[Target, ...]:
        """Everywhere."""
        return (Target.LOCAL, Target.KIND, Target.K8S)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """One."""
        return (Configuration(name="default", task="nothing"),)

    def workloads(self) -> tuple[str, ...]:
        """All, at no cost."""
        return tuple(WORKLOADS)

    def runtime(self, target: Target) -> NothingToInstall:
        """The same everywhere."""
        return NothingToInstall()

    def driver(self, target: Target) -> NoopDriver:
        """The same everywhere."""
        return NoopDriver()
