"""Offline metrics of a model on held-out interactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from core.recommender import Model

USERS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Metrics:
    """All in 0..1, rounded to 12 decimals; `users` is how many had held-out items."""

    score: float
    recall_at_k: float
    ndcg_at_k: float
    users: int


def score(model: Model) -> float:
    """Mean over all items of the cosine to the nearest other item (0 for an item without neighbours)."""
    return round(float(np.sum(model.similarities[:, 0]) / len(model.item_ids)), 12)


def evaluate(model: Model, seen: Any, held: Any) -> Metrics:
    """Score lists of the k items most like what each user has, without the items they have.

    recall@k = |top k ∩ held| / |held|, the mean over users (Herlocker et al. 2004, section 4.1).
    ndcg@k = DCG / ideal DCG with DCG = Σ_{r=1..k} [item r is held] / log2(r + 1) (Järvelin & Kekäläinen
    2002), the ideal having min(k, |held|) hits first. An item's strength for a user is the sum of its
    cosines to the user's items (Deshpande & Karypis 2004); ties go to the lower item number.

    Args:
        seen, held: users × items CSR matrices of ones with the same shape.
    """
    similar = _similarity_matrix(model)
    users = np.flatnonzero(np.diff(held.indptr))
    recall = ndcg = 0.0
    discounts = 1.0 / np.log2(np.arange(2, model.k + 2, dtype=np.float64))
    ideal = np.cumsum(discounts)
    for first in range(0, users.size, USERS_PER_BLOCK):
        block = users[first : first + USERS_PER_BLOCK]
        mine = seen[block].tocsr()
        strength = (mine @ similar).tocsr()
        for row, user in enumerate(block):
            has = mine.indices[mine.indptr[row] : mine.indptr[row + 1]]
            wants = held.indices[held.indptr[user] : held.indptr[user + 1]]
            begin, end = strength.indptr[row], strength.indptr[row + 1]
            listed = _best(strength.indices[begin:end], strength.data[begin:end], has, model.k)
            hits = np.isin(listed, wants)
            recall += float(hits.sum()) / wants.size
            ndcg += float(np.sum(discounts[: listed.size][hits])) / float(ideal[min(model.k, wants.size) - 1])
    n = max(1, users.size)
    return Metrics(score(model), round(recall / n, 12), round(ndcg / n, 12), int(users.size))


def _similarity_matrix(model: Model) -> Any:
    n_items = len(model.item_ids)
    kept = model.neighbours >= 0
    rows = np.repeat(np.arange(n_items), model.k).reshape(n_items, model.k)
    return sparse.csr_matrix(
        (model.similarities[kept], (rows[kept], model.neighbours[kept])), shape=(n_items, n_items)
    )


def _best(
    items: npt.NDArray[np.int32], strength: npt.NDArray[np.float64], has: npt.NDArray[np.int32], k: int
) -> npt.NDArray[np.int32]:
    fresh = ~np.isin(items, has)
    items, strength = items[fresh], np.round(strength[fresh], 12)  # sums in any order give one ranking
    return items[np.lexsort((items, -strength))[:k]]
