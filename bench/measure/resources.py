"""What an orchestrator itself uses: CPU, memory and requests to Kubernetes, idle and under a run.

Two looks from outside, one before and one after: nothing is sampled in between, so the measured run is left alone.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import structlog

from adapters.base import BenchError, Component
from adapters.kube import Kube, epoch_seconds, explained
from adapters.local.processes import Servers
from bench.results.records import Usage, Window

log = structlog.get_logger()
Found = TypeVar("Found")

SUMMARY = "/api/v1/nodes/{node}/proxy/stats/summary"
CPU_ONLY, READING = {"only_cpu_and_memory": "true"}, "reading the kubelets' summaries"
REQUESTS = "apiserver_request_total{"
WRITES = (
    'verb="POST"',
    'verb="PUT"',
    'verb="PATCH"',
    'verb="APPLY"',
    'verb="DELETE"',
    'verb="DELETECOLLECTION"',
)

RENEWED_SECONDS, LOOK_SECONDS = 30.0, 1.0
"""How long a counter may take to be there, or to be renewed, and the time between two looks at it."""


@dataclass(frozen=True)
class Reading:
    """Counters of one component at one moment: CPU seconds so far by process or pod, and memory in bytes."""

    at: float
    """Seconds since the epoch, of the counter."""
    cpu: Mapping[str, float]
    memory: int


@dataclass(frozen=True)
class Look:
    """What could be read at one moment; nothing where it could not."""

    at: float
    parts: Mapping[str, Reading] = field(default_factory=dict)
    requests: int | None = None
    writes: int | None = None

    @property
    def readable(self) -> bool:
        """Whether anything could be read."""
        return bool(self.parts) or self.requests is not None


def between(before: Look, after: Look, components: Iterable[Component]) -> Window:
    """What was used from one look to the next.

    A process or pod that was not there at both is left out: on this machine those are the steps' own. A component
    whose counter was not renewed meanwhile is left out too.
    """
    parts = []
    for component in components:
        first, second = before.parts.get(component.name), after.parts.get(component.name)
        if first is None or second is None or second.at <= first.at:
            continue
        stayed = first.cpu.keys() & second.cpu.keys()
        parts.append(
            Usage(
                component=component.name,
                role=component.role,
                cpu_seconds=round(sum(second.cpu[one] - first.cpu[one] for one in stayed), 6),
                seconds=round(second.at - first.at, 3),
                memory_bytes=second.memory,
            )
        )
    return Window(
        seconds=round(after.at - before.at, 3),
        parts=tuple(parts),
        api_requests=_difference(before.requests, after.requests),
        api_writes=_difference(before.writes, after.writes),
    )


def watched(look: Callable[[], Look], components: Sequence[Component], seconds: float) -> Window:
    """What is used in `seconds` from now, and until the counters that are there have been renewed.

    A kubelet does not have a new pod at once, and renews its counters when it likes: both are waited for, 30 s each.
    """
    before = _until(look, lambda found: not found.readable or len(found.parts) >= len(components))
    time.sleep(seconds)
    return _until(
        lambda: between(before, look(), components), lambda found: len(found.parts) >= len(before.parts)
    )


def _until(read: Callable[[], Found], enough: Callable[[Found], bool]) -> Found:
    """What is read once it is enough, or time is up."""
    end = time.monotonic() + RENEWED_SECONDS
    while not enough(found := read()) and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
    return found


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def of_cluster(kube: Kube, components: Iterable[Component]) -> Look:
    """By the kubelets' summaries and the API server's own counter of requests; what is refused is left out."""
    wanted = list(components)
    try:
        requests, writes = counted(kube.get("/metrics", {}, "reading the API server's metrics"))
        summaries = []
        if wanted:
            with explained("listing the nodes"):
                nodes = [node.metadata.name for node in kube.core.list_node().items]
            summaries = [json.loads(kube.get(SUMMARY.format(node=name), CPU_ONLY, READING)) for name in nodes]
        parts = {}
        for component in wanted:
            with explained(f"looking for {component.name}"):
                pods = kube.core.list_namespaced_pod(component.namespace, label_selector=component.selector)
            if (reading := pods_usage(summaries, {pod.metadata.uid for pod in pods.items})) is not None:
                parts[component.name] = reading
    except BenchError as error:
        _say_once(error.message)
        return Look(time.time())
    return Look(time.time(), parts, requests, writes)


@cache
def _say_once(why: str) -> None:
    log.warning("what the orchestrator uses could not be read", why=why)


def counted(metrics: str) -> tuple[int, int]:
    """All requests and those that write, from the API server's Prometheus text."""
    total = writes = 0
    for line in metrics.splitlines():
        if line.startswith(REQUESTS):
            value = int(float(line.rsplit(" ", 1)[1]))
            total += value
            writes += value if any(verb in line for verb in WRITES) else 0
    return total, writes


def pods_usage(summaries: Iterable[Mapping[str, Any]], uids: set[str]) -> Reading | None:
    """The counters of these pods together; None where no kubelet has any of them yet."""
    cpu, memory, at = {}, 0, 0.0
    for summary in summaries:
        for pod in summary.get("pods", ()):
            uid, used = pod["podRef"]["uid"], pod.get("cpu", {})
            if uid in uids and "usageCoreNanoSeconds" in used:
                cpu[uid] = used["usageCoreNanoSeconds"] / 1e9
                memory += pod.get("memory", {}).get("workingSetBytes", 0)
                at = max(at, epoch_seconds(used["time"]) or 0.0)
    return Reading(at, cpu, memory) if cpu else None


def of_servers(servers: Servers, components: Iterable[Component]) -> Look:
    """By the processes of each server and of all that it started."""
    parts = {}
    for component in components:
        if (used := servers.used(component.selector)) is not None:
            parts[component.name] = Reading(time.time(), *used)
    return Look(time.time(), parts)
