"""KFP's local runner."""

from typing import ClassVar

from adapters.base import Gap
from tests.conformance.suite import LocalConformance

SDK = "https://github.com/kubeflow/pipelines/blob/2.17.0/sdk/python/kfp"
LOCAL = f"{SDK}/local"
APPROVAL_WANTED = "https://github.com/kubeflow/pipelines/issues/3454"
NO_SERVER = (
    f"the local runner is a library: all there is are its runners, and no server ({LOCAL}/__init__.py)"
)


class TestKfpLocal(LocalConformance):
    adapter: ClassVar[str] = "kfp"
    gaps: ClassVar[tuple[Gap, ...]] = (
        Gap(
            capability="fanout",
            kind="never",
            reason="a loop runs two iterations at a time, whatever is asked for "
            f"(ParallelExecutor, {LOCAL}/orchestrator/enhanced_dag_orchestrator.py)",
        ),
        Gap(
            capability="schedule_fires",
            kind="never",
            reason=f"nothing could start a run when it is due: {NO_SERVER}",
        ),
        Gap(
            capability="schedule_overlaps",
            kind="never",
            reason=f"nothing could start a run when it is due: {NO_SERVER}",
        ),
        Gap(
            capability="event_triggers",
            kind="never",
            reason=f"nothing could listen for an event: {NO_SERVER}",
        ),
        Gap(
            capability="approval_waits",
            kind="never",
            reason=f"the SDK has no step that waits for a person ({SDK}/dsl/__init__.py), asked for since 2020 "
            f"({APPROVAL_WANTED})",
        ),
    )
