"""How far the clocks of a cluster's nodes are from this machine's: asked over a pod on each, as NTP asks a server."""

import time
from collections.abc import Callable
from typing import Any

from adapters import podspec
from adapters.base import BenchError
from adapters.kube import Document, Gone, explained
from adapters.targets import PIPELINE_NAMESPACE, ClusterTarget, open_nodes

ASKED = 20
"""Times per node; the quickest answer counts."""
READY_SECONDS = 120
ANSWER = "import sys, time\nfor _ in sys.stdin:\n    print(time.time_ns(), flush=True)"
"""What runs in the pod: the node's wall clock for every line that it is sent."""


def offsets(where: ClusterTarget) -> str:
    """Each node's clock minus this machine's, such as `a +0.2 ± 1.5 ms; b -0.1 ± 1.4 ms`.

    The bound is half the time that the quickest answer took. Where a node could not be asked, it says why.
    """
    try:
        names = [node.metadata.name for node in open_nodes(where.kube)]
    except BenchError as error:
        return f"not measured: {error.message}"
    return "; ".join(f"{name} {_told(where, name)}" for name in names)


def _told(where: ClusterTarget, node: str) -> str:
    pod = _pod(where, node, f"bench-clock-{time.time_ns()}")
    name, core = pod["metadata"]["name"], where.kube.core
    try:
        with explained(f"asking {node} for its clock"):
            core.create_namespaced_pod(PIPELINE_NAMESPACE, pod)
            try:
                _running(where, name)
                ask = _line(where, name)
                nanoseconds, bound = min((_once(ask) for _ in range(ASKED)), key=lambda pair: pair[1])
            finally:
                core.delete_namespaced_pod(name, PIPELINE_NAMESPACE, grace_period_seconds=0)
    except (BenchError, Gone, ValueError) as error:
        return f"not measured: {getattr(error, 'message', error)}"
    return f"{nanoseconds / 1e6:+.1f} ± {bound / 1e6:.1f} ms"


def _once(ask: Callable[[], int]) -> tuple[float, float]:
    """Its clock minus ours half way between question and answer, and by how much that may be wrong; nanoseconds."""
    before, monotonic = time.time_ns(), time.monotonic_ns()
    theirs = ask()
    half = (time.monotonic_ns() - monotonic) / 2
    return theirs - (before + half), half


def _line(where: ClusterTarget, name: str) -> Callable[[], int]:
    """A conversation with the pod: each call asks for the time there."""
    talk = where.kube.talk(PIPELINE_NAMESPACE, name, ["python", "-u", "-c", ANSWER])

    def ask() -> int:
        talk.write_stdin("\n")
        return int(talk.readline_stdout(timeout=30) or "")

    return ask


def _running(where: ClusterTarget, name: str) -> None:
    listing = where.kube.core.list_namespaced_pod
    for _, pod in where.kube.follow(listing, name, READY_SECONDS, namespace=PIPELINE_NAMESPACE):
        if pod.get("status", {}).get("phase") == "Running":
            return
    raise BenchError(f"{name} did not run within {READY_SECONDS} s", "bench cluster status")


def _pod(where: ClusterTarget, node: str, name: str) -> Document:
    """A pod bound to the node, as restricted as a step's, that ends by itself."""
    main: dict[str, Any] = {
        "name": "main",
        "image": where.image("step"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "300"],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": podspec.CONTAINER_SECURITY,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": PIPELINE_NAMESPACE},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": podspec.POD_SECURITY,
            "containers": [main],
        },
    }
