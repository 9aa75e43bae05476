"""Choose the best candidate of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from core.context import StepContext
from core.errors import BadInput
from core.steps import boolean

FIELDS = ("index", "score", "model_uri", "model_sha256", "seed", "k")


def run(context: StepContext) -> dict[str, str]:
    """Outputs index, score, model_uri, model_sha256, seed, k, passed of the best. Raises BadInput."""
    best = choose(context.scalar("candidates"))
    outputs = {name: best.get(name, "") for name in FIELDS}
    passed = best.get("passed") or boolean(value=float(best["score"]) >= context.config.min_score_gate)
    print(f"select: candidate {best['index']} with score {best['score']}")
    return {**outputs, "passed": passed.lower()}


def choose(text: str) -> dict[str, str]:
    """The candidate with the highest score; ties go to the lowest index, then the lowest digest.

    Args:
        text: JSON list of objects, or of JSON texts of objects; numbers may be texts.

    Raises:
        BadInput: naming the candidate that is not usable.
    """
    try:
        items = json.loads(text)
    except ValueError as error:
        raise BadInput(f"candidates: not JSON: {error}", next_step=_EXAMPLE) from error
    if not isinstance(items, list) or not items:
        raise BadInput("candidates: not a JSON list with at least one candidate", next_step=_EXAMPLE)
    return min((_candidate(number, item) for number, item in enumerate(items)), key=_rank)


_EXAMPLE = """--input 'candidates=[{"index": 0, "score": "0.5", "model_uri": "…", "model_sha256": "…"}]'"""


def _candidate(number: int, item: object) -> dict[str, str]:
    if isinstance(item, str):
        try:
            item = json.loads(item)
        except ValueError as error:
            raise BadInput(f"candidates[{number}]: not JSON: {error}", next_step=_EXAMPLE) from error
    if not isinstance(item, Mapping):
        raise BadInput(f"candidates[{number}]: not an object", next_step=_EXAMPLE)
    texts = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in item.items()}
    texts.setdefault("index", str(number))
    try:
        finite = math.isfinite(float(texts["score"]))
        int(texts["index"])
    except (KeyError, ValueError) as error:
        raise BadInput(f"candidates[{number}]: {error}", next_step=_EXAMPLE) from error
    if not finite:
        raise BadInput(f"candidates[{number}]: score {texts['score']} is not finite", next_step=_EXAMPLE)
    return texts


def _rank(candidate: Mapping[str, str]) -> tuple[float, int, str]:
    return -float(candidate["score"]), int(candidate["index"]), candidate.get("model_sha256", "")
