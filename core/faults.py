"""Failures caused on purpose, inside the step, on the attempts the configuration names."""

from __future__ import annotations

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
    if fault.kind == "oom":
        _use_all_memory()
    if fault.kind in ("hang", "ignore-sigterm"):
        if fault.kind == "ignore-sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()


def kill_self() -> None:
    """SIGKILL: nothing is flushed, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def memory_limit_bytes() -> int | None:
    """The tightest memory limit of this process's cgroups (v2), or None."""
    group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().splitlines()
    path = next((line.split("::", 1)[1] for line in group if line.startswith("0::")), "/")
    limits = []
    folder = Path("/sys/fs/cgroup") / path.lstrip("/")
    while True:
        try:
            text = (folder / "memory.max").read_text(encoding="ascii").strip()
            if text != "max":
                limits.append(int(text))
        except OSError:
            pass
        if folder == Path("/sys/fs/cgroup") or folder == folder.parent:
            return min(limits, default=None)
        folder = folder.parent


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
