"""Argo Workflows on kind."""

from typing import ClassVar

from tests.conformance.suite import Bench, KindConformance


class TestArgoOnKind(KindConformance):
    adapter: ClassVar[str] = "argo"
    configuration: ClassVar[str] = "tuned"
    always_whole: ClassVar[bool] = True

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        spaces = [item.metadata.name for item in kube.core.list_namespace().items]
        groups = [group.name for group in kube.groups()]
        pods = kube.core.list_namespaced_pod(
            "bookstore-ml", label_selector="workflows.argoproj.io/workflow,!pipeline/runid"
        ).items
        return [
            *(name for name in spaces if name == "argo"),
            *(name for name in groups if name == "argoproj.io" and "kubeflow" not in spaces),
            *(pod.metadata.name for pod in pods),
        ]
