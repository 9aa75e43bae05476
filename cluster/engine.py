"""The Docker engine: find the client that can build, start dockerd where none answers, register the runtime."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import host
from cluster.errors import ClusterError
from cluster.state import Paths, write_atomic

RUNTIME = "ociwrap"
START_SECONDS = 60
SOCKET = Path("/var/run/docker.sock")


@dataclass(frozen=True)
class Docker:
    """A Docker client that can build with BuildKit."""

    program: Path

    def env(self) -> dict[str, str]:
        """The environment for the client and for programs that call `docker` themselves, such as kind."""
        path = os.pathsep.join([str(self.program.parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        return os.environ | {"DOCKER_BUILDKIT": "1", "PATH": path, "KIND_EXPERIMENTAL_PROVIDER": "docker"}

    def ask(self, *arguments: str, timeout: float = 30) -> str | None:
        """A query's standard output, stripped; None when the client reports an error or does not answer."""
        try:
            done = subprocess.run(
                [str(self.program), *arguments],
                capture_output=True,
                text=True,
                timeout=timeout,
                env=self.env(),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def image_id(self, name: str) -> str | None:
        """The id (sha256:…) of a local image."""
        return self.ask("image", "inspect", "--format", "{{.Id}}", name)

    def image_bytes(self, name: str) -> int:
        """Size on disk, shared layers included."""
        return int(self.ask("image", "inspect", "--format", "{{.Size}}", name) or 0)


CLIENT_PACKAGES = ("docker-cli", "docker-buildx")
"""What Debian 13 and Ubuntu 24.04 keep apart from `docker.io`."""
CLIENT_REMEDY = "sudo apt-get install -y docker.io; docker-buildx and docker-cli too where apt has them"


@functools.cache
def client() -> Docker | None:
    """The first client that can build with secrets: a new one without its buildx plugin cannot, Debian's can."""
    for name in dict.fromkeys([shutil.which("docker"), "/usr/bin/docker", "/usr/local/bin/docker"]):
        if name and Path(name).is_file() and _can_build(name):
            return Docker(Path(name))
    return None


def _can_build(program: str) -> bool:
    try:
        version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
        major = int(version.stdout.split("version ")[1].split(".")[0])
        if major < 23:
            return True
        buildx = subprocess.run([program, "buildx", "version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return False
    return buildx.returncode == 0


def server_version(docker: Docker) -> str | None:
    """The engine's version, None when none answers."""
    return docker.ask("version", "--format", "{{.Server.Version}}", timeout=10) or None


def default_runtime(docker: Docker) -> str:
    """The name of the runtime that containers get when they ask for none."""
    return docker.ask("info", "--format", "{{.DefaultRuntime}}") or ""


def ensure(where: Paths, wrapper: Path | None) -> Docker:
    """A client whose engine answers and, where `wrapper` is needed, starts containers through it.

    Starts dockerd when none answers and we are root. An engine that someone else started is never touched:
    ClusterError says what to add to its configuration.
    """
    client.cache_clear()
    docker = client()
    if docker is None:
        raise ClusterError(
            "No Docker client that can build images with secrets.",
            remedy=f"{CLIENT_REMEDY} (or install the buildx plugin of yours)",
        )
    if server_version(docker) is None:
        _start(where, docker, wrapper)
    if wrapper is not None and default_runtime(docker) != RUNTIME:
        if owned_pid(where) is not None:
            stop(where)
            _start(where, docker, wrapper)
        else:
            settings = {"runtimes": {RUNTIME: {"path": str(wrapper)}}, "default-runtime": RUNTIME}
            raise ClusterError(
                "This host withholds CAP_SYS_RESOURCE, and the running Docker engine, which `bench` did not "
                "start, does not use the runtime wrapper that makes privileged containers work here.",
                kept="everything built so far; the engine was not touched.",
                remedy=f"put {json.dumps(settings)} into /etc/docker/daemon.json and restart the engine; "
                "or stop it, and `bench cluster up` starts its own.",
            )
    return docker


def pid_file(where: Paths) -> Path:
    """Where the process id of the dockerd that we started is kept."""
    return where.root / "dockerd.pid"


def owned_pid(where: Paths) -> int | None:
    """The process id of the dockerd that we started, when it still runs and really is one."""
    try:
        pid = int(json.loads(pid_file(where).read_text())["pid"])
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if name == "dockerd" else None


def _start(where: Paths, docker: Docker, wrapper: Path | None) -> None:
    dockerd = host.find_program("dockerd")
    if not host.is_root() and SOCKET.exists() and not os.access(SOCKET, os.W_OK):
        raise ClusterError(
            f"This user may not use the Docker engine: {SOCKET} is not writable.",
            kept="everything built so far.",
            remedy="run it as root; or `sudo usermod -aG docker $USER`, which makes you as good as root, and log in "
            "again",
        )
    if not host.is_root() or dockerd is None:
        raise ClusterError(
            "No Docker engine answers.",
            kept="everything built so far.",
            remedy="start Docker (`sudo systemctl start docker`, or Docker Desktop), "
            "or run `bench cluster up` as root and it starts its own.",
        )
    log = where.logs / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [dockerd]
    if wrapper is not None:
        command += ["--add-runtime", f"{RUNTIME}={wrapper}", "--default-runtime", RUNTIME]
    # dockerd exits when a stale pid file names a live process, which after a reboot may be anybody's.
    stale = Path("/var/run/docker.pid")
    if stale.exists() and not _is_dockerd(stale.read_text().strip()):
        stale.unlink()
    with log.open("ab") as stream:
        # A session of its own: Ctrl-C ends `bench`, not the engine under a cluster.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=docker.env(),
        )
    write_atomic(pid_file(where), json.dumps({"pid": process.pid, "wrapper": bool(wrapper)}) + "\n")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if server_version(docker) is not None:
            return
        time.sleep(0.2)
    lines = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
    raise ClusterError(
        f"dockerd did not come up within {START_SECONDS} s. The end of {log}:\n{lines}",
        kept="everything built so far.",
        remedy="`bench doctor` names what this host withholds.",
    )


def _is_dockerd(pid: str) -> bool:
    comm = Path(f"/proc/{pid}/comm")
    return pid.isdigit() and comm.exists() and comm.read_text().strip() == "dockerd"


def stop(where: Paths) -> bool:
    """Stop the dockerd that we started and wait for it; False when we started none."""
    pid = owned_pid(where)
    if pid is None:
        pid_file(where).unlink(missing_ok=True)
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not _is_dockerd(str(pid)) or _is_zombie(pid):
            pid_file(where).unlink(missing_ok=True)
            return True
        time.sleep(0.2)
    raise ClusterError(
        f"dockerd (process {pid}) did not stop within 60 s.", remedy=f"look at it, then `kill -9 {pid}`."
    )


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
