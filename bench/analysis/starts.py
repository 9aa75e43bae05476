"""How long until a run's first step is at work, by what started the run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.analysis.cells import Cell, estimated
from bench.results.records import RunRecord

SHOWN = {
    "api": "API: from the request",
    "schedule": "schedule: from the minute it was due",
    "event": "data event: from the event",
}


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell whose runs were started by the orchestrator itself, after the same work started by the API."""
    by_key = {cell.key: cell for cell in found}
    triggered = [cell for cell in found if cell.key.trigger != "api" and not cell.key.first]
    alike = {replace(cell.key, trigger="api") for cell in triggered}
    shown = sorted(
        [*triggered, *(by_key[key] for key in alike if key in by_key)],
        key=lambda cell: (replace(cell.key, trigger=""), list(SHOWN).index(cell.key.trigger)),
    )
    return [_row(cell) for cell in shown]


def _row(cell: Cell) -> dict[str, Any]:
    values = cell.values(until_first_step)
    return {
        "target": cell.key.target,
        **cell.who,
        "work": cell.key.sized,
        "by": cell.key.trigger,
        "trigger": SHOWN[cell.key.trigger],
        "n": len(cell.measured),
        "cold": cell.cold,
        "start": estimated(cell, until_first_step),
        "shortest": min(values, default=None),
        "longest": max(values, default=None),
        "failed": len(cell.failed),
        "unsupported": cell.unsupported[0].reason if cell.unsupported else None,
    }


def until_first_step(record: RunRecord) -> float | None:
    """Seconds from the submission, the due minute or the event until the first step is at work (ledger)."""
    starts = [event["wall_ns"] for event in record.ledger if event["event"] == "start"]
    if record.client is None or not starts:
        return None
    return float(min(starts) - record.client.submit_ns) / 1e9
