"""Training on 1,000,000 ratings over 20,000 items: duration recorded, memory bounded, result checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RATINGS = 1_000_000
ITEMS = 20_000
USERS = 50_000
MOST_RSS_BYTES = 2 << 30
ROUNDS = 3

PREPARE = f"""
import sys
import numpy as np
import polars as pl
from core.split import Interactions, split, to_npz
rng = np.random.Generator(np.random.PCG64(42))
want, pairs = {RATINGS}, np.empty(0, dtype=np.int64)
pairs = np.arange({ITEMS}, dtype=np.int64) % {USERS} * {ITEMS} + np.arange({ITEMS})  # every item once
while pairs.size < want:
    users = rng.integers(0, {USERS}, size=want)
    items = np.minimum(rng.integers(0, {ITEMS}, size=want), rng.integers(0, {ITEMS}, size=want))
    more = np.setdiff1d(users * {ITEMS} + items, pairs)
    pairs = np.concatenate([pairs, rng.permutation(more)[: want - pairs.size]])
table = pl.DataFrame({{"u": pairs // {ITEMS}, "i": pairs % {ITEMS}}}).select(
    user_id=pl.format("u{{}}", pl.col("u").cast(pl.String).str.zfill(6)),
    item_id=pl.format("i{{}}", pl.col("i").cast(pl.String).str.zfill(6)),
).sort("user_id", "item_id")
kept, held, names, recent, rule = split(table, seed=42)
counts = np.bincount(kept.indices, minlength=len(names)).astype(np.int64)
with open(sys.argv[1], "wb") as file:
    file.write(to_npz(Interactions(kept + held, names, counts, recent, {{"recent": rule}})))
"""

TRAIN = """
import json, resource, sys, time
from core import artifacts
from core.recommender import to_joblib
from core.split import from_npz
from core.train import Checkpoints, train
began = time.perf_counter()
data, _ = from_npz(artifacts.read(sys.argv[1]), sys.argv[1])
model, progress = train(data, k=5, seed=42, checkpoints=Checkpoints(sys.argv[2], "scale"))
sha256 = artifacts.sha256_of(to_joblib(model))
print(json.dumps({
    "ratings": int(data.matrix.nnz), "items": len(model.item_ids), "sha256": sha256,
    "with_neighbours": int((model.neighbours[:, 0] >= 0).sum()),
    "resumed_blocks": progress.resumed_blocks,
    "train_seconds": time.perf_counter() - began,
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def run(code: str, *arguments: str) -> str:
    """The code's stdout, run in a process of its own so that its peak memory is its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=1800, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "train.npz"
    run(PREPARE, str(path))
    return path


@pytest.mark.slow
def test_train_a_million_ratings_over_twenty_thousand_items(
    benchmark: Any, ratings: Path, tmp_path: Path
) -> None:
    results: list[dict[str, Any]] = []

    def fresh_folder() -> tuple[tuple[str], dict[str, Any]]:
        return (str(tmp_path / f"checkpoints-{len(results)}"),), {}

    def train(folder: str) -> None:
        results.append(json.loads(run(TRAIN, str(ratings), folder)))

    benchmark.pedantic(train, setup=fresh_folder, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    first = results[0]
    assert (first["ratings"], first["items"]) == (RATINGS, ITEMS)
    assert first["with_neighbours"] == ITEMS
    assert all(result["resumed_blocks"] == 0 for result in results), "a resumed training is no measurement"
    assert {result["sha256"] for result in results} == {first["sha256"]}
    peak = max(result["peak_rss_bytes"] for result in results)
    assert peak < MOST_RSS_BYTES
    benchmark.extra_info.update(
        sha256=first["sha256"],
        peak_rss_bytes=peak,
        train_seconds=[round(result["train_seconds"], 3) for result in results[1:]],
    )
