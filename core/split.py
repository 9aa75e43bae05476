"""Train and held-out interactions: a seeded split per user, as compact sparse files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from core.errors import BadInput

HELD_SHARE = 0.2
RECENT_SHARE = 0.2
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interactions:
    """Who had what: a binary users × items matrix in CSR form, item names, and where it came from.

    `counts` (items,) int64: users per item in training; `recent` (items,) int64: interactions per item in
    the most recent fifth of the data (`meta["recent"]` says by which rule).
    """

    matrix: Any  # scipy.sparse.csr_matrix, int32, ones
    item_ids: tuple[str, ...]
    counts: LongArray
    recent: LongArray
    meta: Mapping[str, str]


def split(ratings: pl.DataFrame, *, seed: int) -> tuple[Any, Any, tuple[str, ...], LongArray, str]:
    """Hold out a fifth of every user's items, at least one from users with two or more.

    Args:
        ratings: one row per (user_id, item_id), sorted by both.
        seed: decides which.

    Returns:
        train and held-out as users × items int32 CSR matrices of ones with disjoint support, the item
        ids (sorted), recent interactions per item, and the rule by which they are recent.
    """
    users, user_starts, user_counts = _codes(ratings["user_id"])
    item_names = ratings["item_id"].unique().sort()
    items = (
        ratings.select(
            pl.col("item_id").replace_strict(item_names, pl.int_range(len(item_names), eager=True))
        )
        .to_series()
        .to_numpy()
        .astype(np.int32)
    )
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    draw = rng.permutation(ratings.height)  # distinct integers: no ties, no floats
    order = np.lexsort((draw, users))
    rank = np.empty(ratings.height, dtype=np.int64)
    rank[order] = np.arange(ratings.height) - np.repeat(user_starts, user_counts)
    held_per_user = np.where(user_counts >= 2, np.maximum(1, user_counts // round(1 / HELD_SHARE)), 0)
    held = rank < held_per_user[users]
    shape = (len(user_counts), len(item_names))
    recent, rule = _recent(ratings, items, held, shape[1])
    return (
        _ones(users[~held], items[~held], shape),
        _ones(users[held], items[held], shape),
        tuple(item_names.to_list()),
        recent,
        rule,
    )


def _codes(column: pl.Series) -> tuple[LongArray, LongArray, LongArray]:
    """For a sorted column: each row's group number, each group's first row, each group's size."""
    groups = column.rle_id().to_numpy().astype(np.int64)
    counts = np.bincount(groups).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    return groups, starts, counts


def _recent(
    ratings: pl.DataFrame, items: IntArray, held: npt.NDArray[np.bool_], n_items: int
) -> tuple[LongArray, str]:
    if "timestamp" not in ratings.columns:
        return np.bincount(items[held], minlength=n_items).astype(np.int64), "held-out"
    stamps = ratings["timestamp"].to_numpy()
    newest = np.lexsort((np.arange(stamps.size), stamps))[-max(1, int(stamps.size * RECENT_SHARE)) :]
    return np.bincount(items[newest], minlength=n_items).astype(np.int64), "newest fifth by timestamp"


def _ones(rows: LongArray, columns: IntArray, shape: tuple[int, int]) -> Any:
    ones = np.ones(rows.size, dtype=np.int32)
    matrix = sparse.csr_matrix((ones, (rows, columns)), shape=shape)
    matrix.sort_indices()
    return matrix


def to_npz(data: Interactions, **extra: npt.NDArray[Any]) -> bytes:
    """The interactions as one npz file: the same bytes for the same content."""
    names = [name.encode() for name in data.item_ids]
    arrays: dict[str, npt.NDArray[Any]] = {
        "indptr": data.matrix.indptr.astype(np.int64),
        "indices": data.matrix.indices.astype(np.int32),
        "shape": np.array(data.matrix.shape, dtype=np.int64),
        "item_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
        "item_ends": np.cumsum([len(name) for name in names]).astype(np.int64),
        "counts": data.counts,
        "recent": data.recent,
        "meta": np.frombuffer(json.dumps(dict(data.meta), sort_keys=True).encode(), dtype=np.uint8),
        **extra,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_npz(content: bytes, place: str) -> tuple[Interactions, dict[str, npt.NDArray[Any]]]:
    """The interactions in an npz file, and every array of it by name.

    Raises:
        BadInput: if the bytes are not such a file; names `place`.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        data = _from_arrays(arrays)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise BadInput(
            f"{place} is not an interactions file of this pipeline: {error}",
            next_step="give the train.npz or heldout.npz that `step preprocess` wrote",
        ) from error
    return data, arrays


def _from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Interactions:
    indices = arrays["indices"].astype(np.int32)
    matrix = sparse.csr_matrix(
        (np.ones(indices.size, dtype=np.int32), indices, arrays["indptr"]),
        shape=tuple(int(size) for size in arrays["shape"]),
    )
    return Interactions(
        matrix=matrix,
        item_ids=unpack(arrays["item_bytes"], arrays["item_ends"]),
        counts=arrays["counts"],
        recent=arrays["recent"],
        meta=json.loads(arrays["meta"].tobytes()),
    )


def unpack(item_bytes: npt.NDArray[Any], item_ends: npt.NDArray[Any]) -> tuple[str, ...]:
    """Item ids from their concatenated UTF-8 bytes and end offsets."""
    text = item_bytes.tobytes()
    starts = [0, *item_ends[:-1].tolist()]
    return tuple(text[a:b].decode() for a, b in zip(starts, item_ends.tolist(), strict=True))
