"""The scheduler's cluster policies."""

from typing import Any

from adapters.airflow.dags import run_of


def pod_mutation_hook(pod: Any) -> None:
    """Label a task's pod with its run, as the harness looks for it."""
    annotations = pod.metadata.annotations or {}
    if "run_id" in annotations:
        run_id = run_of(annotations.get("dag_id", ""), annotations["run_id"])
        pod.metadata.labels = {**(pod.metadata.labels or {}), "bench.local/run-id": run_id}
