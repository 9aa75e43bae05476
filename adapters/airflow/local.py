"""Airflow on this machine: API server, scheduler with LocalExecutor, DAG processor and triggerer as processes."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import httpx
import psutil

from adapters.airflow.api import UNFINISHED, AirflowApi, Json, run_path
from adapters.airflow.dags import DAGS, dag_text
from adapters.airflow.openlineage import OPENLINEAGE, environment_of, transport
from adapters.airflow.runtime import (
    API,
    DATABASE,
    HEARTBEATS,
    PROCESSOR,
    ROLES,
    SCHEDULER,
    START_SECONDS,
    TRIGGERER,
    USER,
    logged,
    look_for_files,
    not_parsed,
    not_reported,
    not_stale,
    remove_abandoned,
)
from adapters.base import BenchError, Component
from adapters.local.network import free_port
from adapters.local.processes import http_health
from adapters.local.target import LocalTarget
from cluster.state import write_atomic

COMMANDS = {
    API: ("api-server", "--host", "127.0.0.1", "--port"),
    SCHEDULER: ("scheduler", "--skip-serve-logs"),
    PROCESSOR: ("dag-processor",),
    TRIGGERER: ("triggerer", "--skip-serve-logs"),
}
KILL_SECONDS = 90.0
"""A task's supervisor asks every 5 s whether to go on; then SIGTERM, and SIGKILL 5 s later."""


class LocalAirflow:
    """The processes, their database and their folder; see `adapters.base.Runtime`."""

    tasks_are_pods = False

    def __init__(self, where: LocalTarget, settings: Mapping[str, Mapping[str, str]]) -> None:
        """`settings`: what each configuration changes in the scheduler's environment."""
        self.where = where
        self._settings = settings
        self._api: AirflowApi | None = None

    @property
    def folder(self) -> Path:
        """AIRFLOW_HOME."""
        return self.where.state.root / "airflow"

    @property
    def dags(self) -> Path:
        """A file for each DAG."""
        return self.folder / "dags"

    @property
    def lineage(self) -> Path:
        """A file for each OpenLineage event."""
        return self.folder / "openlineage"

    # Runtime

    def deploy(self, configuration: str) -> None:
        """Start what does not run, or only the scheduler anew where the configuration is another one.

        `openlineage` has an environment of its own: all are started anew.

        Raises `BenchError` for an unknown configuration, or where a process does not become healthy.
        """
        if configuration not in self._settings:
            known = ", ".join(self._settings)
            raise BenchError(f"airflow has no configuration '{configuration}'", f"one of: {known}")
        servers = self.where.servers
        if not servers.running(API) or environment_of(self._configuration) != environment_of(configuration):
            self.scale(False)
            self._make_home()
            self._note(configuration="", port=free_port())
        if self._configuration != configuration:
            servers.stop(SCHEDULER)
            self._note(configuration=configuration)
        elif not self.health():
            return
        for name in COMMANDS:
            if not servers.running(name):
                self._start(name)
        servers.wait_until(self.health, list(COMMANDS), START_SECONDS)
        for dag_id in DAGS:
            self.wait_for_dag(dag_id)
        self._remove_abandoned()

    def undeploy(self) -> None:
        """End the processes, drop the database, remove the folder."""
        self.scale(False)
        self.where.postgres.drop(DATABASE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def scale(self, on: bool) -> None:
        """Start or stop the processes; the data stays."""
        if on:
            self.deploy(self._configuration or "default")
            return
        for name in (SCHEDULER, TRIGGERER, PROCESSOR, API):
            self.where.servers.stop(name)

    def health(self) -> str:
        """Empty when all processes run and have reported to the database since they were started."""
        for name in COMMANDS:
            if not self.where.servers.running(name):
                return f"{name} is not running"
        tasks = http_health(f"{self.url}/execution/health")
        return tasks or http_health(f"{self.url}/api/v2/monitor/health", self._heartbeats)

    def components(self) -> tuple[Component, ...]:
        """The four processes (tasks are children of the scheduler) and the database."""
        return (
            *(Component(name=name, namespace="", selector=name, role=role) for name, role in ROLES.items()),
            Component(name="postgres", namespace="", selector="postgres", role="database"),
        )

    def versions(self) -> Mapping[str, str]:
        """Airflow's version as installed; the knob is part of the scenario."""
        packages = self.where.python("airflow").parent.parent.glob("lib/python*/site-packages")
        found = distributions(name="apache-airflow", path=[str(path) for path in packages])
        return {
            "airflow": next((each.version for each in found), "unknown"),
            "airflow_executor": "LocalExecutor",
            "airflow_database": "postgresql",
        }

    # What the driver needs

    @property
    def url(self) -> str:
        """The API server's address, of the last start."""
        return f"http://127.0.0.1:{self._noted()['port']}"

    @property
    def api(self) -> AirflowApi:
        """A connection to the API server as it is now. Raises `BenchError` where it was never started."""
        if self._api is None or self._api.url != self.url:
            self._api = AirflowApi(self.url, USER, self.where.state.secret("airflow-password"))
        return self._api

    def deployed(self) -> bool:
        """Whether there is a database that may know of runs."""
        noted = self._migrated.exists() and self._note_file.exists()
        return noted and DATABASE in self.where.postgres.databases()

    @contextmanager
    def answering(self) -> Iterator[AirflowApi]:
        """The API; where its server does not run, one is started for as long as the block lasts."""
        if self.where.servers.running(API):
            yield self.api
            return
        self._note(port=free_port())
        self._start(API)
        try:
            self.where.servers.wait_until(
                lambda: http_health(f"{self.url}/api/v2/version"), [API], START_SECONDS
            )
            yield self.api
        finally:
            self.where.servers.stop(API)

    def add_dag(self, dag_id: str, call: str) -> None:
        """Make sure that Airflow has the DAG that `call` gives.

        The DAG processor looks for new files every 5 minutes as shipped; asking it to parse one that it knows
        makes it look at once. Raises `BenchError` where the DAG does not appear.
        """
        if not self._write_dag(dag_id, call):
            return
        look_for_files(self.api)
        self.wait_for_dag(dag_id)

    def wait_for_dag(self, dag_id: str) -> None:
        """Wait until Airflow has parsed the DAG's file. Raises `BenchError` where it does not."""
        written = (self.dags / f"{dag_id}.py").stat().st_mtime

        def parsed() -> str:
            return not_parsed(self.api, dag_id, written)

        self.where.servers.wait_until(parsed, [PROCESSOR], START_SECONDS)

    def remove_dag(self, dag_id: str) -> bool:
        """Remove a DAG's file and what Airflow has of it; False where there is nothing.

        Raises `BenchError` where the DAG processor does not notice that the file is gone.
        """
        path = self.dags / f"{dag_id}.py"
        if not path.exists() and not self.api.find("GET", f"/dags/{dag_id}"):
            return False
        path.unlink(missing_ok=True)
        if self.where.servers.running(PROCESSOR):  # it would bring the DAG back
            look_for_files(self.api)
            self.where.servers.wait_until(lambda: not_stale(self.api, dag_id), [PROCESSOR], START_SECONDS)
        self.api.find("DELETE", f"/dags/{dag_id}")
        return True

    def remove_run(self, dag_id: str, dag_run_id: str) -> None:
        """Mark a run as failed, wait until Airflow has ended its tasks, delete it.

        Raises `BenchError` where a task does not end.
        """
        path = run_path(dag_id, dag_run_id)
        if self.api.get(path)["state"] in UNFINISHED:
            self.api.find("PATCH", path, json={"state": "failed"})
            tasks = self.api.all(f"{path}/taskInstances", "task_instances")
            self._wait_for_end({task["pid"] for task in tasks if task["pid"]})
        self.api.find("DELETE", path)

    def log(self, dag_id: str, dag_run_id: str, task: Json, attempt: int) -> list[str]:
        """The events of an attempt's log file."""
        return logged(self.api, dag_id, dag_run_id, task, attempt)

    def lineage_events(self) -> list[str]:
        """The OpenLineage events that were kept, each as JSON; none where the provider is not switched on."""
        if self._configuration != OPENLINEAGE:
            return []
        return [path.read_text(encoding="utf-8") for path in self.lineage.iterdir()]

    # Parts

    @property
    def _configuration(self) -> str:
        """That of the last start."""
        return str(self._noted()["configuration"])

    def _start(self, name: str) -> None:
        noted = self._noted()
        port = noted["port"] if name == API else None
        command = [*COMMANDS[name], *([str(port)] if port else [])]
        env = self._env(noted["port"], environment_of(self._configuration))
        if name == SCHEDULER:
            env |= self._settings[self._configuration]
        if self._configuration == OPENLINEAGE:
            env |= transport(f"{self.lineage}/event")
        python = self.where.python(environment_of(self._configuration))
        self.where.servers.start(name, [python, "-m", "airflow", *command], env, self.folder, port)

    def _env(self, port: int, environment: str = "airflow") -> dict[str, str]:
        """Airflow's settings that are not as shipped."""
        secret = self.where.state.secret
        return {
            **self.where.env_of(environment),
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": secret("airflow-fernet") + "=",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.folder / "passwords.json"),
            "AIRFLOW__API__SECRET_KEY": secret("airflow-api"),
            "AIRFLOW__API_AUTH__JWT_SECRET": secret("airflow-jwt"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.where.postgres.url(DATABASE, "postgresql+psycopg2"),
        }

    def _make_home(self) -> None:
        """Folder, login, DAG files and database, as the processes need them at their start."""
        fresh = DATABASE not in self.where.postgres.databases()
        self.lineage.mkdir(parents=True, exist_ok=True)
        password = self.where.state.secret("airflow-password")
        write_atomic(self.folder / "passwords.json", json.dumps({USER: password}), 0o600)
        shutil.rmtree(self.dags, ignore_errors=True)
        self.dags.mkdir()
        for dag_id, call in DAGS.items():
            self._write_dag(dag_id, call)
        version = self.versions()["airflow"]
        if fresh or not self._migrated.exists() or self._migrated.read_text() != version:
            self._migrate()
            write_atomic(self._migrated, version)

    def _migrate(self) -> None:
        name = "airflow-db-migrate"
        server = self.where.servers.start(
            name, [self.where.python("airflow"), "-m", "airflow", "db", "migrate"], self._env(0), self.folder
        )
        code = server.process.wait()
        self.where.servers.stop(name)
        if code != 0:
            raise BenchError(
                f"airflow's database could not be made (code {code}):\n{server.last_lines()}",
                f"see {server.log}",
            )

    def _write_dag(self, dag_id: str, call: str) -> bool:
        """Write the DAG's file; False where it is there as it should be."""
        path = self.dags / f"{dag_id}.py"
        text = dag_text(call)
        if path.exists() and path.read_text() == text:
            return False
        write_atomic(path, text)
        return True

    def _heartbeats(self, answer: httpx.Response) -> str:
        """What is wrong with the answer of `/monitor/health`."""
        servers = {name: self.where.servers.running(name) for name in HEARTBEATS.values()}
        started = {name: psutil.Process(found.pid).create_time() for name, found in servers.items() if found}
        return not_reported(answer.json(), started)

    def _wait_for_end(self, pids: set[int]) -> None:
        """Wait until none of these is a process of the scheduler's. Raises `BenchError` where one stays."""
        scheduler = self.where.servers.running(SCHEDULER)

        def ended() -> str:
            left = pids & _children(scheduler.pid) if scheduler else set()
            return f"tasks still run: {sorted(left)}" if left else ""

        self.where.servers.wait_until(ended, [SCHEDULER] if scheduler else [], KILL_SECONDS)

    def _remove_abandoned(self) -> None:
        """Once for each command; see `remove_abandoned`."""
        if self._noted().get("command") == os.getpid():
            return
        remove_abandoned(self)
        self._note(command=os.getpid())

    @property
    def _migrated(self) -> Path:
        return self.folder / "migrated"

    @property
    def _note_file(self) -> Path:
        return self.folder / "deployment.json"

    def _note(self, **changes: str | int) -> None:
        noted = self._noted() if self._note_file.exists() else {}
        write_atomic(self._note_file, json.dumps(noted | changes))

    def _noted(self) -> dict[str, Any]:
        """The last start: configuration, port, command. Raises `BenchError` where there was none."""
        try:
            noted: dict[str, Any] = json.loads(self._note_file.read_text())
        except FileNotFoundError:
            raise BenchError(
                "airflow is not deployed here", "bench run --orchestrator airflow --target local"
            ) from None
        return noted


def _children(pid: int) -> set[int]:
    """The ids of a process's descendants."""
    with suppress(psutil.Error):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()
