"""Bring the ratings in, checked."""

from __future__ import annotations

from core import data
from core.artifacts import Artifact
from core.context import StepContext


def run(context: StepContext) -> dict[str, str]:
    """Outputs dataset_uri, dataset_sha256, rows, ratings_uri, ratings_sha256. Raises BadInput, StoreError."""
    config = context.config
    source = data.load(config.dataset_uri, seed=config.seed, n_books=config.n_books)
    context.note("dataset", Artifact(source.uri, source.sha256, 0, source.uri))
    rows = source.ratings.height
    made = context.save("ratings", "ratings.parquet", data.to_parquet(source))
    print(f"ingest: {rows} ratings from {source.uri}")
    context.details["rows"] = rows
    return {
        "dataset_uri": source.uri,
        "dataset_sha256": source.sha256,
        "rows": str(rows),
        "ratings_uri": made.uri,
        "ratings_sha256": made.sha256,
    }
