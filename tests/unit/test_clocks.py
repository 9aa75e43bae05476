"""How far a node's clock is from ours: known to half of what an answer took, and never silently left out."""

import time
from typing import Any

import pytest

from adapters.base import BenchError, Target
from adapters.podspec import is_restricted
from adapters.targets import ClusterTarget
from bench.measure import clocks
from bench.measure.clocks import _once, _pod

WHERE = ClusterTarget(Target.K8S, None, {"step": "step@sha256:0"}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead", [-3_000_000_000, 0, 250_000_000])
def test_an_offset_is_within_half_of_what_the_answer_took(ahead: int) -> None:
    def ask() -> int:
        time.sleep(0.004)
        theirs = time.time_ns() + ahead
        time.sleep(0.001)
        return theirs

    found, bound = _once(ask)
    assert bound >= 2_500_000
    assert abs(found - ahead) <= bound + 1000


def test_a_node_that_cannot_be_asked_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Any) -> Any:
        raise BenchError("not allowed: listing the nodes")

    monkeypatch.setattr(clocks, "open_nodes", refused)
    assert clocks.offsets(WHERE) == "not measured: not allowed: listing the nodes"


def test_the_pod_that_is_asked_is_bound_to_its_node_and_as_restricted_as_a_steps() -> None:
    pod = _pod(WHERE, "a", "bench-clock-0")
    assert pod["spec"]["nodeName"] == "a" and is_restricted(pod)
    assert pod["spec"]["containers"][0]["image"] == WHERE.image("step")
