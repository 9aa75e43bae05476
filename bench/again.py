"""A/A: the same scenario under two plans, deployed anew for each: what differs is not the orchestrator's doing."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.cells import Cell, makespan
from bench.statistics import adjust, difference, median_estimate, plain

FEWEST = 3
"""Runs of one plan that are worth a comparison."""


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The first plan of each cell against each later one; p is Holm-adjusted over all of them."""
    made = [row for cell in found if cell.key.orchestrator != "noop" for row in _of_cell(cell)]
    adjust(row["difference"] for row in made)
    return made


def _of_cell(cell: Cell) -> list[dict[str, Any]]:
    plans: dict[str, list[tuple[str, float]]] = {}
    for record in sorted(cell.measured, key=lambda record: (record.recorded_at, record.run_id)):
        if (seconds := makespan(record)) is not None:
            plans.setdefault(record.sample.plan_id, []).append((record.recorded_at[:10], seconds))
    enough = [(plan, *zip(*runs, strict=True)) for plan, runs in plans.items() if len(runs) >= FEWEST]
    if not enough:
        return []
    (first, days_before, before), *later = enough
    return [
        {
            "scenario": cell.scenario.key,
            "knob": cell.knob,
            "plans": [first, plan],
            "days": [days_before[0], days[0]],
            "first": asdict(median_estimate(before)),
            "second": asdict(median_estimate(values)),
            "difference": plain(difference(before, values)),
        }
        for plan, days, values in later
    ]
