"""Put the model into the registry, with everything needed to say later where it came from."""

from __future__ import annotations

import json
from typing import Any

from core import artifacts
from core.artifacts import Artifact
from core.codedigest import code_digest
from core.context import StepContext, step_folder
from core.errors import BadInput
from core.registry import Registration


def run(context: StepContext) -> dict[str, str]:
    """Outputs model_name, model_version, lineage_uri. Raises BadInput, StoreError, RegistryError."""
    config = context.config
    metrics: dict[str, Any] = {}
    if context.has("metrics"):
        metrics = _metrics(context.load("metrics"), context.read_place("metrics"))
    model = _reachable(context, context.load("model"))
    evaluated = metrics.get("parents", {}).get("model", {}).get("sha256", model.sha256)
    if evaluated != model.sha256:
        raise BadInput(
            f"metrics.json is of model {evaluated}, not of {model.sha256}",
            next_step="give the metrics of this model",
        )
    dataset = metrics.get("dataset", {})
    facts = {
        "bench.dataset_uri": context.inputs.get("dataset_uri") or dataset.get("uri", config.dataset_uri),
        "bench.dataset_sha256": context.inputs.get("dataset_sha256") or dataset.get("sha256", ""),
        "bench.image_digest": context.settings.image_digest,
        "bench.code_digest": code_digest(),
        "bench.passed": context.inputs.get("passed") or json.dumps(metrics.get("passed")),
    }
    names: tuple[str, ...] = ("score", "recall_at_k", "ndcg_at_k")
    numbers = {name: float(metrics[name]) for name in names if name in metrics}
    if "score" in context.inputs:
        numbers["score"] = _number(context.inputs["score"])
    parents = {
        **metrics.get("parents", {}),
        **{name: {"uri": item.uri, "sha256": item.sha256} for name, item in context.read.items()},
    }
    params = {name: _text(value) for name, value in config.model_dump(mode="json").items()}
    record = {
        "run_id": context.run_id,
        "index": context.index,
        "attempt": context.attempt,
        "attempt_token": context.attempt_token,
        "model": {"name": config.model_name, "uri": model.uri, "sha256": model.sha256},
        "params": params,
        "metrics": numbers,
        "parents": parents,
        **{name.removeprefix("bench."): value for name, value in facts.items()},
    }
    made = context.save("lineage", "lineage.json", json.dumps(record, sort_keys=True, indent=1).encode())
    registry = context.registry()
    context.effect("registry.register", registry.uri, model=config.model_name, sha256=model.sha256)
    version = registry.register(
        Registration(
            name=config.model_name,
            uri=model.uri,
            sha256=model.sha256,
            run_id=context.run_id,
            index=context.index,
            attempt_token=context.attempt_token,
            params=params,
            metrics=numbers,
            tags={
                **facts,
                "bench.parents": json.dumps(parents, sort_keys=True),
                "bench.lineage_uri": made.uri,
                "bench.score": repr(numbers["score"]) if "score" in numbers else "",
            },
        )
    )
    if version.sha256 != model.sha256:
        raise BadInput(
            f"run {context.run_id} registered {version.name} version {version.version} with another digest"
            f" ({version.sha256}, now {model.sha256})",
            kept="the version registered first",
            next_step="give every run an id of its own",
        )
    context.metrics.update({name: repr(value) for name, value in numbers.items()})
    context.made("model_version", f"models:/{version.name}/{version.version}", version.sha256)
    print(f"register: {version.name} version {version.version} in {registry.uri}")
    return {"model_name": version.name, "model_version": version.version, "lineage_uri": made.uri}


def _reachable(context: StepContext, content: bytes) -> Artifact:
    """The model where registry and serving can read it.

    A model on a volume that only the steps mount is copied to the artifact store; another stays where it is.
    """
    model = context.read["model"]
    root = context.settings.artifact_root
    if artifacts.local_path(model.uri) is None or artifacts.local_path(root) is not None:
        return model
    place = artifacts.join(root, context.run_id, step_folder(context.step, context.index), "model.joblib")
    context.effect("artifact.publish", place, sha256=model.sha256)
    artifacts.write(place, content)
    return Artifact(place, model.sha256, model.size, place)


def _metrics(content: bytes, place: str) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(content)
        float(metrics["score"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{place} is not a metrics.json of this pipeline: {error}") from error
    return metrics


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadInput(f"--input score={text!r} is not a number") from error


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
