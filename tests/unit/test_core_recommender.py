"""Item-knn: against a dense reference, byte for byte, and resumed after SIGKILL."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.metrics import ndcg_score
from sklearn.metrics.pairwise import cosine_similarity

from core import artifacts, data, recommender
from core.evaluate import evaluate
from core.split import Interactions, from_npz, split, to_npz
from core.train import Checkpoints, ItemKnn, train
from tests.unit.conftest import Home, outputs_of, wait_for

Dense = npt.NDArray[np.int8]
matrices = hnp.arrays(
    np.int8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=24), elements=st.integers(0, 1)
)


def dense_top_k(dense: Dense, k: int) -> list[list[tuple[int, float]]]:
    """By scikit-learn's dense cosine over the columns: an independent way to the same neighbours."""
    cosine = cosine_similarity(dense.T.astype(np.float64))
    np.fill_diagonal(cosine, 0.0)
    found = []
    for row in np.round(cosine, 10):
        order = sorted(
            (item for item in range(len(row)) if row[item] > 0), key=lambda item: (-row[item], item)
        )
        found.append([(item, float(row[item])) for item in order[:k]])
    return found


def interactions(dense: Dense) -> Interactions:
    matrix = sparse.csr_matrix(dense.astype(np.int32))
    counts = dense.sum(axis=0).astype(np.int64)
    names = tuple(f"item-{number:04d}" for number in range(dense.shape[1]))
    return Interactions(matrix, names, counts, counts, {"recent": "test"})


@settings(deadline=None)
@given(matrices, st.integers(1, 6))
def test_blockwise_top_k_equals_the_dense_reference(dense: Dense, k: int) -> None:
    fitted = ItemKnn(k=k).fit(sparse.csr_matrix(dense.astype(np.int32)))
    for row, expected in enumerate(dense_top_k(dense, k)):
        items = [int(item) for item in fitted.neighbours_[row] if item >= 0]
        cosines = fitted.similarities_[row][: len(items)]
        assert len(items) == len(expected)
        assert items == [item for item, _ in expected]
        np.testing.assert_allclose(cosines, [cosine for _, cosine in expected], atol=1e-9)
        assert (fitted.similarities_[row][len(items) :] == 0).all()


@settings(deadline=None)
@given(matrices, st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
def test_the_size_of_blocks_changes_nothing(dense: Dense, k: int, at_least: int, most_rows: int) -> None:
    compute, _ = ItemKnn(k=k).plan(sparse.csr_matrix(dense.astype(np.int32)))
    whole = compute(0, dense.shape[1])
    bounds = recommender.block_bounds(dense.shape[1], at_least=at_least, most_rows=most_rows)
    parts = [compute(first, last) for first, last in bounds]
    assert np.array_equal(np.concatenate([part[0] for part in parts]), whole[0])
    assert np.array_equal(np.concatenate([part[1] for part in parts]), whole[1])


ratings_tables = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=60, unique=True
).filter(lambda pairs: len({item for _, item in pairs}) > 1)


@settings(deadline=None)
@given(ratings_tables, st.integers(0, 2**32))
def test_the_split_loses_nothing_and_leaves_every_user_something(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    text = "user_id,item_id,rating\n" + "".join(f"u{user},i{item},1\n" for user, item in pairs)
    table = data.parse(text.encode(), "r.csv")
    kept, held, item_ids, _, _ = split(table, seed=seed)
    both = (kept + held).toarray()
    assert both.max() == 1, "an interaction is in both parts"
    users = sorted({f"u{user}" for user, _ in pairs})
    expected = {(users.index(f"u{user}"), item_ids.index(f"i{item}")) for user, item in pairs}
    assert set(zip(*(part.tolist() for part in both.nonzero()), strict=True)) == expected
    had, kept_counts = both.sum(axis=1), kept.toarray().sum(axis=1)
    assert (kept_counts >= 1).all()
    held_counts = had - kept_counts
    assert (held_counts == np.where(had >= 2, np.maximum(1, had // 5), 0)).all()


def test_the_split_depends_on_the_seed_only() -> None:
    table = data.generate(seed=3, n_books=40)
    one, again, other = split(table, seed=1), split(table, seed=1), split(table, seed=2)
    assert (one[0] != again[0]).nnz == 0
    assert (one[0] != other[0]).nnz > 0


@settings(deadline=None, max_examples=50)
@given(matrices, st.integers(1, 5))
def test_recall_and_ndcg_equal_a_dense_reference(dense: Dense, k: int) -> None:
    rng = np.random.default_rng(abs(hash(dense.tobytes())) % 2**32)
    held_mask = (rng.random(dense.shape) < 0.3) & (dense == 1)
    seen = np.where(held_mask, 0, dense).astype(np.int8)
    held = held_mask.astype(np.int8)
    fitted = ItemKnn(k=k).fit(sparse.csr_matrix(seen.astype(np.int32)))
    names = tuple(map(str, range(dense.shape[1])))
    model = recommender.Model(names, k, 0, fitted.neighbours_, fitted.similarities_)
    got = evaluate(model, sparse.csr_matrix(seen.astype(np.int32)), sparse.csr_matrix(held.astype(np.int32)))
    similar = np.zeros((dense.shape[1], dense.shape[1]))
    for row in range(dense.shape[1]):
        for item, cosine in zip(fitted.neighbours_[row], fitted.similarities_[row], strict=True):
            if item >= 0:
                similar[row, item] = cosine
    recalls, ndcgs = [], []
    for user in np.flatnonzero(held.sum(axis=1)):
        strength = np.round(seen[user].astype(np.float64) @ similar, 12)
        strength[seen[user] == 1] = 0
        ranked = sorted(np.flatnonzero(strength > 0), key=lambda item: (-strength[item], item))[:k]
        recalls.append(sum(held[user, item] for item in ranked) / held[user].sum())
        gains = np.zeros(dense.shape[1])
        gains[ranked] = np.arange(len(ranked), 0, -1)  # scikit-learn ranks by these, without ties
        listed = ndcg_score([held[user]], [gains], k=k, ignore_ties=True) if dense.shape[1] > 1 else 0.0
        dcg = sum(held[user, item] / np.log2(rank + 2) for rank, item in enumerate(ranked))
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, int(held[user].sum()))))
        ndcgs.append(dcg / ideal)
        if len(ranked) == k:
            assert listed == pytest.approx(dcg / ideal, abs=1e-9)
    assert got.users == len(recalls)
    if recalls:
        assert got.recall_at_k == pytest.approx(np.mean(recalls), abs=1e-9)
        assert got.ndcg_at_k == pytest.approx(np.mean(ndcgs), abs=1e-9)


def prepared(seed: int = 42, n_books: int = 60) -> Interactions:
    table = data.generate(seed=seed, n_books=n_books)
    kept, _, item_ids, recent, rule = split(table, seed=seed)
    counts = np.bincount(kept.indices, minlength=len(item_ids)).astype(np.int64)
    return Interactions(kept, item_ids, counts, recent, {"recent": rule})


def digest(folder: Path, *, seed: int = 42, k: int = 5, shuffle: bool = False) -> str:
    given = prepared(seed)
    if shuffle:
        given, _ = from_npz(to_npz(given), "again")
    model, _ = train(given, k=k, seed=seed, checkpoints=Checkpoints(str(folder), "key"))
    return artifacts.sha256_of(recommender.to_joblib(model))


def test_the_model_digest_follows_seed_and_k_and_nothing_else(tmp_path: Path) -> None:
    first = digest(tmp_path / "a")
    assert digest(tmp_path / "b", shuffle=True) == first
    assert digest(tmp_path / "c", seed=43) != first
    assert digest(tmp_path / "d", k=6) != first


def test_the_model_survives_its_file() -> None:
    model, _ = train(prepared(), k=3, seed=42, checkpoints=Checkpoints("/nonexistent", "key"))
    again = recommender.from_joblib(recommender.to_joblib(model), "m")
    assert again.item_ids == model.item_ids
    assert np.array_equal(again.neighbours, model.neighbours)
    best = again.recommend(model.item_ids[0], 2)
    assert best[0][1] >= best[1][1] > 0
    with pytest.raises(KeyError):
        again.recommend("no such book", 1)


def test_a_torn_or_foreign_checkpoint_is_ignored(tmp_path: Path) -> None:
    compute, bounds = ItemKnn(k=5).plan(prepared().matrix)
    blocks = [compute(*bound) for bound in bounds]
    mine = Checkpoints(str(tmp_path), "mine")
    mine.save(0, blocks[:3], 1.5)
    mine.save(3, blocks[3:5], 2.5)
    assert len(mine.load()[0]) == 5
    assert mine.load()[1] == 2.5
    assert Checkpoints(str(tmp_path), "other").load() == ([], 0.0)
    second = tmp_path / "segment-000003-000005.ckpt"
    second.write_bytes(second.read_bytes()[:-7])
    assert len(mine.load()[0]) == 3


def test_a_killed_training_resumes_and_ends_with_the_same_bytes(home: Home) -> None:
    (home.path / "train.npz").write_bytes(to_npz(prepared()))
    config = '{"train_seconds": 5}'
    call = ("train", "--run-id", "killed", "--config", config, "--input", f"train={home.path}/train.npz")
    folder = home.path / "artifacts/killed/train/checkpoints"
    first = home.spawn(*call)
    wait_for(lambda: list(folder.glob("*.ckpt")), "the first checkpoint")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert home.events("finish") == []
    resumed = outputs_of(home.step(*call))
    finish = home.events("finish")[0]
    assert finish["attempt"] == 2
    assert finish["data"]["resumed_blocks"] > 0
    assert finish["data"]["own_seconds"] < finish["data"]["work_seconds"]
    assert finish["data"]["work_seconds"] >= 5
    plain = ("train", "--run-id", "whole", "--input", f"train={home.path}/train.npz")
    assert outputs_of(home.step(*plain))["model_sha256"] == resumed["model_sha256"]


def test_npz_files_are_the_same_bytes_for_the_same_content() -> None:
    assert to_npz(prepared()) == to_npz(prepared())


def test_unusual_item_names_come_back(tmp_path: Path) -> None:
    names = ["ü", "漢字", "a b", "0", "x" * 300]
    table = pl.DataFrame({"user_id": ["u"] * 5 + ["v"] * 5, "item_id": names * 2, "rating": [1.0] * 10})
    kept, _, item_ids, recent, rule = split(data.parse(table.write_csv().encode(), "r.csv"), seed=1)
    given = Interactions(kept, item_ids, recent, recent, {"recent": rule})
    assert from_npz(to_npz(given), "x")[0].item_ids == tuple(sorted(names))
