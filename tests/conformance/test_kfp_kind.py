"""Kubeflow Pipelines' backend on kind."""

from typing import ClassVar

from adapters.base import Gap
from adapters.kfp.cluster import NAMESPACE, pipeline_documents
from tests.conformance.overlap import WAITS
from tests.conformance.suite import Bench, KindConformance

TRIGGERS = "https://github.com/kubeflow/pipelines/blob/2.15.0/backend/api/v2beta1/recurring_run.proto"
RUN_API = "https://github.com/kubeflow/pipelines/blob/2.15.0/backend/api/v2beta1/run.proto"
APPROVAL_WANTED = "https://github.com/kubeflow/pipelines/issues/3454"


class TestKfpOnKind(KindConformance):
    adapter: ClassVar[str] = "kfp"
    configuration: ClassVar[str] = "tuned"
    overlap: ClassVar[str] = WAITS
    gaps: ClassVar[tuple[Gap, ...]] = (
        Gap(
            capability="event_triggers",
            kind="never",
            reason=f"a trigger is a cron expression or a period, and nothing else (Trigger, {TRIGGERS})",
        ),
        Gap(
            capability="approval_waits",
            kind="never",
            reason=f"no step waits for a person, asked for since 2020 ({APPROVAL_WANTED}): a run can be terminated "
            f"and retried, not resumed (RunService, {RUN_API})",
        ),
    )

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        spaces = {item.metadata.name for item in kube.core.list_namespace().items}
        groups = {group.name for group in kube.groups()}
        pods = kube.core.list_namespaced_pod("bookstore-ml", label_selector="pipeline/runid").items
        kinds = {
            "ServiceAccount": kube.core.list_namespaced_service_account,
            "Service": kube.core.list_namespaced_service,
            "ConfigMap": kube.core.list_namespaced_config_map,
        }
        there = {
            (kind, item.metadata.name) for kind, call in kinds.items() for item in call("bookstore-ml").items
        }
        types = {"kubeflow.org"} | (set() if "argo" in spaces else {"argoproj.io"})
        return [
            *(spaces & {NAMESPACE}),
            *(groups & types),
            *(pod.metadata.name for pod in pods),
            *(
                document["metadata"]["name"]
                for document in pipeline_documents()
                if (document["kind"], document["metadata"]["name"]) in there
            ),
        ]
