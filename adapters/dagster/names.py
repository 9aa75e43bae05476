"""What the assets, jobs and locations are called: the one thing that definitions and driver share."""

from adapters.workloads import Member

LOCATION = "bench"
REPOSITORY = "__repository__"
"""What Dagster calls the repository of a module with one `Definitions`."""
PROBES_FILE = "BENCH_DAGSTER_PROBES"
"""Environment variable with the path of a JSON list of jobs such as `chain_40` and `fanout_10`."""
RUN_JOB = "DAGSTER_RUN_JOB_NAME"
"""Environment variable that dagster-k8s sets in the pods of a run: the name of its job."""
STEPS_AS = "BENCH_DAGSTER_STEPS"
"""Environment variable: `pods` for a pod for each step, otherwise processes of the run's."""

STEPS = {
    "ratings": "ingest",
    "split": "preprocess",
    "model": "train",
    "evaluation": "eval",
    "best_candidate": "select",
    "registered_model": "register",
    "registered_candidate": "register",
    "promotion": "promote",
    "drift_report": "monitor",
}
"""Which step of the shared core makes an asset."""


def job_name(workload: str, steps: int) -> str:
    """The job of a workload; chain and fanout have one for each number of steps."""
    return {"pipeline": "recommender", "sweep": "sweep"}.get(workload, f"{workload}_{steps}")


def member_of(step_key: str) -> Member | None:
    """The step behind Dagster's step key: `model`, `candidate_2__model` or `chain_40__probe_7`.

    None for a key that is no step of the shared core.
    """
    prefix, _, name = step_key.rpartition("__")
    kind, _, index = name.rpartition("_")
    if kind == "probe":
        return Member("probe", int(index))
    if name not in STEPS:
        return None
    return Member(STEPS[name], int(prefix.removeprefix("candidate_")) if prefix else None)
