"""The bookstore recommender as Airflow DAGs, in the TaskFlow style.

A file in the DAGs folder calls one of the factories: `recommender()`, `probe_chain(40)` and so on. What a DAG has
beside that, such as a schedule, is handed on to Airflow: `recommender("nightly", schedule="0 2 * * *")`.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from airflow.sdk import DAG, chain, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException

from adapters.airflow.dags import run_of
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


def define(dag_id: str, params: Mapping[str, Any] | None = None, **more: Any) -> DAG:
    """A DAG as all of ours are, but for what `params` and `more` (arguments of `DAG`) say."""
    return DAG(dag_id, **{**DEFAULTS, **more, "params": {**DEFAULTS["params"], **(params or {})}})


def known(context: Mapping[str, Any]) -> dict[str, Any]:
    """The run's id and params; an asset event that has started the run says them with its `extra`.

    A run that Airflow starts itself has an id of Airflow's own making; where it was made for a run of ours, ours is the
    param `run_id`.
    """
    events = (event for events in context["triggering_asset_events"].values() for event in events)
    brought = {name: value for event in events for name, value in event.extra["params"].items()}
    return {"run_id": run_of(context["dag"].dag_id, context["run_id"]), **context["params"], **brought}


def step(
    name: str,
    inputs: Mapping[str, str] | None = None,
    index: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Outputs:
    """Run one step with the run's params, of which `settings` replace some. Bad input is not tried again."""
    params = {name: value for name, value in known(get_current_context()).items() if value is not None}
    run_id = params.pop("run_id")
    try:
        config = load_config(
            "{}", [f"{key}={value}" for key, value in {**params, **(settings or {})}.items()]
        )
        with told(inputs or {}) as outputs:
            outputs |= run_step(name, run_id=run_id, config=config, inputs=inputs, index=index).outputs
    except BadInput as error:
        raise AirflowFailException(str(error)) from error
    print(json.dumps({"step": name, "outputs": outputs}))
    return outputs


def told(given: Mapping[str, str]) -> AbstractContextManager[Outputs]:
    """Takes what a step leaves; where Airflow's OpenLineage provider is installed, it is told of the files."""
    if find_spec("airflow.providers.openlineage") is None:
        return nullcontext({})
    from adapters.airflow import datasets

    return datasets.told(given)


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


def recommender(dag_id: str = "recommender", approval: bool = False, **more: Any) -> DAG:
    """The seven steps; where the gate does not pass, or the `approval` is refused, those after it are skipped."""
    with define(dag_id, **more) as dag:
        ingested = ingest()
        split = preprocess(ingested)
        model = evaluate(split, train(split))
        registered = register(ingested, model)
        gate(model) >> registered
        promoted = promote(registered, model)
        monitor(split, model, promoted)
        if approval:
            registered >> approve() >> promoted
    return dag


def approve() -> Any:
    """A task that waits until somebody approves or rejects; if they reject, what follows is skipped."""
    # Only here: every task's process imports this module.
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    return ApprovalOperator(task_id="approve", subject="Promote the model that was registered?")


def recommender_sweep(dag_id: str = "recommender_sweep", **more: Any) -> DAG:
    """Four candidates side by side as a mapped task group; the best is registered if it passed."""

    @task_group
    def candidate(ingested: Outputs, candidate: Mapping[str, int]) -> Outputs:
        split = preprocess(ingested, candidate)
        model: Outputs = evaluate(split, train(split, candidate), candidate)
        return model

    with define(dag_id, **more) as dag:
        ingested = ingest()
        candidates = [{"index": index, **settings} for index, settings in enumerate(SWEEP)]
        best = select(candidate.partial(ingested=ingested).expand(candidate=candidates))
        gate(best) >> register(ingested, best)
    return dag


def probe_chain(length: int, dag_id: str = "", **more: Any) -> DAG:
    """`length` small steps, one after another."""
    with define(dag_id or f"probe_chain_{length}", **more) as dag:
        chain(*(probe.override(task_id=f"probe_{index}")(index) for index in range(length)))
    return dag


def probe_fanout(width: int, dag_id: str = "", **more: Any) -> DAG:
    """One small step mapped over `width` indices."""
    with define(dag_id or f"probe_fanout_{width}", **more) as dag:
        probe.expand(index=list(range(width)))
    return dag
