"""Figures that others have published for the same work, and what is stored here beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.analysis import spent
from bench.analysis.cells import Cell, estimated, makespan
from bench.report.numbers import figures
from bench.results.records import RunRecord

USUAL_FIBO = 10
"""Of a chain's step where nothing is said."""


@dataclass(frozen=True)
class Figure:
    """Milliseconds per task of a chain of `steps` × fibo(`fibo`), as published."""

    orchestrator: str
    configuration: str
    """Of ours that comes nearest."""
    setting: str
    milliseconds: float
    steps: int = 40
    fibo: int = USUAL_FIBO
    source: str = "Windmill, September 2026"
    address: str = "https://www.windmill.dev/docs/misc/benchmarks/competitors"


def _longer(orchestrator: str, setting: str, milliseconds: float) -> Figure:
    """Ten tasks of about a second each, by the vendor's page per language."""
    address = "https://www.windmill.dev/docs/misc/benchmarks/competitors/results/python"
    return Figure(
        orchestrator, "default", setting, milliseconds, 10, 33, "Windmill, results in Python", address
    )


FIGURES = (
    Figure("airflow", "default", "as shipped", 1011),
    Figure("airflow", "tuned", "tuned", 228),
    Figure("prefect", "in-process", "flow in process", 3.4),
    # Totals of the page, over ten tasks: 54.668 s and 15.489 s.
    _longer("airflow", "as shipped (2.7.3), a tenth of the whole flow", 5467),
    _longer("prefect", "as shipped, a tenth of the whole flow", 1549),
)


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each published figure with the newest cell of ours that comes nearest, on `local`; None where none is stored.

    `parts` are the largest of a run's, `whole` the median makespan: where the difference must be looked for.
    """
    made = []
    for figure in FIGURES:
        cell = max((c for c in found if _is_it(c, figure)), key=lambda c: c.last, default=None)
        entry = spent.of_cell(cell) if cell else None
        own_clock, whole = _own_clock(figure.steps), _whole(figure.steps)
        made.append(
            {
                **asdict(figure),
                "n": len(cell.measured) if cell else 0,
                "cold": cell.cold if cell else 0,
                "own_clock": estimated(cell, own_clock),
                "makespan": estimated(cell, whole),
                "knob": cell.knob if cell else None,
                "whole": estimated(cell, makespan),
                "parts": [
                    {**part, "means": spent.MEANS.get(part["name"], "")} for part in spent.largest(entry)
                ]
                if entry
                else [],
            }
        )
    return made


def _is_it(cell: Cell, figure: Figure) -> bool:
    key = cell.key
    given = dict(key.parameters)
    return (
        (key.target, key.workload, key.steps) == ("local", "chain", figure.steps)
        and (key.orchestrator, key.configuration) == (figure.orchestrator, figure.configuration)
        and given.pop("fibo", str(USUAL_FIBO)) == str(figure.fibo)
        and not given
        and key.undisturbed
        and bool(cell.measured)
    )


def shown(estimate: Mapping[str, Any] | None) -> str:
    """`850 ms [830, 901] 93.8 %`: an estimate in seconds as text."""
    if estimate is None:
        return "no stored result"
    text, within = f"{figures(estimate['value'] * 1e3)} ms", estimate["interval"]
    if within is None:
        return text
    bounds = ", ".join(figures(within[end] * 1e3) for end in ("low", "high"))
    return f"{text} [{bounds}] {within['level'] * 100:.3g} %"


def _own_clock(steps: int) -> Callable[[RunRecord], float | None]:
    """Seconds per step by the orchestrator's own clock: from its first step's start to its last one's end."""

    def seconds(record: RunRecord) -> float | None:
        attempts = record.timeline.attempts if record.timeline else ()
        started = [attempt.started for attempt in attempts if attempt.started is not None]
        finished = [attempt.finished for attempt in attempts if attempt.finished is not None]
        return (max(finished) - min(started)) / steps if started and finished else None

    return seconds


def _whole(steps: int) -> Callable[[RunRecord], float | None]:
    """Seconds per step from the submission to the end as seen from outside."""

    def seconds(record: RunRecord) -> float | None:
        took = makespan(record)
        return None if took is None else took / steps

    return seconds
