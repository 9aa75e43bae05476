"""What the assets, jobs and locations are called: the one thing that definitions and driver share."""

from adapters.workloads import Member

LOCATION = "bench"
REPOSITORY = "__repository__"
"""What Dagster calls the repository of a module with one `Definitions`."""
RUN_JOB = "DAGSTER_RUN_JOB_NAME"
"""Environment variable that dagster-k8s sets in the pods of a run: the name of its job."""
STEPS_AS = "BENCH_DAGSTER_STEPS"
"""Environment variable: `pods` for a pod for each step, otherwise processes of the run's."""
METADATA = "metadata"
"""The configuration in which assets say what their steps left."""
METADATA_TAG = "bench/metadata"
"""The tag of a run in which they do."""
PARAMETERS = "parameters/"
"""What a parameter's name begins with, among the metadata of a model."""

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


FIXED_JOBS = ("recommender", "sweep")
"""The jobs that the code location always has."""
DAILY = "daily_recommender"
"""The job with a partition for each day, and the prefix of its assets' keys."""
AS_SHIPPED = "_as_shipped"


def job_name(workload: str, steps: int, as_shipped: bool = False) -> str:
    """The job of a workload; chain and fanout have one for each number of steps.

    Without the retries that are ours it is another job of the same assets.
    """
    name = {"pipeline": "recommender", "sweep": "sweep"}.get(workload, f"{workload}_{steps}")
    return name + AS_SHIPPED if as_shipped else name


def plain(job: str) -> str:
    """The job of the same assets with our retries."""
    return job.removesuffix(AS_SHIPPED)


def run_of_day(run_id: str, day: str) -> str:
    """The id of a backfill's run for one day."""
    return f"{run_id}-{day}"


def candidate_in(prefix: str) -> int | None:
    """Which candidate of the sweep an asset or step with this prefix is of, if any."""
    before, _, index = prefix.partition("_")
    return int(index) if before == "candidate" else None


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
    return Member(STEPS[name], candidate_in(prefix))
