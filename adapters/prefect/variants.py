"""Variants of the workloads that a run can ask for; its process learns of them from its environment."""

from adapters.base import RunRequest

AS_SHIPPED = "BENCH_RETRIES_AS_SHIPPED"
"""Set where tasks have no retry settings of ours."""
APPROVAL = "BENCH_APPROVAL"
"""Set where the pipeline waits before promote."""
STORAGE = "bench"
"""The block on a cluster that says where flows leave results for others to read."""
STORE = {"PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": f"remote-file-system/{STORAGE}"}


def environment(request: RunRequest) -> dict[str, str]:
    """What a run's process is told; nothing for a plain run."""
    asked = {AS_SHIPPED: request.retries_as_shipped, APPROVAL: request.approval}
    return {name: "1" for name, wanted in asked.items() if wanted}
