"""Runs at once: how long several take together, and what each of them waits for the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.cells import Cell, estimated, makespan, unlike
from bench.records import RunRecord
from bench.statistics import median


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell whose samples are several runs, with the same work alone beside it. Seconds.

    First runs after a switch are not set beside later ones.
    """
    alone = {cell.key: cell for cell in found if cell.measured}
    return [
        _row(cell, alone.get(replace(cell.key, concurrent=1)))
        for cell in found
        if cell.key.concurrent > 1 and cell.measured and not cell.key.first
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
        "shortest": median([min(each(record)) for record in cell.measured]),
        "middle": median([median(each(record)) for record in cell.measured]),
        "longest": median([max(each(record)) for record in cell.measured]),
        "alone": single,
        "times_alone": together["value"] / single["value"] if together and single else None,
        "per_minute": cell.key.concurrent * 60 / together["value"] if together else None,
        "failed": len(cell.failed),
    }


def each(record: RunRecord) -> list[float]:
    """Makespans of the runs of one sample, from a run's own submission until its own end was seen."""
    return [companion.client.makespan_monotonic_ns / 1e9 for companion in record.together]
