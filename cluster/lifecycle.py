"""`up`, `down`, `status`, `load`, `ensure_images` and `info`: the order of the stages, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cluster import engine, gobuild, host, images, kind_cluster, node_image, pins
from cluster.engine import Docker
from cluster.errors import ClusterError
from cluster.stages import Log, Outputs, Report, Stages, lanes, silent
from cluster.state import LOCK_PATIENCE, ClusterInfo, Origin, Paths, exclusive, paths, sweep, write_atomic
from core.codedigest import code_digest

ImagesMode = Literal["auto", "pull", "build"]


@dataclass(frozen=True)
class Status:
    """What is there right now; every field is observed, none remembered."""

    engine: str | None
    """The Docker engine's version, None when none answers."""
    engine_ours: bool
    """Whether `bench` started that engine."""
    node: str
    """absent, running, exited, …"""
    info: ClusterInfo | None
    components: dict[str, str]
    """namespace/deployment → ready or the reason it is not."""

    @property
    def up(self) -> bool:
        """Whether everything runs."""
        ready = all(state == "ready" for state in self.components.values())
        return self.node == "running" and self.info is not None and bool(self.components) and ready


def up(
    images: ImagesMode = "auto",
    report: Report = silent,
    *,
    orchestrators: Iterable[str] = (),
    patience: float = 0.0,
) -> ClusterInfo:
    """A running cluster with the platform on it; stages whose inputs did not change are not run again.

    `orchestrators` (names in `pins.ORCHESTRATORS`) get their images built and loaded too; images that an earlier
    call loaded stay as they are. Waits `patience` seconds for another process that changes the cluster. Raises
    ClusterError with what happened, what is kept and what to type next.
    """
    wanted = known_orchestrators(orchestrators)
    where = paths()
    with exclusive(where, "up", patience):
        sweep(where)
        stages = Stages(where, report)
        try:
            return _up(stages, images, wanted)
        finally:
            stages.stop()


def ensure_images(orchestrators: Iterable[str], report: Report = silent) -> ClusterInfo:
    """The running cluster with these orchestrators' images on it, built and loaded where they are not.

    Quick when nothing changed. Raises ClusterError for an unknown name, and where no cluster is up.
    """
    wanted = known_orchestrators(orchestrators)

    def make(stages: Stages, docker: Docker, origin: Origin) -> dict[str, str]:
        return images.apps(stages, docker, _python(stages, docker, origin), wanted)

    return _with_images(make, report)


def ensure_event_images(report: Report = silent) -> ClusterInfo:
    """The running cluster with Argo Events' images on it: pulled or compiled (minutes), and loaded, where they are not.

    Raises ClusterError where no cluster is up.
    """

    def make(stages: Stages, docker: Docker, origin: Origin) -> dict[str, str]:
        if origin == "pull":
            return {
                key: images.pulled(stages, docker, key.replace("_", "-"), reference)
                for key, reference in pins.EVENT_IMAGES.items()
            }
        go = _go(stages)
        programs = [gobuild.build(stages, go, family) for family in (gobuild.ARGO_EVENTS, gobuild.NATS)]
        return images.events(stages, docker, images.debian_base(stages, docker), *programs)

    return _with_images(make, report)


def _with_images(make: Callable[[Stages, Docker, Origin], dict[str, str]], report: Report) -> ClusterInfo:
    """The running cluster with the images that `make` gives the tags of."""
    where = paths()
    info()
    with exclusive(where, "up", LOCK_PATIENCE):
        sweep(where)
        known = info()
        if known.code not in ("", code_digest()):
            raise ClusterError(
                "The steps' code has changed since the cluster's images were made.",
                kept="nothing was changed.",
                remedy="bench cluster up",
            )
        docker = _answering()
        node = kind_cluster.require_node(docker)
        stages = Stages(where, report)
        try:
            tags = make(stages, docker, known.origin)
            found = replace(known, images=known.images | _load(stages, docker, tags, known.origin, node))
        finally:
            stages.stop()
        if found != known:
            write_atomic(where.info, found.to_json() + "\n")
            images.prune(docker, _stamped_tags(where))
        return found


def known_orchestrators(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once; `all` stands for every orchestrator with an image. ClusterError for any other.

    A name in `pins.VARIANTS` counts too: an image that one configuration of an orchestrator needs.
    """
    asked = dict.fromkeys(names)
    if unknown := [name for name in asked if name not in (*pins.ORCHESTRATORS, *pins.VARIANTS, "all")]:
        raise ClusterError(
            f"No image is made for {', '.join(map(repr, unknown))}.",
            kept="nothing was changed.",
            remedy=f"one of: {', '.join(pins.ORCHESTRATORS)}, all.",
        )
    return pins.ORCHESTRATORS if "all" in asked else tuple(asked)


def _up(stages: Stages, mode: ImagesMode, orchestrators: tuple[str, ...]) -> ClusterInfo:
    where = stages.where
    _host_packages(stages, mode)
    go = _go(stages)
    wrapper = None if host.grants_sys_resource() else gobuild.build(stages, go, gobuild.OCIWRAP) / "ociwrap"
    docker = _engine(stages, where, wrapper)
    origin = _origin(stages, docker, mode)
    kind = gobuild.build(stages, go, gobuild.KIND) / "kind"
    tags: dict[str, str] = {}
    if origin == "build":
        node_tag = _build_all(stages, docker, go, wrapper is not None, tags, orchestrators)
    else:
        node_tag = _pull_all(stages, docker, tags, orchestrators)
    node = kind_cluster.create(stages, docker, kind, node_tag, origin=origin, wrapper=wrapper)
    kind_cluster.data_folders(stages, docker, node)
    references = _loaded_before(docker, where) | _load(stages, docker, tags, origin, node)
    info = ClusterInfo(
        name=pins.CLUSTER_NAME,
        kubeconfig=where.kubeconfig,
        kubernetes_version=pins.KUBERNETES,
        kind_version=pins.KIND,
        origin=origin,
        oci_wrapper=wrapper is not None,
        images=references,
        code=code_digest(),
    )
    from cluster import services  # with Kubernetes' client, which other commands need not wait for

    services.deploy(stages, info, node)
    write_atomic(where.info, info.to_json() + "\n")
    images.prune(docker, {*tags.values(), node_tag, *_stamped_tags(where)})
    return info


def _load(stages: Stages, docker: Docker, tags: dict[str, str], origin: Origin, node: str) -> dict[str, str]:
    return {
        key: kind_cluster.load(stages, docker, key, tag, _repository(origin, key), node)
        for key, tag in sorted(tags.items())
    }


def _loaded_before(docker: Docker, where: Paths) -> dict[str, str]:
    """The images had on demand by earlier runs that the node still has."""
    try:
        before = ClusterInfo.from_json(where.info.read_text()).images
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    on_demand = (*pins.ORCHESTRATORS, *pins.VARIANTS, *pins.EVENT_IMAGES)
    found = {key: before[key] for key in on_demand if key in before}
    return {key: reference for key, reference in found.items() if kind_cluster.in_node(docker, reference)}


def _stamped_tags(where: Paths) -> set[str]:
    """Tags that stages still vouch for: the bases and control-plane images under what is deployed."""
    tags = set()
    for stamp in where.stages.glob("image-*.json"):
        tags.add(str(json.loads(stamp.read_text())["outputs"].get("tag", "")))
    return tags


def _repository(origin: Origin, key: str) -> str:
    """The name an image has in the node: ours where we built it, the public one where we pulled it."""
    public = pins.PUBLIC_IMAGES | pins.EVENT_IMAGES
    if origin == "pull" and key in public:
        return public[key].rsplit(":", 1)[0]
    return pins.REPOSITORIES[key]


def _host_packages(stages: Stages, mode: ImagesMode) -> None:
    programs = {"dockerd": "docker.io"} if engine.client() is None else {}
    if mode == "build" or (mode == "auto" and host.is_root()):
        programs["debootstrap"] = "debootstrap"
    if host.is_root() and (docker := engine.client()) and engine.server_version(docker) is None:
        # Only an engine that we have to start ourselves needs its program here.
        programs |= {"dockerd": "docker.io", "iptables": "iptables", "runc": "runc"}

    def signed() -> bool:
        return "debootstrap" not in programs or images.DEBIAN_KEYRING.exists()

    def install(log: Log) -> Outputs:
        host.ensure_packages(log, programs)
        if not signed() and host.may_install():
            host.apt_install(log.run, ["debian-archive-keyring"])
        engine.client.cache_clear()
        if engine.client() is None and host.may_install():
            host.apt_install(log.run, host.offered(engine.CLIENT_PACKAGES))
            engine.client.cache_clear()
        return {}

    def there(_: Outputs) -> bool:
        return all(map(host.find_program, programs)) and signed() and engine.client() is not None

    stages.run("host-packages", programs, install, there)


def _go(stages: Stages) -> Path:
    go = host.recent_go()
    if go is not None:
        return go
    folder = stages.where.root / "go"

    def install(log: Log) -> Outputs:
        return {"go": str(host.install_go(log, folder))}

    outputs = stages.run(
        "go",
        {"minimum": pins.GO_MINIMUM},
        install,
        lambda out: host.go_version(out.get("go", "")) is not None,
    )
    return Path(outputs["go"])


def _engine(stages: Stages, where: Paths, wrapper: Path | None) -> Docker:
    found: list[Docker] = []

    def ensure(_: Log) -> Outputs:
        docker = engine.ensure(where, wrapper)
        found.append(docker)
        return {"summary": f"Docker {engine.server_version(docker)}"}

    # Never remembered: an engine that answered a minute ago may be gone.
    stages.run("engine", {"wrapper": wrapper}, ensure, lambda _: False)
    return found[0]


def _origin(stages: Stages, docker: Docker, mode: ImagesMode) -> Origin:
    """Where images come from. `auto`: as BENCH_IMAGES says, else what a cluster that is there was made of.

    Where there is neither, one small pull is tried; the answer is kept until the state is deleted.
    """
    asked = os.environ.get("BENCH_IMAGES", "auto") if mode == "auto" else mode
    if asked not in get_args(ImagesMode):
        raise ClusterError(
            f"BENCH_IMAGES is {asked!r}: not one of {', '.join(get_args(ImagesMode))}.",
            remedy="export BENCH_IMAGES=build",
        )
    if asked != "auto":
        return "pull" if asked == "pull" else "build"
    with suppress(ClusterError):
        return info().origin

    def probe(log: Log) -> Outputs:
        reachable = registry_answers(docker)
        log.note(f"{pins.PULL_PROBE}: {'pulled' if reachable else 'refused'}")
        return {"origin": "pull" if reachable else "build", "summary": "pull" if reachable else "build"}

    origin = stages.run("origin", {"probe": pins.PULL_PROBE}, probe)["origin"]
    return "pull" if origin == "pull" else "build"


def registry_answers(docker: Docker) -> bool:
    """Whether the engine can pull from a public registry: decided by trying, with one small image.

    A pull asks the registry even when an image of that name is here already, as it is after a build.
    """
    pulled = docker.ask("pull", "--quiet", pins.PULL_PROBE, timeout=pins.PULL_PROBE_SECONDS)
    return pulled is not None


def platform_images(stages: Stages, orchestrators: tuple[str, ...]) -> tuple[Docker, dict[str, str]]:
    """The local images that any cluster needs, by key, and the engine that has them; no node, no control plane."""
    _host_packages(stages, "auto")
    docker = _engine(stages, stages.where, None)
    tags: dict[str, str] = {}
    if _origin(stages, docker, "auto") == "build":
        _build_platform(stages, docker, _go(stages), tags, orchestrators)
    else:
        _pull_platform(stages, docker, tags, orchestrators)
    return docker, tags


PLATFORM = (gobuild.VERSITYGW, gobuild.ARGO)
NODE = (gobuild.PAUSE, gobuild.OCIWRAP, gobuild.ETCD, gobuild.COREDNS, *PLATFORM, gobuild.KUBERNETES)


def _build_platform(
    stages: Stages,
    docker: Docker,
    go: Path,
    tags: dict[str, str],
    orchestrators: tuple[str, ...],
    families: tuple[gobuild.Family, ...] = PLATFORM,
) -> tuple[str, dict[str, Path]]:
    """The platform's images from package registries; fills `tags`, returns the base image and what was compiled."""
    built: dict[str, Path] = {}
    base: dict[str, str] = {}

    # Two lanes: compiling keeps the processors busy, unpacking packages mostly waits.
    def compile_everything() -> None:
        for family in families:
            built[family.name] = gobuild.build(stages, go, family)

    def build_bases() -> None:
        base["debian"] = images.debian_base(stages, docker)
        tags["postgres"] = images.postgres(stages, docker, base["debian"])
        python = images.python_base(stages, docker, base["debian"])
        tags.update(images.apps(stages, docker, python, ("step", "mlflow", *orchestrators)))

    lanes(stages, compile_everything, build_bases)
    tags["s3"] = images.s3(stages, docker, base["debian"], built["versitygw"])
    tags |= images.argo(stages, docker, base["debian"], built["argo"])
    return base["debian"], built


def _build_all(
    stages: Stages,
    docker: Docker,
    go: Path,
    wrapper: bool,
    tags: dict[str, str],
    orchestrators: tuple[str, ...],
) -> str:
    """Everything from package registries; fills `tags`, returns the node image's tag."""
    debian, built = _build_platform(stages, docker, go, tags, orchestrators, NODE)

    def program(name: str) -> Path:
        family = name if name in ("etcd", "coredns", "pause") else "kubernetes"
        return built[family] / name

    control_plane = images.control_plane(stages, docker, debian, program)
    return node_image.build(
        stages,
        docker,
        debian=debian,
        kubernetes=built["kubernetes"],
        ociwrap=built["ociwrap"] / "ociwrap",
        wrapper=wrapper,
        control_plane=control_plane,
    )


def _pull_all(stages: Stages, docker: Docker, tags: dict[str, str], orchestrators: tuple[str, ...]) -> str:
    """Public images, and ours on public bases; fills `tags`, returns the node image's tag."""
    _pull_platform(stages, docker, tags, orchestrators)
    return images.pulled(stages, docker, "node", pins.PUBLIC_NODE)


def _pull_platform(
    stages: Stages, docker: Docker, tags: dict[str, str], orchestrators: tuple[str, ...]
) -> None:
    for key, reference in pins.PUBLIC_IMAGES.items():
        tags[key] = images.pulled(stages, docker, key.replace("_", "-"), reference)
    python = _python(stages, docker, "pull")
    tags |= images.apps(stages, docker, python, ("step", "mlflow", *orchestrators))


def _python(stages: Stages, docker: Docker, origin: Origin) -> str:
    """The Python that the locked environments stand on."""
    if origin == "pull":
        return images.pulled(stages, docker, "python", pins.PUBLIC_PYTHON)
    return images.python_base(stages, docker, images.debian_base(stages, docker))


def down(report: Report = silent, *, stop_engine: bool = False) -> None:
    """Delete the cluster, data and all; images and compiled programs stay, so the next `up` is quick.

    With `stop_engine`, also stop the dockerd that `up` started (never one that somebody else did).
    """
    where = paths()
    with exclusive(where, "down"):
        sweep(where)
        stages = Stages(where, report, verb="down")
        docker = engine.client()
        if docker is not None and engine.server_version(docker) is not None:
            _delete(stages, docker, where)
        where.info.unlink(missing_ok=True)
        where.kubeconfig.unlink(missing_ok=True)
        if stop_engine:
            stopped = engine.stop(where)
            stages.note("engine", "stopped" if stopped else "not ours, left alone")


def _delete(stages: Stages, docker: Docker, where: Paths) -> None:
    if kind_cluster.node_state(docker) == "absent":
        stages.note("cluster", "none is there")
        return
    kind_cluster.refuse_foreign(docker, where)
    kind = where.bin / "kind" / "kind"
    if not kind.is_file():
        raise ClusterError(
            "There is a cluster, but not the kind program that made it.",
            kept="the cluster.",
            remedy=f"docker rm --force --volumes {pins.NODE_NAME}",
        )

    def delete(log: Log) -> Outputs:
        kind_cluster.delete(log, docker, kind, where)
        return {}

    stages.run("delete", {}, delete, lambda _: False)


def status() -> Status:
    """What runs at this moment; never waits for anything and never raises because something is missing."""
    where = paths()
    docker = engine.client()
    version = engine.server_version(docker) if docker else None
    node = kind_cluster.node_state(docker) if docker and version else "absent"
    found: ClusterInfo | None
    try:
        found = info()
    except ClusterError:
        found = None
    from cluster import services

    components = services.states(found.kubeconfig) if found and node == "running" else {}
    return Status(version, engine.owned_pid(where) is not None, node, found, components)


def info() -> ClusterInfo:
    """The cluster that the last `up` left; ClusterError when there is none."""
    path = paths().info
    try:
        return ClusterInfo.from_json(path.read_text())
    except FileNotFoundError:
        raise ClusterError("There is no cluster.", remedy="`bench cluster up`") from None
    except (ValueError, KeyError, TypeError) as problem:
        raise ClusterError(
            f"{path} cannot be read: {problem}.",
            kept="the cluster.",
            remedy="`bench cluster up` writes it anew.",
        ) from problem


def load(image: str, report: Report = silent) -> str:
    """Copy a local Docker image into the node; returns its reference by digest."""
    where = paths()
    info()
    docker = _answering()
    if docker.image_id(image) is None:
        raise ClusterError(
            f"Docker has no image {image}.",
            kept="nothing was changed.",
            remedy=f"docker build --tag {image} …",
        )
    node = kind_cluster.require_node(docker)
    name, _, tag = image.rpartition(":")
    if not name or "/" in tag:
        name, image = image, f"{image}:latest"
    with exclusive(where, "load"):
        stages = Stages(where, report, verb="load")
        key = "own-" + "".join(c if c.isalnum() else "-" for c in name)
        return kind_cluster.load(stages, docker, key, image, _qualified(name), node)


def _answering() -> Docker:
    docker = engine.client()
    if docker is None or engine.server_version(docker) is None:
        raise ClusterError("No Docker engine answers.", remedy="`bench cluster up`")
    return docker


def _qualified(name: str) -> str:
    """A repository with its registry, as containerd writes it."""
    first, _, rest = name.partition("/")
    if not rest:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"
