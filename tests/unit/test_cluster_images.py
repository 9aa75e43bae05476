"""Images of the orchestrators: what is in them, and when they are made, loaded and kept."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.airflow.adapter import OPENLINEAGE_DOCS
from cluster import engine, gobuild, images, kind_cluster, lifecycle, pins, services, state
from cluster.engine import Docker
from cluster.errors import ClusterError
from cluster.stages import Stages
from cluster.state import DATA, PROJECT, ClusterInfo, Origin, Paths
from core.codedigest import code_digest

DOCKER = Docker(Path("/usr/bin/docker"))
PACKAGES = ("core", "adapters", "bench", "cluster")


def module_file(name: str) -> Path | None:
    """The file of one of the project's modules, None for what is an attribute."""
    base = PROJECT / name.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imported(path: Path) -> set[str]:
    """The project's own modules that a file may import, their packages included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parents = {".".join(name.split(".")[:count]) for name in names for count in range(1, name.count(".") + 2)}
    return {name for name in parents if name.split(".")[0] in PACKAGES}


def needed(module: str) -> set[Path]:
    """Every file of the project that importing `module` reads."""
    found: set[Path] = set()
    left = [module]
    while left:
        path = module_file(left.pop())
        if path is not None and path not in found:
            found.add(path)
            left += imported(path)
    return found


@pytest.mark.parametrize("name", pins.ORCHESTRATORS)
def test_an_image_holds_everything_that_is_imported_there(name: str) -> None:
    """By the pipeline, and by files that are mounted beside it."""
    held = images.code_of(name)
    mounted = (PROJECT / "adapters" / name / "deploy").glob("*.py")
    modules = {f"adapters.{name}.pipeline"}.union(*map(imported, mounted))
    missing = {
        path
        for module in modules
        for path in needed(module)
        if not any(path == entry or entry in path.parents for entry in held)
    }
    assert not missing


def test_the_image_of_a_step_holds_who_walks_through_a_run() -> None:
    """What the floors `processes` and `calls` are on a cluster."""
    held = images.code_of("step")
    assert needed("adapters.walk") <= {path for entry in held for path in (entry, *entry.rglob("*.py"))}


@pytest.mark.parametrize("name", [*pins.ORCHESTRATORS, "step"])
def test_an_image_holds_nothing_of_the_harness(name: str) -> None:
    held = {path.relative_to(PROJECT).parts[:2] for path in images.code_of(name)}
    assert not {parts for parts in held if parts[0] in ("bench", "cluster") or parts[1:] == ("local",)}


def test_every_set_of_the_lock_has_the_same_numeric_stack() -> None:
    lock = tomllib.loads((PROJECT / "uv.lock").read_text())
    for name in ("numpy", "scipy", "scikit-learn", "joblib"):
        assert len({package["version"] for package in lock["package"] if package["name"] == name}) == 1


def test_every_app_has_its_target_and_runs_as_a_number() -> None:
    text = (DATA / "docker" / "app" / "Dockerfile").read_text()
    targets = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    assert set(pins.EXTRAS) == set(targets) - {"code"}
    assert text.count("USER 65532:65532") == 2, "in `mlflow` and in `code`, which the others stand on"


def test_environments_of_extras_stand_on_the_base_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, dict[str, str]] = {}

    def image_stage(stages: Stages, docker: Docker, name: str, **options: object) -> str:
        made[name] = dict(options["arguments"])  # type: ignore[call-overload]
        return f"{options['repository']}:key"

    monkeypatch.setattr(images, "image_stage", image_stage)
    monkeypatch.setattr(images, "requirements", lambda stages, extra="": f"locked {extra}")
    stages = Stages(Paths(tmp_path))
    tags = images.apps(stages, DOCKER, "python:1", ("step", "airflow", "dagster"))
    assert tags == {name: f"bench.local/{name}:key" for name in ("step", "airflow", "dagster")}
    base = "bench.local/environment-base:key"
    assert made["environment-base"]["BASE"] == "python:1"
    assert made["environment-airflow"]["BASE"] == made["environment-dagster"]["BASE"] == base
    assert made["step"]["BASE"] == base
    assert made["airflow"] == {"BASE": "bench.local/environment-airflow:key", "INIT": "dumb-init"}


def test_a_configurations_own_image_adds_to_the_orchestrators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, dict[str, object]] = {}

    def image_stage(stages: Stages, docker: Docker, name: str, **options: object) -> str:
        made[name] = options
        return f"{options['repository']}:key"

    monkeypatch.setattr(images, "image_stage", image_stage)
    monkeypatch.setattr(images, "requirements", lambda stages, extra="": f"locked {extra}")
    tags = images.apps(Stages(Paths(tmp_path)), DOCKER, "python:1", ("airflow", "airflow-openlineage"))
    assert tags["airflow-openlineage"] == "bench.local/airflow-openlineage:key"
    both, own = made["airflow"], made["airflow-openlineage"]
    assert both["arguments"] == {"BASE": "bench.local/environment-airflow:key", "INIT": "dumb-init"}
    assert own["arguments"] == {
        "BASE": "bench.local/environment-airflow-openlineage:key",
        "INIT": "dumb-init",
    }
    assert (own["target"], own["files"]) == ("airflow", both["files"])
    environment: Any = made["environment-airflow-openlineage"]
    assert environment["arguments"]["BASE"] == "bench.local/environment-airflow:key"
    assert environment["texts"] == {"requirements.txt": "locked airflow-openlineage"}


def test_only_one_set_of_the_lock_has_the_openlineage_provider() -> None:
    lock = tomllib.loads((PROJECT / "uv.lock").read_text())["package"]
    (ours,) = (each for each in lock if each["name"] == "orchestrator-bench")
    provider = "apache-airflow-providers-openlineage"
    having = {
        extra
        for extra, needed in ours["optional-dependencies"].items()
        if provider in {each["name"] for each in needed}
    }
    assert having == set(pins.VARIANTS) == {"airflow-openlineage"}
    requiring = {
        each["name"] for each in lock for needed in each.get("dependencies", ()) if needed["name"] == provider
    }
    assert not requiring
    (locked,) = (each["version"] for each in lock if each["name"] == provider)
    assert f"/{provider}/{locked}/" in OPENLINEAGE_DOCS


def test_the_platform_is_applied_again_only_for_images_it_runs() -> None:
    text = "".join(path.read_text() for path in services.MANIFESTS.glob("*.yaml"))
    assert set(re.findall(r"images\.(\w+)", text)) == set(services.IMAGES)


def test_all_stands_for_every_orchestrator_and_others_are_refused() -> None:
    assert lifecycle.known_orchestrators(["all"]) == pins.ORCHESTRATORS
    assert lifecycle.known_orchestrators(["dagster", "dagster"]) == ("dagster",)
    assert lifecycle.known_orchestrators(pins.VARIANTS) == ("airflow-openlineage",)
    with pytest.raises(ClusterError, match="'luigi'") as raised:
        lifecycle.known_orchestrators(["airflow", "luigi"])
    assert all(name in raised.value.remedy for name in pins.ORCHESTRATORS)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterInfo:
    """What an `up` without orchestrators left."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    info = ClusterInfo(
        "bench", tmp_path / "k", "v1", "v0", "build", False, {"step": "bench.local/step@sha256:0"}
    )
    state.write_atomic(state.paths().info, info.to_json())
    return info


@pytest.fixture
def running(known: ClusterInfo, monkeypatch: pytest.MonkeyPatch) -> ClusterInfo:
    """The same with an engine and a node that take everything."""
    monkeypatch.setattr(engine, "client", lambda: DOCKER)
    monkeypatch.setattr(engine, "server_version", lambda docker: "1")
    monkeypatch.setattr(kind_cluster, "require_node", lambda docker: "node")
    monkeypatch.setattr(lifecycle, "_python", lambda stages, docker, origin: "python:1")
    monkeypatch.setattr(images, "prune", lambda docker, keep: 0)

    def apps(stages: Stages, docker: Docker, python: str, keys: Iterable[str]) -> dict[str, str]:
        return {key: f"bench.local/{key}:1" for key in keys}

    def load(stages: Stages, docker: Docker, key: str, tag: str, repository: str, node: str) -> str:
        return f"{repository}@sha256:{key}"

    monkeypatch.setattr(images, "apps", apps)
    monkeypatch.setattr(kind_cluster, "load", load)
    return known


def test_images_of_other_code_than_the_clusters_are_not_added(running: ClusterInfo) -> None:
    state.write_atomic(state.paths().info, replace(running, code="sha256:before").to_json())
    with pytest.raises(ClusterError, match="code has changed") as raised:
        lifecycle.ensure_images(("airflow",))
    assert "cluster up" in raised.value.remedy
    state.write_atomic(state.paths().info, replace(running, code=code_digest()).to_json())
    assert "airflow" in lifecycle.ensure_images(("airflow",)).images


@pytest.mark.parametrize("name", ["airflow", "airflow-openlineage"])
def test_images_are_added_to_the_running_cluster(running: ClusterInfo, name: str) -> None:
    found = lifecycle.ensure_images((name,))
    added = {name: f"bench.local/{name}@sha256:{name}"}
    assert found == replace(running, images=running.images | added) == lifecycle.info()


def test_images_that_are_there_stay_known(running: ClusterInfo) -> None:
    lifecycle.ensure_images(("airflow",))
    assert lifecycle.ensure_images(("prefect",)).images.keys() == {"step", "airflow", "prefect"}


@pytest.mark.parametrize("origin", ["pull", "build"])
def test_images_of_argo_events_are_pulled_where_the_others_were_and_compiled_where_not(
    running: ClusterInfo, monkeypatch: pytest.MonkeyPatch, origin: Origin
) -> None:
    state.write_atomic(state.paths().info, replace(running, origin=origin).to_json())
    monkeypatch.setattr(images, "pulled", lambda stages, docker, name, reference: f"{reference}-pulled")
    monkeypatch.setattr(images, "debian_base", lambda stages, docker: "debian:1")
    monkeypatch.setattr(lifecycle, "_go", lambda stages: Path("go"))
    monkeypatch.setattr(gobuild, "build", lambda stages, go, family: Path("bin") / family.name)
    loaded: dict[str, str] = {}

    def load(stages: Stages, docker: Docker, key: str, tag: str, repository: str, node: str) -> str:
        loaded[key] = tag
        return f"{repository}@sha256:{key}"

    def image_stage(stages: Stages, docker: Docker, name: str, **options: object) -> str:
        return f"{options['repository']}:compiled"

    monkeypatch.setattr(kind_cluster, "load", load)
    monkeypatch.setattr(images, "image_stage", image_stage)
    found = lifecycle.ensure_event_images()
    assert found.images.keys() == {"step", "argo_events", "nats"}
    if origin == "pull":
        assert found.images["nats"] == "docker.io/library/nats@sha256:nats"
        assert loaded == {key: f"{reference}-pulled" for key, reference in pins.EVENT_IMAGES.items()}
    else:
        assert found.images["nats"] == "bench.local/nats@sha256:nats"
        assert loaded == {
            "argo_events": "bench.local/argo-events:compiled",
            "nats": "bench.local/nats:compiled",
        }


def test_an_unknown_orchestrator_touches_nothing(running: ClusterInfo) -> None:
    with pytest.raises(ClusterError, match="'argo'"):
        lifecycle.ensure_images(("argo",))
    assert lifecycle.info() == running


def test_images_need_a_cluster_that_is_up(
    tmp_path: Path, known: ClusterInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "client", lambda: None)
    with pytest.raises(ClusterError, match="No Docker engine answers"):
        lifecycle.ensure_images(("airflow",))
    monkeypatch.setattr(engine, "client", lambda: DOCKER)
    monkeypatch.setattr(
        Docker, "ask", lambda self, *arguments, **_: "1" if arguments[0] == "version" else None
    )
    with pytest.raises(ClusterError, match="No cluster runs"):
        lifecycle.ensure_images(("airflow",))
    state.paths().info.unlink()
    with pytest.raises(ClusterError, match="There is no cluster"):
        lifecycle.ensure_images(("airflow",))


def test_a_plain_up_keeps_the_images_that_the_node_still_has(
    known: ClusterInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = state.paths()
    loaded = {"airflow": "bench.local/airflow@sha256:1", "dagster": "bench.local/dagster@sha256:2"}
    where.info.write_text(replace(known, images=known.images | loaded).to_json())
    monkeypatch.setattr(kind_cluster, "in_node", lambda docker, reference: "airflow" in reference)
    assert lifecycle._loaded_before(DOCKER, where) == {"airflow": loaded["airflow"]}
    where.info.write_text("damaged")
    assert lifecycle._loaded_before(DOCKER, where) == {}
