"""Tables for the terminal: the comparison, a run's breakdown, faults, lineage, the plan."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.analysis import concurrency, starts
from bench.analysis.breakdown import label
from bench.analysis.cells import (
    CONTROLS,
    Cell,
    cells,
    floor_of,
    handoff,
    makespan,
    overhead,
    part_seconds,
    ratio_to_floor,
)
from bench.analysis.compare import Comparison
from bench.analysis.statistics import added, median
from bench.faults import aftermath
from bench.lineage import answers, questions
from bench.measure.plan import Plan, Slot
from bench.report.numbers import interval, seconds
from bench.results.records import RunRecord


def _titled(title: str) -> Table:
    """A table under its title, both at the left edge."""
    return Table(title=title, box=SIMPLE, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)


def summary(records: Sequence[RunRecord]) -> RenderableType:
    """A table for each target, task kind and piece of work: medians, the ratio to the floor, what failed."""
    found = cells(records)
    tables: list[RenderableType] = []
    for target, task, work in sorted({(c.key.target, c.key.task, c.key.work) for c in found}):
        members = [c for c in found if (c.key.target, c.key.task, c.key.work) == (target, task, work)]
        key = members[0].key
        parameters = "".join(f", {name}={value}" for name, value in key.parameters)
        step = "no steps" if task == "nothing" else f"one {task} per step"
        at_once = f", {key.concurrent} runs at once" if key.concurrent > 1 else ""
        by = f", started by {key.trigger}" if key.trigger != "api" else ""
        first = ", first runs after a switch" if key.first else ""
        table = _titled(f"{target}, {step}: {key.sized}{parameters}{at_once}{by}{first}")
        table.add_column("orchestrator", min_width=12, overflow="fold")
        for name in ("n", "makespan", "overhead", "handoff", "× floor", "failed", "void"):
            table.add_column(name, justify="right", no_wrap=True)
        for cell in members:
            table.add_row(*_summary_row(cell, found))
        tables.append(table)
    if not tables:
        return Text("no runs are stored")
    note = (
        "Medians; in brackets intervals of order statistics, at the level that n attains (below n). "
        "handoff: per step. × floor: within blocks, all n unless a number of pairs is given."
    )
    return Group(*tables, Text(note, style="dim"))


def concurrent_table(records: Sequence[RunRecord]) -> RenderableType | None:
    """How long several runs at once took; None where there were none."""
    rows = concurrency.rows(cells(records))
    if not rows:
        return None
    table = _titled("runs at once")
    for name in ("orchestrator", "work"):
        table.add_column(name, overflow="fold")
    for name in ("runs", "n", "all", "one alone", "× alone", "first done", "last done", "runs/min", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        together, alone, times = row["together"], row["alone"], row["times_alone"]
        table.add_row(
            f"{row['orchestrator']} {row['configuration']}",
            row["work"],
            str(row["runs"]),
            str(row["n"]),
            *(
                "—" if value is None else seconds(value)
                for value in (together and together["value"], alone and alone["value"])
            ),
            f"{times:.2f}" if times else "—",
            *("—" if row[name] is None else seconds(row[name]) for name in ("shortest", "longest")),
            f"{row['per_minute']:.1f}" if together else "—",
            f"{row['failed']} ({', '.join(map(str, row['ended']))} of {row['runs']} ended)"
            if row["failed"]
            else "0",
        )
    return table


def starts_table(records: Sequence[RunRecord]) -> RenderableType | None:
    """How long until the first step was at work, where orchestrators started runs themselves; None where none did."""
    rows = starts.rows(cells(records))
    if not rows:
        return None
    table = _titled("until the first step is at work")
    for name in ("orchestrator", "work", "started by"):
        table.add_column(name, overflow="fold")
    for name in ("n", "median", "shortest", "longest"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        times = (row["start"] and row["start"]["value"], row["shortest"], row["longest"])
        table.add_row(
            f"{row['orchestrator']} {row['configuration']}",
            row["work"],
            row["trigger"],
            str(row["n"]),
            *("—" if value is None else seconds(value) for value in times),
        )
    return table


def faults_table(records: Sequence[RunRecord]) -> RenderableType:
    """A table for each target and fault: how many runs recovered, how often the step ran, how long it took."""
    found = [cell for cell in cells(records) if cell.key.fault]
    tables: list[RenderableType] = []
    for each in aftermath.tables(found, lambda cell: {}):
        shipped = ", retries as shipped" if each["retries"] == "shipped" else ""
        table = _titled(f"{each['target']}, {each['workload']}{shipped}: {each['title']}")
        table.add_column("orchestrator", min_width=12, overflow="fold")
        table.add_column("a step is")
        for name in ("recovered", "attempts", "claimed", "noticed", "resumed", "over"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("step done", overflow="fold")
        for row in each["rows"]:
            table.add_row(*_fault_row(row))
        tables.append(table)
    note = (
        "Medians. attempts: as the ledger saw them; claimed: as the orchestrator's own record has them. Times are "
        "from the strike: noticed by the orchestrator's clock, resumed by the ledger, over as seen from outside. "
        "Three attempts without delay, unless a table says as shipped."
    )
    return Group(*tables, Text(note, style="dim"))


PLAIN_WIDTH = 120
"""Columns where the output is a file or a pipe."""


def plan_summary(plan: Plan, slots: Sequence[Slot], medians: Mapping[str, float]) -> RenderableType:
    """What is to be run, in the order of the first block that lacks it; `medians` are of earlier runs, seconds."""
    left = Counter(slot.scenario for slot in slots)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("scenario", overflow="fold")
    for name in ("runs", "one took"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, count in left.items():
        key = plan.scenarios[number].key
        table.add_row(key, str(count), seconds(medians[key]) if key in medians else "not known")
    return table


def plan_table(plan: Plan, slots: Sequence[Slot]) -> RenderableType:
    """The runs to come, in their order."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("#", "block", "pause"):
        table.add_column(name, justify="right")
    table.add_column("scenario", overflow="fold")
    for number, slot in enumerate(slots, start=1):
        pause = f"{slot.jitter_seconds:.1f} s"
        table.add_row(str(number), str(slot.index + 1), pause, plan.scenarios[slot.scenario].key)
    return table


def comparison(found: Comparison) -> RenderableType:
    """Scenario by scenario: both medians, the shift with its interval, p, and the verdict."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("scenario", overflow="fold", min_width=34)
    for name in ("n", "A", "B", "B − A", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("B is", min_width=20)
    for each in found.compared:
        shift = seconds(each.found.shift)
        if interval := each.found.shift_interval:
            shift += f"\n[{seconds(interval.low)}, {seconds(interval.high)}] {interval.level:.0%}"
        table.add_row(
            f"{each.scenario} ({each.task})",
            f"{each.found.n[0]}, {each.found.n[1]}",
            seconds(each.medians[0]),
            seconds(each.medians[1]),
            shift,
            "—" if each.p is None else f"{each.p:.4f}",
            each.verdict,
        )
    notes = [
        "Medians of makespans. B − A: Hodges–Lehmann shift with its interval. p: two-sided permutation test of ranks, "
        "Holm-adjusted over the rows."
    ]
    notes += [f"only in A: {', '.join(found.only_first)}"] if found.only_first else []
    notes += [f"only in B: {', '.join(found.only_second)}"] if found.only_second else []
    differing = sorted({fact for each in found.compared for fact in each.differs})
    notes += [f"different environments: {'; '.join(differing)}"] if differing else []
    return Group(table, Text("\n".join(notes), style="dim"))


def lineage_table(records: Sequence[RunRecord]) -> RenderableType | None:
    """The thirteen questions, a column for each orchestrator that was asked; None where none was."""
    columns = answers.columns([cell for cell in cells(records) if cell.key.fault])
    if not columns:
        return None
    table = Table(
        title="Lineage, from each orchestrator's own store", box=SIMPLE, title_justify="left", pad_edge=False
    )
    table.add_column("question", min_width=20)
    for column in columns:
        table.add_column(
            f"{column['orchestrator']} {column['configuration']}\nn = {column['n']}", overflow="fold"
        )
    for each, asks in questions.ASKS.items():
        table.add_row(asks, *(answers.shown(column["answers"][each]) for column in columns))
    return table


def _fault_row(row: Mapping[str, Any]) -> list[str]:
    task = f"{row['task']} ({row['configuration']})"
    if not row["n"]:
        return [row["orchestrator"], task, row["unsupported"] or "no run was struck", *["—"] * 6]
    times = [row[name] for name in ("noticed", "resumed", "done")]
    return [
        row["orchestrator"],
        task,
        f"{row['recovered']} of {row['n']}",
        row["attempts"],
        row["claimed"],
        *("—" if value is None else seconds(value) for value in times),
        row["verdict"],
    ]


_ROLES = {name: "control" if name == "noop" else "floor" for name in CONTROLS}


def _summary_row(cell: Cell, found: Sequence[Cell]) -> list[str]:
    key = cell.key
    name = key.orchestrator if key.configuration == "default" else f"{key.orchestrator} {key.configuration}"
    name += f"\n{cell.knob}" if cell.knob else ""
    if cell.unsupported and not cell.measured:
        why = f"unsupported: {cell.unsupported[0].reason}"
        void = str(len(cell.void))
        return [f"{name}\n{why}", "0", "—", "—", "—", "—", "0", void]
    whole = cell.estimate(makespan)
    level = whole.interval.level if whole and whole.interval else None
    ratio = ratio_to_floor(cell, floor_of(cell, found))
    if ratio is None:
        times = _ROLES.get(key.orchestrator, "—")
    else:
        within = ratio.estimate.interval
        times = f"{ratio.estimate.value:.2f}"
        if within:
            times += f"\n[{within.low:.2f}, {within.high:.2f}]"
            times += "" if within.level == level else f" {within.level:.0%}"
        if not ratio.paired:
            times += "\nunpaired"
        elif ratio.estimate.n != len(cell.measured):
            times += f"\n{ratio.estimate.n} pairs"
    return [
        name,
        str(len(cell.measured)) + ("" if level is None else f"\n{level:.0%}"),
        interval(whole, level),
        interval(cell.estimate(overhead), level),
        interval(cell.estimate(handoff), level),
        times,
        str(len(cell.failed)),
        str(len(cell.void)),
    ]


def breakdown_table(records: Sequence[RunRecord]) -> RenderableType:
    """Where the time went: one run part by part, several as medians of each part's sum over the steps."""
    if len(records) == 1:
        return _one_breakdown(records[0])
    tables: list[RenderableType] = []
    for cell in cells(records):
        sums = [found for record in cell.measured if (found := part_seconds(record))]
        if not sums:
            continue
        whole = median([added(found.values()) for found in sums])
        table = Table(title=f"{cell.scenario.key}, n={len(sums)}")
        for name in ("part", "median", "share"):
            table.add_column(name, justify="left" if name == "part" else "right")
        for name in dict.fromkeys(name for found in sums for name in found):
            middle = median([found.get(name, 0.0) for found in sums])
            table.add_row(name, seconds(middle), f"{middle / whole:.0%}" if whole else "—")
        tables.append(table)
    return Group(*tables) if tables else Text("no breakdown is stored")


def _one_breakdown(record: RunRecord) -> RenderableType:
    found = record.breakdown
    errors = [Text(f"error of the record: {error}", style="bold red") for error in record.clock_errors]
    if found is None:
        return Group(Text("no breakdown is stored for this run"), *errors)
    table = Table(title=f"{record.run_id}: where {seconds(found.makespan)} went")
    table.add_column("part")
    table.add_column("step")
    for name in ("seconds", "at least", "at most"):
        table.add_column(name, justify="right")
    table.add_column("clocks")
    for part in found.parts:
        table.add_row(
            part.name,
            label(part.step, part.index),
            f"{part.seconds:.3f}",
            f"{part.low:.3f}",
            f"{part.high:.3f}",
            part.clocks,
            style="red" if part.high < 0 else None,
        )
    lines: list[RenderableType] = [table]
    if found.overhead is not None and found.user is not None and record.scenario.steps > 1:
        lines.append(Text(f"user {seconds(found.user)}, overhead {seconds(found.overhead)}"))
    if found.residual is not None and found.residual_bound is not None:
        lines.append(
            Text(f"residual {found.residual:+.3f} s; resolution explains ±{found.residual_bound:.3f} s")
        )
    return Group(*lines, *errors)
