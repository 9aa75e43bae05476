"""The environment fingerprint: what makes results comparable, and what is only good to know."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from bench.results.records import Environment

NUMERIC = ("numpy", "scipy", "scikit-learn", "joblib")
BLOCKING_FACTS = ("code", "kubernetes", "nodes", "kind", "oci_wrapper", "postgres", "registry")


def fingerprint(facts: Mapping[str, str], versions: Mapping[str, str]) -> Environment:
    """`facts` of the target and `versions` of the orchestrator, with those of this machine."""
    blocking = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory_gib": str(round(psutil.virtual_memory().total / 2**30)),
        "kernel": platform.release().split("-")[0],
        **{name: _installed(name) for name in NUMERIC},
        **{name: facts[name] for name in BLOCKING_FACTS if name in facts},
        **versions,
    }
    informational = {
        "python": platform.python_version(),
        "system": _system(),
        "harness": _installed("orchestrator-bench"),
        "commit": _commit(),
        "boot": _boot(),
        **{name: value for name, value in facts.items() if name not in BLOCKING_FACTS},
    }
    return Environment(blocking=blocking, informational=informational)


@cache
def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


@cache
def _boot() -> str:
    """Of which start of this machine: rows of one boot are of one machine, which the blocking facts do not say."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system()
    return f"{release.get('NAME', '')} {release.get('VERSION_ID', '')}".strip()


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@cache
def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
