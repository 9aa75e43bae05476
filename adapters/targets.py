"""Where a target is: its cluster, its images, its namespaces."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.utils.quantity import parse_quantity

import cluster
from adapters import podspec
from adapters.base import BenchError, Component, Target, TargetUnreachable, TargetUnusable, Unsupported
from adapters.kube import Kube, explained

PIPELINE_NAMESPACE = "bookstore-ml"
SYSTEM_NAMESPACE = "bench-system"
PLATFORM_DATABASE = Component(
    name="postgres", namespace=SYSTEM_NAMESPACE, selector="app=postgres", role="database"
)
"""The platform's, which several orchestrators and the model registry share."""


@dataclass(frozen=True)
class ClusterTarget:
    """A reachable cluster with the images to use on it, by digest."""

    target: Target
    kube: Kube
    images: dict[str, str]
    facts: Mapping[str, str]

    def image(self, key: str) -> str:
        """The reference of an image by digest. Raises `BenchError` where the cluster has none of that name."""
        try:
            return self.images[key]
        except KeyError:
            raise BenchError(f"the cluster has no image '{key}'", "bench cluster up") from None

    def ensure(self, orchestrator: str) -> None:
        """Have the orchestrator's image on the cluster as the code is now; quick where it is.

        On a cluster of somebody else's it is what `bench cluster install` put there. Raises `BenchError` where there is
        none, or it cannot be made.
        """
        if self.target is Target.K8S:
            if orchestrator not in self.images:
                raise BenchError(
                    f"the cluster has no image of {orchestrator}",
                    f"bench cluster install --with {orchestrator}, and the options as before",
                )
            return
        try:
            self.images.update(cluster.ensure_images((orchestrator,)).images)
        except cluster.ClusterError as wrong:
            raise BenchError(wrong.what, wrong.remedy, wrong.kept) from wrong

    @property
    def step_digest(self) -> str:
        """`sha256:…` of the step image."""
        return self.image("step").rsplit("@", 1)[1]

    def logs(self, run_id: str, step: str) -> str:
        """What the pods of a run's step printed, as long as they exist, one after another."""
        where = f"{podspec.RUN_LABEL}={run_id},{podspec.STEP_LABEL}={step}"
        core = self.kube.core
        with explained(f"reading the logs of {step}"):
            pods = core.list_namespaced_pod(PIPELINE_NAMESPACE, label_selector=where).items
            return "".join(
                str(core.read_namespaced_pod_log(pod.metadata.name, PIPELINE_NAMESPACE, container="main"))
                for pod in pods
            )


def connect(target: Target) -> ClusterTarget:
    """The cluster behind `target`.

    For `k8s`, the one of $BENCH_CONTEXT, or the only one with an installation. Raises `Unsupported` for `local`,
    `TargetUnreachable` where there is no cluster or it does not answer.
    """
    if target is Target.LOCAL:
        raise Unsupported("this needs a Kubernetes cluster", "bench run --target kind")
    if target is Target.K8S:
        return _elsewhere()
    try:
        info = cluster.info()
    except cluster.ClusterError as missing:
        raise TargetUnreachable(missing.what, missing.remedy) from missing
    # Another identity on the same cluster, such as one with fewer rights.
    kubeconfig = Path(os.environ.get("BENCH_KUBECONFIG") or info.kubeconfig)
    if not kubeconfig.is_file():
        raise TargetUnreachable(f"there is no kubeconfig at {kubeconfig}", "bench cluster up")
    kube = Kube(kubeconfig)
    facts = {
        "kubernetes": kube.version(),
        "kind": info.kind_version,
        "image_origin": info.origin,
        "oci_wrapper": str(info.oci_wrapper).lower(),
        **({"code": info.code} if info.code else {}),
    }
    return ClusterTarget(target, kube, dict(info.images), facts)


def installed() -> cluster.Installed:
    """See `cluster.installed`. Raises `TargetUnreachable` where there is none, or no telling which."""
    try:
        return cluster.installed()
    except cluster.ClusterError as missing:
        raise TargetUnreachable(missing.what, missing.remedy, missing.kept) from missing


def _elsewhere() -> ClusterTarget:
    """A cluster of somebody else's, with what `bench cluster install` put there."""
    found = installed()
    try:
        kube = Kube(Path(os.environ.get("BENCH_KUBECONFIG") or found.kubeconfig), found.context)
        facts = {"kubernetes": kube.version(), "nodes": _nodes(kube), "storage_class": found.storage_class}
        facts |= {"code": found.code} if found.code else {}
    except TargetUnreachable as gone:
        raise TargetUnreachable(
            f"context {found.context}: {gone.message}", f"kubectl --context {found.context} get nodes"
        ) from gone
    return ClusterTarget(Target.K8S, kube, dict(found.images), facts)


def _nodes(kube: Kube) -> str:
    """What the nodes that pods may go to are, such as `2 × 4 CPU, 16 GiB, amd64`; `unknown` where we may not look."""
    try:
        nodes = open_nodes(kube)
    except TargetUnreachable:
        raise
    except TargetUnusable:
        return "unknown"
    shapes = Counter(
        f"{node.status.capacity['cpu']} CPU, {_gibibytes(node.status.capacity['memory'])} GiB, "
        f"{node.status.node_info.architecture}"
        for node in nodes
    )
    return "; ".join(f"{count} × {shape}" for shape, count in sorted(shapes.items()))


def open_nodes(kube: Kube) -> list[Any]:
    """The nodes that any pod may go to."""
    with explained("listing the nodes"):
        nodes = kube.core.list_node().items
    closed = ("NoSchedule", "NoExecute")
    return [node for node in nodes if not any(each.effect in closed for each in node.spec.taints or ())]


def _gibibytes(quantity: str) -> int:
    return round(float(parse_quantity(quantity)) / 2**30)
