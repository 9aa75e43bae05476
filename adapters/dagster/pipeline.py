"""The workloads as Dagster users would write them: assets, an asset check as the gate, a job for each workload."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetIn,
    AssetKey,
    AssetOut,
    AssetsDefinition,
    AssetSelection,
    AssetSensorDefinition,
    AssetSpec,
    ConfigurableIOManager,
    ConfigurableResource,
    DailyPartitionsDefinition,
    Definitions,
    EventLogEntry,
    ExecutorDefinition,
    Failure,
    InitResourceContext,
    InputContext,
    Output,
    OutputContext,
    ResourceDependency,
    RetryPolicy,
    RunRequest,
    ScheduleDefinition,
    SensorEvaluationContext,
    asset,
    asset_sensor,
    define_asset_job,
    map_asset_specs,
    multi_asset,
    schedule,
)
from pydantic import PrivateAttr

from adapters.dagster.names import (
    DAILY,
    FIXED_JOBS,
    METADATA_TAG,
    PARAMETERS,
    RUN_JOB,
    STEPS_AS,
    candidate_in,
    plain,
    run_of_day,
)
from adapters.dagster.placed import (
    NOTHING,
    PLACED_FILE,
    Placed,
    Trigger,
    delivery,
    of_day,
    run_config,
    trigger_name,
)
from adapters.workloads import SWEEP
from core.artifacts import join, read, write
from core.config import PipelineConfig, load_config
from core.entry import run_step
from core.errors import BadInput
from core.settings import Settings

Facts = dict[str, str]
"""What a step leaves: addresses, digests and numbers. An asset is the file behind an address."""
RETRY = RetryPolicy(max_retries=2)
"""For each step of a job that has it; Dagster ships none."""
PARTITION = "dagster/partition"
"""The tag of a run of one partition."""
FIRST_DAY = "2025-01-01"


class Run(ConfigurableResource):  # type: ignore[misc, type-arg, unused-ignore]
    """One run of the recommender, as its run config describes it; the runs of a backfill share theirs."""

    run_id: str
    parameters: dict[str, str] = {}  # noqa: RUF012 - a pydantic field
    _day: str = PrivateAttr(default="")
    _with_metadata: bool = PrivateAttr(default=False)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Learn which partition the run is of, if any, and whether its assets have metadata."""
        tags = context.run.tags if context.run else {}
        self._day = tags.get(PARTITION, "")
        self._with_metadata = METADATA_TAG in tags

    @property
    def own_id(self) -> str:
        """The run's id; in a backfill each day has its own."""
        return run_of_day(self.run_id, self._day) if self._day else self.run_id

    def config(self, **own: object) -> PipelineConfig:
        """`own` goes before what the day says, and that before the run's parameters. Raises `BadInput`."""
        settings = {**self.parameters, **(of_day(self._day) if self._day else {}), **own}
        return load_config("{}", [f"{key}={value}" for key, value in settings.items()])

    def metadata(self, key: AssetKey, facts: Facts) -> Facts:
        """What is said of an asset: all that its step left, and of a model the parameters that it was trained with."""
        if not self._with_metadata:
            return {}
        config: Mapping[str, object] = {}
        if key.path[-1] == "model":
            index = candidate_in(key.path[0])
            own = {} if index is None else SWEEP[index]
            config = self.config(**own).model_dump(mode="json", exclude={"fault"})
        return {**facts, **{f"{PARAMETERS}{name}": str(value) for name, value in config.items()}}

    def step(self, name: str, *inputs: Facts, index: int | None = None, **own: object) -> Facts:
        """Run a step of the shared core; for `own` see `config`.

        Raises `Failure`, not to be retried, for input that cannot work.
        """
        try:
            result = run_step(
                name,
                run_id=self.own_id,
                config=self.config(**own),
                inputs={key: value for facts in inputs for key, value in facts.items()},
                index=index,
            )
        except BadInput as error:
            raise Failure(str(error), allow_retries=False) from error
        print(json.dumps({"step": result.step, "outputs": dict(result.outputs)}), flush=True)
        return dict(result.outputs)


class RunFolder(ConfigurableIOManager):  # type: ignore[misc, unused-ignore]
    """Keeps what steps leave beside the run's artifacts: two runs at once never see each other's."""

    run: ResourceDependency[Run]

    def handle_output(self, context: OutputContext, obj: Facts) -> None:
        """Write it as JSON, and have it in the asset's materialization where the run is one with metadata."""
        write(self._place(context.asset_key), json.dumps(obj).encode())
        context.add_output_metadata(self.run.metadata(context.asset_key, obj))

    def load_input(self, context: InputContext) -> Facts:
        """Read it back."""
        facts: Facts = json.loads(read(self._place(context.asset_key)))
        return facts

    def _place(self, key: AssetKey) -> str:
        root = Settings.from_environment().artifact_root
        return join(root, self.run.own_id, "dagster", *key.path[:-1], f"{key.path[-1]}.json")


@asset
def ratings(run: Run) -> Facts:
    """Ratings, checked."""
    return run.step("ingest")


@asset
def split(run: Run, ratings: Facts) -> Facts:
    """Training and held-out interactions."""
    return run.step("preprocess", ratings)


@asset
def model(run: Run, split: Facts) -> Facts:
    """The recommender."""
    return run.step("train", split)


def verdict(evaluation: Facts, gated: str) -> Iterator[AssetCheckResult | Output[Facts]]:
    """The check, and the asset behind the gate where it passed."""
    passed = evaluation["passed"] == "true"
    yield AssetCheckResult(passed=passed, metadata={"score": float(evaluation["score"])})
    if passed:
        yield Output(evaluation, gated)


@multi_asset(
    name="evaluation",
    outs={"evaluation": AssetOut(), "approval": AssetOut(is_required=False)},
    check_specs=[AssetCheckSpec("min_score_gate", asset="evaluation")],
)
def evaluation(run: Run, model: Facts, split: Facts) -> Iterator[AssetCheckResult | Output[Facts]]:
    """Offline metrics, and an approval that is only there where the score passes the gate."""
    metrics = run.step("eval", model, split)
    yield Output(metrics, "evaluation")
    yield from verdict(metrics, "approval")


@asset
def registered_model(run: Run, ratings: Facts, model: Facts, approval: Facts) -> Facts:
    """A version in the model registry."""
    return run.step("register", ratings, model, approval)


@asset
def promotion(run: Run, registered_model: Facts, approval: Facts) -> Facts:
    """That version, served."""
    return run.step("promote", registered_model, approval)


@asset
def drift_report(run: Run, split: Facts, model: Facts, promotion: Facts) -> Facts:
    """What is served, and whether readers still want it."""
    return run.step("monitor", split, model, promotion)


def candidate(index: int) -> list[AssetsDefinition]:
    """One candidate of the sweep: its split, model and evaluation."""
    prefix = f"candidate_{index}"
    own = AssetIn(key_prefix=prefix)
    settings = SWEEP[index]

    @asset(key_prefix=prefix)
    def split(run: Run, ratings: Facts) -> Facts:
        return run.step("preprocess", ratings, index=index, **settings)

    @asset(key_prefix=prefix, ins={"split": own})
    def model(run: Run, split: Facts) -> Facts:
        return run.step("train", split, index=index, **settings)

    @asset(key_prefix=prefix, ins={"model": own, "split": own})
    def evaluation(run: Run, model: Facts, split: Facts) -> Facts:
        return {**model, **run.step("eval", model, split, index=index, **settings)}

    return [split, model, evaluation]


CANDIDATE = ("index", "seed", "k", "score", "passed", "model_uri", "model_sha256", "metrics_uri")


@multi_asset(
    name="best_candidate",
    ins={f"candidate_{i}": AssetIn([f"candidate_{i}", "evaluation"]) for i in range(len(SWEEP))},
    outs={"best_candidate": AssetOut(), "winner": AssetOut(is_required=False)},
    check_specs=[AssetCheckSpec("best_passes_gate", asset="best_candidate")],
)
def best_candidate(run: Run, **evaluations: Facts) -> Iterator[AssetCheckResult | Output[Facts]]:
    """The candidate with the highest score, and a winner that is only there where it passes the gate."""
    candidates = [{name: facts[name] for name in CANDIDATE} for facts in evaluations.values()]
    best = run.step("select", {"candidates": json.dumps(candidates)})
    yield Output(best, "best_candidate")
    yield from verdict(best, "winner")


@asset
def registered_candidate(run: Run, ratings: Facts, winner: Facts) -> Facts:
    """The winner as a version in the model registry."""
    return run.step("register", ratings, winner, seed=winner["seed"], k=winner["k"])


def probe(job: str, index: int, after: list[AssetKey]) -> AssetsDefinition:
    """A step that does next to nothing."""

    @asset(name=f"probe_{index}", key_prefix=job, deps=after)
    def probe(run: Run) -> Facts:
        return run.step("probe", index=index)

    return probe


def probes(job: str) -> list[AssetsDefinition]:
    """The assets of a job such as `chain_40` (one after another) or `fanout_10` (all at once)."""
    workload, _, steps = job.partition("_")
    made: list[AssetsDefinition] = []
    for index in range(int(steps)):
        made.append(probe(job, index, [made[-1].key] if made and workload == "chain" else []))
    return made


def daily() -> list[AssetsDefinition]:
    """The recommender up to the registered model, with a partition for each day.

    What is served is not a past day's to change: which model it is would depend on whose run is the last to end.
    """
    past = [ratings, split, model, evaluation, registered_model]
    moved = {key: key.with_prefix(DAILY) for made in past for key in made.keys}
    days = DailyPartitionsDefinition(start_date=FIRST_DAY)
    return [
        *map_asset_specs(
            lambda spec: spec.replace_attributes(partitions_def=days),
            [made.with_attributes(asset_key_replacements=moved) for made in past],
        )
    ]


def placed() -> Placed:
    """What this deployment has beside its fixed jobs; in the pods of a run that run's job alone."""
    if name := os.environ.get(RUN_JOB):
        return {"jobs": [] if name in FIXED_JOBS else [name], "triggers": []}
    path = os.environ.get(PLACED_FILE)
    found: Placed = json.loads(Path(path).read_text(encoding="utf-8")) if path else NOTHING
    return found


def due(trigger: Trigger) -> ScheduleDefinition:
    """Starts a run at its minute, or at each of its minutes."""

    @schedule(
        name=trigger_name(trigger["run_id"]),
        job_name=trigger["job"],
        cron_schedule=trigger["cron"],
        execution_timezone="UTC",
    )
    def due() -> RunRequest:
        config = run_config(trigger["run_id"], trigger["parameters"], trigger["execution"])
        return RunRequest(run_config=config, tags=trigger["tags"])

    return due


def delivered(trigger: Trigger) -> AssetSensorDefinition:
    """Starts one run when its data arrive: the event says which run, and with which parameters."""

    @asset_sensor(
        name=trigger_name(trigger["run_id"]),
        job_name=trigger["job"],
        asset_key=AssetKey(delivery(trigger["run_id"])),
    )
    def delivered(context: SensorEvaluationContext, event: EventLogEntry) -> RunRequest:
        arrived = event.asset_materialization
        assert arrived is not None  # an asset sensor's event is one
        run_id, parameters = (arrived.metadata[name].value for name in ("run_id", "parameters"))
        config = run_config(run_id, parameters, trigger["execution"])
        return RunRequest(run_key=run_id, run_config=config, tags=trigger["tags"])

    return delivered


def executor() -> ExecutorDefinition | None:
    """Steps as pods of their own where the deployment says so; otherwise what Dagster takes by itself."""
    if os.environ.get(STEPS_AS) != "pods":
        return None
    from dagster_k8s import k8s_job_executor  # type: ignore[import-not-found, unused-ignore]

    return k8s_job_executor


RECOMMENDER = [ratings, split, model, evaluation, registered_model, promotion, drift_report]
CANDIDATES = [made for index in range(len(SWEEP)) for made in candidate(index)]
FINALE = [best_candidate, registered_candidate]
PLACED = placed()
JOBS = {plain(name) for name in PLACED["jobs"]} - {*FIXED_JOBS}
PAST = daily() if DAILY in JOBS else []
PROBES = {name: probes(name) for name in sorted(JOBS - {DAILY})}
SCHEDULED = [trigger for trigger in PLACED["triggers"] if trigger["cron"]]
LISTENING = [trigger for trigger in PLACED["triggers"] if not trigger["cron"]]
ASSETS = {"recommender": RECOMMENDER, "sweep": [ratings, *CANDIDATES, *FINALE], DAILY: PAST, **PROBES}


def retries(job: str) -> RetryPolicy | None:
    """Ours, unless the job is to be as Dagster ships it."""
    return RETRY if job == plain(job) else None


run = Run.configure_at_launch()
defs = Definitions(
    assets=[
        *RECOMMENDER,
        *CANDIDATES,
        *FINALE,
        *PAST,
        *(made for group in PROBES.values() for made in group),
        *(AssetSpec(delivery(trigger["run_id"])) for trigger in LISTENING),
    ],
    jobs=[
        define_asset_job(name, AssetSelection.assets(*ASSETS[plain(name)]), op_retry_policy=retries(name))
        for name in (*FIXED_JOBS, *PLACED["jobs"])
    ],
    schedules=[due(trigger) for trigger in SCHEDULED],
    sensors=[delivered(trigger) for trigger in LISTENING],
    resources={"run": run, "io_manager": RunFolder(run=run)},
    executor=executor(),
)
