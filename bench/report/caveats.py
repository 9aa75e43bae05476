"""What a reader must know before the numbers: bias, limits, and what stands in for what."""

from collections.abc import Sequence

from bench.analysis.cells import Cell

BIAS = (
    "The authors of this benchmark wrote every adapter, chose the workloads and chose which knobs to turn. No "
    "vendor has reviewed them. An orchestrator the authors know better is likely to be driven better; where a "
    "row looks wrong to you, its raw rows and its adapter's README are where to look.",
)

LIMITS = (
    "Kubernetes' timestamps are truncated to whole seconds. A pod's creation is taken from the watch's arrival, "
    "which follows it by milliseconds; its timestamp bounds it. A container's start is known to a second only. "
    "`overhead` and `user` come from the ledger alone. Single parts below a second should be read with their "
    "bounds.",
    "A container's start is noted up to seconds after its process was forked, so `start` can come out negative "
    "and `create` too long by as much; their bounds allow for it, and their sum is sound. A process older than "
    "its pod is an error of the record.",
    "Makespans are from submission to the terminal state as observed by the harness; medians are over runs that "
    "succeeded and were verified. Failures and timeouts are not in the medians but in columns and a section of "
    "their own: where there are any, the median is of what was left.",
    "Intervals of medians, of ratios and of differences within blocks are order statistics: distribution-free, with "
    "the level that n attains. Those of other differences invert the rank test; that level holds where one "
    "distribution is the other shifted. Those of the cost of a step are a bootstrap's, their 95 % nominal. None is "
    "widened for how many stand beside it, as p is. They take the runs of a row for alike: where these are of several "
    "plans, which is said beside n, what differs from one day to another is in their spread and not in their level. "
    "All speak of the runs on this machine at that time, not of other machines.",
    "A fault that fails a step strikes as its code begins (a pod is deleted within a quarter of a second of that): "
    "where an orchestrator looks at a run every so many seconds, the wait that follows is that of one point between "
    "two looks, not their spread.",
    "Numbers of small steps are the cost of orchestration, not of your pipeline: see the section on the "
    "overhead's share.",
)

SINGLE_NODE = {
    "kind": "One kind cluster on one machine: control plane, orchestrator, its database and the steps share "
    "its cores and disk. Queueing for other nodes, image pulls and network distance are not in these numbers.",
    "local": "Server and worker processes on one machine, without Kubernetes.",
}

PROXIES = {
    "pipeline": (
        "`promote` stands in for a production rollout: the safe order (compare-and-swap on the serving process) "
        "unless a row says promote_order=naive, which stands in for annotate-then-restart.",
        "The serving process that `promote` and `monitor` talk to is a small HTTP service of ours, not a "
        "production model server.",
        "`ingest` generates 200 books' ratings unless a row names a dataset_uri: a stand-in for a real source.",
        "`register` writes to an MLflow registry installed for the benchmark.",
        "`monitor` checks one model once: a stand-in for continuous monitoring.",
    ),
    "chain": ("A chain's steps compute a Fibonacci number: a stand-in for steps that do nearly nothing.",),
    "fanout": (
        "A fan-out's steps sleep: a stand-in for parallel work, so that contention does not pass for user time.",
    ),
    "sweep": ("A sweep's four candidates differ in seed and k: a stand-in for a hyperparameter search.",),
}
STORE_PROXY = {
    "s3": "Artifacts travel through an S3-compatible store inside the cluster: a stand-in for a cloud's object store.",
    "volume": "Artifacts travel through a shared volume: a stand-in that does not survive a second node.",
}
UNLIKE = (
    "They are not the same product: Argo's is its controller alone, without the optional API server, UI and workflow "
    "archive; Airflow and Dagster have an API server with the UI, Prefect one without it, and KFP's API server and "
    "controllers are without its UI and caches."
)
"""Of the servers that an orchestrator's adapter deploys."""


def limits(found: Sequence[Cell]) -> list[str]:
    """What these results cannot say, the targets' own first."""
    targets = sorted({cell.key.target for cell in found})
    return [*(SINGLE_NODE[target] for target in targets if target in SINGLE_NODE), *LIMITS]


def proxies(found: Sequence[Cell]) -> list[str]:
    """What stood in for something real in these runs."""
    stepped = [cell for cell in found if cell.key.task != "nothing"]
    workloads = sorted({cell.key.workload for cell in stepped})
    variants = sorted({cell.key.variant for cell in stepped})
    named = [text for workload in workloads for text in PROXIES.get(workload, ())]
    stores = [STORE_PROXY[variant] for variant in variants if variant in STORE_PROXY]
    images = {(cell.key.orchestrator, text) for cell in found for text in cell.stand_ins}
    return [*named, *stores, *(f"{name} ran with a stand-in for {text}." for name, text in sorted(images))]
