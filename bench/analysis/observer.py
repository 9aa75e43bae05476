"""What measuring costs the measured: the watching, by paired runs with it and without; the ledger, by its own rows."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bench.analysis.cells import CONTROLS, Cell, estimated, makespan, pairs
from bench.analysis.statistics import median, paired_ratio


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell that was also measured with the observer off, in the same blocks.

    Only pairs of two first runs after a switch, or of two later ones: the order within a block says which is first.
    A floor has nothing to warm up, so all of its pairs count.
    """
    usual = {cell.key: cell for cell in found}
    made = []
    for off in found:
        on = usual.get(replace(off.key, observer="")) if off.key.observer == "off" else None
        if on is None:
            continue
        alike = (
            [(off, on)]
            if off.key.orchestrator in CONTROLS
            else [(_only(off, first), _only(on, first)) for first in (True, False)]
        )
        both = [pair for each in alike for pair in pairs(*each)]
        if not both:
            continue
        made.append(
            {
                "scenario": on.scenario.key,
                "pairs": len(both),
                "off": estimated(off, makespan),
                "on": estimated(on, makespan),
                "ratio": asdict(paired_ratio(both)),
            }
        )
    return made


def _only(cell: Cell, first: bool) -> Cell:
    return Cell(cell.key, tuple(record for record in cell.records if record.cold is first))


def ledger(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """By target, what a step waits for the entry that says it starts: until that is on disk and answered for. Seconds.

    The entry's own stamp is taken just before it is sent, the user code's start just after the answer.
    """
    waits: dict[str, list[float]] = {}
    for cell in found:
        for record in cell.measured:
            sent = {row["attempt_token"]: row["wall_ns"] for row in record.ledger if row["event"] == "start"}
            waits.setdefault(cell.key.target, []).extend(
                (row["user_start_ns"] - sent[row["attempt_token"]]) / 1e9
                for row in record.ledger
                if row["event"] == "finish" and row["attempt_token"] in sent and row["user_start_ns"]
            )
    return [
        {
            "target": target,
            "entries": len(values),
            "median": median(values),
            "p95": float(np.quantile(values, 0.95)),
        }
        for target, values in sorted(waits.items())
        if values
    ]
