"""The scheduler's cluster policies."""

from typing import Any


def pod_mutation_hook(pod: Any) -> None:
    """Label a task's pod with its run, as the harness looks for it."""
    run_id = (pod.metadata.annotations or {}).get("run_id")
    if run_id:
        pod.metadata.labels = {**(pod.metadata.labels or {}), "bench.local/run-id": run_id}
