"""Dagster's servers as processes on this machine."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import Distribution

import psutil
import yaml

from adapters.base import BenchError, Component, Configuration
from adapters.dagster.api import HEALTH, PRINTED, TERMINATE, Answer, Api, address_in
from adapters.dagster.names import LOCATION, METADATA
from adapters.dagster.placed import NOTHING, PLACED_FILE, Placed
from adapters.dagster.records import processes_of, steps_of
from adapters.dagster.runtime import (
    CODE,
    DAEMON,
    DATABASE_URL,
    DEFINITIONS,
    DIALECT,
    DOCS,
    EXECUTORS,
    POSTGRES,
    PROCESSES,
    ROLES,
    RUN_RETRIES,
    SERVERS,
    UNFINISHED,
    WEB,
    WIDTH,
    WITH_METADATA,
    wrong_with,
)
from adapters.local import envs
from adapters.local.network import free_port
from adapters.local.processes import MARK
from adapters.local.target import LocalTarget

EXTRA = "dagster"
CONFIGURATIONS = (
    Configuration(name="default", task="process"),
    Configuration(
        name="tuned",
        task="process",
        knob="multiprocess.start_method",
        value="forkserver",
        source=EXECUTORS,
    ),
    Configuration(
        name="in-process",
        task="call",
        knob="executor",
        value="in_process",
        source=EXECUTORS,
    ),
    Configuration(
        name=RUN_RETRIES,
        task="call",
        knob="run_retries",
        value="enabled, with the in_process executor",
        source=f"{DOCS}/deployment/execution/run-retries.md",
    ),
    WITH_METADATA.model_copy(update={"task": "process"}),
    Configuration(
        name="sqlite",
        task="process",
        knob="storage",
        value="sqlite",
        source=f"{DOCS}/deployment/oss/oss-instance-configuration.md",
    ),
)
PRELOADED = ("dagster_postgres", DEFINITIONS)
EXECUTION: Mapping[str, Answer] = {
    "default": PROCESSES,
    "tuned": {
        "multiprocess": {
            "max_concurrent": WIDTH,
            "start_method": {"forkserver": {"preload_modules": list(PRELOADED)}},
        }
    },
    "in-process": {"in_process": {}},
    RUN_RETRIES: {"in_process": {}},
    METADATA: PROCESSES,
    "sqlite": PROCESSES,
}
"""The executor's part of a run's configuration."""
START_SECONDS = 240.0


class Home:
    """DAGSTER_HOME: the adapter's folder in the state, and what lies in it."""

    def __init__(self, where: LocalTarget) -> None:
        self.path = where.state.root / EXTRA
        self.address = self.path / "webserver"
        self.settings = self.path / "dagster.yaml"
        self.workspace = self.path / "workspace.yaml"
        self.placed = self.path / "placed.json"

    def settings_for(self, configuration: str) -> str:
        """The instance's settings."""
        settings: Answer = {"telemetry": {"enabled": False}, "run_monitoring": {"enabled": True}}
        if configuration != "sqlite":
            settings["storage"] = POSTGRES
        if configuration == RUN_RETRIES:
            settings["run_retries"] = {"enabled": True, "retry_on_asset_or_op_failure": False}
        return yaml.safe_dump(settings)

    def settings_now(self) -> str:
        """The settings of what is deployed; empty where nothing is."""
        return self.settings.read_text(encoding="utf-8") if self.settings.exists() else ""

    def place(self, code_port: int, web_port: int) -> None:
        """Say where code server and webserver will listen, and that nothing is placed yet."""
        server = {"host": "127.0.0.1", "port": code_port, "location_name": LOCATION}
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
        self.address.write_text(f"http://127.0.0.1:{web_port}\n", encoding="utf-8")
        self.placed.write_text(json.dumps(NOTHING), encoding="utf-8")

    def ports(self) -> tuple[int, int]:
        """Of code server and webserver."""
        (location,) = yaml.safe_load(self.workspace.read_text(encoding="utf-8"))["load_from"]
        return location["grpc_server"]["port"], int(
            self.address.read_text(encoding="utf-8").rpartition(":")[2]
        )

    def uses_postgres(self) -> bool:
        """Whether what is deployed stores its runs in PostgreSQL."""
        return DATABASE_URL in self.settings_now()


class LocalRuntime:
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
            PLACED_FILE: str(self.home.placed),
        }
        if self.home.uses_postgres():
            env[DATABASE_URL] = self.where.postgres.url(EXTRA, DIALECT)
        workspace = ["-w", str(self.home.workspace)]
        commands = {
            CODE: ["dagster", "code-server", "start", *_bound(code_port), "-m", DEFINITIONS],
            WEB: ["dagster-webserver", *_bound(web_port), *workspace],
            DAEMON: ["dagster-daemon", "run", *workspace],
        }
        ports = {CODE: code_port, WEB: web_port}
        for name, command in commands.items():
            if running(name) is None:
                self.where.servers.start(name, command, env, self.home.path, ports.get(name))
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
        parts = dict(ROLES)
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

    def deployed(self) -> bool:
        """See `Site.deployed`."""
        return bool(self.home.settings_now())

    def placed(self) -> Placed:
        """See `Site.placed`."""
        found: Placed = json.loads(self.home.placed.read_text(encoding="utf-8"))
        return found

    def place(self, wanted: Placed) -> None:
        """See `Site.place`."""
        self.home.placed.write_text(json.dumps(wanted), encoding="utf-8")

    def execution(self, configuration: str, run_id: str) -> Answer:
        """See `Site.execution`."""
        return EXECUTION[configuration]

    def tags(self, run_id: str) -> dict[str, str]:
        """None."""
        return {}

    def pods(self, native_id: str) -> Mapping[str, str]:
        """None."""
        return {}

    def end(self, native_id: str) -> None:
        """See `Site.end`: by the process ids in its events."""
        left = []
        for pid, since in processes_of(self.api.events(native_id)):
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

    def printed(self, native_id: str, step: str) -> str:
        """See `Site.printed`; of an in-process run, what all of its steps printed."""
        texts = []
        for event in self.api.events(native_id):
            if event["__typename"] == "LogsCapturedEvent" and step in steps_of(event["stepKeys"] or ()):
                key = [native_id, "compute_logs", event["fileKey"]]
                texts.append(self.api.ask(PRINTED, key=key)["stdout"] or "")
        return "".join(texts)


def _bound(port: int) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(port)]
