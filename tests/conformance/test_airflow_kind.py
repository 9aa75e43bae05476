"""Airflow on kind."""

from typing import ClassVar

import pytest

from adapters.airflow.cluster import MINE
from adapters.airflow.documents import pipeline_documents
from adapters.base import Target
from adapters.installation import Installation
from tests.conformance.airflow_only import Backfill, OpenLineage
from tests.conformance.suite import Bench, Deployed, KindConformance, did_its_work, fault


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


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestAirflowPodOperator(Deployed):
    """The configuration whose steps are pods of their own; what it shares with the others is asked above."""

    adapter: ClassVar[str] = "airflow"
    target: ClassVar[Target] = Target.KIND
    configuration: ClassVar[str] = "kpo"

    def test_a_failed_step_is_tried_in_another_pod(self, bench: Bench) -> None:
        ran = bench.run("chain", steps=1, fibo=12, fault=fault("probe", "exception", 1))
        did_its_work(ran, "airflow", Target.KIND)
        assert ran.outputs("probe")["value"] == "144"
        assert [each.attempt for each in ran.timeline.attempts] == [1, 2]
        pods = [each["pod_name"] for each in ran.events("start")]
        assert [each.pod_name for each in ran.timeline.attempts] == pods
        assert len(set(pods)) == 2


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestAirflowBackfill(Backfill):
    target: ClassVar[Target] = Target.KIND


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestAirflowOpenLineage(OpenLineage):
    target: ClassVar[Target] = Target.KIND
