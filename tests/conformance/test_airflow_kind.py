"""Airflow on kind."""

from typing import ClassVar

from adapters.airflow.cluster import MINE, pipeline_documents
from adapters.installation import Installation
from tests.conformance.suite import Bench, KindConformance


class TestAirflowOnKind(KindConformance):
    adapter: ClassVar[str] = "airflow"
    configuration: ClassVar[str] = "tuned"

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        spaces = [item.metadata.name for item in kube.core.list_namespace().items]
        pods = [
            pod
            for label in MINE
            for pod in kube.core.list_namespaced_pod("bookstore-ml", label_selector=label).items
        ]
        objects = [*kube.core.list_namespaced_config_map("bookstore-ml").items]
        objects += kube.core.list_namespaced_service_account("bookstore-ml").items
        ours = {document["metadata"]["name"] for document in pipeline_documents()}
        databases = Installation(bench.scene.where, "airflow").databases()
        return [
            *(name for name in spaces if name == "airflow"),
            *(name for name in databases if name == "airflow"),
            *(pod.metadata.name for pod in pods),
            *(each.metadata.name for each in objects if each.metadata.name in ours),
        ]
