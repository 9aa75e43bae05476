"""Argo Workflows on kind."""

from typing import ClassVar

import pytest

from adapters.base import Target
from tests.conformance.suite import Bench, Conformance


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestArgoOnKind(Conformance):
    adapter: ClassVar[str] = "argo"
    target: ClassVar[Target] = Target.KIND
    configuration: ClassVar[str] = "tuned"

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        spaces = [item.metadata.name for item in kube.core.list_namespace().items]
        groups = [group.name for group in kube.groups()]
        pods = kube.core.list_namespaced_pod("bookstore-ml", label_selector="bench.local/run-id").items
        return [
            *(name for name in spaces if name == "argo"),
            *(name for name in groups if name == "argoproj.io"),
            *(pod.metadata.name for pod in pods if pod.metadata.name.startswith("conf-")),
        ]
