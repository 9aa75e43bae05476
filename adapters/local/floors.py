"""The floors of the local target: the same steps, one process each or as calls in one process. No orchestrator."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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
    Unsupported,
)
from adapters.local import envs
from adapters.local.processes import Server
from adapters.local.target import LocalTarget, connect_local
from adapters.runtimes import NothingToInstall
from adapters.workloads import GATED, SWEEP, Member, phases

NEEDS: Mapping[str, tuple[str, ...]] = {
    "preprocess": ("ratings_uri",),
    "train": ("train_uri",),
    "eval": ("model_uri", "heldout_uri", "model_sha256"),
    "select": ("candidates",),
    "register": (
        *("dataset_uri", "dataset_sha256", "model_uri", "model_sha256", "metrics_uri"),
        *("score", "passed"),
    ),
    "promote": ("model_version", "score", "passed"),
    "monitor": ("heldout_uri", "model_sha256", "promoted"),
}
"""Which outputs of earlier steps a step is given."""


@dataclass(frozen=True)
class Job:
    """One step that may start now."""

    member: Member
    settings: Mapping[str, str]
    inputs: Mapping[str, str]


Outputs = dict[str, str]
Execute = Callable[[Sequence[Job]], Sequence[Outputs]]


def walk(workload: str, steps: int, parameters: Mapping[str, str | int | float], execute: Execute) -> None:
    """Go through the phases of a workload; `execute` runs the jobs of one phase and returns their outputs."""
    known: Outputs = {}
    candidates: list[Outputs] = []
    for phase in phases(workload, steps):
        if phase[0].step in GATED and known.get("passed") == "false":
            continue
        jobs = [_job(workload, member, parameters, known, candidates) for member in phase]
        for job, left in zip(jobs, execute(jobs), strict=True):
            index = job.member.index
            if workload == "sweep" and index is not None:
                known |= {f"{name}/{index}": value for name, value in left.items()}
                if job.member.step == "eval":
                    candidates.append(_candidate(index, known))
            else:
                known |= left


def _job(
    workload: str,
    member: Member,
    parameters: Mapping[str, str | int | float],
    known: Outputs,
    candidates: Sequence[Outputs],
) -> Job:
    settings = {name: str(value) for name, value in parameters.items()}
    seen = {**known, "candidates": json.dumps(candidates)}
    if workload == "sweep":
        if member.index is not None:
            settings |= {name: str(value) for name, value in SWEEP[member.index].items()}
            own = f"/{member.index}"
            seen |= {name.removesuffix(own): value for name, value in known.items() if name.endswith(own)}
        elif member.step == "register":
            settings |= {name: known[name] for name in ("seed", "k")}
    names = NEEDS.get(member.step, ()) if workload in ("pipeline", "sweep") else ()
    return Job(member, settings, {name: seen[name] for name in names if name in seen})


def _candidate(index: int, known: Outputs) -> Outputs:
    sweep = {name: str(value) for name, value in SWEEP[index].items()}
    names = ("score", "passed", "model_uri", "model_sha256", "metrics_uri")
    own = {name: known[f"{name}/{index}"] for name in names if f"{name}/{index}" in known}
    return {"index": str(index), **sweep, **own}


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
        return RunOutcome(
            status=status,
            last_non_terminal_ns=handle.accepted_ns,
            first_terminal_ns=time.time_ns(),
            first_terminal_monotonic_ns=time.monotonic_ns(),
            reason=reason,
            native_status=status.value,
        )

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
        attempts = self._runs[handle.run_id].attempts
        return Timeline(
            run_id=handle.run_id,
            native_status="",
            resolution_seconds=1e-6,
            started=min((a.started for a in attempts if a.started), default=None),
            finished=max((a.finished for a in attempts if a.finished), default=None),
            attempts=tuple(sorted(attempts, key=lambda a: (a.started or 0, a.index or 0))),
        )

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
        step, index = job.member.step, job.member.index
        words = [str(envs.harness_python()), "-m", "core.entry", step, "--run-id", run.request.run_id]
        words += [] if index is None else ["--index", str(index)]
        for name, value in job.settings.items():
            words += ["--set", f"{name}={value}"]
        for name, value in job.inputs.items():
            words += ["--input", f"{name}={value}"]
        name = f"{run.request.run_id}-{step}{'' if index is None else f'-{index}'}"
        run.servers.append(name)
        return self.where.servers.start(name, words, self.where.step_env(), self.where.state.root)


class CallsDriver(FloorDriver):
    """One process for the run, in which the steps are calls; those of one phase in threads."""

    def _carry_out(self, run: _Run, end: float) -> None:
        request = run.request
        words = [str(envs.harness_python()), "-m", "adapters.local.floors", request.model_dump_json()]
        run.servers.append(request.run_id)
        server = self.where.servers.start(request.run_id, words, self.where.step_env(), self.where.state.root)
        code = self._finish(run, request.run_id, server, end)
        for line in server.log.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"attempt":'):
                run.attempts.append(Attempt.model_validate(json.loads(line)["attempt"]))
        if code != 0:
            raise _Ended(Status.FAILED, f"the run ended with code {code}: {server.last_lines()[-300:]}")


def _last_outputs(server: Server) -> Outputs:
    lines = server.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    try:
        return {name: str(value) for name, value in json.loads(lines[-1])["outputs"].items()}
    except (IndexError, ValueError, KeyError) as error:
        raise BenchError(
            f"{server.name}: its last line is not its outputs: {(lines or [''])[-1][:200]}",
            f"see {server.log}",
        ) from error


def _main(text: str) -> None:
    """The steps of a run as calls in this process; a line for each attempt."""
    from core.entry import run_step

    request = RunRequest.model_validate_json(text)

    def call(job: Job) -> Outputs:
        from core.config import load_config

        at = time.time()
        result = run_step(
            job.member.step,
            run_id=request.run_id,
            config=load_config("{}", [f"{name}={value}" for name, value in job.settings.items()]),
            inputs=job.inputs,
            index=job.member.index,
        )
        attempt = Attempt(
            step=job.member.step, index=job.member.index, started=at, finished=time.time(), status="0"
        )
        outputs = dict(result.outputs)
        print(json.dumps({"attempt": attempt.model_dump(), "outputs": outputs}), flush=True)
        return outputs

    def execute(jobs: Sequence[Job]) -> list[Outputs]:
        if len(jobs) == 1:
            return [call(jobs[0])]
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(call, jobs))

    walk(request.workload, request.steps, request.parameters, execute)


class _Floor:
    name = ""
    title = ""
    task = ""
    driver_of: type[FloorDriver]

    def targets(self) -> tuple[Target, ...]:
        """This machine only."""
        return (Target.LOCAL,)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """One."""
        return (Configuration(name="default", task=self.task),) if target is Target.LOCAL else ()

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def runtime(self, target: Target) -> NothingToInstall:
        """See `Adapter.runtime`."""
        self._only_local(target)
        return NothingToInstall()

    def driver(self, target: Target) -> FloorDriver:
        """See `Adapter.driver`."""
        self._only_local(target)
        return self.driver_of(connect_local())

    def _only_local(self, target: Target) -> None:
        if target is not Target.LOCAL:
            raise Unsupported(
                f"{self.name} is the floor of steps that are no pods; on a cluster it is `pods`",
                "bench run --orchestrator pods",
            )


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


if __name__ == "__main__":
    _main(sys.argv[1])
