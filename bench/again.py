"""A/A: the same scenario under two plans, deployed anew for each: what differs is not the orchestrator's doing."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.cells import Cell, makespan
from bench.records import RunRecord
from bench.statistics import Estimate, difference, holm, median_estimate

FEWEST = 3
"""Runs of one plan that are worth a comparison."""


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The first plan of each cell against each later one; p is Holm-adjusted over all of them."""
    made = [row for cell in found if cell.key.orchestrator != "noop" for row in _of_cell(cell)]
    tested = [row["difference"] for row in made if row["difference"]["p"] is not None]
    for entry, adjusted in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = adjusted
    return made


def _of_cell(cell: Cell) -> list[dict[str, Any]]:
    plans: dict[str, list[RunRecord]] = {}
    for record in sorted(cell.measured, key=lambda record: (record.recorded_at, record.run_id)):
        plans.setdefault(record.sample.plan_id, []).append(record)
    enough = [(plan, runs) for plan, runs in plans.items() if len(runs) >= FEWEST]
    if not enough:
        return []
    (first, before), *later = enough
    return [
        {
            "scenario": cell.scenario.key,
            "knob": cell.knob,
            "plans": [first, plan],
            "days": [before[0].recorded_at[:10], runs[0].recorded_at[:10]],
            "first": asdict(_middle(before)),
            "second": asdict(_middle(runs)),
            "difference": _difference(before, runs),
        }
        for plan, runs in later
    ]


def _makespans(runs: Sequence[RunRecord]) -> list[float]:
    return [seconds for record in runs if (seconds := makespan(record)) is not None]


def _middle(runs: Sequence[RunRecord]) -> Estimate:
    return median_estimate(_makespans(runs))


def _difference(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> dict[str, Any]:
    found = difference(_makespans(one), _makespans(other))
    return {**asdict(found), "size": found.size, "p_holm": None}
