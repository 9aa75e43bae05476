"""Failures caused on purpose, inside the step, on the attempts the configuration names."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from core.config import Fault
from core.errors import BadInput, InjectedFault

CHUNK_BYTES = 64 << 20


def applies(fault: Fault | None, step: str, attempt: int) -> bool:
    """Whether this attempt (1-based) of this step is to fail."""
    return fault is not None and fault.step == step and attempt in fault.on_attempts


def strike(fault: Fault) -> None:
    """Cause the fault. Does not return, except for kill-between-writes, which promote applies itself.

    Raises:
        InjectedFault: for `exception`.
        SystemExit: for `exit1`.
        BadInput: for `oom` where no memory limit would end it.
    """
    print(f"fault injected: {fault.kind}", file=sys.stderr, flush=True)
    if fault.kind == "exception":
        raise InjectedFault("injected fault: exception")
    if fault.kind == "exit1":
        raise SystemExit(1)
    if fault.kind == "exit137":
        os._exit(137)
    if fault.kind == "sigkill":
        kill_self()
        os._exit(
            137
        )  # process 1 of a container is spared its own SIGKILL: this is what the kubelet would report
    if fault.kind == "oom":
        _use_all_memory()
    if fault.kind in ("hang", "ignore-sigterm"):
        if fault.kind == "ignore-sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()


def kill_self() -> None:
    """SIGKILL: nothing is flushed, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def memory_limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The tightest memory limit of this process's cgroups (v2, or v1's memory controller), or None.

    A limit of the machine's whole memory or more limits nothing.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _limits(root, path, "memory.max") + _limits(root / "unified", path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(root / "memory", path, "memory.limit_in_bytes")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((limit for limit in found if limit < machine), default=None)


def _limits(top: Path, path: str, file: str) -> list[int]:
    """The limits from a cgroup up to the top. In a container the path may be the host's, and only the top
    be there: it is then the container's own."""
    own = top / path.strip("/")
    limits = []
    for folder in (own, *own.parents):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            limits.append(int((folder / file).read_text(encoding="ascii")))
        if folder == top:
            break
    return limits


def _use_all_memory() -> None:
    limit = memory_limit_bytes()
    if limit is None:
        raise BadInput(
            "the oom fault needs a memory limit: without one it would take the whole machine down",
            next_step="run the step in a container or cgroup with a memory limit",
        )
    held = []
    while True:
        held.append(b"\xff" * CHUNK_BYTES)
