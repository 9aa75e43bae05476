"""What the harness's watching costs the watched: paired runs with it and without."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from bench.cells import Cell, makespan, pairs
from bench.statistics import paired_ratio


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell that was also measured with the observer off, in the same blocks."""
    usual = {cell.key: cell for cell in found}
    made = []
    for off in found:
        on = usual.get(replace(off.key, observer="")) if off.key.observer == "off" else None
        both = pairs(off, on) if on is not None else []
        if on is None or not both:
            continue
        made.append(
            {
                "scenario": on.scenario.key,
                "pairs": len(both),
                "off": _estimated(off),
                "on": _estimated(on),
                "ratio": asdict(paired_ratio(both)),
            }
        )
    return made


def _estimated(cell: Cell) -> dict[str, Any] | None:
    found = cell.estimate(makespan)
    return None if found is None else asdict(found)
