"""Figures that others have published for the same work, and what is stored here beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.analysis import spent
from bench.analysis.cells import Cell, estimated, makespan
from bench.report.numbers import figures
from bench.results.records import RunRecord

STEPS = 40
"""A chain of so many steps, each fibo(10)."""


@dataclass(frozen=True)
class Figure:
    """Milliseconds per task of a chain of 40 × fibo(10), as published."""

    orchestrator: str
    configuration: str
    """Of ours that comes nearest."""
    setting: str
    milliseconds: float


SOURCE = "Windmill, September 2026"
ADDRESS = "https://www.windmill.dev/docs/misc/benchmarks/competitors"
FIGURES = (
    Figure("airflow", "default", "as shipped", 1011),
    Figure("airflow", "tuned", "tuned", 228),
    Figure("prefect", "in-process", "flow in process", 3.4),
)


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each published figure with the newest cell of ours that comes nearest, on `local`; None where none is stored.

    `parts` are the largest of a run's, `whole` the median makespan: where the difference must be looked for.
    """
    made = []
    for figure in FIGURES:
        cell = max((c for c in found if _is_it(c, figure)), key=lambda c: c.last, default=None)
        entry = spent.of_cell(cell) if cell else None
        made.append(
            {
                **asdict(figure),
                "source": SOURCE,
                "address": ADDRESS,
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
    return (
        (key.target, key.workload, key.steps) == ("local", "chain", STEPS)
        and (key.orchestrator, key.configuration) == (figure.orchestrator, figure.configuration)
        and not key.parameters
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


def own_clock(record: RunRecord) -> float | None:
    """Seconds per step by the orchestrator's own clock: from its first step's start to its last one's end."""
    attempts = record.timeline.attempts if record.timeline else ()
    started = [attempt.started for attempt in attempts if attempt.started is not None]
    finished = [attempt.finished for attempt in attempts if attempt.finished is not None]
    return (max(finished) - min(started)) / STEPS if started and finished else None


def whole(record: RunRecord) -> float | None:
    """Seconds per step from the submission to the end as seen from outside."""
    seconds = makespan(record)
    return None if seconds is None else seconds / STEPS
