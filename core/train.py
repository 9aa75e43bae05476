"""Training: block after block, with checkpoints that a retry resumes from."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

from core import artifacts
from core.errors import BenchError
from core.recommender import (
    Model,
    Neighbours,
    Similarities,
    assemble,
    block_bounds,
    top_k_block,
    transpose,
)
from core.split import Interactions

CHECKPOINT_EVERY_SECONDS = 1.0
_MAGIC = b"bench-checkpoint/1\n"
Block = tuple[Neighbours, Similarities]


@dataclass(frozen=True)
class Progress:
    """What training did: blocks in all, blocks taken from checkpoints, checkpoints written, and the time
    spent computing (seconds), over all attempts and in this one."""

    blocks: int
    resumed_blocks: int
    checkpoints_written: int
    work_seconds: float
    own_seconds: float


class ItemKnn(BaseEstimator):  # type: ignore[misc]
    """Item-knn over a sparse users × items matrix, as a scikit-learn estimator.

    After `fit`, `neighbours_` (items, k) int32 and `similarities_` (items, k) float64.
    """

    def __init__(self, k: int = 5) -> None:
        self.k = k

    def fit(self, X: Any, y: None = None) -> ItemKnn:
        """Compute every block at once. Raises ValueError for a matrix that is not numeric or is empty."""
        blocks = list(self.iter_blocks(X))
        self.neighbours_ = np.concatenate([block[0] for block in blocks])
        self.similarities_ = np.concatenate([block[1] for block in blocks])
        return self

    def iter_blocks(self, X: Any) -> Any:
        """The blocks one by one, in item order."""
        compute, bounds = self.plan(X)
        for first, last in bounds:
            yield compute(first, last)

    def plan(self, X: Any) -> tuple[Callable[[int, int], Block], list[tuple[int, int]]]:
        """A function that computes the rows [first, last), and the row ranges that cover all items."""
        matrix = check_array(X, accept_sparse="csr", dtype=np.int32, accept_large_sparse=True)
        matrix.data[:] = 1
        by_item = transpose(matrix)
        counts = np.diff(by_item.indptr).astype(np.int64)

        def compute(first: int, last: int) -> Block:
            return top_k_block(matrix, by_item, counts, first, last, self.k)

        return compute, block_bounds(matrix.shape[1])


class Checkpoints:
    """Segments of finished blocks in one folder, each with the digest of its content.

    `key` binds them to the training data and parameters: a segment of anything else is ignored, and so is a
    torn one.
    """

    def __init__(self, folder: str, key: str) -> None:
        self.folder = folder
        self.key = key

    def save(self, first_block: int, blocks: list[Block], work_seconds: float) -> None:
        """Write the blocks first_block, first_block + 1, … Raises StoreError."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            neighbours=np.concatenate([block[0] for block in blocks]),
            similarities=np.concatenate([block[1] for block in blocks]),
            rows=np.array([len(block[0]) for block in blocks], dtype=np.int64),
        )
        header = {"key": self.key, "first": first_block, "work_seconds": work_seconds}
        payload = json.dumps(header, sort_keys=True).encode() + b"\n" + buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode()
        name = f"segment-{first_block:06d}-{first_block + len(blocks):06d}.ckpt"
        artifacts.write(artifacts.join(self.folder, name), _MAGIC + digest + b"\n" + payload)

    def load(self) -> tuple[list[Block], float]:
        """The longest valid run of blocks from block 0, and the work (seconds) that went into it.

        Raises:
            StoreError: if the store does not answer.
        """
        segments: dict[int, tuple[int, list[Block], float]] = {}
        for name in artifacts.list_files(self.folder):
            if not name.endswith(".ckpt"):
                continue
            segment = self._valid(artifacts.read(artifacts.join(self.folder, name)))
            if segment is not None and len(segment[1]) > len(segments.get(segment[0], (0, [], 0.0))[1]):
                segments[segment[0]] = segment
        blocks: list[Block] = []
        work_seconds = 0.0
        while len(blocks) in segments:
            _, more, work_seconds = segments[len(blocks)]
            blocks.extend(more)
        return blocks, work_seconds

    def _valid(self, content: bytes) -> tuple[int, list[Block], float] | None:
        if not content.startswith(_MAGIC):
            return None
        digest, _, payload = content[len(_MAGIC) :].partition(b"\n")
        if hashlib.sha256(payload).hexdigest().encode() != digest:
            return None
        head, _, body = payload.partition(b"\n")
        header = json.loads(head)
        if header["key"] != self.key:
            return None
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            edges = np.cumsum(file["rows"])[:-1]
            neighbours = np.split(file["neighbours"], edges)
            similarities = np.split(file["similarities"], edges)
        return header["first"], list(zip(neighbours, similarities, strict=True)), header["work_seconds"]


def train(
    data: Interactions, *, k: int, seed: int, checkpoints: Checkpoints, train_seconds: float = 0.0
) -> tuple[Model, Progress]:
    """Train, resuming from the last valid checkpoint.

    The work lasts at least `train_seconds` (over all attempts): each block is computed again and again until
    its share of that time is used up, and every repetition must give the same result.

    Raises:
        BenchError: if a repetition differs: the machine's memory or arithmetic is not to be trusted.
        StoreError: if a checkpoint cannot be written.
    """
    compute, bounds = ItemKnn(k=k).plan(data.matrix)
    blocks, work_seconds = checkpoints.load()
    blocks = blocks[: len(bounds)]
    resumed = saved = len(blocks)
    written = 0
    own_seconds = 0.0
    last_save = time.monotonic()
    for number in range(resumed, len(bounds)):
        share = train_seconds * (number + 1) / len(bounds)
        block: Block | None = None
        while block is None or work_seconds < share:
            began = time.monotonic()
            again = compute(*bounds[number])
            if block is not None and not _same(block, again):
                raise BenchError(
                    f"training block {number} gave two results on one machine",
                    kept="the checkpoints written before it",
                    next_step="check this machine's memory, then start the step again",
                )
            block = again
            spent = time.monotonic() - began
            work_seconds += spent
            own_seconds += spent
        blocks.append(block)
        if time.monotonic() - last_save >= CHECKPOINT_EVERY_SECONDS and number + 1 < len(bounds):
            checkpoints.save(saved, blocks[saved:], work_seconds)
            saved, last_save = len(blocks), time.monotonic()
            written += 1
    model = assemble(data, k=k, seed=seed, blocks=blocks)
    return model, Progress(len(bounds), resumed, written, work_seconds, own_seconds)


def _same(one: Block, other: Block) -> bool:
    return bool(np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]))
