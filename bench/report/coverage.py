"""What is measured so far: for every orchestrator and kind of run how many are stored, or why there can be none."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.base import Target
from bench.analysis import against, upkeep
from bench.analysis.cells import FLOORS, TARGETS, Cell, CellKey, refusals
from bench.faults import aftermath, inject
from bench.report.capabilities import Conformance

AT_ONCE, STARTED, IDLE = "runs at once", "started by", "used idle"
"""Columns whose gaps stand beside their tables too."""
LENGTHS = (1, 10, 40)
COUNTS = (4, 16)
"""Of chains and of runs at once: what is asked of every orchestrator, besides what is stored."""
NONE = "—"


def _measured(cell: Cell) -> int:
    return len(cell.measured)


@dataclass(frozen=True)
class Kind:
    """One kind of run."""

    label: str
    has: Callable[[CellKey], bool]
    """Whether a cell's runs are of it."""
    count: Callable[[Cell], int] = _measured
    """How many of such a cell's count."""
    asked: str = ""
    """The test of the conformance suite that an orchestrator must pass for there to be any."""
    targets: tuple[str, ...] = tuple(Target)
    """Where there is such a thing."""


@dataclass(frozen=True)
class Column:
    """Kinds of run that share a column of the table."""

    name: str
    kinds: tuple[Kind, ...]
    of_floors: bool = False
    """Floors have it too."""

    @property
    def head(self) -> str:
        labels = " · ".join(kind.label for kind in self.kinds)
        return f"{self.name}: {labels}" if labels else self.name


def columns(found: Sequence[Cell]) -> list[Column]:
    """What can be measured, with the lengths of chains and the numbers of runs at once that are stored."""
    keys = [cell.key for cell in found]
    lengths = sorted({*LENGTHS, *(k.steps for k in keys if k.workload == "chain" and k.undisturbed)})
    at_once = sorted({*COUNTS, *(k.concurrent for k in keys if k.concurrent > 1)})
    works = [
        Column("pipeline", (Kind("", _work("pipeline"), asked="gate_passes"),), of_floors=True),
        Column(
            "chain", tuple(Kind(str(n), _work("chain", n), asked="chain") for n in lengths), of_floors=True
        ),
        Column("fanout", (Kind("", _work("fanout"), asked="fanout"),), of_floors=True),
        Column("sweep", (Kind("", _work("sweep"), asked="sweep"),), of_floors=True),
    ]
    struck = [
        Column(
            name,
            tuple(
                Kind(fault.name, _struck(fault.name, policy), _strikes, targets=fault.targets)
                for fault in inject.FAULTS.values()
            ),
        )
        for policy, name in (("equal", "faults, equal retries"), ("shipped", "faults, retries as shipped"))
    ]
    kept_apart = "two_at_once_are_kept_apart"
    return [
        *works,
        *struck,
        Column("lineage", (Kind("", lambda key: key.fault == "exception", _asked),)),
        Column(AT_ONCE, tuple(Kind(str(n), _together(n), _answered, kept_apart) for n in at_once)),
        Column(
            STARTED,
            (
                Kind("schedule", lambda key: key.trigger == "schedule", asked="schedule_fires"),
                Kind("event", lambda key: key.trigger == "event", asked="event_triggers"),
            ),
        ),
        Column(IDLE, (Kind("", lambda key: key.undisturbed, lambda cell: len(upkeep.idles(cell))),)),
    ]


def _work(workload: str, steps: int | None = None) -> Callable[[CellKey], bool]:
    return lambda key: key.undisturbed and key.workload == workload and steps in (None, key.steps)


def _struck(fault: str, policy: str) -> Callable[[CellKey], bool]:
    return lambda key: (key.fault, key.retries) == (fault, policy)


def _strikes(cell: Cell) -> int:
    return len(aftermath.struck(cell))


def _together(runs: int) -> Callable[[CellKey], bool]:
    return lambda key: key.concurrent == runs


def _answered(cell: Cell) -> int:
    """Samples that some runs did not survive are an answer, too."""
    return cell.answered


def _asked(cell: Cell) -> int:
    return sum(bool(record.lineage) and record.status != "void" for record in cell.records)


@dataclass
class _Row:
    target: str
    orchestrator: str
    configuration: str = ""
    task: str = ""
    cells: list[Cell] = field(default_factory=list)


def table(
    found: Sequence[Cell], orchestrators: Sequence[str], verdicts: Sequence[Conformance] = ()
) -> dict[str, Any]:
    """A row for each target, orchestrator and configuration, one too for an orchestrator of which nothing is stored.

    Each entry has its `text` and, for each kind of run of its column, the `n` of every environment, version and
    set of parameters, oldest first, and the `reason` why there is none where that is known. First runs after a
    switch do not count where there are others.
    """
    found = [cell for cell in found if not cell.key.first]
    asked = columns(found)
    refused = refusals(found)
    why = _Why(refused, verdicts)
    compared = _compared(found)
    rows = []
    for row in _rows(found, orchestrators, refused):
        entries = [_entry(row, column, why) for column in asked]
        rows.append(
            {
                "target": row.target,
                "orchestrator": row.orchestrator,
                "configuration": row.configuration,
                "task": row.task,
                "entries": entries,
            }
        )
    return {
        "columns": [column.head for column in asked],
        "rows": rows,
        "notes": list(why.notes),
        "gaps": {column.name: _gaps(rows, number, compared) for number, column in enumerate(asked)},
    }


def _rows(
    found: Sequence[Cell], orchestrators: Sequence[str], refused: Container[tuple[str, str]]
) -> list[_Row]:
    rows: dict[tuple[str, ...], _Row] = {}
    for cell in found:
        key = cell.key
        if key.orchestrator != "noop" and (key.target, key.orchestrator) not in refused:
            who = (key.target, key.orchestrator, key.configuration, key.task)
            rows.setdefault(who, _Row(*who)).cells.append(cell)
    there = {(row.target, row.orchestrator) for row in rows.values()}
    stored = {cell.key.target for cell in found}
    missing = [
        _Row(target, name) for target in stored for name in orchestrators if (target, name) not in there
    ]
    return sorted([*rows.values(), *missing], key=_place)


def _place(row: _Row) -> tuple[Any, ...]:
    target = TARGETS.index(row.target) if row.target in TARGETS else len(TARGETS)
    return target, row.orchestrator not in FLOORS.values(), row.orchestrator, row.configuration, row.task


class _Why:
    """Reasons why there can be no such run, numbered as they are first given."""

    def __init__(self, refused: Mapping[tuple[str, str], str], verdicts: Sequence[Conformance]) -> None:
        self.notes: list[str] = []
        self._refused = refused
        self._verdicts = {(one.adapter, one.target): one.verdicts for one in verdicts}

    def __call__(self, row: _Row, kind: Kind) -> str | None:
        said = [cell.unsupported[0].reason for cell in row.cells if cell.refused and kind.has(cell.key)]
        verdict = self._verdicts.get((row.orchestrator, row.target), {}).get(kind.asked)
        reason = self._refused.get((row.target, row.orchestrator)) or next(iter(said), None)
        if reason is None and verdict is not None and verdict.outcome != "yes":
            reason = verdict.reason
        return reason and f"{row.orchestrator}, {row.target}: {reason}"

    def number(self, reason: str) -> int:
        """Of the note that gives this reason."""
        if reason not in self.notes:
            self.notes.append(reason)
        return self.notes.index(reason) + 1


def _entry(row: _Row, column: Column, why: _Why) -> dict[str, Any]:
    if row.orchestrator in FLOORS.values() and not column.of_floors:
        return {"text": "", "kinds": []}
    kinds, texts = [], []
    for kind in (kind for kind in column.kinds if row.target in kind.targets):
        counted = [(cell.last, n) for cell in row.cells if kind.has(cell.key) and (n := kind.count(cell))]
        numbers = [n for _, n in sorted(counted)]
        reason = None if numbers else why(row, kind)
        kinds.append({"label": kind.label, "n": numbers, "reason": reason})
        if numbers:
            texts.append("+".join(map(str, numbers)))
        else:
            texts.append(f"no ({why.number(reason)})" if reason else NONE)
    return {
        "text": texts[0] if len(set(texts)) == 1 and not kinds[0]["n"] else " · ".join(texts),
        "kinds": kinds,
    }


def _compared(found: Sequence[Cell]) -> set[tuple[str, str, str]]:
    """Target, orchestrator and configuration of what has a column in the comparison."""
    pipelines: dict[str, list[Cell]] = {}
    for cell in found:
        if cell.is_plain_pipeline and cell.measured:
            pipelines.setdefault(cell.key.target, []).append(cell)
    return {
        (target, cell.key.orchestrator, cell.key.configuration)
        for target, members in pipelines.items()
        for cell in against.compared(members)
    }


def _gaps(
    rows: Sequence[Mapping[str, Any]], column: int, compared: Container[tuple[str, str, str]]
) -> list[str]:
    """`on kind: argo (4, 16); prefect pods (16)`: who lacks which kinds of run, for no known reason.

    Asked of each orchestrator's `default`, and of what else is compared.
    """
    whose: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for row in rows:
        name, configuration = row["orchestrator"], row["configuration"]
        if configuration not in ("", "default"):
            if (row["target"], name, configuration) not in compared:
                continue
            name = f"{name} {configuration}"
        if kinds := row["entries"][column]["kinds"]:
            whose.setdefault((row["target"], name), []).append(kinds)
    lacking: dict[str, dict[str, list[str]]] = {}
    for (target, name), each in whose.items():
        alike = list(zip(*each, strict=True))
        labels = [kinds[0]["label"] for kinds in alike if not any(k["n"] or k["reason"] for k in kinds)]
        if labels:
            which = f" ({', '.join(labels)})" if len(alike) > 1 else ""
            lacking.setdefault(target, {}).setdefault(which, []).append(name)
    return [
        f"on {target}: " + "; ".join(", ".join(names) + which for which, names in sorted(of.items()))
        for target, of in lacking.items()
    ]
