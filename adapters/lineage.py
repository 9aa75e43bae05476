"""Lineage: what an orchestrator's own store knows of a run, and how thirteen questions are answered from it alone.

A reader, `adapters/NAME/lineage.py`, has one function `known(driver, handle) -> Known`. It asks nothing but the
orchestrator's own store: no ledger, no model registry, no artifact store. An adapter without one is not asked.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from adapters.base import Adapter, Frozen, RunHandle

Question = Literal[
    "dataset",
    "code",
    "parameters",
    "metrics",
    "upstream",
    "downstream",
    "serving",
    "promotion",
    "attempt",
    "failed",
    "alert",
    "durable",
    "openlineage",
]
QUESTIONS: tuple[Question, ...] = get_args(Question)
FIRST_FOUR: tuple[Question, ...] = QUESTIONS[:4]
"""What must outlive the run's pods and objects."""
SHAPING = ("dataset_uri", "n_books", "seed", "k", "min_score_gate")
"""Parameters that determine the model and whether it passes."""
UPSTREAM = ("dataset_uri", "ratings_uri", "train_uri")
"""What the model was made from."""
DOWNSTREAM = ("ratings_uri", "train_uri", "heldout_uri", "model_uri", "metrics_uri", "model_version")
"""What was made from the dataset."""


class Kept(Frozen):
    """One attempt of a step as the orchestrator's store has it. Times are seconds since the epoch."""

    step: str
    attempt: int | None
    """Which one of the step's it was, from 1; None where the store keeps no attempts apart."""
    succeeded: bool
    inputs: Mapping[str, str] = {}
    outputs: Mapping[str, str] = {}
    finished: float | None = None
    image: str = ""
    """Digest of the image it ran."""


class Known(Frozen):
    """All that the store has of a run; empty where it has nothing."""

    source: str
    """Which store, such as `Workflow in the Kubernetes API`."""
    query: str
    """How it was asked."""
    parameters: Mapping[str, str] = {}
    attempts: tuple[Kept, ...] = ()
    run: str = ""
    """The run's own name or id there."""
    openlineage: tuple[Mapping[str, Any], ...] = ()
    """Run events that the orchestrator itself exports."""


class Answer(Frozen):
    """What was answered to one question: facts by name. Empty where the store has none of them."""

    question: Question
    facts: Mapping[str, str]


def reader(adapter: Adapter) -> Callable[[Any, RunHandle], Known] | None:
    """The adapter's own reader; None where it has none."""
    package = type(adapter).__module__.rpartition(".")[0]
    name = f"{package}.lineage"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
    found: Callable[[Any, RunHandle], Known] | None = getattr(module, "known", None)
    return found


def answer(question: Question, known: Known) -> Answer:
    """The facts that `known` holds for a question other than `durable`, which is the first four once more."""
    facts = {name: text for name, text in _FACTS[question](known).items() if text}
    return Answer(question=question, facts=facts)


def _values(known: Known) -> dict[str, str]:
    """What successful attempts were given and left, by name; what a step left counts more than what it was given."""
    good = [each for each in known.attempts if each.succeeded]
    found: dict[str, str] = {}
    for each in good:
        found |= each.inputs
    for each in good:
        found |= each.outputs
    return found


def _some(*names: str) -> Callable[[Known], dict[str, str]]:
    return lambda known: {name: _values(known).get(name, "") for name in names}


def _last(known: Known, step: str) -> Kept | None:
    """The attempt of a step that did it."""
    return next((each for each in reversed(known.attempts) if each.step == step and each.succeeded), None)


def _code(known: Known) -> dict[str, str]:
    trained = _last(known, "train")
    return {"code": trained.image if trained else ""}


def _parameters(known: Known) -> dict[str, str]:
    return {name: known.parameters.get(name, "") for name in SHAPING}


def _serving(known: Known) -> dict[str, str]:
    done = _last(known, "promote")
    since = "" if done is None or done.finished is None else f"{done.finished:.3f}"
    return {"served_sha256": done.outputs.get("served_sha256", "") if done else "", "since": since}


def _promotion(known: Known) -> dict[str, str]:
    done = _last(known, "promote")
    given = dict(done.inputs) if done else {}
    return {"by": known.run if done else "", **{name: given.get(name, "") for name in ("score", "passed")}}


def _attempt(known: Known) -> dict[str, str]:
    done = _last(known, "train")
    if done is None:
        return {}
    model = _values(known).get("model_sha256", "")
    return {"attempt": str(done.attempt or ""), "model_sha256": model}


def _failed(known: Known) -> dict[str, str]:
    tries = [each for each in known.attempts if each.step == "train"]
    if any(each.attempt is None for each in tries):
        return {}
    failed = [each for each in tries if not each.succeeded]
    attributed = sum(bool(each.outputs) for each in failed)
    return {"failed_attempts": str(len(failed)), "orphans_attributed": str(attributed)} if tries else {}


_FACTS: Mapping[Question, Callable[[Known], dict[str, str]]] = {
    "dataset": _some("dataset_uri", "dataset_sha256"),
    "code": _code,
    "parameters": _parameters,
    "metrics": _some("score", "model_version"),
    "upstream": _some(*UPSTREAM),
    "downstream": _some(*DOWNSTREAM),
    "serving": _serving,
    "promotion": _promotion,
    "attempt": _attempt,
    "failed": _failed,
    "alert": _some("drifted", "model_sha256", "dataset_sha256"),
    "openlineage": lambda known: {"events": str(len(known.openlineage) or "")},
}
