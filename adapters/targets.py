"""Where a target is: its cluster, its images, its namespaces."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cluster
from adapters import podspec
from adapters.base import BenchError, Target, TargetUnreachable, Unsupported
from adapters.kube import Kube, explained

PIPELINE_NAMESPACE = "bookstore-ml"
SYSTEM_NAMESPACE = "bench-system"


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

        Raises `BenchError` where it cannot be made.
        """
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

    Raises `Unsupported` for `local`, `TargetUnreachable` where there is no cluster or it does not answer.
    """
    if target is Target.LOCAL:
        raise Unsupported("this needs a Kubernetes cluster", "bench run --target kind")
    if target is Target.K8S:
        raise Unsupported(
            "the k8s target is not wired yet: images would have to come from a registry of yours",
            "bench run --target kind",
        )
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
    }
    return ClusterTarget(target, kube, dict(info.images), facts)
