"""Cells that may share a table: one target, environments that do not contradict each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.analysis.cells import Cell, common_keys

SHORT = 19
"""Characters of a fact that are shown beside another: `sha256:` and twelve digits."""


@dataclass
class Group:
    """Cells of one target whose machine and work environment are alike: what may share a table."""

    target: str
    facts: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    name: str = ""
    label: str = ""
    """`E2: other code than E1`; empty where its target has no other environment."""
    differs: str = ""
    """What the label says, with the facts' values."""

    def undisturbed(self) -> "Group":
        """The same environment with the cells of the comparison alone."""
        return replace(self, cells=[cell for cell in self.cells if cell.key.undisturbed])

    @property
    def own(self) -> list[Cell]:
        """Its cells without those that lack some of its facts, which may be another environment's too."""
        return [cell for cell in self.cells if self.facts.keys() <= cell.blocking.keys()] or self.cells

    @property
    def last(self) -> str:
        """When it was measured last."""
        return max(record.recorded_at for cell in self.own for record in cell.records)


def groups(found: Sequence[Cell]) -> list[Group]:
    """Environments never mix in a column: a group's cells contradict each other in no common blocking fact.

    A cell that lacks some of the facts (`noop` touches no cluster) joins each group it does not contradict;
    one that contradicts all of them has a group of its own, so every cell is in a table. By target, the newest
    environment first; the others are named by what they have otherwise.
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
                fitting = [Group(target)]
                here += fitting
            for group in fitting:
                group.facts.update(facts)
                group.cells.append(cell)
        here.sort(key=lambda group: group.last, reverse=True)
        for number, group in enumerate(here, len(made) + 1):
            group.name = f"E{number}"
            group.cells.sort(key=lambda c: c.key)
        for group in here if len(here) > 1 else ():
            _tell_apart(group, here[0])
        made += here
    return made


def _tell_apart(group: Group, newest: Group) -> None:
    """Give it the label by which its tables are known beside those of the newest environment."""
    if group is newest:
        group.label = f"{group.name}, the newest"
        return
    names = sorted(
        name
        for name in group.facts.keys() | newest.facts.keys()
        if group.facts.get(name) != newest.facts.get(name)
    )
    group.label = f"{group.name}: other {', '.join(names)} than {newest.name}"
    group.differs = "; ".join(
        f"{name} {_short(group.facts.get(name))}, in {newest.name} {_short(newest.facts.get(name))}"
        for name in names
    )


def _short(value: str | None) -> str:
    if value is None:
        return "not known"
    return value if len(value) <= SHORT else f"{value[:SHORT]}…"


def names(found: Sequence[Group]) -> dict[str, dict[str, str]]:
    """By target and digest, which environment a cell is of; the newest of several."""
    named: dict[str, dict[str, str]] = {}
    for group in found:
        for cell in group.cells:
            named.setdefault(group.target, {}).setdefault(cell.key.environment, group.name)
    return named


def facts(found: Sequence[Group]) -> list[dict[str, Any]]:
    """By target, every blocking fact with each of its values and the environments that have it."""
    tables = []
    for target in dict.fromkeys(group.target for group in found):
        members = [group for group in found if group.target == target]
        having: dict[tuple[str, str, str], dict[str, None]] = {}
        for group in members:
            for cell in group.cells:
                for name, value in cell.blocking.items():
                    whose = "" if name in group.facts else cell.key.orchestrator
                    having.setdefault((whose, name, value), {})[group.name] = None
        rows = [
            {
                "fact": f"{whose}: {name}" if whose else name,
                "value": value,
                "environments": [] if len(names) == len(members) else sorted(names),
            }
            for (whose, name, value), names in sorted(having.items())
        ]
        tables.append({"target": target, "names": [group.name for group in members], "rows": rows})
    return tables


def environment(group: Group) -> dict[str, Any]:
    """What is known of a group's environment: facts that all share, and those of each orchestrator's own.

    What is informational is said of its own cells alone: `noop` is in each group of a machine.
    """
    own: dict[str, dict[str, list[str]]] = {}
    informational: dict[str, set[str]] = {}
    for cell in group.cells:
        for name, value in cell.blocking.items():
            if name not in group.facts:
                values = own.setdefault(cell.key.orchestrator, {}).setdefault(name, [])
                if value not in values:
                    values.append(value)
    for cell in group.own:
        for record in cell.records:
            for name, value in record.environment.informational.items():
                informational.setdefault(name, set()).add(value)
    return {
        "name": group.name,
        "target": group.target,
        "label": group.label,
        "differs": group.differs,
        "facts": dict(sorted(group.facts.items())),
        "own": {
            name: {k: sorted(v) for k, v in sorted(facts.items())} for name, facts in sorted(own.items())
        },
        "informational": {name: sorted(values) for name, values in sorted(informational.items())},
        "digests": sorted({cell.key.environment for cell in group.cells}),
    }
