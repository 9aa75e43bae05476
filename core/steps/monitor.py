"""Ask the service which model it serves, and look for drift in what people read."""

from __future__ import annotations

import numpy as np
import polars as pl

from core import data
from core.artifacts import Artifact
from core.context import StepContext
from core.errors import BenchError
from core.monitor import population_stability_index
from core.promotion import Serving
from core.split import Interactions, LongArray, from_npz
from core.steps import boolean


def run(context: StepContext) -> dict[str, str]:
    """Outputs served_sha256, drift, drifted. `--input recent=URI` (ratings) replaces the run's own.

    Raises:
        BenchError: if another model is served than the one promoted.
        BadInput, StoreError, ServingError: if something cannot be read.
    """
    serving = Serving(context.settings.serving_uri, context.settings.token)
    details = serving.details()
    served = str(details["sha256"]) if details else ""
    if served:
        context.note("served", Artifact(f"{serving.uri}/model", served, 0, serving.uri))
    expected = context.inputs.get("model_sha256", "")
    if expected and context.inputs.get("promoted", "true") == "true" and served != expected:
        raise BenchError(
            f"serving at {serving.uri} has {served or 'no model'}, but {expected} was promoted",
            kept="what is served",
            next_step="start promote again; `step rollback` goes back to the previous version",
        )
    name = "heldout" if context.has("heldout") else "train"
    interactions, _ = from_npz(context.load(name), context.read_place(name))
    recent, rule = interactions.recent, interactions.meta["recent"]
    if context.has("recent"):
        recent = _counts(context, interactions)
        rule = context.read["recent"].uri
    drift = population_stability_index(interactions.counts, recent)
    drifted = drift > context.config.drift_threshold
    context.metrics["drift"] = repr(drift)
    context.details.update(
        recent=rule, threshold=context.config.drift_threshold, served=details or {}, drifted=drifted
    )
    print(f"monitor: {served or 'no model'} is served; drift {drift:.4f} (recent: {rule})")
    return {"served_sha256": served, "drift": repr(drift), "drifted": boolean(value=drifted)}


def _counts(context: StepContext, interactions: Interactions) -> LongArray:
    """Recent interactions per item of the training data; items it does not know are left out."""
    place = context.inputs.get("recent") or context.inputs["recent_uri"]
    ratings = data.parse(context.load("recent"), place)
    known = pl.DataFrame({"item_id": list(interactions.item_ids)}).with_row_index("item")
    items = ratings.join(known, on="item_id", how="inner")["item"].to_numpy()
    return np.bincount(items, minlength=len(interactions.item_ids)).astype(np.int64)
