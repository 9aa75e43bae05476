"""The floors of steps that are no pods: the same steps, a process each or calls in one process. No orchestrator."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from adapters.base import (
    Attempt,
    BenchError,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
)
from adapters.local import envs
from adapters.local.processes import Server
from adapters.local.target import LocalTarget, connect_local
from adapters.pods import OnePodDriver, PodsRuntime, name_of, over_now, timeline_of
from adapters.runtimes import NothingToInstall
from adapters.targets import connect
from adapters.walk import Job, Outputs, attempts_in, outputs_in, walk, words


class _Ended(Exception):
    """The run cannot go on."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class _Run:
    request: RunRequest
    attempts: list[Attempt] = field(default_factory=list)
    servers: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)


class FloorDriver:
    """`wait` does the work, in processes of its own; whatever fails ends the run: nobody here tries again."""

    def __init__(self, where: LocalTarget) -> None:
        self.where = where
        self._runs: dict[str, _Run] = {}

    def prepare(self, request: RunRequest) -> None:
        """Nothing."""

    def submit(self, request: RunRequest) -> RunHandle:
        """Accepted at once."""
        self._runs.setdefault(request.run_id, _Run(request))
        now = time.time_ns()
        return RunHandle(
            run_id=request.run_id, native_id=request.run_id, submit_ns=now, accepted_ns=time.time_ns()
        )

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Run the phases."""
        run = self._runs[handle.run_id]
        status, reason = Status.SUCCEEDED, ""
        if not run.attempts:
            try:
                self._carry_out(run, time.monotonic() + deadline_seconds)
            except _Ended as ended:
                status, reason = ended.status, ended.reason
        return over_now(status, reason, handle.accepted_ns)

    def _carry_out(self, run: _Run, end: float) -> None:
        raise NotImplementedError

    def _finish(self, run: _Run, name: str, server: Server, end: float) -> int:
        """Wait for a process; its exit code. Raises `_Ended` at the deadline and when the run is cancelled."""
        while server.alive():
            if run.cancelled.is_set():
                raise _Ended(Status.CANCELLED, "cancelled")
            if time.monotonic() > end:
                raise _Ended(Status.TIMEOUT, f"still waiting for {name}")
            time.sleep(0.002)
        return int(server.process.returncode)

    def cancel(self, run_id: str) -> bool:
        """End the run's processes."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return False
        run.cancelled.set()
        for name in run.servers:
            self.where.servers.stop(name)
        return True

    def timeline(self, handle: RunHandle) -> Timeline:
        """By the clock of whoever started the steps."""
        return timeline_of(handle.run_id, self._runs[handle.run_id].attempts, 1e-6)

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step printed."""
        texts = [
            path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(self.where.state.logs.glob(f"{handle.run_id}*.log"))
            if path.stem == handle.run_id or f"-{step}" in path.stem
        ]
        return "".join(texts)


class ProcessesDriver(FloorDriver):
    """A process for each step."""

    def _carry_out(self, run: _Run, end: float) -> None:
        def execute(jobs: Sequence[Job]) -> list[Outputs]:
            started = [(job, time.time(), self._start(run, job)) for job in jobs]
            left = []
            for job, at, server in started:
                name = f"{job.member.step}{'' if job.member.index is None else f'[{job.member.index}]'}"
                code = self._finish(run, name, server, end)
                run.attempts.append(
                    Attempt(
                        step=job.member.step,
                        index=job.member.index,
                        native_id=str(server.pid),
                        started=at,
                        finished=time.time(),
                        status=str(code),
                    )
                )
                if code != 0:
                    raise _Ended(
                        Status.FAILED, f"{name} ended with code {code}: {server.last_lines()[-300:]}"
                    )
                left.append(_last_outputs(server))
            return left

        request = run.request
        walk(request.workload, request.steps, request.parameters, execute)

    def _start(self, run: _Run, job: Job) -> Server:
        command = [str(envs.harness_python()), "-m", "core.entry", *words(run.request.run_id, job)]
        name = name_of(run.request.run_id, job.member)
        run.servers.append(name)
        return self.where.servers.start(name, command, self.where.step_env(), self.where.state.root)


class CallsDriver(FloorDriver):
    """One process for the run, in which the steps are calls; those of one phase in threads."""

    def _carry_out(self, run: _Run, end: float) -> None:
        request = run.request
        command = [str(envs.harness_python()), "-m", "adapters.walk", "calls", request.model_dump_json()]
        run.servers.append(request.run_id)
        server = self.where.servers.start(
            request.run_id, command, self.where.step_env(), self.where.state.root
        )
        code = self._finish(run, request.run_id, server, end)
        run.attempts += attempts_in(server.log.read_text(encoding="utf-8"))
        if code != 0:
            raise _Ended(Status.FAILED, f"the run ended with code {code}: {server.last_lines()[-300:]}")


def _last_outputs(server: Server) -> Outputs:
    try:
        return outputs_in(server.log.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise BenchError(f"{server.name}: {error}", f"see {server.log}") from error


class _Floor:
    name: Literal["calls", "processes"]
    title = ""
    task = ""
    driver_of: type[FloorDriver]

    def targets(self) -> tuple[Target, ...]:
        """All: on a cluster the steps are in one pod."""
        return tuple(Target)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """One."""
        return (Configuration(name="default", task=self.task),)

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def runtime(self, target: Target) -> NothingToInstall:
        """See `Adapter.runtime`."""
        return NothingToInstall() if target is Target.LOCAL else PodsRuntime(connect(target))

    def driver(self, target: Target) -> FloorDriver | OnePodDriver:
        """See `Adapter.driver`."""
        if target is Target.LOCAL:
            return self.driver_of(connect_local())
        return OnePodDriver(connect(target), self.name)


class ProcessesAdapter(_Floor):
    """Bare processes."""

    name = "processes"
    title = "bare processes (floor)"
    task = "process"
    driver_of = ProcessesDriver


class CallsAdapter(_Floor):
    """Bare calls."""

    name = "calls"
    title = "bare calls in one process (floor)"
    task = "call"
    driver_of = CallsDriver
