"""Variants of the workloads that a run can ask for; its process learns of them from its environment."""

from adapters.base import RunRequest

AS_SHIPPED = "BENCH_RETRIES_AS_SHIPPED"
"""Set where tasks have no retry settings of ours."""
APPROVAL = "BENCH_APPROVAL"
"""Set where the pipeline waits before promote."""
ASSETS = "BENCH_ASSETS"
"""Set where steps are materializations of assets."""
IN_ASSETS = "assets"
"""The configuration in which they are."""
KEYS = {
    "ingest": "bookstore://dataset",
    "preprocess": "bookstore://split",
    "train": "bookstore://model",
    "eval": "bookstore://metrics",
    "register": "bookstore://registered-model",
    "promote": "bookstore://served-model",
}
"""What each step makes, as an asset. A key is fixed before its step runs; where this one lies is known after."""
STORAGE = "bench"
"""The block on a cluster that says where flows leave results for others to read."""
STORE = {"PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": f"remote-file-system/{STORAGE}"}


def environment(request: RunRequest) -> dict[str, str]:
    """What a run's process is told; nothing for a plain run."""
    asked = {
        AS_SHIPPED: request.retries_as_shipped,
        APPROVAL: request.approval,
        ASSETS: request.configuration == IN_ASSETS,
    }
    return {name: "1" for name, wanted in asked.items() if wanted}
