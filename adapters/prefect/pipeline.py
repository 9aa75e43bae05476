"""The workloads as Prefect users would write them: flows that call tasks. Where things are, the environment says."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import flow, task, unmapped
from prefect.assets import add_asset_metadata, materialize
from prefect.cache_policies import DEFAULT, NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.deployments import run_deployment
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import Task

from adapters.podspec import RUN_LABEL
from adapters.prefect.variants import APPROVAL, AS_SHIPPED, ASSETS, KEYS
from adapters.workloads import SWEEP
from core.config import PipelineConfig
from core.entry import run_step
from core.errors import BadInput

Outputs = Mapping[str, str]
DEFAULTS = PipelineConfig()
STEP = "step/bench"
"""The deployment that runs one step on infrastructure of its own."""


@dataclass(frozen=True)
class Run:
    """What every step of a run is given; `index` tells the members of a fan-out or sweep apart."""

    run_id: str
    config: PipelineConfig
    index: int | None = None
    apart: bool = False
    """Whether each step runs on infrastructure of its own, not in this process."""

    def but(self, **settings: Any) -> PipelineConfig:
        """The run's configuration with other settings."""
        return self.config.model_copy(update=settings)


def not_bad_input(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: what was given stays as bad as it is."""
    return not isinstance(state.result(raise_on_failure=False), BadInput)


def step_name() -> str:
    """How a task run is called: `train`, or `train-2` for the member with index 2."""
    index = task_run.parameters["run"].index
    return str(task_run.task_name) if index is None else f"{task_run.task_name}-{index}"


RETRIES: Mapping[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": 0,
    "retry_condition_fn": not_bad_input,
}
KEPT: Mapping[str, Any] = {"persist_result": True, "cache_policy": DEFAULT}
"""A flow that is resumed starts anew, and takes from the store what its steps have left; no other run does."""
OPTIONS: Mapping[str, Any] = {
    "task_run_name": step_name,
    **({} if AS_SHIPPED in os.environ else RETRIES),
    **(KEPT if APPROVAL in os.environ else {"cache_policy": NO_CACHE}),
}
WITH_ASSETS = ASSETS in os.environ
step = partial(task, **OPTIONS)


def making(name: str) -> Callable[[Callable[..., Outputs]], Task[..., Outputs]]:
    """A task that is the step `name`; in a run with assets, the materialization of what it makes.

    `log_prints`: a materialization does not log what is printed, as its flow does, unless it says None.
    """
    wrap: Callable[[Callable[..., Outputs]], Task[..., Outputs]] = step(name=name)
    if WITH_ASSETS:
        wrap = materialize(KEYS[name], name=name, log_prints=None, **OPTIONS)
    return wrap


def call(name: str, run: Run, *given: Outputs) -> Outputs:
    """Run a step of the core; of what earlier steps left, it is given what is in `given`."""
    inputs = {key: value for outputs in given for key, value in outputs.items()}
    outputs = deployed(name, run, inputs) if run.apart else here(name, run, inputs)
    if WITH_ASSETS and name in KEYS:
        add_asset_metadata(KEYS[name], metadata(name, run, outputs))
    return outputs


def metadata(name: str, run: Run, outputs: Outputs) -> dict[str, Any]:
    """What is said of an asset: all that its step left, and of a model the run's parameters."""
    parameters = run.config.model_dump(mode="json", exclude={"fault"})
    return {**outputs, **({"parameters": parameters} if name == "train" else {})}


def here(name: str, run: Run, inputs: Outputs) -> Outputs:
    """Run a step in this process."""
    result = run_step(name, run_id=run.run_id, config=run.config, inputs=inputs, index=run.index)
    print(json.dumps({"step": name, "outputs": dict(result.outputs)}))
    return dict(result.outputs)


def deployed(name: str, run: Run, inputs: Outputs) -> Outputs:
    """Run a step as a flow run of its own, of the deployment for steps. Raises what it raised, and where it crashed."""
    parameters = {
        "name": name,
        "run_id": run.run_id,
        "inputs": dict(inputs),
        "config": run.config.model_dump(mode="json", exclude_unset=True),
        "index": run.index,
    }
    made: FlowRun = run_deployment(
        STEP,
        parameters=parameters,
        flow_run_name=step_name(),
        job_variables={"labels": {RUN_LABEL: run.run_id}},
    )
    outputs: Outputs = made.state.result()
    return outputs


def pick(outputs: Outputs, *names: str) -> Outputs:
    """The outputs of these names."""
    return {name: outputs[name] for name in names}


@making("ingest")
def ingest(run: Run) -> Outputs:
    """Read and check the ratings."""
    return call("ingest", run)


@making("preprocess")
def preprocess(run: Run, data: Outputs) -> Outputs:
    """Split the ratings into training and held-out interactions."""
    return call("preprocess", run, pick(data, "ratings_uri"))


@making("train")
def train(run: Run, split: Outputs) -> Outputs:
    """Train the recommender."""
    return call("train", run, pick(split, "train_uri"))


@making("eval")
def evaluate(run: Run, split: Outputs, model: Outputs) -> Outputs:
    """Score the model and pass or fail the gate."""
    return call("eval", run, pick(split, "heldout_uri"), pick(model, "model_uri", "model_sha256"))


@making("register")
def register(run: Run, data: Outputs, model: Outputs, metrics: Outputs) -> Outputs:
    """Put the model into the registry."""
    return call(
        "register",
        run,
        pick(data, "dataset_uri", "dataset_sha256"),
        pick(model, "model_uri", "model_sha256"),
        pick(metrics, "metrics_uri", "score", "passed"),
    )


@making("promote")
def promote(run: Run, version: Outputs, metrics: Outputs) -> Outputs:
    """Make it the model that is served."""
    return call("promote", run, pick(version, "model_version"), pick(metrics, "score", "passed"))


@step
def monitor(run: Run, split: Outputs, model: Outputs, promotion: Outputs) -> Outputs:
    """Check what is served, and drift."""
    return call(
        "monitor", run, pick(split, "heldout_uri"), pick(model, "model_sha256"), pick(promotion, "promoted")
    )


@step
def select(run: Run, candidates: list[Outputs]) -> Outputs:
    """Choose the best candidate of a sweep."""
    return call("select", run, {"candidates": json.dumps(candidates)})


@step
def probe(run: Run) -> Outputs:
    """Do next to nothing."""
    return call("probe", run)


def not_promoted(metrics: Outputs) -> State[Any]:
    """How a run ends whose model did not pass the gate: well, and by a name of its own."""
    return Completed(name="NotPromoted", message=f"score {metrics['score']} is below the gate")


@flow(name="step", log_prints=True, persist_result=True)
def one_step(
    name: str, run_id: str, inputs: Outputs, config: PipelineConfig = DEFAULTS, index: int | None = None
) -> Outputs:
    """One step of a run whose steps are apart; what it leaves is stored where that run can read it."""
    return here(name, Run(run_id, config, index), inputs)


@flow(log_prints=True)
def pipeline(run_id: str, config: PipelineConfig = DEFAULTS, apart: bool = False) -> State[Any] | None:
    """The seven steps of the recommender, one after another."""
    run = Run(run_id, config, apart=apart)
    data = ingest(run)
    split = preprocess(run, data)
    model = train(run, split)
    metrics = evaluate(run, split, model)
    if metrics["passed"] != "true":
        return not_promoted(metrics)
    version = register(run, data, model, metrics)
    if APPROVAL in os.environ:
        suspend_flow_run()
    promotion = promote(run, version, metrics)
    monitor(run, split, model, promotion)
    return None


@flow(log_prints=True)
def chain(run_id: str, steps: int, config: PipelineConfig = DEFAULTS, apart: bool = False) -> None:
    """Small steps, one after another."""
    for index in range(steps):
        probe(Run(run_id, config, index, apart))


@flow(log_prints=True)
def fanout(run_id: str, steps: int, config: PipelineConfig = DEFAULTS, apart: bool = False) -> None:
    """Small steps, all at once."""
    probe.map([Run(run_id, config, index, apart) for index in range(steps)]).result()


@flow(log_prints=True)
def sweep(run_id: str, config: PipelineConfig = DEFAULTS, apart: bool = False) -> State[Any] | None:
    """Candidates side by side, each at its own pace; the best one is registered."""
    run = Run(run_id, config, apart=apart)
    data = ingest(run)
    runs = [Run(run_id, run.but(**candidate), index, apart) for index, candidate in enumerate(SWEEP)]
    splits = preprocess.map(runs, unmapped(data))
    models = train.map(runs, splits)
    metrics = evaluate.map(runs, splits, models)
    candidates = [{**model, **left} for model, left in zip(models.result(), metrics.result(), strict=True)]
    best = select(run, candidates)
    if best["passed"] != "true":
        return not_promoted(best)
    chosen = Run(run_id, run.but(seed=int(best["seed"]), k=int(best["k"])), apart=apart)
    register(chosen, data, best, candidates[int(best["index"])])
    return None
