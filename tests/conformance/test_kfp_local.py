"""KFP's local runner."""

from typing import ClassVar

from adapters.base import Gap
from tests.conformance.suite import LocalConformance

RUNNER = "https://github.com/kubeflow/pipelines/blob/sdk-2.17.0/sdk/python/kfp/local/orchestrator/enhanced_dag_orchestrator.py"


class TestKfpLocal(LocalConformance):
    adapter: ClassVar[str] = "kfp"
    gaps: ClassVar[tuple[Gap, ...]] = (
        Gap(
            capability="fanout",
            kind="never",
            reason=f"a loop runs two iterations at a time, whatever is asked for (ParallelExecutor, {RUNNER})",
        ),
    )
