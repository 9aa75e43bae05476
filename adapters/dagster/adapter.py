"""Dagster 1.13: runs by GraphQL, on any target."""

import time

from adapters.base import (
    BenchError,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
)
from adapters.dagster import cluster, local
from adapters.dagster.api import DELETE, TERMINATE
from adapters.dagster.names import job_name
from adapters.dagster.placed import needed
from adapters.dagster.records import first_failure, timeline_of
from adapters.dagster.runtime import UNFINISHED, Site
from adapters.local.target import connect_local
from adapters.targets import connect
from adapters.workloads import WORKLOADS

RUN_TAG = "bench/run-id"
TERMINAL = {"SUCCESS": Status.SUCCEEDED, "FAILURE": Status.FAILED, "CANCELED": Status.CANCELLED}
POLL_SECONDS = 0.2
CANCEL_SECONDS = 30.0
RELOAD_SECONDS = 120.0
"""Longest time until a file of the code location's has reached it."""


def job_of(request: RunRequest) -> str:
    """The job that a request wants."""
    return job_name(request.workload, request.steps, request.retries_as_shipped)


class DagsterDriver:
    """Runs are started, watched and read through GraphQL; a tag keeps the harness's run id."""

    def __init__(self, site: Site) -> None:
        self.site, self.api = site, site.api

    def prepare(self, request: RunRequest) -> None:
        """Have a job of the right length in the code location, and no other that no run needs any more.

        Every step's process builds all definitions: what an earlier run left there would be measured.

        Raises `BenchError` where the code location does not come to have it.
        """
        job = job_of(request)
        running = {run["jobName"] for run in self.api.find(statuses=list(UNFINISHED))}
        known = self.site.placed()
        wanted = needed(known, running, job)
        if wanted != known:
            self.site.place(wanted)
        elif job in self.api.jobs():
            return
        end = time.monotonic() + RELOAD_SECONDS
        while job not in self.api.reload():
            if time.monotonic() > end:
                raise BenchError(f"dagster does not know the job {job}", "see the code server's log")
            time.sleep(1)

    def submit(self, request: RunRequest) -> RunHandle:
        """Launch the run unless one with its tag is there: `launchRun` takes no run id."""
        config = {
            "execution": {"config": self.site.execution(request.configuration, request.run_id)},
            "resources": {
                "run": {
                    "config": {
                        "run_id": request.run_id,
                        "parameters": {name: str(value) for name, value in request.parameters.items()},
                    }
                }
            },
        }
        submit_ns = time.time_ns()
        there = self._runs(request.run_id)
        tags = {RUN_TAG: request.run_id, **self.site.tags(request.run_id)}
        native_id = there[-1] if there else self.api.launch(job_of(request), config, tags)
        return RunHandle(
            run_id=request.run_id, native_id=native_id, submit_ns=submit_ns, accepted_ns=time.time_ns()
        )

    def _runs(self, run_id: str) -> list[str]:
        found = self.api.find(tags=[{"key": RUN_TAG, "value": run_id}])
        return [str(run["runId"]) for run in found]

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Ask for the status every 0.2 s until it is terminal or the deadline has passed."""
        last_ns, state = handle.accepted_ns, "unknown"
        end = time.monotonic() + deadline_seconds
        while True:
            asked_ns = time.time_ns()
            run = self.api.run(handle.native_id)
            seen_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
            state = run["status"] if run else "deleted"
            status, reason = TERMINAL.get(state, Status.CANCELLED if run is None else None), ""
            if status is None:
                last_ns = asked_ns
                if time.monotonic() > end:
                    status, reason = Status.TIMEOUT, f"still {state} after {deadline_seconds:.0f} s"
            if status is not None:
                if status is Status.FAILED:
                    reason = first_failure(self.api.events(handle.native_id))
                return RunOutcome(
                    status=status,
                    last_non_terminal_ns=last_ns,
                    first_terminal_ns=seen_ns,
                    first_terminal_monotonic_ns=monotonic_ns,
                    reason=reason,
                    native_status=state,
                )
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))

    def cancel(self, run_id: str) -> bool:
        """Terminate the run, end what is left of its processes or pods, delete it.

        Servers that do not run, since a command was killed, run for as long as that takes.
        """
        if not self.site.deployed():
            return False
        on = self.site.health() == ""
        self.site.scale(True)
        try:
            found = self._runs(run_id)
            for native_id in found:
                self._terminate(native_id)
                self.site.end(native_id)
                self.api.ask(DELETE, id=native_id)
        finally:
            if not on:
                self.site.scale(False)
        return bool(found)

    def _terminate(self, native_id: str) -> None:
        """Ask the run to end; mark it as cancelled where it does not."""
        if self._over(native_id):
            return
        end = time.monotonic() + CANCEL_SECONDS
        try:
            answer = self.api.ask(TERMINATE, id=native_id, policy="SAFE_TERMINATE")
            asked = answer["__typename"] == "TerminateRunSuccess"
        except BenchError:  # the code server that started it is gone
            asked = False
        while asked and time.monotonic() < end:
            if self._over(native_id):
                return
            time.sleep(POLL_SECONDS)
        self.api.ask(TERMINATE, id=native_id, policy="MARK_AS_CANCELED_IMMEDIATELY")

    def _over(self, native_id: str) -> bool:
        run = self.api.run(native_id)
        return run is None or run["status"] in TERMINAL

    def timeline(self, handle: RunHandle) -> Timeline:
        """From the run's event log."""
        native_id = handle.native_id
        run = self.api.run(native_id)
        return timeline_of(handle.run_id, run or {}, self.api.events(native_id), self.site.pods(native_id))

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's attempts printed; where they share a process, what all of its steps printed."""
        return self.site.printed(handle.native_id, step)


class DagsterAdapter:
    """Dagster: a step is a pod or a process of its own, or a call in the run's process."""

    name = "dagster"
    title = "Dagster"

    def targets(self) -> tuple[Target, ...]:
        """This machine, and a kind cluster."""
        return (Target.LOCAL, Target.KIND)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """Each differs from `default` in one documented setting."""
        return {Target.LOCAL: local.CONFIGURATIONS, Target.KIND: cluster.CONFIGURATIONS}.get(target, ())

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(WORKLOADS)

    def runtime(self, target: Target) -> Site:
        """See `Adapter.runtime`."""
        if target is Target.LOCAL:
            return local.LocalRuntime(connect_local())
        return cluster.ClusterRuntime(connect(target))

    def driver(self, target: Target) -> DagsterDriver:
        """See `Adapter.driver`."""
        return DagsterDriver(self.runtime(target))
