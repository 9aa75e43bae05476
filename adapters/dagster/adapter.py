"""Dagster 1.13 on this machine: webserver, daemon and code server; runs by GraphQL."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import Distribution

import psutil
import yaml

from adapters.base import (
    Attempt,
    BenchError,
    Component,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
    Unsupported,
)
from adapters.dagster.api import DELETE, HEALTH, PRINTED, TERMINATE, Answer, Api, address_in, why
from adapters.dagster.names import LOCATION, PROBES_FILE, job_name, member_of
from adapters.local import envs
from adapters.local.network import free_port
from adapters.local.processes import MARK
from adapters.local.target import LocalTarget, connect_local
from adapters.workloads import WORKLOADS, Member

EXTRA = "dagster"
DEFINITIONS = "adapters.dagster.pipeline"
DATABASE_URL = "DAGSTER_POSTGRES_URL"
DIALECT = "postgresql+psycopg2"
"""What dagster-postgres brings; SQLAlchemy 2.1 takes another driver where none is named."""
CODE, WEB, DAEMON = "dagster-code", "dagster-webserver", "dagster-daemon"
SERVERS = (CODE, WEB, DAEMON)
DOCS = "https://github.com/dagster-io/dagster/blob/1.13.27/docs/docs"
CONFIGURATIONS = (
    Configuration(name="default", task="process"),
    Configuration(
        name="tuned",
        task="process",
        knob="multiprocess.start_method",
        value="forkserver",
        source=f"{DOCS}/guides/operate/run-executors.md",
    ),
    Configuration(
        name="in-process",
        task="call",
        knob="executor",
        value="in_process",
        source=f"{DOCS}/guides/operate/run-executors.md",
    ),
    Configuration(
        name="sqlite",
        task="process",
        knob="storage",
        value="sqlite",
        source=f"{DOCS}/deployment/oss/oss-instance-configuration.md",
    ),
)
WIDTH = 16
"""Steps of one run at a time; shipped: as many as there are CPUs, which would cap a fan-out on a small machine."""
PRELOADED = ("dagster_postgres", DEFINITIONS)
PLAIN: Answer = {"multiprocess": {"max_concurrent": WIDTH}}
EXECUTION: Mapping[str, Answer] = {
    "default": PLAIN,
    "tuned": {
        "multiprocess": {
            "max_concurrent": WIDTH,
            "start_method": {"forkserver": {"preload_modules": list(PRELOADED)}},
        }
    },
    "in-process": {"in_process": {}},
    "sqlite": PLAIN,
}
"""The executor's part of a run's configuration."""
RUN_TAG = "bench/run-id"
UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
TERMINAL = {"SUCCESS": Status.SUCCEEDED, "FAILURE": Status.FAILED, "CANCELED": Status.CANCELLED}
NEEDED_DAEMONS = ("QUEUED_RUN_COORDINATOR", "MONITORING")
POLL_SECONDS = 0.2
CANCEL_SECONDS = 30.0
START_SECONDS = 240.0


class Home:
    """DAGSTER_HOME: the adapter's folder in the state, and what lies in it."""

    def __init__(self, where: LocalTarget) -> None:
        self.path = where.state.root / EXTRA
        self.address = self.path / "webserver"
        self.settings = self.path / "dagster.yaml"
        self.workspace = self.path / "workspace.yaml"
        self.probes = self.path / "probes.json"

    def settings_for(self, configuration: str) -> str:
        """The instance's settings."""
        settings: Answer = {"telemetry": {"enabled": False}, "run_monitoring": {"enabled": True}}
        if configuration != "sqlite":
            settings["storage"] = {"postgres": {"postgres_url": {"env": DATABASE_URL}}}
        return yaml.safe_dump(settings)

    def settings_now(self) -> str:
        """The settings of what is deployed; empty where nothing is."""
        return self.settings.read_text(encoding="utf-8") if self.settings.exists() else ""

    def place(self, code_port: int, web_port: int) -> None:
        """Say where code server and webserver will listen, and that there are no probes yet."""
        server = {"host": "127.0.0.1", "port": code_port, "location_name": LOCATION}
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
        self.address.write_text(f"http://127.0.0.1:{web_port}\n", encoding="utf-8")
        self.probes.write_text("[]", encoding="utf-8")

    def ports(self) -> tuple[int, int]:
        """Of code server and webserver."""
        (location,) = yaml.safe_load(self.workspace.read_text(encoding="utf-8"))["load_from"]
        return location["grpc_server"]["port"], int(
            self.address.read_text(encoding="utf-8").rpartition(":")[2]
        )

    def uses_postgres(self) -> bool:
        """Whether what is deployed stores its runs in PostgreSQL."""
        return DATABASE_URL in self.settings_now()


class DagsterRuntime:
    """The three servers of a Dagster deployment, on loopback."""

    def __init__(self, where: LocalTarget) -> None:
        self.where = where
        self.home = Home(where)
        self.api = Api(address_in(self.home.address))

    def deploy(self, configuration: str) -> None:
        """Start what does not run. Another storage is another deployment: all servers are started anew for it.

        Raises `BenchError` for an unknown configuration, or where a server does not start.
        """
        if configuration not in EXECUTION:
            raise BenchError(
                f"dagster has no configuration '{configuration}'", f"one of: {', '.join(EXECUTION)}"
            )
        wanted = self.home.settings_for(configuration)
        if self.home.settings_now() != wanted:
            self.scale(False)
            self.where.state.folder(EXTRA)
            self.home.settings.write_text(wanted, encoding="utf-8")
        self.scale(True)

    def _start(self) -> None:
        """Start what does not run; where nothing did, at new addresses."""
        running = self.where.servers.running
        fresh = not any(running(name) for name in SERVERS)
        if fresh:
            self.home.place(free_port(), free_port())
        code_port, web_port = self.home.ports()
        env = {
            **self.where.env_of(EXTRA),
            "DAGSTER_HOME": str(self.home.path),
            PROBES_FILE: str(self.home.probes),
        }
        if self.home.uses_postgres():
            env[DATABASE_URL] = self.where.postgres.url(EXTRA, DIALECT)
        workspace = ["-w", str(self.home.workspace)]
        commands = {
            CODE: ["dagster", "code-server", "start", *_bound(code_port), "-m", DEFINITIONS],
            WEB: ["dagster-webserver", *_bound(web_port), *workspace],
            DAEMON: ["dagster-daemon", "run", *workspace],
        }
        for name, command in commands.items():
            if running(name) is None:
                self.where.servers.start(name, command, env, self.home.path)
        self.where.servers.wait_until(self.health, SERVERS, START_SECONDS)
        if fresh:
            self._end_stale_runs()

    def _end_stale_runs(self) -> None:
        """Mark as cancelled what an ended deployment left unfinished: nobody waits for it, and it counts as running."""
        for run in self.api.find(statuses=list(UNFINISHED)):
            self.api.ask(TERMINATE, id=run["runId"], policy="MARK_AS_CANCELED_IMMEDIATELY")

    def undeploy(self) -> None:
        """End the servers, drop the database, remove the folder."""
        self.scale(False)
        self.where.postgres.drop(EXTRA)
        shutil.rmtree(self.home.path, ignore_errors=True)

    def scale(self, on: bool) -> None:
        """Start or stop the servers; runs under way end with them. What they stored stays.

        Raises `BenchError` where nothing is deployed that could be started.
        """
        if not on:
            for name in reversed(SERVERS):
                self.where.servers.stop(name)
            return
        if not self.home.settings_now():
            raise BenchError("dagster is not deployed", "bench run --orchestrator dagster --target local")
        if self.health() == "":
            return
        if all(self.where.servers.running(name) for name in SERVERS):
            self.scale(False)  # they run, but not well
        self._start()

    def health(self) -> str:
        """Empty when the three servers run, the definitions are loaded and the daemon has shown itself."""
        for name in SERVERS:
            if self.where.servers.running(name) is None:
                return f"{name} is not running"
        try:
            answer = self.api.ask_all(HEALTH, location=LOCATION)
        except BenchError as error:
            return error.message
        return wrong_with(answer, self._started(DAEMON))

    def _started(self, name: str) -> float:
        server = self.where.servers.running(name)
        try:
            return psutil.Process(server.pid).create_time() if server else 0.0
        except psutil.Error:
            return 0.0

    def components(self) -> tuple[Component, ...]:
        """The three servers, and the database where there is one."""
        parts = {WEB: "api", DAEMON: "scheduler", CODE: "worker"}
        if self.home.uses_postgres():
            parts["postgres"] = "database"
        return tuple(
            Component(name=name, namespace="", selector=name, role=role) for name, role in parts.items()
        )

    def versions(self) -> Mapping[str, str]:
        """Of Dagster and its storage, and the width that is set here."""
        site = envs.ensure(self.where.state, EXTRA).parents[1] / "lib"
        found = {
            name: package.version
            for path in site.glob("python*/site-packages")
            for name in ("dagster", "dagster-postgres")
            for package in Distribution.discover(name=name, path=[str(path)])
        }
        return {**found, "dagster_max_concurrent": str(WIDTH)}


def _bound(port: int) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(port)]


def wrong_with(answer: Answer, since: float) -> str:
    """What is wrong by an answer to `HEALTH`, if anything. Heartbeats before `since` are of an earlier daemon."""
    location = answer["location"] or {}
    loaded = location.get("locationOrLoadError") or location
    if loaded.get("__typename") != "RepositoryLocation":
        return f"the definitions are not loaded: {why(loaded)}"
    beats = {
        status["daemonType"]: status["lastHeartbeatTime"] or 0.0
        for status in answer["answer"]["daemonHealth"]["allDaemonStatuses"]
    }
    silent = [name for name in NEEDED_DAEMONS if beats.get(name, 0.0) < since]
    return f"the daemon has not shown {', '.join(silent)}" if silent else ""


class DagsterDriver:
    """Runs are started, watched and read through GraphQL; a tag keeps the harness's run id."""

    def __init__(self, where: LocalTarget) -> None:
        self.where = where
        self.home = Home(where)
        self.api = Api(address_in(self.home.address))

    def prepare(self, request: RunRequest) -> None:
        """Have a job of the right length in the code location, and no other that no run needs any more.

        Every step's process builds all definitions: what an earlier run left there would be measured.
        """
        job = job_name(request.workload, request.steps)
        probes = {job} if request.workload in ("chain", "fanout") else set()
        running = {run["jobName"] for run in self.api.find(statuses=list(UNFINISHED))}
        known = set(json.loads(self.home.probes.read_text(encoding="utf-8")))
        wanted = probes | (known & running)
        if wanted != known:
            self.home.probes.write_text(json.dumps(sorted(wanted)), encoding="utf-8")
            if job not in self.api.reload():
                raise BenchError(f"dagster does not know the job {job}", "see the code server's log")

    def submit(self, request: RunRequest) -> RunHandle:
        """Launch the run unless one with its tag is there: `launchRun` takes no run id."""
        config = {
            "execution": {"config": EXECUTION[request.configuration]},
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
        native_id = (
            there[-1]
            if there
            else self.api.launch(job_name(request.workload, request.steps), config, {RUN_TAG: request.run_id})
        )
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
        """Terminate the run, end what is left of its processes, delete it.

        Servers that do not run, since a command was killed, run for as long as that takes.
        """
        if not self.home.settings_now():
            return False
        runtime = DagsterRuntime(self.where)
        on = runtime.health() == ""
        runtime.scale(True)
        try:
            found = self._runs(run_id)
            for native_id in found:
                self._terminate(native_id)
                self._end_processes(self.api.events(native_id))
                self.api.ask(DELETE, id=native_id)
        finally:
            if not on:
                runtime.scale(False)
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

    def _end_processes(self, events: Iterable[Answer]) -> None:
        """End processes of a run that outlived it; returns when they are gone."""
        left = []
        for pid, since in processes_of(events):
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                ours = process.environ().get(MARK) == str(self.where.state.root)
                if ours and process.create_time() <= since:
                    left.append(process)
        _, stubborn = psutil.wait_procs(left, timeout=5)
        for process in stubborn:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=5)

    def timeline(self, handle: RunHandle) -> Timeline:
        """From the run's event log."""
        run = self.api.run(handle.native_id)
        return timeline_of(handle.run_id, run or {}, self.api.events(handle.native_id))

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's attempts printed; of an in-process run, what all of its steps printed."""
        texts = []
        for event in self.api.events(handle.native_id):
            if event["__typename"] == "LogsCapturedEvent" and step in _steps(event["stepKeys"] or ()):
                key = [handle.native_id, "compute_logs", event["fileKey"]]
                texts.append(self.api.ask(PRINTED, key=key)["stdout"] or "")
        return "".join(texts)


def _steps(keys: Iterable[str]) -> set[str]:
    return {member.step for key in keys if (member := member_of(key))}


STARTS = ("ExecutionStepStartEvent", "ExecutionStepRestartEvent")
ENDS = {
    "ExecutionStepSuccessEvent": "success",
    "ExecutionStepUpForRetryEvent": "up for retry",
    "ExecutionStepFailureEvent": "failure",
}


def timeline_of(run_id: str, run: Answer, events: Iterable[Answer]) -> Timeline:
    """A run's events as a timeline. Dagster gives their times in whole milliseconds, truncated."""
    attempts: dict[Member, list[Attempt]] = {}
    skipped: list[str] = []
    for event in events:
        kind, member = event["__typename"], member_of(event.get("stepKey") or "")
        if member is None:
            continue
        at = int(event["timestamp"]) / 1000
        mine = attempts.setdefault(member, [])
        if kind == "ExecutionStepSkippedEvent":
            skipped.append(member.step)
        elif kind in STARTS:
            mine.append(_attempt(member, len(mine) + 1, event["stepKey"], started=at))
        elif kind in ENDS:
            # A process that died before its first event has an end only.
            open_one = mine.pop() if mine and mine[-1].finished is None else None
            base = open_one or _attempt(member, len(mine) + 1, event["stepKey"], started=None)
            said = ((event.get("error") or {}).get("message") or "").strip()
            mine.append(base.model_copy(update={"finished": at, "status": ENDS[kind], "message": said}))
    return Timeline(
        run_id=run_id,
        native_status=run.get("status") or "",
        resolution_seconds=0.001,
        started=run.get("startTime"),
        finished=run.get("endTime"),
        attempts=tuple(
            sorted(
                (a for mine in attempts.values() for a in mine), key=lambda a: a.started or a.finished or 0
            )
        ),
        skipped=tuple(sorted(set(skipped))),
    )


def _attempt(member: Member, number: int, key: str, started: float | None) -> Attempt:
    return Attempt(
        step=member.step,
        index=member.index,
        attempt=number,
        native_id=key,
        started=started,
        status="started",
    )


def first_failure(events: Iterable[Answer]) -> str:
    """What the first event of a failure says; empty where there is none."""
    for event in events:
        if event["__typename"] in ("ExecutionStepFailureEvent", "RunFailureEvent"):
            said = ((event.get("error") or {}).get("message") or event.get("message") or "").strip()
            return f"{event.get('stepKey') or 'run'}: {said}"
    return ""


def processes_of(events: Iterable[Answer]) -> Sequence[tuple[int, float]]:
    """Process ids that a run's events name, and until when each was seen (seconds since the epoch)."""
    found: dict[int, float] = {}
    for event in events:
        for entry in event.get("metadataEntries") or ():
            if entry["label"] == "pid" and (entry.get("text") or "").isdigit():
                found[int(entry["text"])] = int(event["timestamp"]) / 1000
    return tuple(found.items())


class DagsterAdapter:
    """Dagster: a step is a process of its own, or a call in the run's process."""

    name = "dagster"
    title = "Dagster"

    def targets(self) -> tuple[Target, ...]:
        """This machine."""
        return (Target.LOCAL,)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """Each differs from `default` in one documented setting."""
        return CONFIGURATIONS if target is Target.LOCAL else ()

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(WORKLOADS)

    def runtime(self, target: Target) -> DagsterRuntime:
        """See `Adapter.runtime`."""
        return DagsterRuntime(self._connect(target))

    def driver(self, target: Target) -> DagsterDriver:
        """See `Adapter.driver`."""
        return DagsterDriver(self._connect(target))

    def _connect(self, target: Target) -> LocalTarget:
        if target is not Target.LOCAL:
            raise Unsupported("Dagster on Kubernetes is not wired yet", "bench run --target local")
        return connect_local()
