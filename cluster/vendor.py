"""Images that a vendor publishes and nothing here builds: from the node, the local engine or their registry."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster import images, kind_cluster, pins
from cluster.engine import Docker
from cluster.engine import client as engine_client
from cluster.errors import ClusterError
from cluster.stages import Report, Stages, silent
from cluster.state import LOCK_PATIENCE, exclusive, paths, sweep

ANSWER_SECONDS = 10
STAND_IN = "bench.local.stand-in"
"""The label of an image that stands in for a vendor's, and says what it is instead."""


class MissingImages(ClusterError):
    """Some images are nowhere to be had; `names` says which."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            f"No image {', '.join(self.names)}: neither on the node nor in the Docker engine, "
            "and no registry gives it.",
            kept="nothing was changed.",
            remedy="docker pull them on a machine with a registry, docker save, and docker load them here.",
        )


@dataclass(frozen=True)
class VendorImage:
    """An image on the node."""

    reference: str
    """By digest, as a pod names it."""
    stand_in: str
    """What it is where it is not the vendor's; empty where it is."""


def vendor_images(names: Iterable[str], report: Report = silent) -> dict[str, VendorImage]:
    """Have images of these full names (`registry/path:tag`) on the node; quick where they are.

    Raises `MissingImages`, before anything is changed, where some can be had in no way; `ClusterError` where
    there is no cluster.
    """
    where = paths()
    docker = engine_client()
    if docker is None:
        raise ClusterError("There is no Docker engine.", remedy="bench cluster up")
    node = kind_cluster.require_node(docker)
    wanted = list(names)
    absent = [name for name in wanted if not _digest(docker, name)]
    remote = [name for name in absent if docker.image_id(name) is None]
    with ThreadPoolExecutor(max_workers=8) as pool:
        offered = list(pool.map(lambda name: _offered(docker, name), remote))
    if missing := [name for name, found in zip(remote, offered, strict=True) if not found]:
        raise MissingImages(missing)
    if absent:
        with exclusive(where, "up", LOCK_PATIENCE):
            sweep(where)
            stages = Stages(where, report)
            try:
                for name in absent:
                    key = name.rsplit("/", 1)[1].split(":")[0]
                    if name in remote:
                        images.pulled(stages, docker, key, name)
                    kind_cluster.load(stages, docker, key, name, name.rsplit(":", 1)[0], node)
            finally:
                stages.stop()
    return {name: _described(docker, name) for name in wanted}


def _offered(docker: Docker, name: str) -> bool:
    """Whether a registry answers within seconds that it has the image."""
    return docker.ask("manifest", "inspect", name, timeout=ANSWER_SECONDS) is not None


def _node(docker: Docker, *arguments: str) -> str:
    return docker.ask("exec", pins.NODE_NAME, "ctr", "--namespace=k8s.io", *arguments) or ""


def _digest(docker: Docker, name: str) -> str:
    """The digest under which the node has an image, empty where it has none."""
    lines = _node(docker, "images", "ls", f"name=={name}").splitlines()[1:]
    return lines[0].split()[2] if lines else ""


def _described(docker: Docker, name: str) -> VendorImage:
    digest = _digest(docker, name)
    reference = f"{name.rsplit(':', 1)[0]}@{digest}"
    if not kind_cluster.in_node(docker, reference):
        _node(docker, "images", "tag", name, reference)
    return VendorImage(reference, _labels(docker, digest).get(STAND_IN, ""))


def _labels(docker: Docker, digest: str) -> dict[str, str]:
    """The labels in the configuration of an image on the node; of an index, of its first image."""
    document = json.loads(_node(docker, "content", "get", digest) or "{}")
    if entries := document.get("manifests"):
        return _labels(docker, entries[0]["digest"])
    config = json.loads(
        _node(docker, "content", "get", document.get("config", {}).get("digest", digest)) or "{}"
    )
    labels: dict[str, str] = config.get("config", {}).get("Labels") or {}
    return labels
