"""One Python environment per orchestrator, made by uv from the project's one lock, under the state folder."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from adapters.base import BenchError
from adapters.local.state import LocalState
from cluster.host import find_program
from cluster.state import PROJECT, write_atomic

GROUPS = ("postgres", "kfp-metadata")
"""Environments that hold a dependency group alone, without the project."""
SHARED = ("postgres",)
"""What every local orchestrator needs beside its own environment."""
EXTRAS: Mapping[str, str] = {
    "airflow": "airflow",
    "dagster": "dagster",
    "kfp": "kfp-local",
    "prefect": "prefect",
}
"""Which environment an orchestrator runs in. What is not here needs none, or makes its own in `deploy`."""
LOG_LINES = 12


def python(state: LocalState, name: str) -> Path:
    """The interpreter of an environment."""
    return state.envs / name / "bin" / "python"


def is_ready(state: LocalState, name: str) -> bool:
    """Whether the environment was made completely, from the lock as it is now and for this checkout."""
    stamp = state.envs / f"{name}.lock-sha256"
    return python(state, name).exists() and stamp.exists() and stamp.read_text() == _wanted()


def missing(state: LocalState, orchestrators: Iterable[str]) -> list[str]:
    """The environments that these orchestrators need on this machine and that are not ready."""
    needed = [EXTRAS[name] for name in orchestrators if name in EXTRAS]
    wanted = dict.fromkeys([*needed, *(SHARED if needed else ())])
    return [name for name in wanted if not is_ready(state, name)]


def ensure(state: LocalState, name: str) -> Path:
    """Make the environment `name` (an extra of the project, or one of `GROUPS`) unless it is there.

    An environment that an interrupted command left half made is completed. Returns its interpreter.
    Raises `BenchError` with uv's last lines.
    """
    if is_ready(state, name):
        return python(state, name)
    uv = find_program("uv")
    if uv is None:
        raise BenchError("uv is neither on the path nor in the environment", "./setup")
    for folder in (state.logs, state.temporary):
        folder.mkdir(parents=True, exist_ok=True)
    log = state.logs / f"env-{name}.log"
    what = (
        ["--only-group", name, "--no-install-project"]
        if name in GROUPS
        else ["--no-default-groups", "--extra", name]
    )
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            [uv, "sync", "--frozen", "--python", _base_python(), *what],
            cwd=PROJECT,
            env={
                **os.environ,
                "UV_PROJECT_ENVIRONMENT": str(state.envs / name),
                "UV_COMPILE_BYTECODE": "1",
                "TMPDIR": str(state.temporary),
                "VIRTUAL_ENV": "",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise BenchError(
            f"the environment of {name} could not be made:\n" + "\n".join(lines),
            f"check network and disk, then the same command again (log: {log})",
            "the packages that were fetched",
        )
    write_atomic(state.envs / f"{name}.lock-sha256", _wanted())
    return python(state, name)


def harness_python() -> Path:
    """The interpreter that runs this harness: for services of ours, and for the floors."""
    return Path(sys.executable)


def _base_python() -> str:
    """The interpreter under ours, so that all steps run on the same Python."""
    return getattr(sys, "_base_executable", "") or sys.executable


def _wanted() -> str:
    # The project is installed by its path: an environment made from another checkout runs that one's code.
    text = (PROJECT / "uv.lock").read_bytes() + f"\0{_base_python()}\0{PROJECT}".encode()
    return hashlib.sha256(text).hexdigest()
