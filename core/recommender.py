"""Item-knn: cosine over co-occurrence, blockwise and sparse; the same bytes for the same inputs.

Counts are integers and each similarity is one multiplication, one square root and one division in
float64, all correctly rounded by IEEE 754: no sum of floats, so no host, thread count or BLAS changes it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from scipy import sparse

from core.errors import BadInput
from core.split import Interactions, unpack

FORMAT = "bookstore-item-knn/1"
Neighbours = npt.NDArray[np.int32]
Similarities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A trained recommender.

    `neighbours` (items, k) int32: the nearest items, best first, -1 where there are fewer;
    `similarities` (items, k) float64: their cosines, 0.0 there.
    """

    item_ids: tuple[str, ...]
    k: int
    seed: int
    neighbours: Neighbours
    similarities: Similarities

    def recommend(self, item_id: str, n: int) -> list[tuple[str, float]]:
        """Up to `n` items like `item_id` with their cosines, best first. Raises KeyError."""
        try:
            row = self.item_ids.index(item_id)
        except ValueError:
            raise KeyError(item_id) from None
        pairs = zip(self.neighbours[row, :n].tolist(), self.similarities[row, :n].tolist(), strict=True)
        return [(self.item_ids[item], similarity) for item, similarity in pairs if item >= 0]


def block_bounds(n_items: int, *, at_least: int = 16, most_rows: int = 512) -> list[tuple[int, int]]:
    """Row ranges [first, last) covering the items: 16 blocks or more, 512 rows each or fewer."""
    n_blocks = min(n_items, max(at_least, -(-n_items // most_rows)))
    edges = [n_items * block // n_blocks for block in range(n_blocks + 1)]
    return list(itertools.pairwise(edges))


def top_k_block(
    matrix: Any, by_item: Any, counts: npt.NDArray[np.int64], first: int, last: int, k: int
) -> tuple[Neighbours, Similarities]:
    """The k nearest items of the items first..last-1.

    cos(i, j) = |U_i ∩ U_j| / sqrt(|U_i| |U_j|), U_i the users of item i (Salton's cosine; as an item-item
    similarity in Sarwar et al. 2001 and Deshpande & Karypis 2004). Ties go to the lower item number.

    Args:
        matrix: users × items CSR of int32 ones; by_item: its transpose in CSR.
        counts: (items,) users per item.

    Returns:
        Arrays of shape (last - first, k), padded with -1 and 0.0.
    """
    together = (by_item[first:last] @ matrix).tocsr()  # block × items, integer counts
    neighbours = np.full((last - first, k), -1, dtype=np.int32)
    similarities = np.zeros((last - first, k), dtype=np.float64)
    for row in range(last - first):
        begin, end = together.indptr[row], together.indptr[row + 1]
        items = together.indices[begin:end]
        common = together.data[begin:end]
        others = items != first + row
        items, common = items[others].astype(np.int64), common[others]
        cosine = common / np.sqrt((counts[items] * counts[first + row]).astype(np.float64))
        if cosine.size > k:
            threshold = np.partition(cosine, cosine.size - k)[cosine.size - k]
            kept = cosine >= threshold
            items, cosine = items[kept], cosine[kept]
        best = np.lexsort((items, -cosine))[:k]
        neighbours[row, : best.size] = items[best]
        similarities[row, : best.size] = cosine[best]
    return neighbours, similarities


def transpose(matrix: Any) -> Any:
    """Items × users in CSR, from users × items."""
    return sparse.csr_matrix(matrix.T)


def to_joblib(model: Model) -> bytes:
    """The model as joblib bytes, without time, host or run: plain arrays in a fixed order."""
    names = [name.encode() for name in model.item_ids]
    state = {
        "format": FORMAT,
        "k": int(model.k),
        "seed": int(model.seed),
        "item_bytes": np.frombuffer(b"".join(names), dtype=np.uint8).copy(),
        "item_ends": np.cumsum([len(name) for name in names]).astype(np.int64),
        "neighbours": np.array(model.neighbours, dtype=np.int32, order="C", copy=True),
        "similarities": np.array(model.similarities, dtype=np.float64, order="C", copy=True),
    }
    buffer = io.BytesIO()
    joblib.dump(state, buffer, compress=0, protocol=5)
    return buffer.getvalue()


def from_joblib(content: bytes, place: str) -> Model:
    """The model in joblib bytes. Check their sha256 first: a pickle runs code when it is loaded.

    Raises:
        BadInput: if they hold something else; names `place`.
    """
    try:
        state: Mapping[str, Any] = joblib.load(io.BytesIO(content))
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']!r}, not {FORMAT}")
        return Model(
            item_ids=unpack(state["item_bytes"], state["item_ends"]),
            k=state["k"],
            seed=state["seed"],
            neighbours=state["neighbours"],
            similarities=state["similarities"],
        )
    except Exception as error:
        raise BadInput(
            f"{place} is not a model of this pipeline: {error}",
            next_step="give the model.joblib that `step train` wrote",
        ) from error


def assemble(
    data: Interactions, *, k: int, seed: int, blocks: list[tuple[Neighbours, Similarities]]
) -> Model:
    """The model from its blocks in item order."""
    return Model(
        item_ids=data.item_ids,
        k=k,
        seed=seed,
        neighbours=np.concatenate([block[0] for block in blocks]),
        similarities=np.concatenate([block[1] for block in blocks]),
    )
