"""Cells that may share a table: one target, environments that do not contradict each other."""

from collections.abc import Sequence
from typing import Any

from bench.cells import Cell, common_keys


class Group:
    """Cells of one target whose machine and work environment are alike: what may share a table."""

    def __init__(self, number: int, target: str, facts: dict[str, str], members: list[Cell]) -> None:
        self.name = f"E{number}"
        self.target = target
        self.facts = facts
        self.cells = members


def groups(found: Sequence[Cell]) -> list[Group]:
    """Environments never mix in a column: a group's cells contradict each other in no common blocking fact.

    A cell that lacks some of the facts (`noop` touches no cluster) joins each group it does not contradict;
    one that contradicts all of them has a group of its own, so every cell is in a table.
    """
    made: list[Group] = []
    for target in sorted({cell.key.target for cell in found}):
        members = [cell for cell in found if cell.key.target == target]
        keys = common_keys(members)
        here: list[Group] = []
        facts_of = {
            cell.key: {k: v for k, v in sorted(cell.blocking.items()) if k in keys} for cell in members
        }
        for cell in sorted(
            members, key=lambda c: (-len(facts_of[c.key]), sorted(facts_of[c.key].items()), c.key)
        ):
            facts = facts_of[cell.key]
            fitting = [g for g in here if all(g.facts.get(k, v) == v for k, v in facts.items())]
            if not fitting:
                fitting = [Group(len(made) + len(here) + 1, target, {}, [])]
                here += fitting
            for group in fitting:
                group.facts.update(facts)
                group.cells.append(cell)
        for group in here:
            group.cells.sort(key=lambda c: c.key)
        made += here
    return made


def environment(group: Group) -> dict[str, Any]:
    """What is known of a group's environment: facts that all share, and those of each orchestrator's own."""
    own: dict[str, dict[str, list[str]]] = {}
    informational: dict[str, set[str]] = {}
    for cell in group.cells:
        for name, value in cell.blocking.items():
            if name not in group.facts:
                values = own.setdefault(cell.key.orchestrator, {}).setdefault(name, [])
                if value not in values:
                    values.append(value)
        for record in cell.records:
            for name, value in record.environment.informational.items():
                informational.setdefault(name, set()).add(value)
    return {
        "name": group.name,
        "target": group.target,
        "facts": dict(sorted(group.facts.items())),
        "own": {
            name: {k: sorted(v) for k, v in sorted(facts.items())} for name, facts in sorted(own.items())
        },
        "informational": {name: sorted(values) for name, values in sorted(informational.items())},
        "digests": sorted({cell.key.environment for cell in group.cells}),
    }
