"""Dagster 1.13: runs by GraphQL, on any target."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.base import (
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
from adapters.cron import cron_of, due_of
from adapters.dagster import cluster, local
from adapters.dagster.api import CANCEL, DELETE, SCHEDULE, SENSOR, TERMINATE, WIPE, Answer
from adapters.dagster.names import AS_SHIPPED, DAILY, METADATA, METADATA_TAG, job_name, run_of_day
from adapters.dagster.placed import Trigger, delivery, names_in, needed, run_config, trigger_name
from adapters.dagster.records import first_failure, timeline_of
from adapters.dagster.runtime import RUN_RETRIES, UNFINISHED, Site
from adapters.local.target import connect_local
from adapters.targets import connect
from adapters.workloads import WORKLOADS

RUN_TAG = "bench/run-id"
MAX_RETRIES, WILL_RETRY, RETRIED_AS = "dagster/max_retries", "dagster/will_retry", "dagster/auto_retry_run_id"
"""Tags of run retries: the first is ours, Dagster adds the others when a run fails."""
TERMINAL = {"SUCCESS": Status.SUCCEEDED, "FAILURE": Status.FAILED, "CANCELED": Status.CANCELLED}
EVALUATED = ("SKIPPED", "SUCCESS")
REQUESTED = "REQUESTED"
UNDER_WAY = (REQUESTED, "CANCELING", "FAILING")
"""A backfill that is not over."""
POLL_SECONDS = 0.2
CANCEL_SECONDS = 30.0
CALLED_OFF_SECONDS = 150.0
"""Longest time until a backfill's runs are over: the daemon ends them at one look, and sees that at another."""
DAEMON_SECONDS = 10.0
"""How long the daemon may take to know a new schedule: it looks every second, and loads all definitions."""
RELOAD_SECONDS = 120.0
"""Longest time until a file of the code location's has reached it."""


def job_of(request: RunRequest) -> str:
    """The job that a request wants."""
    return job_name(request.workload, request.steps, request.retries_as_shipped)


@dataclass(frozen=True)
class Backfill:
    """What Dagster calls a backfill, and the runs that it has made, one for each day."""

    native_id: str
    runs: tuple[RunHandle, ...]


class DagsterDriver:
    """Runs are started, watched and read through GraphQL; a tag keeps the harness's run id."""

    def __init__(self, site: Site) -> None:
        self.site, self.api = site, site.api

    def prepare(self, request: RunRequest) -> None:
        """Have a job of the right length in the code location, and no other that no run needs any more.

        Every step's process builds all definitions: what an earlier run left there would be measured.

        Raises `BenchError` where the code location does not come to have it, `Unsupported` for an approval.
        """
        if request.approval:
            raise Unsupported(
                "a run of Dagster's does not wait for a person",
                "run it to the gate, and materialise the rest by hand",
            )
        self._place({job_of(request)}, self._waiting())

    def _waiting(self, but: str = "") -> list[Trigger]:
        """Schedules and listeners whose runs have not started."""
        there = self.site.placed()["triggers"]
        return [each for each in there if each["run_id"] != but and not self._runs(each["run_id"])]

    def _place(self, jobs: set[str], triggers: list[Trigger]) -> None:
        """Have `jobs` and `triggers` in the code location, and beside them only jobs of runs under way."""
        known = self.site.placed()
        running = {run["jobName"] for run in self.api.find(statuses=list(UNFINISHED))}
        running |= {each["job"] for each in self.api.backfilling()}
        wanted = needed(known, running, jobs, triggers)
        for trigger in known["triggers"]:
            if trigger not in triggers:
                self._retire(trigger)
        present = jobs | names_in(wanted)
        absent = names_in(known) - present
        if wanted != known:
            self.site.place(wanted)
        elif present <= self.api.defined():
            return
        end = time.monotonic() + RELOAD_SECONDS
        while not present <= (found := self.api.reload()) or absent & found:
            if time.monotonic() > end:
                missing = ", ".join(sorted(present - found)) or "less"
                raise BenchError(f"dagster does not come to know {missing}", "see the code server's log")
            time.sleep(1)

    def _retire(self, trigger: Trigger) -> None:
        """Turn a trigger off, and forget the event that it heard."""
        name = trigger_name(trigger["run_id"])
        self.api.reset(SCHEDULE if trigger["cron"] else SENSOR, name)
        if not trigger["cron"]:
            self.api.ask(WIPE, key=delivery(trigger["run_id"]))

    def submit(self, request: RunRequest) -> RunHandle:
        """Launch the run unless one with its tag is there: `launchRun` takes no run id."""
        execution = self.site.execution(request.configuration, request.run_id)
        config = run_config(request.run_id, request.parameters, execution)
        submit_ns = time.time_ns()
        there = self._runs(request.run_id)
        native_id = there[-1] if there else self.api.launch(job_of(request), config, self._tags(request))
        return RunHandle(
            run_id=request.run_id, native_id=native_id, submit_ns=submit_ns, accepted_ns=time.time_ns()
        )

    def _tags(self, request: RunRequest) -> dict[str, str]:
        tags = {RUN_TAG: request.run_id, **self.site.tags(request.run_id)}
        if request.configuration == RUN_RETRIES and not request.retries_as_shipped:
            tags[MAX_RETRIES] = "2"
        if request.configuration == METADATA:
            tags[METADATA_TAG] = "true"
        return tags

    def schedule(self, request: RunRequest) -> None:
        """Place a schedule for that minute and turn it on.

        The daemon looks for new definitions every second, and at nothing but whole minutes for what is due.

        Raises `BenchError` where it is due before the daemon knows.
        """
        trigger = self._trigger(request, cron_of(request))
        self._place(set(), [*self._waiting(but=request.run_id), trigger])
        self.api.start(SCHEDULE, trigger_name(request.run_id))
        if time.time() + DAEMON_SECONDS > due_of(request):
            self.cancel(request.run_id)
            raise BenchError("dagster was told of the schedule too late", "choose a later minute")

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """See `Schedules.scheduled`. Asks for the run every 0.2 s from the minute that it is due."""
        due = due_of(request)
        time.sleep(max(0.0, due - time.time()))
        native_id = self._started(request.run_id, due + deadline_seconds - time.time())
        return RunHandle(
            run_id=request.run_id, native_id=native_id, submit_ns=due * 10**9, accepted_ns=due * 10**9
        )

    def listen(self, request: RunRequest) -> None:
        """Place an asset sensor and turn it on; returns when the daemon has evaluated it once.

        Raises `BenchError` where that does not come, or fails.
        """
        name = trigger_name(request.run_id)
        self._place(set(), [*self._waiting(but=request.run_id), self._trigger(request)])
        self.api.start(SENSOR, name)
        end = time.monotonic() + RELOAD_SECONDS
        while (tick := self.api.last_tick(name)).get("status") not in EVALUATED:
            if tick.get("error") or time.monotonic() > end:
                said = (tick.get("error") or {}).get("message") or "the daemon does not evaluate it"
                raise BenchError(f"dagster does not listen: {said}", "see the daemon's log")
            time.sleep(POLL_SECONDS)

    def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """Report that the delivery was made, with run id and parameters as its metadata."""
        facts = {"run_id": request.run_id, "parameters": dict(request.parameters)}
        submit_ns = time.time_ns()
        self.api.materialized(delivery(request.run_id), facts)
        accepted_ns = time.time_ns()
        native_id = self._started(request.run_id, deadline_seconds)
        return RunHandle(
            run_id=request.run_id, native_id=native_id, submit_ns=submit_ns, accepted_ns=accepted_ns
        )

    def backfill(self, request: RunRequest, days: Sequence[str], deadline_seconds: float) -> Backfill:
        """Have Dagster run the recommender, up to the registered model, for each day such as `2025-01-31`.

        Returns when the daemon, which looks every 30 s, has made their runs. Each has an id of its own, `run_of_day`;
        `cancel` with the request's ends all. Raises `BenchError` where it is refused, or not done in time.
        """
        job = DAILY + AS_SHIPPED if request.retries_as_shipped else DAILY
        self._place({job}, self._waiting())
        execution = self.site.execution(request.configuration, request.run_id)
        config = run_config(request.run_id, request.parameters, execution)
        submit_ns = time.time_ns()
        native_id = self.api.backfill(job, days, config, self._tags(request))
        accepted_ns = time.time_ns()
        end = time.monotonic() + deadline_seconds
        while True:
            status, made, error = self.api.backfilled(native_id)
            if made.keys() >= set(days):
                break
            if status != REQUESTED or time.monotonic() > end:
                self.cancel(request.run_id)
                raise BenchError(f"dagster makes no runs: {error or status}", "see the daemon's log")
            time.sleep(POLL_SECONDS)
        return Backfill(
            native_id=native_id,
            runs=tuple(
                RunHandle(
                    run_id=run_of_day(request.run_id, day),
                    native_id=made[day],
                    submit_ns=submit_ns,
                    accepted_ns=accepted_ns,
                )
                for day in days
            ),
        )

    def backfilled(self, backfill: Backfill, deadline_seconds: float) -> str:
        """Dagster's word for how a backfill ended. Raises `BenchError` where it is not over in time."""
        end = time.monotonic() + deadline_seconds
        while (status := self.api.backfilled(backfill.native_id)[0]) in UNDER_WAY:
            if time.monotonic() > end:
                raise BenchError("dagster does not end the backfill", "see the daemon's log")
            time.sleep(POLL_SECONDS)
        return status

    def _trigger(self, request: RunRequest, cron: str = "") -> Trigger:
        return {
            "run_id": request.run_id,
            "job": job_of(request),
            "cron": cron,
            "parameters": dict(request.parameters) if cron else {},
            "execution": self.site.execution(request.configuration, request.run_id),
            "tags": self._tags(request),
        }

    def _started(self, run_id: str, deadline_seconds: float) -> str:
        """The run with that id, once there is one. Raises `BenchError` where none comes in time."""
        end = time.monotonic() + deadline_seconds
        while not (found := self._runs(run_id)):
            if time.monotonic() > end:
                raise BenchError(f"dagster did not start {run_id} by itself", "see the daemon's log")
            time.sleep(POLL_SECONDS)
        return found[-1]

    def _runs(self, run_id: str) -> list[str]:
        found = self.api.find(tags=[{"key": RUN_TAG, "value": run_id}])
        return [str(run["runId"]) for run in found]

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Ask for the status every 0.2 s until it is terminal or the deadline has passed.

        A failed run that Dagster runs again is followed.
        """
        last_ns, state, native_id = handle.accepted_ns, "unknown", handle.native_id
        end = time.monotonic() + deadline_seconds
        while True:
            asked_ns = time.time_ns()
            run = self.api.run(native_id)
            seen_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
            state = run["status"] if run else "deleted"
            status, reason = TERMINAL.get(state, Status.CANCELLED if run is None else None), ""
            if status is Status.FAILED and (again := self._again(native_id)):
                status, native_id = None, again
            if status is None:
                last_ns = asked_ns
                if time.monotonic() > end:
                    status, reason = Status.TIMEOUT, f"still {state} after {deadline_seconds:.0f} s"
            if status is not None:
                if status is Status.FAILED:
                    reason = first_failure(self.api.events(native_id))
                return RunOutcome(
                    status=status,
                    last_non_terminal_ns=last_ns,
                    first_terminal_ns=seen_ns,
                    first_terminal_monotonic_ns=monotonic_ns,
                    reason=reason,
                    native_status=state,
                )
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))

    def _again(self, native_id: str) -> str:
        """The run that a failed one is run again as; its own id until there is one, empty where there will be none."""
        tags = self.api.tags(native_id)
        if MAX_RETRIES not in tags or tags.get(WILL_RETRY) == "false":
            return ""
        return tags.get(RETRIED_AS, native_id)

    def _with_retries(self, native_id: str) -> dict[str, Answer]:
        """A run and those that it was run again as, in their order: status and times by id."""
        found: dict[str, Answer] = {}
        while native_id and native_id not in found:
            run = self.api.run(native_id) or {}
            found[native_id] = run
            failed = TERMINAL.get(run.get("status", "")) is Status.FAILED
            native_id = self._again(native_id) if failed else ""
        return found

    def cancel(self, run_id: str) -> bool:
        """Take its schedule, listener or backfill away; terminate the run, end what is left of it, delete it.

        Servers that do not run, since a command was killed, run for as long as that takes.
        """
        if not self.site.deployed():
            return False
        on = self.site.health() == ""
        self.site.scale(True)
        try:
            waits = any(each["run_id"] == run_id for each in self.site.placed()["triggers"])
            if waits:
                self._place(set(), self._waiting(but=run_id))
            for each in self.api.backfilling():
                if each["tags"].get(RUN_TAG) == run_id:
                    self._call_off(each["id"])
                    waits = True
            found = self._runs(run_id)
            for native_id in found:
                self._terminate(native_id)
                self.site.end(native_id)
                self.api.ask(DELETE, id=native_id)
        finally:
            if not on:
                self.site.scale(False)
        return waits or bool(found)

    def _call_off(self, backfill_id: str) -> None:
        """Cancel a backfill, and let the daemon end its runs: it may be making one just now."""
        self.api.ask(CANCEL, id=backfill_id)
        end = time.monotonic() + CALLED_OFF_SECONDS
        while self.api.backfilled(backfill_id)[0] in UNDER_WAY and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

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
        """From the run's event log, and those of the runs that it was run again as."""
        runs = self._with_retries(handle.native_id)
        first, *_ = answers = list(runs.values())
        whole = {**answers[-1], "startTime": first.get("startTime")}
        events = itertools.chain.from_iterable(map(self.api.events, runs))
        pods = {job: pod for native_id in runs for job, pod in self.site.pods(native_id).items()}
        return timeline_of(handle.run_id, whole, events, pods)

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's attempts printed; where they share a process, what all of its steps printed."""
        return "".join(
            self.site.printed(native_id, step) for native_id in self._with_retries(handle.native_id)
        )


class DagsterAdapter:
    """Dagster: a step is a pod or a process of its own, or a call in the run's process."""

    name = "dagster"
    title = "Dagster"

    def targets(self) -> tuple[Target, ...]:
        """This machine, and a kind cluster."""
        return (Target.LOCAL, Target.KIND)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """Each differs from `default` in one documented setting, `run-retries` from `in-process`."""
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
