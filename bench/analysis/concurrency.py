"""Runs at once: how long several take together, and what each of them waits for the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.analysis import against
from bench.analysis.cells import Cell, estimated, makespan, unlike
from bench.analysis.statistics import median
from bench.results.records import RunRecord


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell whose samples are several runs, with the same work alone beside it. Seconds.

    Times are of samples in which all runs succeeded, None where there is none; `ended` has of each other sample how
    many did. First runs after a switch are not set beside later ones; `times_alone` is of plans that measured both.
    """
    alone = {cell.key: cell for cell in found if cell.measured}
    return [
        _row(cell, alone.get(replace(cell.key, concurrent=1)))
        for cell in found
        if cell.key.concurrent > 1 and cell.answered and not cell.key.first
    ]


def _row(cell: Cell, alone: Cell | None) -> dict[str, Any]:
    together = estimated(cell, makespan)
    single = None if alone is None or unlike(cell, alone) else estimated(alone, makespan)
    return {
        "target": cell.key.target,
        **cell.who,
        "work": cell.key.sized,
        "runs": cell.key.concurrent,
        "n": len(cell.measured),
        "together": together,
        **{
            name: median([of(each(record)) for record in cell.measured]) if cell.measured else None
            for name, of in (("shortest", min), ("middle", median), ("longest", max))
        },
        "alone": single,
        "times_alone": _ratio(cell, alone) if alone is not None and single else None,
        "per_minute": cell.key.concurrent * 60 / together["value"] if together else None,
        "failed": len(cell.failed),
        "ended": sorted(sum(c.status == "succeeded" for c in record.together) for record in cell.failed),
    }


def _ratio(cell: Cell, alone: Cell) -> float | None:
    """Of the medians; None where no plan measured both, since the one's day is not the other's."""
    if not cell.plans & alone.plans:
        return None
    several, one = (median(of.values(makespan)) for of in against.together(cell, alone))
    return several / one


def each(record: RunRecord) -> list[float]:
    """Makespans of the runs of one sample, from a run's own submission until its own end was seen."""
    return [companion.client.makespan_monotonic_ns / 1e9 for companion in record.together]
