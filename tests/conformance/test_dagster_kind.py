"""Dagster on kind."""

from typing import ClassVar

import pytest

from adapters.base import Gap, Target
from adapters.installation import Installation
from tests.conformance.dagster_metadata import DagsterMetadata
from tests.conformance.suite import Bench, KindConformance
from tests.conformance.test_dagster_local import NO_APPROVAL, Backfills


class TestDagsterOnKind(KindConformance):
    adapter: ClassVar[str] = "dagster"
    gaps: ClassVar[tuple[Gap, ...]] = (NO_APPROVAL,)

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        spaces = [item.metadata.name for item in kube.core.list_namespace().items]
        own = [
            *kube.core.list_namespaced_service_account("bookstore-ml").items,
            *kube.core.list_namespaced_secret("bookstore-ml").items,
            *kube.core.list_namespaced_config_map("bookstore-ml").items,
            *kube.core.list_namespaced_pod("bookstore-ml").items,
        ]
        databases = Installation(bench.scene.where, "dagster").databases()
        return [
            *(name for name in spaces if name == "dagster"),
            *(item.metadata.name for item in own if "dagster" in item.metadata.name),
            *(name for name in databases if name == "dagster"),
        ]


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestDagsterBackfillOnKind(Backfills):
    target: ClassVar[Target] = Target.KIND


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestDagsterMetadataOnKind(DagsterMetadata):
    target: ClassVar[Target] = Target.KIND
