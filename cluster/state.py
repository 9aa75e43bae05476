"""The state folder (`.bench/cluster`), what `up` leaves in it, and the lock that keeps two of them apart."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from cluster.errors import ClusterError

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "cluster"

Origin = Literal["pull", "build"]


@dataclass(frozen=True)
class ClusterInfo:
    """A cluster that is up: how to reach it, what it runs, and where its images came from."""

    name: str
    kubeconfig: Path
    kubernetes_version: str
    kind_version: str
    origin: Origin
    oci_wrapper: bool
    """True where the host withholds CAP_SYS_RESOURCE and containers start through cluster/ociwrap."""
    images: dict[str, str]
    """Image references by digest: step, argo_controller, argo_executor, postgres, mlflow, s3; and airflow, prefect,
    dagster, kfp, argo_events, nats where they were asked for."""
    code: str = ""
    """Digest of the steps' code in these images; empty in what older versions left."""

    def to_json(self) -> str:
        """One JSON object; reads back with `from_json`."""
        return json.dumps(asdict(self) | {"kubeconfig": str(self.kubeconfig)}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ClusterInfo:
        """The inverse of `to_json`; ValueError, KeyError or TypeError when the text is something else."""
        data = json.loads(text)
        return cls(**(data | {"kubeconfig": Path(data["kubeconfig"])}))


@dataclass(frozen=True)
class Paths:
    """Where everything of the cluster's lies; nothing is ever written outside this folder."""

    root: Path

    @property
    def info(self) -> Path:
        return self.root / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def timings(self) -> Path:
        return self.root / "timings.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / "lock"


def home() -> Path:
    """The state folder of the whole project: $BENCH_HOME, or `.bench` under the project root."""
    return Path(os.environ.get("BENCH_HOME") or PROJECT / ".bench").resolve()


def paths() -> Paths:
    """The cluster's part of the state folder (not created by asking)."""
    return Paths(home() / "cluster")


def write_atomic(target: Path, content: str | Iterable[bytes], mode: int = 0o644) -> None:
    """Write a text, or bytes part by part, so that a reader, or a kill at any moment, finds the old file or the new one
    whole; what could not be written to its end is removed.
    """
    parts = [content.encode()] if isinstance(content, str) else content
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append_json(target: Path, record: dict[str, Any]) -> None:
    """Append one JSON line in a single write."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as stream:
        stream.write(json.dumps(record, sort_keys=True) + "\n")


LOCK_PATIENCE = 900.0
"""Seconds that a command which needs an image waits for another that makes images."""


@contextmanager
def exclusive(where: Paths, verb: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the cluster's lock; ClusterError when another process still holds it after `patience` seconds.

    A kernel lock on the open file: it vanishes with its process, however that one ends.
    """
    where.root.mkdir(parents=True, exist_ok=True)
    with where.lock.open("a+") as stream:
        if not _locked(stream, patience):
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise ClusterError(
                f"The cluster is busy: {holder} holds its lock.",
                kept="nothing was changed.",
                remedy=f"wait for it to end, then `bench cluster {verb}` again.",
            )
        stream.seek(0)
        stream.truncate()
        stream.write(f"`bench cluster {verb}`, process {os.getpid()}")
        stream.flush()
        try:
            yield
        finally:
            stream.seek(0)
            stream.truncate()


def _locked(stream: IO[str], patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        else:
            return True


@contextmanager
def scratch(where: Paths, name: str) -> Iterator[Path]:
    """A private folder for one stage, gone afterwards; leftovers of killed runs go in `sweep`."""
    where.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=where.work, prefix=f"{name}."))
    # mkdtemp gives 0700; folders that become image roots need the usual mode.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Delete a folder, but never through a mount: a killed debootstrap leaves /proc mounted in it."""
    for mount in reversed(_mounts_below(folder)):
        os.spawnvp(os.P_WAIT, "umount", ["umount", "--lazy", mount])
    if _mounts_below(folder):
        raise ClusterError(
            f"{folder} still has file systems mounted in it.", remedy=f"unmount them, then delete {folder}."
        )
    # Go's module cache, and copies of it, are read-only: open the folders or nothing in them can be deleted.
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=False)


def sweep(where: Paths) -> None:
    """Delete what killed runs left in the work folder; call only while holding the lock."""
    if where.work.is_dir():
        for leftover in where.work.iterdir():
            if leftover.is_dir():
                remove_tree(leftover)
            else:
                leftover.unlink()


def _mounts_below(folder: Path) -> list[str]:
    prefix = str(folder.resolve()) + "/"
    table = Path("/proc/self/mountinfo")
    if not table.exists():
        return []
    points = (line.split(" ")[4].replace("\\040", " ") for line in table.read_text().splitlines())
    return sorted(point for point in points if point.startswith(prefix))
