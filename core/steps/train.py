"""Train the recommender; a retry resumes from the last valid checkpoint."""

from __future__ import annotations

import hashlib

from core import recommender
from core.context import StepContext
from core.split import from_npz
from core.train import Checkpoints, train


def run(context: StepContext) -> dict[str, str]:
    """Outputs model_uri, model_sha256, and seed, k and index, by which a sweep tells candidates apart.

    Raises:
        BadInput, StoreError: as reading and writing the files does.
    """
    config = context.config
    data, _ = from_npz(context.load("train"), context.read_place("train"))
    key = f"{recommender.FORMAT}/{context.read['train'].sha256}/k={config.k}"
    checkpoints = Checkpoints(context.checkpoint_dir, hashlib.sha256(key.encode()).hexdigest())
    model, progress = train(
        data, k=config.k, seed=config.seed, checkpoints=checkpoints, train_seconds=config.train_seconds
    )
    made = context.save("model", "model.joblib", recommender.to_joblib(model))
    context.details.update(
        blocks=progress.blocks,
        resumed_blocks=progress.resumed_blocks,
        checkpoints_written=progress.checkpoints_written,
        work_seconds=round(progress.work_seconds, 6),
        own_seconds=round(progress.own_seconds, 6),
    )
    print(
        f"train: {len(model.item_ids)} items, k={model.k}, {progress.blocks} blocks"
        f" ({progress.resumed_blocks} from checkpoints), {progress.work_seconds:.3f} s of work"
    )
    return {
        "model_uri": made.uri,
        "model_sha256": made.sha256,
        "seed": str(config.seed),
        "k": str(config.k),
        "index": "" if context.index is None else str(context.index),
    }
