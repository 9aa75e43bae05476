"""Prefect on kind."""

from typing import ClassVar

import pytest

from adapters.base import Target
from adapters.installation import Installation
from tests.conformance.prefect_assets import PrefectAssets
from tests.conformance.suite import Bench, KindConformance


class TestPrefectOnKind(KindConformance):
    adapter: ClassVar[str] = "prefect"
    configuration: ClassVar[str] = "pods-tuned"

    def leftovers(self, bench: Bench) -> list[str]:
        kube = bench.scene.where.kube
        core = kube.core
        spaces = [item.metadata.name for item in core.list_namespace().items]
        ours = [
            *core.list_namespaced_service_account("bookstore-ml").items,
            *core.list_namespaced_secret("bookstore-ml").items,
            *core.list_namespaced_pod(
                "bookstore-ml", label_selector="app.kubernetes.io/managed-by=prefect"
            ).items,
        ]
        databases = Installation(bench.scene.where, "prefect").databases()
        return [
            *(name for name in [*spaces, *databases] if name == "prefect"),
            *(
                item.metadata.name
                for item in ours
                if "prefect" in item.metadata.name or item.metadata.name.startswith("conf-")
            ),
        ]


@pytest.mark.kind
@pytest.mark.usefixtures("cluster_is_up")
class TestPrefectAssetsOnKind(PrefectAssets):
    target: ClassVar[Target] = Target.KIND
