"""The workloads as Kubeflow Pipelines users would write them: lightweight components and typed artifacts.

Files travel as artifacts, what is known of a file as its metadata, decisions as parameters. The body of a
component runs on its own, so it imports what it needs; `step` is put in front of each.
"""

# ruff: noqa: UP045 - KFP takes `X | None` for an artifact type

import os
from functools import partial
from typing import NamedTuple, Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from adapters.workloads import SWEEP

RETRIES = int(os.environ.get("STEP_RETRIES", "2"))
"""How often a step that fails is tried again; 0 is what the SDK's own tasks have."""
CANDIDATES = [
    {"index": str(index), **{name: str(value) for name, value in candidate.items()}}
    for index, candidate in enumerate(SWEEP)
]


def step(
    name: str,
    run_id: str,
    settings: dict[str, str],
    *,
    candidate: Optional[dict[str, str]] = None,
    index: Optional[int] = None,
    values: Optional[dict[str, str]] = None,
    read: Optional[dict[str, dsl.Artifact]] = None,
    write: Optional[dict[str, dsl.Artifact]] = None,
) -> dict[str, str]:
    """Run a step of the core on artifacts; returns its outputs, which also become the metadata of `write`.

    A `candidate` of a sweep has an index, and a seed and k of its own.
    """
    import json
    from pathlib import Path

    from core.config import load_config
    from core.entry import run_step

    if candidate:
        index = int(candidate["index"])
        settings = {**settings, "seed": candidate["seed"], "k": candidate["k"]}
    inputs = dict(values or {})
    for key, artifact in (read or {}).items():
        inputs[key] = artifact.path
        inputs[f"{key}_uri"] = artifact.uri if "://" in artifact.uri else Path(artifact.path).as_uri()
    first = next(iter((write or {}).values()), None)
    result = run_step(
        name,
        run_id=run_id,
        config=load_config("{}", [f"{key}={value}" for key, value in settings.items()]),
        inputs=inputs,
        index=index,
        output_dir=first.path.rpartition("/")[0] if first else "",
        publish_uri=first.uri.rpartition("/")[0] if first and "://" in first.uri else "",
    )
    outputs = dict(result.outputs)
    for key, artifact in (write or {}).items():
        folder, file_name = artifact.uri.rpartition("/")[0], outputs[f"{key}_uri"].rpartition("/")[2]
        artifact.uri = f"{folder}/{file_name}"
        artifact.metadata.update(outputs)
    print(json.dumps({"step": name, "outputs": outputs}), flush=True)
    return outputs


component = partial(
    dsl.component,
    base_image=os.environ.get("STEP_IMAGE", "python:3.11"),
    install_kfp_package=False,
    additional_funcs=[step],
)


@component
def ingest(run_id: str, settings: dict[str, str], ratings: Output[Dataset]) -> None:
    """Bring the ratings in."""
    step("ingest", run_id, settings, write={"ratings": ratings})


@component
def preprocess(
    run_id: str,
    settings: dict[str, str],
    ratings: Input[Dataset],
    train: Output[Dataset],
    heldout: Output[Dataset],
    candidate: Optional[dict[str, str]] = None,
) -> None:
    """Split the ratings."""
    read, write = {"ratings": ratings}, {"train": train, "heldout": heldout}
    step("preprocess", run_id, settings, candidate=candidate, read=read, write=write)


@component
def train(
    run_id: str,
    settings: dict[str, str],
    train: Input[Dataset],
    model: Output[Model],
    candidate: Optional[dict[str, str]] = None,
) -> None:
    """Train the recommender."""
    step("train", run_id, settings, candidate=candidate, read={"train": train}, write={"model": model})


@component
def evaluate(
    run_id: str,
    settings: dict[str, str],
    model: Input[Model],
    heldout: Input[Dataset],
    metrics: Output[Metrics],
    candidate: Optional[dict[str, str]] = None,
) -> bool:
    """Score the model; whether it passes the gate."""
    outputs = step(
        "eval",
        run_id,
        settings,
        candidate=candidate,
        values={"model_sha256": model.metadata["model_sha256"]},
        read={"model": model, "heldout": heldout},
        write={"metrics": metrics},
    )
    for name in ("score", "recall_at_k", "ndcg_at_k"):
        metrics.log_metric(name, float(outputs[name]))
    return outputs["passed"] == "true"


@component
def select(
    run_id: str,
    settings: dict[str, str],
    models: list[Model],  # without `Input`: 2.15's executor makes members of the inner class of this only
    metrics: list[Metrics],
    best: Output[Model],
    best_metrics: Output[Metrics],
) -> bool:
    """Choose the best candidate of a sweep; whether it passes the gate."""
    import json

    names = ("index", "seed", "k", "model_sha256")
    candidates = [
        {
            **{name: model.metadata[name] for name in names},
            "model_uri": model.uri,
            "metrics_uri": scored.uri,
            "score": repr(scored.metadata["score"]),
            "passed": scored.metadata["passed"],
        }
        for model, scored in zip(models, metrics, strict=True)
    ]
    chosen = step("select", run_id, settings, values={"candidates": json.dumps(candidates)})
    for source, target in ((models, best), (metrics, best_metrics)):
        (found,) = (
            item for item, of in zip(source, candidates, strict=True) if of["index"] == chosen["index"]
        )
        target.uri = found.uri
        target.metadata.update(found.metadata)
    return chosen["passed"] == "true"


@component
def register(
    run_id: str,
    settings: dict[str, str],
    ratings: Input[Dataset],
    model: Input[Model],
    metrics: Input[Metrics],
    lineage: Output[dsl.Artifact],
) -> str:
    """Register the model; its version."""
    outputs = step(
        "register",
        run_id,
        {**settings, "seed": model.metadata["seed"], "k": model.metadata["k"]},
        values={
            "dataset_uri": ratings.metadata["dataset_uri"],
            "dataset_sha256": ratings.metadata["dataset_sha256"],
            "model_sha256": model.metadata["model_sha256"],
            "score": repr(metrics.metadata["score"]),
            "passed": metrics.metadata["passed"],
        },
        read={"model": model, "metrics": metrics},
        write={"lineage": lineage},
    )
    return outputs["model_version"]


@component
def promote(run_id: str, settings: dict[str, str], model_version: str, metrics: Input[Metrics]) -> str:
    """Let the service serve this version; whether it does."""
    score, passed = repr(metrics.metadata["score"]), metrics.metadata["passed"]
    values = {"model_version": model_version, "score": score, "passed": passed}
    return step("promote", run_id, settings, values=values)["promoted"]


@component
def monitor(
    run_id: str, settings: dict[str, str], model: Input[Model], heldout: Input[Dataset], promoted: str
) -> NamedTuple("Watched", [("drift", float), ("drifted", bool)]):  # type: ignore[valid-type]
    """Ask the service what it serves, and look for drift."""
    values = {"model_sha256": model.metadata["model_sha256"], "promoted": promoted}
    outputs = step("monitor", run_id, settings, values=values, read={"heldout": heldout})
    return float(outputs["drift"]), outputs["drifted"] == "true"


@component
def probe(run_id: str, settings: dict[str, str], index: int) -> str:
    """Do next to nothing."""
    return step("probe", run_id, settings, index=index)["value"]


def policy(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """What holds for every step: retried at once, never taken from a cache."""
    return task.set_retry(RETRIES).set_caching_options(False)


@dsl.pipeline(name="recommender")
def recommender(run_id: str, settings: dict[str, str]) -> None:
    """The seven steps; the last three only for a model that passes."""
    common = {"run_id": run_id, "settings": settings}
    ratings = policy(ingest(**common)).outputs["ratings"]
    parts = policy(preprocess(**common, ratings=ratings)).outputs
    model = policy(train(**common, train=parts["train"])).outputs["model"]
    evaluated = policy(evaluate(**common, model=model, heldout=parts["heldout"])).outputs
    metrics = evaluated["metrics"]
    with dsl.If(evaluated["Output"] == True, name="passed"):  # noqa: E712
        version = policy(register(**common, ratings=ratings, model=model, metrics=metrics)).outputs["Output"]
        promoted = policy(promote(**common, model_version=version, metrics=metrics)).output
        policy(monitor(**common, model=model, heldout=parts["heldout"], promoted=promoted))


def chain(length: int) -> dsl.base_component.BaseComponent:
    """`length` small steps, one after another."""

    @dsl.pipeline(name=f"chain-{length}")
    def chained(run_id: str, settings: dict[str, str]) -> None:
        before = None
        for index in range(length):
            task = policy(probe(run_id=run_id, settings=settings, index=index))
            if before is not None:
                task.after(before)
            before = task

    return chained


@dsl.pipeline(name="fanout")
def fanout(run_id: str, settings: dict[str, str], indices: list[int]) -> None:
    """A step for each index, at once."""
    with dsl.ParallelFor(indices) as index:
        policy(probe(run_id=run_id, settings=settings, index=index))


@dsl.pipeline(name="sweep")
def sweep(run_id: str, settings: dict[str, str]) -> None:
    """Candidates side by side; the best is registered if it passes."""
    common = {"run_id": run_id, "settings": settings}
    ratings = policy(ingest(**common)).outputs["ratings"]
    with dsl.ParallelFor(CANDIDATES) as candidate:
        parts = policy(preprocess(**common, ratings=ratings, candidate=candidate)).outputs
        model = policy(train(**common, train=parts["train"], candidate=candidate)).outputs["model"]
        evaluated = policy(
            evaluate(**common, model=model, heldout=parts["heldout"], candidate=candidate)
        ).outputs
    chosen = policy(
        select(
            **common,
            models=dsl.Collected(model),
            metrics=dsl.Collected(evaluated["metrics"]),
        )
    ).outputs
    with dsl.If(chosen["Output"] == True, name="passed"):  # noqa: E712
        policy(register(**common, ratings=ratings, model=chosen["best"], metrics=chosen["best_metrics"]))


def definition(workload: str, steps: int) -> tuple[dsl.base_component.BaseComponent, dict[str, list[int]]]:
    """The pipeline of a workload, and its arguments beside `run_id` and `settings`."""
    match workload:
        case "chain":
            return chain(steps), {}
        case "fanout":
            return fanout, {"indices": list(range(steps))}
        case "sweep":
            return sweep, {}
        case _:
            return recommender, {}
