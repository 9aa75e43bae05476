"""Prefect 3 on this machine: a server, and a process worker where the configuration has one."""

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

import psutil

from adapters.base import BenchError, Component, Configuration, Frozen, RunRequest, Unsupported
from adapters.local.network import free_port
from adapters.local.processes import http_health
from adapters.local.target import LocalTarget
from adapters.prefect.api import Document, PrefectApi
from adapters.prefect.runtime import ASSETS, KNOB, NAME, POOL, SERVER, SETTINGS, WORKER, worker_health
from adapters.prefect.variants import environment
from cluster.state import write_atomic

CONFIGURATIONS = (
    Configuration(name="default", task="call", knob=KNOB, value="10 (shipped)"),
    Configuration(name="tuned", task="call", knob=KNOB, value="0.5", source=f"{SETTINGS}#query_seconds"),
    Configuration(
        name="in-process",
        task="call",
        knob="who runs the flow",
        value="a process of its own at once: no worker, no deployment",
        source="https://docs.prefect.io/v3/how-to-guides/workflows/write-and-run",
    ),
    Configuration(
        name="sqlite",
        task="call",
        knob="PREFECT_SERVER_DATABASE_CONNECTION_URL",
        value="sqlite (shipped; PostgreSQL in the other configurations)",
        source=f"{SETTINGS}#connection_url",
    ),
    ASSETS,
)
WORKER_SETTINGS: Mapping[str, Mapping[str, str] | None] = {
    "default": {},
    "tuned": {KNOB: "0.5"},
    "in-process": None,
    "sqlite": {},
    ASSETS.name: {},
}
"""What the worker's environment has besides; None where there is no worker."""
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Environment variable of the processes of a flow run."""
SERVER_SECONDS = 180.0
WORKER_SECONDS = 120.0


class Deployed(Frozen):
    """What `deploy` last made."""

    configuration: str
    port: int
    database: str
    worker: Mapping[str, str] | None = None


class LocalRuntime:
    """The server in front of its database, the worker, and the deployments."""

    def __init__(self, where: LocalTarget) -> None:
        self.where = where
        self.servers = where.servers
        self._folder = where.state.root / NAME
        self._api: PrefectApi | None = None

    def deploy(self, configuration: str) -> None:
        """Start what does not run yet as `configuration` has it; what need not change keeps running.

        Raises `BenchError` for an unknown configuration, or where something does not become healthy.
        """
        if configuration not in WORKER_SETTINGS:
            known = ", ".join(WORKER_SETTINGS)
            raise BenchError(f"prefect has no configuration '{configuration}'", f"one of: {known}")
        self._start_server(configuration)
        settings = WORKER_SETTINGS[configuration]
        if settings is None:
            self.servers.stop(WORKER)
        elif self._deployed().worker != settings or self.servers.running(WORKER) is None:
            self._start_worker(settings)
        self._note(self._deployed().model_copy(update={"configuration": configuration, "worker": settings}))

    def _start_server(self, configuration: str = "") -> None:
        """Start the server on the configuration's database (the last one's, where none is named), healthy.

        Raises `BenchError` where it does not start, `Unsupported` where its database cannot be had.
        """
        configuration = configuration or self._deployed().configuration
        database = "sqlite" if configuration == "sqlite" else "postgresql"
        if self.servers.running(SERVER) and self._deployed().database == database:
            return
        self.servers.stop(WORKER)
        self.servers.stop(SERVER)
        new = Deployed(configuration=configuration, port=free_port(), database=database)
        self._note(new)
        env = {**self.env(), "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database_url(database)}
        words = ("server", "start", "--host", "127.0.0.1", "--port", str(new.port))
        self.servers.start(SERVER, [self._program(), *words], env, self._folder)
        try:
            self.servers.wait_until(self._server_health, [SERVER], SERVER_SECONDS)
        except BenchError as error:
            if 'extension "pg_trgm" is not available' not in error.message:
                raise
            raise Unsupported(
                "this PostgreSQL lacks the extension pg_trgm, without which Prefect does not start",
                "unset BENCH_POSTGRES_BIN, or add the extension to it (Debian: postgresql-contrib); "
                "or measure -c sqlite",
            ) from error

    def _start_worker(self, settings: Mapping[str, str]) -> None:
        """Start a worker and register the deployments; returns when the worker asks for work."""
        since = time.time()
        words = ("worker", "start", "--pool", POOL, "--type", "process", "--name", POOL)
        self.servers.start(WORKER, [self._program(), *words], {**self.env(), **settings}, self._folder)
        self.servers.wait_until(lambda: self._worker_health(since), [WORKER], WORKER_SECONDS)
        done = subprocess.run(
            [self.where.python(NAME), "-m", "adapters.prefect.deployments", POOL],
            cwd=self._folder,
            env=self.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = "\n".join(done.stdout.splitlines()[-15:])
            raise BenchError(f"the Prefect deployments could not be registered:\n{last}", "bench doctor")

    def undeploy(self) -> None:
        """End server and worker, and remove the database and everything Prefect has written."""
        self.scale(False)
        self.where.postgres.drop(NAME)
        shutil.rmtree(self._folder, ignore_errors=True)

    def scale(self, on: bool) -> None:
        """Start what was deployed last, or stop it; the data stays."""
        if on:
            self.deploy(self._deployed().configuration)
            return
        self._api = None
        self.servers.stop(WORKER)
        self.servers.stop(SERVER)

    def health(self) -> str:
        """Empty when the server answers and the worker, where there is one, asks for work."""
        if self.servers.running(SERVER) is None:
            return "the Prefect server is not running"
        if self._deployed().worker is not None and self.servers.running(WORKER) is None:
            return "the Prefect worker is not running"
        return self._server_health() or ("" if self._deployed().worker is None else self._worker_health(0))

    def components(self) -> tuple[Component, ...]:
        """By the names of their processes."""
        deployed = self._deployed()
        roles = {SERVER: "server"}
        if WORKER_SETTINGS[deployed.configuration] is not None:
            roles[WORKER] = "worker"
        if deployed.database == "postgresql":
            roles["postgres"] = "database"
        return tuple(
            Component(name=name, namespace="", selector=name, role=role) for name, role in roles.items()
        )

    def versions(self) -> Mapping[str, str]:
        """Of the installed package; the settings are part of the scenario."""
        path = [str(folder) for folder in self._environment().glob("lib/python*/site-packages")]
        return {"prefect": next(iter(distributions(name="prefect", path=path))).version}

    def api(self) -> PrefectApi:
        """A connection to the running server. Raises `BenchError` where it does not run."""
        if self.servers.running(SERVER) is None:
            raise BenchError("the Prefect server is not running", "bench run deploys it")
        url = self._url()
        if self._api is None or self._api.url != url:
            self._api = PrefectApi(url)
        return self._api

    def is_installed(self) -> bool:
        """Whether there may be runs, although nothing may be running."""
        return self._marker.exists()

    def wake(self) -> None:
        """See `Site.wake`."""
        self._start_server()

    def deployment(self, configuration: str) -> str:
        """One for all."""
        return "bench"

    def job_variables(self, request: RunRequest) -> Document:
        """What a variant of the run needs; processes are found by their environment."""
        env = environment(request)
        return {"env": env} if env else {}

    def cancels(self) -> bool:
        """The worker does."""
        return self.servers.running(WORKER) is not None

    def is_left(self, run_id: str, native_id: str) -> bool:
        """Whether a process of the flow run is there."""
        return bool(processes_of(native_id))

    def end(self, run_id: str, native_id: str) -> None:
        """End the flow run's process where this command has started it, and kill what else there is of it."""
        self.servers.stop(run_id)
        _kill(processes_of(native_id))

    def start_flow(self, request: RunRequest, native_id: str) -> None:
        """Start the process of a flow run that no worker looks after."""
        env = {
            **self.env(),
            **environment(request),
            FLOW_RUN: native_id,
            "PREFECT__FLOW_ENTRYPOINT": f"adapters.prefect.pipeline.{request.workload}",
        }
        command: list[str | Path] = [self.where.python(NAME), "-m", "prefect.engine"]
        self.servers.start(request.run_id, command, env, self._folder)

    def env(self) -> dict[str, str]:
        """Of Prefect's processes and of the flows they run: everything they write is in our folder."""
        temporary = self.where.state.folder(NAME) / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **self.where.env_of(NAME),
            "PREFECT_HOME": str(self._folder),
            "PREFECT_API_URL": self._url(),
            "PREFECT_SERVER_UI_ENABLED": "false",
            "TMPDIR": str(temporary),
        }

    def _environment(self) -> Path:
        return self.where.python(NAME).parent.parent

    def _program(self) -> Path:
        return self._environment() / "bin" / "prefect"

    def _database_url(self, database: str) -> str:
        if database == "sqlite":
            return f"sqlite+aiosqlite:///{self._folder / 'prefect.db'}"
        return self.where.postgres.url(NAME, "postgresql+asyncpg")

    def _url(self) -> str:
        return f"http://127.0.0.1:{self._deployed().port}/api"

    def _server_health(self) -> str:
        return http_health(f"{self._url()}/ready")

    def _worker_health(self, since: float) -> str:
        return worker_health(self.api(), since)

    @property
    def _marker(self) -> Path:
        return self._folder / "deployed.json"

    def _deployed(self) -> Deployed:
        if not self._marker.exists():
            return Deployed(configuration="default", port=0, database="")
        return Deployed.model_validate_json(self._marker.read_text(encoding="utf-8"))

    def _note(self, deployed: Deployed) -> None:
        self.where.state.folder(NAME)
        write_atomic(self._marker, deployed.model_dump_json())


def processes_of(flow_run_id: str) -> list[psutil.Process]:
    """The processes that run a flow run, found by their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(FLOW_RUN) == flow_run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=5)
