"""Lineage, scored: thirteen questions to each orchestrator's own store, against the truth of that run.

The truth is the ledger's, which no orchestrator writes. A question is `answered` where every fact is there and
right, `wrong` where one contradicts the ledger, and `absent` otherwise: a false edge is worse than none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from adapters.base import RunHandle
from adapters.lineage import (
    DOWNSTREAM,
    FIRST_FOUR,
    QUESTIONS,
    SHAPING,
    UPSTREAM,
    Answer,
    Known,
    Question,
    answer,
)
from bench.faults.inject import asks_lineage
from bench.results.records import LineageAnswer, RunRecord

ASKS: Mapping[Question, str] = {
    "dataset": "1 the dataset's URI and digest",
    "code": "2 the code, as an image digest",
    "parameters": "3 all parameters that shape the model",
    "metrics": "4 metrics of the model version",
    "upstream": "5 everything upstream of the model",
    "downstream": "6 everything downstream of the dataset",
    "serving": "7 which model serves, since when",
    "promotion": "8 who promoted it, on which evidence",
    "attempt": "9 which attempt produced it",
    "failed": "10 failed attempts visible, their orphans not attributed",
    "alert": "11 from an alert to model and data",
    "durable": "12 still answered after pods and run objects are gone",
    "openlineage": "13 exportable as valid OpenLineage",
}
SINCE_SECONDS = 10.0
"""How far a promotion's end by an orchestrator's clock may be from the ledger's: a pod ends after its step."""
WITHIN = {"since": SINCE_SECONDS, "score": 1e-6}
"""How far a number may be from the ledger's and still be right. KFP's metadata store keeps six decimals of a metric."""
Read = Callable[[], Known]


def is_asked(record: RunRecord) -> bool:
    """Whether this run left a model to ask about."""
    return asks_lineage(record.scenario) and record.status == "succeeded"


def truth(
    ledger: Iterable[Mapping[str, Any]], handle: RunHandle, code: str
) -> dict[Question, dict[str, str]]:
    """The facts of each question as the ledger has them; `code` where no image is known (on this machine)."""
    values: dict[str, str] = {}
    config: dict[str, Any] = {}
    starts, promoted, trained, image = 0, "", 0, ""
    for event in ledger:
        if event["event"] == "start":
            config = event["data"]["config"]
            image = event["image_digest"] or image
            starts += event["step"] == "train"
        elif event["event"] == "finish":
            values |= event["data"]["outputs"]
            if event["step"] == "promote":
                promoted = f"{event['wall_ns'] / 1e9:.3f}"
            elif event["step"] == "train":
                trained = event["attempt"]

    def some(*names: str) -> dict[str, str]:
        return {name: values.get(name, "") for name in names}

    first: dict[Question, dict[str, str]] = {
        "dataset": some("dataset_uri", "dataset_sha256"),
        "code": {"code": image or code},
        "parameters": {name: str(config.get(name, "")) for name in SHAPING},
        "metrics": some("score", "model_version"),
    }
    return {
        **first,
        "upstream": some(*UPSTREAM),
        "downstream": some(*DOWNSTREAM),
        "serving": {"served_sha256": values.get("served_sha256", ""), "since": promoted},
        "promotion": {"by": handle.run_id, **some("score", "passed")},
        "attempt": {"attempt": str(trained), **some("model_sha256")},
        "failed": {"failed_attempts": str(starts - 1), "orphans_attributed": "0"},
        "alert": some("drifted", "model_sha256", "dataset_sha256"),
        # START and COMPLETE of seven steps, START and FAIL of the attempt that raised
        "openlineage": {"events": str(2 * 7 + 2)},
    }


def score(found: Answer, expected: Mapping[str, str], known: Known) -> LineageAnswer:
    """How an answer stands against the truth."""
    wrong = [name for name, text in found.facts.items() if not _same(name, text, expected[name])]
    missing = [name for name in expected if name not in found.facts]
    return LineageAnswer(
        question=found.question,
        verdict="wrong" if wrong else "absent" if missing else "answered",
        facts=dict(found.facts),
        missing=tuple(missing),
        wrong=tuple(wrong),
        source=known.source,
        query=known.query,
    )


def asked(
    read: Read,
    forget: Callable[[], None],
    told: Callable[[str], str],
    expected: Mapping[Question, Mapping[str, str]],
) -> tuple[LineageAnswer, ...]:
    """All thirteen: twelve of what is known now, and `durable` after `forget` has removed the run's objects.

    `told` makes a text what results may have. `durable` is answered where whatever of the first four was known
    before is known still, and something was.
    """

    def answered(question: Question, known: Known) -> Answer:
        found = answer(question, known)
        return found.model_copy(update={"facts": {name: told(text) for name, text in found.facts.items()}})

    before = read()
    scored: dict[Question, LineageAnswer] = {
        each: score(answered(each, before), expected[each], before) for each in QUESTIONS if each != "durable"
    }
    had = {each: scored[each].facts for each in FIRST_FOUR}
    forget()
    after = read()
    # One question at a time: two of the four ask for a `dataset_uri`, and they are not the same.
    still = [
        score(
            Answer(
                question=each,
                facts={n: text for n, text in answered(each, after).facts.items() if n in had[each]},
            ),
            {name: expected[each][name] for name in had[each]},
            after,
        )
        for each in FIRST_FOUR
        if had[each]
    ]
    scored["durable"] = _together(still, after)
    return tuple(scored[each] for each in QUESTIONS)


def _together(parts: Sequence[LineageAnswer], known: Known) -> LineageAnswer:
    """The answer to `durable`: wrong where one of its parts is, answered where there are parts and all are."""
    verdicts = {part.verdict for part in parts}
    return LineageAnswer(
        question="durable",
        verdict="wrong" if "wrong" in verdicts else "answered" if verdicts == {"answered"} else "absent",
        facts={name: text for part in parts for name, text in part.facts.items()},
        missing=tuple(dict.fromkeys(name for part in parts for name in part.missing)),
        wrong=tuple(dict.fromkeys(name for part in parts for name in part.wrong)),
        source=known.source,
        query=known.query,
    )


def _same(name: str, text: str, right: str) -> bool:
    if text == right:
        return True
    try:
        return abs(float(text) - float(right)) <= WITHIN.get(name, 0.0)
    except ValueError:
        return False
