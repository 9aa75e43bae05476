"""Kubeflow Pipelines: its backend on Kubernetes, its SDK's local runner on this machine."""

from adapters.base import Configuration, Driver, Runtime, Target, Unsupported
from adapters.kfp import cluster, local
from adapters.kfp.api import KfpClusterDriver
from adapters.kfp.cluster import KfpClusterRuntime
from adapters.kfp.local import KfpLocalDriver, KfpLocalRuntime
from adapters.local.target import connect_local
from adapters.targets import connect

CONFIGURATIONS = {Target.LOCAL: local.CONFIGURATIONS, Target.KIND: cluster.CONFIGURATIONS}


class KfpAdapter:
    """Kubeflow Pipelines: on Kubernetes a step is two pods, on this machine a process."""

    name = "kfp"
    title = "Kubeflow Pipelines (on this machine: its local runner, without backend and metadata store)"

    def targets(self) -> tuple[Target, ...]:
        """This machine, and kind."""
        return tuple(CONFIGURATIONS)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """Locally one: as shipped, each task would get a new environment, without our code."""
        return CONFIGURATIONS.get(target, ())

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def runtime(self, target: Target) -> Runtime:
        """See `Adapter.runtime`."""
        self._known(target)
        return (
            KfpLocalRuntime(connect_local()) if target is Target.LOCAL else KfpClusterRuntime(connect(target))
        )

    def driver(self, target: Target) -> Driver:
        """See `Adapter.driver`."""
        self._known(target)
        return (
            KfpLocalDriver(connect_local()) if target is Target.LOCAL else KfpClusterDriver(connect(target))
        )

    def _known(self, target: Target) -> None:
        if target not in CONFIGURATIONS:
            raise Unsupported(f"kfp is not wired for {target.value} yet", "bench run --target kind")
