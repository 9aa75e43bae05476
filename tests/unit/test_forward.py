"""Which pod a connection is carried to."""

from datetime import UTC, datetime

import pytest
from kubernetes.client import V1ObjectMeta, V1Pod, V1PodCondition, V1PodStatus

from adapters.forward import chosen


def pod(name: str, phase: str = "Running", ready: str = "True", *, ending: bool = False) -> V1Pod:
    return V1Pod(
        metadata=V1ObjectMeta(name=name, deletion_timestamp=datetime.now(UTC) if ending else None),
        status=V1PodStatus(phase=phase, conditions=[V1PodCondition(type="Ready", status=ready)]),
    )


def test_a_ready_pod_is_taken_before_one_that_is_busy() -> None:
    assert chosen([pod("busy", ready="False"), pod("ready")]) == "ready"
    assert chosen([pod("busy", ready="False")]) == "busy", "slow is not gone"


def test_one_that_is_ending_or_not_started_is_not_taken() -> None:
    with pytest.raises(LookupError):
        chosen([pod("old", ending=True), pod("new", phase="Pending", ready="False")])
