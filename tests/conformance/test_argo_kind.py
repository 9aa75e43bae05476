"""Argo Workflows on kind."""

from typing import ClassVar

from kubernetes import client

from tests.conformance.suite import Bench, KindConformance


class TestArgoOnKind(KindConformance):
    adapter: ClassVar[str] = "argo"
    configuration: ClassVar[str] = "tuned"
    always_whole: ClassVar[bool] = True
    # The images of Argo Events are compiled at the first event.
    stored_only: ClassVar[frozenset[str]] = frozenset(
        {"schedule_fires", "schedule_overlaps", "event_triggers"}
    )

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        spaces = [item.metadata.name for item in kube.core.list_namespace().items]
        groups = [group.name for group in kube.groups()]
        pods = kube.core.list_namespaced_pod(
            "bookstore-ml", label_selector="workflows.argoproj.io/workflow,!pipeline/runid"
        ).items
        rights = client.RbacAuthorizationV1Api(kube.api).list_namespaced_role("bookstore-ml").items
        return [
            *(name for name in spaces if name in ("argo", "argo-events")),
            *(role.metadata.name for role in rights if "argo" in role.metadata.name),
            *(name for name in groups if name == "argoproj.io" and "kubeflow" not in spaces),
            *(pod.metadata.name for pod in pods),
        ]
