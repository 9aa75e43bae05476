"""What one command at a time may use: servers on this machine, a cluster that is measured on."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from adapters.base import Target, TargetUnusable
from cluster.pins import CLUSTER_NAME
from cluster.state import home


class StateBusy(TargetUnusable):
    """Another command holds it."""


@contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Hold `what` for one command. A kernel lock: it vanishes with its process, however that ends.

    Raises `StateBusy` naming the process that holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StateBusy(
                f"another bench command uses {what} (process {holder})",
                "wait for it to end, or give this one a state folder of its own: export BENCH_HOME=DIR",
                "what it has stored so far; nothing was changed",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def measuring(target: Target) -> Iterator[None]:
    """Keep everybody else from measuring on the cluster: two at once would stop each other's orchestrators.

    The local target is held by whoever opens it. Raises `StateBusy` naming the process that measures.
    """
    if target is Target.LOCAL:
        yield
        return
    name, lock = CLUSTER_NAME, f"measuring-{CLUSTER_NAME}.lock"
    if target is Target.K8S:
        from adapters.targets import (
            installed,  # with Kubernetes' client, which other commands need not wait for
        )

        name = installed().context
        lock = f"measuring-k8s-{quote(name, safe='')}.lock"
    with held(home() / lock, f"the cluster {name}"):
        yield
