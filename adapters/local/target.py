"""The local target: ledger, registry, serving and database on loopback, for as long as one command lasts."""

import atexit
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from adapters.local import envs
from adapters.local.postgres import Postgres
from adapters.local.processes import Servers, http_health, sweep
from adapters.local.state import LocalState, check_layout, exclusive, local_state

PASSED_ON = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "SSL_CERT", "REQUESTS_CA")
"""Prefixes of the user's variables that steps may need to read a ratings file."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}
"""Telemetry and update checks off, in every process."""


class LocalTarget:
    """What runs on this machine for one command. Everything ends with `close`, or with this process."""

    def __init__(self, state: LocalState) -> None:
        self.state = state
        self.servers = Servers(state.root, state.servers, state.logs)
        self._held = ExitStack()
        self._step_env: dict[str, str] = {}
        self._urls: dict[str, str] = {}
        self.postgres = Postgres(state, self.servers, self.plain_env())

    def open(self) -> None:
        """Take the state folder, end what a killed command left in it, start ledger and serving.

        Raises `StateBusy` where another command holds it, `BenchError` where a server does not start.
        """
        self._held.enter_context(exclusive(self.state))
        atexit.register(self.close)
        try:
            check_layout(self.state)
            sweep(self.state.root, self.state.servers)
            for folder in (self.state.fake_home, self.state.temporary, self.state.artifacts):
                folder.mkdir(parents=True, exist_ok=True)
            self.servers.keep()
            self._start_services()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every process and let the state folder go."""
        atexit.unregister(self.close)
        _open.pop(self.state.root, None)
        self.servers.close()
        self._held.close()

    def plain_env(self) -> dict[str, str]:
        """The environment of a server: nothing of the user's but the way to networks and stores."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return {
            **kept,
            **QUIET,
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.state.fake_home),
            "TMPDIR": str(self.state.temporary),
            "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "SPT_NOENV": "1",  # setproctitle would overwrite the variable that processes are found again by
        }

    def step_env(self) -> dict[str, str]:
        """The environment of every process that runs steps: where ledger, registry, store and serving are."""
        return dict(self._step_env)

    def env_of(self, name: str) -> dict[str, str]:
        """`step_env` with the programs of the environment `name` first on the path; it is made if need be."""
        folder = envs.ensure(self.state, name).parent
        env = self.step_env()
        return {**env, "PATH": f"{folder}{os.pathsep}{env['PATH']}", "VIRTUAL_ENV": str(folder.parent)}

    def python(self, name: str) -> Path:
        """The interpreter of the environment `name`, which is made if need be."""
        return envs.ensure(self.state, name)

    @property
    def ledger_url(self) -> str:
        """The collector's address."""
        return self._urls["ledger"]

    @property
    def serving_url(self) -> str:
        """The serving process's address."""
        return self._urls["serving"]

    def versions(self) -> Mapping[str, str]:
        """Of what all local orchestrators share."""
        return {"postgres": self.postgres.version(), "registry": "mlflow, sqlite"}

    def _start_services(self) -> None:
        ours = envs.harness_python()
        ledger = self.state.folder("ledger") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        env = {
            **self.plain_env(),
            "BENCH_HOME": str(self.state.root),
            "BENCH_TOKEN": self.state.secret("token"),
            "BENCH_ARTIFACT_ROOT": str(self.state.artifacts),
            "MLFLOW_TRACKING_URI": self.state.tracking_uri,
            "NODE_NAME": os.uname().nodename,
        }
        folder = self.state.root
        self.servers.start(
            "ledger", [ours, "-m", "core.collector", "--port", "0", "--file", ledger], env, folder
        )
        self.servers.start("serving", [ours, "-m", "core.serving", "--port", "0"], env, folder)
        for name in ("ledger", "serving"):
            self._urls[name] = self._listening(name)
        self.servers.wait_until(lambda: http_health(f"{self.serving_url}/healthz"), ["serving"], 60)
        env |= {"BENCH_LEDGER_URI": self.ledger_url, "BENCH_SERVING_URI": self.serving_url}
        self._step_env = env

    def _listening(self, name: str) -> str:
        """The address a service of ours says it listens on."""
        said: list[str] = []

        def look() -> str:
            server = self.servers.running(name)
            text = server.log.read_text(encoding="utf-8", errors="replace") if server else ""
            found = re.search(r"listening on (\S+)", text)
            if found:
                said.append(found.group(1))
                return ""
            return "does not listen yet"

        self.servers.wait_until(look, [name], 60)
        return said[0]


_open: dict[Path, LocalTarget] = {}


def connect_local() -> LocalTarget:
    """The local target of this process, opened on first use.

    Raises `StateBusy` where another command holds it, `BenchError` where it cannot be opened.
    """
    state = local_state()
    if state.root not in _open:
        target = LocalTarget(state)
        target.open()
        _open[state.root] = target
    return _open[state.root]


def close_local() -> None:
    """End what this process started on the local target; nothing where it was never opened."""
    for target in list(_open.values()):
        target.close()
