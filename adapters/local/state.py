"""The part of the state folder that the `local` target uses, and the lock that keeps two commands apart."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.base import BenchError
from adapters.locks import held
from cluster.state import home, write_atomic

LAYOUT = "1"
"""Changes when a newer bench cannot use what an older one left here."""


@dataclass(frozen=True)
class LocalState:
    """Where everything of the local target lies; nothing is written outside this folder."""

    root: Path

    @property
    def envs(self) -> Path:
        """One Python environment per orchestrator."""
        return self.root / "envs"

    @property
    def logs(self) -> Path:
        """One file per server process."""
        return self.root / "logs"

    @property
    def servers(self) -> Path:
        """What was started and not ended yet."""
        return self.root / "servers.jsonl"

    @property
    def tracking_uri(self) -> str:
        """MLflow's database: one file."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """What steps write."""
        return self.root / "artifacts"

    @property
    def fake_home(self) -> Path:
        """HOME of every process started here: what libraries drop there stays in the state folder."""
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        """TMPDIR of every process started here."""
        return self.root / "tmp"

    def folder(self, name: str) -> Path:
        """A folder for one adapter or service, made if need be."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def secret(self, name: str) -> str:
        """A password of this state folder: made on first use, readable by its owner only."""
        path = self.root / "secrets" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(path, secrets.token_urlsafe(32), 0o600)
        return path.read_text(encoding="ascii")


def local_state() -> LocalState:
    """The state folder of the local target (not made by asking)."""
    return LocalState(home() / "local")


def check_layout(state: LocalState) -> None:
    """Mark a new state folder, refuse one that another version of bench made.

    Raises `BenchError` with what to type.
    """
    stamp = state.root / "layout"
    if not stamp.exists():
        write_atomic(stamp, LAYOUT)
    elif (found := stamp.read_text(encoding="utf-8").strip()) != LAYOUT:
        raise BenchError(
            f"{state.root} was made by another version of bench (layout '{found}', this one needs '{LAYOUT}')",
            f"mv {state.root} {state.root}.old, then the same command again",
            "everything in that folder",
        )


def busy(state: LocalState) -> bool:
    """Whether a command that lives holds the local servers."""
    try:
        handle = os.open(state.root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def exclusive(state: LocalState) -> Iterator[None]:
    """Hold the local servers for one command. Raises `StateBusy` naming the process that holds them."""
    with held(state.root / "lock", f"the local servers in {state.root}"):
        yield
