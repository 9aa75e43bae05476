"""What a short table shows of scenarios that were measured in several environments: each where it was last."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.analysis import grouping
from bench.analysis.cells import CONTROLS, Cell, CellKey
from bench.results.records import RunRecord


@dataclass(frozen=True)
class Part:
    """The rows of one table, all of one environment."""

    rows: tuple[Cell, ...]
    around: tuple[Cell, ...]
    """All that was measured there: where the rows' floor is."""
    differs: tuple[str, ...]
    """The facts in which it is another environment than that of the newest pipelines, or, without any, the first."""
    below: bool
    """Whether there is a newer one before it."""

    @property
    def days(self) -> str:
        return days(self.rows)


@dataclass(frozen=True)
class Newest:
    """The environment in which a pipeline was measured last: its facts, and the cells that were measured in it."""

    facts: Mapping[str, str]
    cells: tuple[Cell, ...]

    def differing(self, cell: Cell) -> tuple[str, ...]:
        """The facts in which a cell was measured elsewhere; of rows that lack the steps' code that is one."""
        return differing(self.facts, {"code": "", **cell.blocking})


def parts(found: Sequence[Cell], now: Newest, beside: Sequence[Cell] = ()) -> list[Part]:
    """Cells of one target by environment, newest first; each scenario only where it was measured last.

    The code of the steps is one of the facts: rows that lack it share a table with no row that has it. A table
    of controls alone is left out, and one of older rows has the floor of its own environment. `now` is what
    others are held against. `beside` are cells that are no rows.
    """
    newest_of = {_scenario(cell): cell for cell in sorted(found, key=last)}
    facts_now = now.facts
    made: list[Part] = []
    for facts, members in environments([*found, *beside]):
        rows = [
            cell
            for cell in members
            if newest_of.get(_scenario(cell)) is cell and cell.key.orchestrator not in CONTROLS
        ]
        if rows:
            facts_now = facts_now or facts
            made.append(Part(tuple(rows), tuple(members), differing(facts_now, facts), below=bool(made)))
    return made


def _scenario(cell: Cell) -> CellKey:
    return replace(cell.key, environment="")


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """The names of facts that both have and that are not the same."""
    return tuple(sorted(name for name in one.keys() & other.keys() if one[name] != other[name]))


def days(found: Iterable[Cell]) -> str:
    """When these cells were recorded."""
    return period(record for cell in found for record in cell.records)


def period(records: Iterable[RunRecord]) -> str:
    """The day of these records, or the first and last of several."""
    stamps = sorted(record.recorded_at[:10] for record in records)
    return stamps[0] if stamps[0] == stamps[-1] else f"{stamps[0]} to {stamps[-1]}"


def environments(found: Sequence[Cell]) -> list[tuple[dict[str, str], list[Cell]]]:
    """Facts and cells of each environment, the one in which something ran last first."""
    by_code: dict[str, list[Cell]] = {}
    for cell in found:
        by_code.setdefault(cell.blocking.get("code", ""), []).append(cell)
    made = [
        ({**group.facts, "code": code}, group.cells)
        for code, members in by_code.items()
        for group in grouping.groups(members)
    ]
    return sorted(
        made, key=lambda each: max((not cell.refused, last(cell)) for cell in each[1]), reverse=True
    )


def last(cell: Cell) -> str:
    """When its last sample was recorded, its last other record where it has none."""
    return max(record.recorded_at for record in cell.measured or cell.records)


def newest(found: Sequence[Cell]) -> Newest:
    """Of cells of one target. Without facts and cells where no orchestrator's pipeline was measured."""
    measured = [cell for cell in found if cell.measured and cell.key.orchestrator != "noop"]
    of = environments([c for c in measured if c.is_plain_pipeline and c.key.orchestrator not in CONTROLS])
    if not of:
        return Newest({}, ())
    there = Newest(of[0][0], ())
    return replace(there, cells=tuple(cell for cell in measured if not there.differing(cell)))
