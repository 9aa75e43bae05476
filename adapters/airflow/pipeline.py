"""The bookstore recommender as Airflow DAGs, in the TaskFlow style.

A file in the DAGs folder calls one of the factories: `recommender()`, `probe_chain(40)` and so on
"""

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, chain, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException

from adapters.workloads import SWEEP
from core.config import PipelineConfig, load_config
from core.entry import run_step
from core.errors import BadInput

Outputs = dict[str, str]

DEFAULTS: dict[str, Any] = {
    "schedule": None,
    "catchup": False,
    "params": PipelineConfig().model_dump(mode="json"),
    "default_args": {"retries": 2, "retry_delay": timedelta(0)},
    "tags": ["bookstore"],
}


def step(
    name: str,
    inputs: Mapping[str, str] | None = None,
    index: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Outputs:
    """Run one step with the run's params, of which `settings` replace some. Bad input is not tried again."""
    context = get_current_context()
    params = {name: value for name, value in context["params"].items() if value is not None}
    try:
        config = load_config(
            "{}", [f"{key}={value}" for key, value in {**params, **(settings or {})}.items()]
        )
        result = run_step(name, run_id=context["run_id"], config=config, inputs=inputs, index=index)
    except BadInput as error:
        raise AirflowFailException(str(error)) from error
    print(json.dumps({"step": name, "outputs": dict(result.outputs)}))
    return dict(result.outputs)


def pick(outputs: Mapping[str, str], *names: str) -> Outputs:
    """Those of `names` that are there."""
    return {name: outputs[name] for name in names if name in outputs}


@task(multiple_outputs=False)
def ingest() -> Outputs:
    """Bring the ratings in, checked."""
    return step("ingest")


@task(multiple_outputs=False)
def preprocess(ingested: Outputs, candidate: Mapping[str, int] | None = None) -> Outputs:
    """Split into training and held-out interactions."""
    return step("preprocess", pick(ingested, "ratings_uri"), *of(candidate))


@task(multiple_outputs=False)
def train(split: Outputs, candidate: Mapping[str, int] | None = None) -> Outputs:
    """Train the model."""
    return step("train", pick(split, "train_uri"), *of(candidate))


@task(task_id="eval", multiple_outputs=False)
def evaluate(split: Outputs, trained: Outputs, candidate: Mapping[str, int] | None = None) -> Outputs:
    """Score the model; gives what is known of it by now."""
    inputs = {**pick(split, "heldout_uri"), **pick(trained, "model_uri", "model_sha256")}
    return {**trained, **step("eval", inputs, *of(candidate))}


@task(multiple_outputs=False)
def select(candidates: Iterable[Outputs]) -> Outputs:
    """Choose the best model of a sweep."""
    return step("select", {"candidates": json.dumps(list(candidates))})


@task.branch
def gate(model: Outputs) -> str | None:
    """Only a model that passed is registered."""
    return "register" if model["passed"] == "true" else None


@task(multiple_outputs=False)
def register(ingested: Outputs, model: Outputs) -> Outputs:
    """Put the model into the registry."""
    known = pick(model, "model_uri", "model_sha256", "metrics_uri", "score", "passed")
    inputs = {**pick(ingested, "dataset_uri", "dataset_sha256"), **known}
    return step("register", inputs, settings=pick(model, "seed", "k"))


@task(multiple_outputs=False)
def promote(registered: Outputs, model: Outputs) -> Outputs:
    """Make the registered model the one that is served."""
    return step("promote", {**pick(registered, "model_version"), **pick(model, "score", "passed")})


@task(multiple_outputs=False)
def monitor(split: Outputs, model: Outputs, promoted: Outputs) -> Outputs:
    """Ask the service what it serves, and look for drift."""
    known = {**pick(split, "heldout_uri"), **pick(model, "model_sha256"), **pick(promoted, "promoted")}
    return step("monitor", known)


@task(multiple_outputs=False)
def probe(index: int) -> Outputs:
    """A step that does next to nothing."""
    return step("probe", index=index)


def of(candidate: Mapping[str, int] | None) -> tuple[int | None, Mapping[str, int]]:
    """A candidate's index, and the settings that are its own; neither outside a sweep."""
    settings = dict(candidate or {})
    return settings.pop("index", None), settings


def recommender() -> DAG:
    """The seven steps; where the gate does not pass, the last three are skipped."""
    with DAG("recommender", **DEFAULTS) as dag:
        ingested = ingest()
        split = preprocess(ingested)
        model = evaluate(split, train(split))
        registered = register(ingested, model)
        gate(model) >> registered
        monitor(split, model, promote(registered, model))
    return dag


def recommender_sweep() -> DAG:
    """Four candidates side by side as a mapped task group; the best is registered if it passed."""

    @task_group
    def candidate(ingested: Outputs, candidate: Mapping[str, int]) -> Outputs:
        split = preprocess(ingested, candidate)
        model: Outputs = evaluate(split, train(split, candidate), candidate)
        return model

    with DAG("recommender_sweep", **DEFAULTS) as dag:
        ingested = ingest()
        candidates = [{"index": index, **settings} for index, settings in enumerate(SWEEP)]
        best = select(candidate.partial(ingested=ingested).expand(candidate=candidates))
        gate(best) >> register(ingested, best)
    return dag


def probe_chain(length: int) -> DAG:
    """`length` small steps, one after another."""
    with DAG(f"probe_chain_{length}", **DEFAULTS) as dag:
        chain(*(probe.override(task_id=f"probe_{index}")(index) for index in range(length)))
    return dag


def probe_fanout(width: int) -> DAG:
    """One small step mapped over `width` indices."""
    with DAG(f"probe_fanout_{width}", **DEFAULTS) as dag:
        probe.expand(index=list(range(width)))
    return dag
