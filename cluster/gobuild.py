"""Programs compiled from pinned Go modules, one small module per family because their dependencies conflict."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cluster import host, pins
from cluster.stages import CommandFailed, Log, Outputs, Stages, digest_files
from cluster.state import DATA, Paths, scratch


@dataclass(frozen=True)
class Family:
    """Programs built together from one go.mod under cluster/go (or a folder of ours, when `local`)."""

    name: str
    programs: dict[str, str]
    """File name of the program → Go package."""
    variables: dict[str, str] = field(default_factory=dict)
    """Link-time variables: version stamps, mostly."""
    local: bool = False
    restore_links: tuple[str, dict[str, str]] | None = None
    """(module@version, {link: target}): symbolic links of the repository that module archives do not carry."""

    @property
    def folder(self) -> Path:
        return DATA / self.name if self.local else DATA / "go" / self.name

    def ldflags(self) -> str:
        """Linker flags; part of the stage's key."""
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in self.variables.items())])


def _kubernetes_variables() -> dict[str, str]:
    major, minor, _ = pins.KUBERNETES.removeprefix("v").split(".")
    modules = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = {"gitVersion": pins.KUBERNETES, "gitMajor": major, "gitMinor": minor}
    variables = {f"{module}.{key}": value for module in modules for key, value in stamps.items()}
    return variables | {f"{module}.gitTreeState": "clean" for module in modules}


_ARGO = "github.com/argoproj/argo-workflows/v3"

OCIWRAP = Family("ociwrap", {"ociwrap": "."}, local=True)
PAUSE = Family("pause", {"pause": "."}, local=True)
KIND = Family("kind", {"kind": "sigs.k8s.io/kind"})
KUBERNETES = Family(
    "kubernetes",
    {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubeadm",
            "kubectl",
        )
    },
    _kubernetes_variables(),
)
ETCD = Family("etcd", {"etcd": "go.etcd.io/etcd/server/v3"})
COREDNS = Family("coredns", {"coredns": "."})
ARGO = Family(
    "argo",
    {"workflow-controller": f"{_ARGO}/cmd/workflow-controller", "argoexec": f"{_ARGO}/cmd/argoexec"},
    {f"{_ARGO}.version": pins.ARGO},
    restore_links=(
        f"{_ARGO}@{pins.ARGO}",
        {"workflow/executor/osspecific/signal_linux.go": "signal_darwin.go"},
    ),
)
ARGO_EVENTS = Family(
    "argo-events",
    {"argo-events": "github.com/argoproj/argo-events/cmd"},
    {"github.com/argoproj/argo-events.version": pins.ARGO_EVENTS},
)
NATS = Family("nats", {"nats-server": "github.com/nats-io/nats-server/v2"})
VERSITYGW = Family("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"})


def build(stages: Stages, go: Path, family: Family) -> Path:
    """The folder with a family's programs, compiled when its module, flags or toolchain changed."""
    target = stages.where.bin / family.name
    version = host.go_version(go)
    inputs = {
        "module": digest_files(family.folder, [family.folder]),
        "programs": family.programs,
        "ldflags": family.ldflags(),
        "links": family.restore_links,
        # The minor version only: a patch release of Go is no reason for twenty minutes of compiling.
        "go": version,
    }

    def compile_(log: Log) -> Outputs:
        _compile(log, stages.where, go, family, target)
        return {"folder": str(target)}

    stages.run(
        f"go-{family.name}",
        inputs,
        compile_,
        lambda _: all((target / program).is_file() for program in family.programs),
    )
    return target


def _compile(log: Log, where: Paths, go: Path, family: Family, target: Path) -> None:
    env = os.environ | {"CGO_ENABLED": "0"}
    with scratch(where, family.name) as work:
        flags = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", family.ldflags()]
        if family.restore_links is not None:
            module, links = family.restore_links
            flags.insert(1, f"-modfile={_patched_module(log, go, family.folder, module, links, work)}")
        output = work / "out"
        output.mkdir()
        # One go command per family: several programs share most of their packages and all of the type checking.
        packages = list(family.programs.values())
        single = len(packages) == 1
        destination = str(output / next(iter(family.programs))) if single else f"{output}/"
        log.run([go, "build", *flags, "-o", destination, *packages], cwd=family.folder, env=env)
        missing = [program for program in family.programs if not (output / program).is_file()]
        if missing:
            raise CommandFailed(f"go build left no {', '.join(missing)}")
        _publish(output, target)


def _patched_module(log: Log, go: Path, folder: Path, module: str, links: dict[str, str], work: Path) -> Path:
    """A go.mod in `work` that uses a copy of `module` with its symbolic links restored.

    The copy lives only as long as the build and is never committed.
    """
    path = module.split("@")[0]
    described = json.loads(log.output([go, "-C", folder, "mod", "download", "-json", module]))
    source = work / "source"
    shutil.copytree(described["Dir"], source)
    for parent, _, _ in os.walk(source):
        Path(parent).chmod(0o755)
    for link, link_target in links.items():
        (source / link).symlink_to(link_target)
    modfile = work / "patched.mod"
    shutil.copyfile(folder / "go.mod", modfile)
    shutil.copyfile(folder / "go.sum", work / "patched.sum")
    log.run([go, "mod", "edit", f"-replace={path}={source}", modfile])
    return modfile


def _publish(output: Path, target: Path) -> None:
    """Put a finished folder in its place. The old one goes first: a kill in between costs a rebuild, no more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        retired = Path(tempfile.mkdtemp(dir=output.parent)) / "old"
        target.rename(retired)
    output.rename(target)
