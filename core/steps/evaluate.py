"""Score the model on held-out interactions, and pass or fail the gate."""

from __future__ import annotations

import json

import numpy as np
from scipy import sparse

from core.context import StepContext
from core.errors import BadInput
from core.evaluate import evaluate
from core.recommender import from_joblib
from core.split import from_npz
from core.steps import boolean


def run(context: StepContext) -> dict[str, str]:
    """Outputs score, passed, recall_at_k, ndcg_at_k, metrics_uri. A failed gate is no error.

    Raises:
        BadInput: if model and held-out file are not of one dataset.
        StoreError: if a file cannot be read or written.
    """
    config = context.config
    data, arrays = from_npz(context.load("heldout"), context.read_place("heldout"))
    if "held_indices" not in arrays:
        raise BadInput(
            f"{context.read_place('heldout')} holds no held-out interactions",
            next_step="give heldout.npz, not train.npz",
        )
    model = from_joblib(context.load("model"), context.read_place("model"))
    if model.item_ids != data.item_ids:
        raise BadInput(
            f"{context.read_place('model')} and {context.read_place('heldout')} are of different datasets",
            next_step="give the files of one run",
        )
    ones = np.ones(arrays["held_indices"].size, dtype=np.int32)
    held = sparse.csr_matrix((ones, arrays["held_indices"], arrays["held_indptr"]), shape=data.matrix.shape)
    metrics = evaluate(model, data.matrix, held)
    passed = metrics.score >= config.min_score_gate
    numbers = {
        "score": metrics.score,
        "recall_at_k": metrics.recall_at_k,
        "ndcg_at_k": metrics.ndcg_at_k,
        "heldout_users": metrics.users,
    }
    record = {
        **numbers,
        "passed": passed,
        "min_score_gate": config.min_score_gate,
        "k": model.k,
        "seed": model.seed,
        "dataset": {"uri": data.meta["dataset_uri"], "sha256": data.meta["dataset_sha256"]},
        "parents": {name: {"uri": item.uri, "sha256": item.sha256} for name, item in context.read.items()},
    }
    made = context.save("metrics", "metrics.json", json.dumps(record, sort_keys=True, indent=1).encode())
    texts = {name: repr(value) for name, value in numbers.items()}
    context.metrics.update(texts)
    print(
        f"eval: score {metrics.score:.4f} (gate {config.min_score_gate}: {'passed' if passed else 'failed'}),"
        f" recall@{model.k} {metrics.recall_at_k:.4f}, ndcg@{model.k} {metrics.ndcg_at_k:.4f}"
    )
    return {
        "score": texts["score"],
        "passed": boolean(value=passed),
        "recall_at_k": texts["recall_at_k"],
        "ndcg_at_k": texts["ndcg_at_k"],
        "metrics_uri": made.uri,
    }
