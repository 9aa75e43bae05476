"""Where the time of runs goes: medians of their parts, in a table for each target, environment and piece of work."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.analysis.cells import FLOORS, PART_ORDER, Cell, CellKey, estimated, makespan, part_sums
from bench.analysis.grouping import Group
from bench.analysis.statistics import added, median

MEANS = {
    "accept": "from the submission until it is accepted",
    "queue": "from its acceptance until the first step is begun",
    "spread": "of steps at once, from the first until the one that ends last is begun",
    "retries": "attempts before the one that succeeds",
    "create": "from a step's pod until its container runs",
    "start": "from its running container until its process or call is there",
    "imports": "its process loads the code",
    "prepare": "from the loaded code until the step is at work",
    "user": "the step's own work",
    "handoff": "from a step's end until the next is begun",
    "finish": "from the last step's end until that is seen",
}
"""What the parts of a run are, in words."""
LARGE = 0.1
"""A part of at least this share of the whole is shown with its range, and named where few can be."""
_NO_PART = [0.0, 0.0, 0.0]


def of_cell(cell: Cell) -> dict[str, Any] | None:
    """Median of each part's sum over a run's steps, seconds; shares are of the median of the runs' sums.

    None where no run has parts.
    """
    sums = [found for record in cell.measured if (found := part_sums(record))]
    if not sums:
        return None
    whole = median([added(seconds for seconds, _, _ in found.values()) for found in sums])
    parts = []
    for name in sorted({name for found in sums for name in found}, key=_place):
        each, low, high = zip(*(found.get(name, _NO_PART) for found in sums), strict=True)
        middle = median(each)
        parts.append(
            {
                "name": name,
                "median": middle,
                "shortest": min(each),
                "longest": max(each),
                "at_least": median(low),
                "at_most": median(high),
                "share": middle / whole if whole else None,
            }
        )
    return {
        "scenario": cell.scenario.key,
        "target": cell.key.target,
        **cell.who,
        "workload": cell.key.sized,
        "makespan": estimated(cell, makespan),
        "n": len(sums),
        "left_out": len(cell.measured) - len(sums),
        "parts": parts,
    }


def _place(name: str) -> tuple[int, str]:
    return (PART_ORDER.index(name) if name in PART_ORDER else len(PART_ORDER), name)


def tables(groups: Sequence[Group], entries: Mapping[CellKey, dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each piece of work and environment, the headline's target first; floors before what stands on them.

    `entries` are those of `of_cell`.
    """
    found: dict[tuple[Any, ...], list[CellKey]] = {}
    for number, group in enumerate(groups):
        for key in (cell.key for cell in group.cells):
            if key.orchestrator != "noop" and key in entries:
                target, _, *work = key.place
                found.setdefault((target, tuple(work), number), []).append(key)
    made = []
    for (_, _, number), members in sorted(found.items(), key=lambda item: item[0]):
        members.sort(key=lambda key: (key.place, key.orchestrator not in FLOORS.values(), key))
        rows = [entries[key] for key in members]
        group, key = groups[number], members[0]
        made.append(
            {
                "title": f"{key.target}: {key.title}{f' ({group.label})' if group.label else ''}",
                "environment": group.name,
                "columns": sorted({part["name"] for row in rows for part in row["parts"]}, key=_place),
                "rows": [{**row, "parts": {part["name"]: part for part in row["parts"]}} for row in rows],
            }
        )
    return made


def largest(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts that matter most, the longest first."""
    found = [part for part in entry["parts"] if part["share"] is not None and part["share"] >= LARGE]
    return sorted(found, key=lambda part: -part["median"])
