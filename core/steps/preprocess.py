"""Split the ratings into training and held-out interactions."""

from __future__ import annotations

import numpy as np

from core import data
from core.context import StepContext
from core.split import Interactions, split, to_npz


def run(context: StepContext) -> dict[str, str]:
    """Outputs train_uri, train_sha256, heldout_uri, heldout_sha256. Raises BadInput, StoreError.

    heldout.npz stands alone: it has the training interactions too, so that eval needs no second file.
    """
    content = context.load("ratings")
    ratings = data.parse(content, "ratings.parquet")
    train, held, item_ids, recent, rule = split(ratings, seed=context.config.seed)
    uri, sha256 = data.origin(content)
    meta = {
        "dataset_uri": uri or context.config.dataset_uri,
        "dataset_sha256": sha256,
        "ratings_sha256": context.read["ratings"].sha256,
        "recent": rule,
    }
    counts = np.bincount(train.indices, minlength=len(item_ids)).astype(np.int64)
    kept = Interactions(train, item_ids, counts, recent, meta)
    held_out = {"held_indptr": held.indptr.astype(np.int64), "held_indices": held.indices.astype(np.int32)}
    made = context.save("train", "train.npz", to_npz(kept))
    made_held = context.save("heldout", "heldout.npz", to_npz(kept, **held_out))
    users, items = train.shape
    print(f"preprocess: {users} users, {items} items, {train.nnz} to train on, {held.nnz} held out")
    return {
        "train_uri": made.uri,
        "train_sha256": made.sha256,
        "heldout_uri": made_held.uri,
        "heldout_sha256": made_held.sha256,
    }
