"""Orchestrators against each other, two by two, as shipped: the same work in the same environment."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from bench.analysis import recent
from bench.analysis.cells import CONTROLS, FLOORS, Cell, makespan, pairs, unlike
from bench.analysis.grouping import Group
from bench.analysis.statistics import Difference, difference, judge_rows, median, paired_difference

TUNED = "tuned"


def base_of(configuration: str) -> str:
    """What a configuration is a change of, by its name: `pods` for `pods-tuned`, else `default`."""
    return configuration.removesuffix(f"-{TUNED}") if configuration.endswith(f"-{TUNED}") else "default"


def tables(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A table for each target, kind of step, work and environment that two orchestrators have measured.

    Positive where the second takes longer; p is Holm-adjusted over a table's pairs.
    """
    return [
        {
            "environment": group.name,
            "target": group.target,
            "task": task,
            "workload": members[0].key.sized,
            "parameters": dict(members[0].key.parameters),
            "rows": rows,
        }
        for group in groups
        for task, work in sorted({(cell.key.task, cell.key.work) for cell in group.cells})
        if (members := [c for c in group.cells if (c.key.task, c.key.work) == (task, work)])
        if (rows := _rows(shipped(members)))
    ]


def shipped(found: Sequence[Cell]) -> list[Cell]:
    """Of cells of one work and kind of step, each orchestrator's `default` that was measured, the fastest first.

    An orchestrator whose `default` has steps of another kind: what else it has of this kind, but for what is tuned.
    """
    usual = {cell.key.orchestrator for cell in found if cell.key.configuration == "default"}
    chosen = [
        cell
        for cell in found
        if cell.measured and cell.key.orchestrator not in CONTROLS
        if cell.key.configuration == "default"
        or (cell.key.orchestrator not in usual and TUNED not in cell.key.configuration.split("-"))
    ]
    return sorted(chosen, key=lambda cell: (median(cell.values(makespan)), cell.key))


def compared(pipelines: Iterable[Cell]) -> list[Cell]:
    """Of measured pipelines on one target, what each orchestrator ships of each kind of step.

    Of a `default` whose kind has changed, the newest.
    """
    ordered = sorted(pipelines, key=recent.last)
    kind = {c.key.orchestrator: c.key.task for c in ordered if c.key.configuration == "default"}
    current = [
        c for c in ordered if c.key.configuration != "default" or kind[c.key.orchestrator] == c.key.task
    ]
    return [cell for task in FLOORS for cell in shipped([c for c in current if c.key.task == task])]


def _rows(members: Sequence[Cell]) -> list[dict[str, Any]]:
    both = [
        sorted(together(a, b), key=_middle)
        for a, b in combinations(members, 2)
        if a.key.orchestrator != b.key.orchestrator
    ]
    return [
        {
            **row,
            **{side: {**row[side].who, "makespan": _middle(row[side])} for side in ("first", "second")},
        }
        for row in contrasts((one, other) for one, other in both)
    ]


def _middle(cell: Cell) -> float:
    return median(cell.values(makespan))


def contrasts(both: Iterable[tuple[Cell, Cell]]) -> list[dict[str, Any]]:
    """What each second cell takes more than the first. The pairs are as `together` makes them.

    p is Holm-adjusted over all of them.
    """
    known = [(one, other, _unlike(one, other)) for one, other in both]
    tests = sum(not why for *_, why in known)
    made: list[dict[str, Any]] = []
    for one, other, why in known:
        paired, found = (False, None) if why else _difference(one, other, tests)
        made.append(
            {"not_compared": why, "first": one, "second": other, "paired": paired, "difference": found}
        )
    judge_rows(made)
    return made


def together(one: Cell, other: Cell) -> tuple[Cell, Cell]:
    """Both with only the plans that measured both, as another plan is of another day; as they are where none did."""
    shared = one.plans & other.plans
    return (one.of_plans(shared), other.of_plans(shared)) if shared else (one, other)


def _unlike(one: Cell, other: Cell) -> str:
    """Why two cells are not set against each other; empty where they are."""
    if not (one.measured and other.measured):
        return "no stored result for one of them"
    apart = "" if one.plans & other.plans else "in no plan together: a difference may be the day's"
    return unlike(one, other) or apart


def _difference(one: Cell, other: Cell, tests: int) -> tuple[bool, Difference]:
    """Within blocks where they share some, and whether so.

    Unpaired all the same where only that could reject as one of so many tests, n decides, not what was found; and where
    each plan has as many of both, since a day that has more of the one would be its difference.
    """
    both = pairs(one, other)
    within = paired_difference(both) if both else None
    if within and (within.can_reject(tests) or not _as_many_of_each_plan(one, other)):
        return True, within
    apart = difference(one.values(makespan), other.values(makespan))
    return (True, within) if within and not apart.can_reject(tests) else (False, apart)


def _as_many_of_each_plan(one: Cell, other: Cell) -> bool:
    a, b = (Counter(record.sample.plan_id for record in cell.measured) for cell in (one, other))
    return len(a) == 1 or a == b
