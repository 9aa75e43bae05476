"""What the terminal shows: a run's timeline, its breakdown, and the table over all runs."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench import aftermath, concurrency, lineage, starts
from bench.breakdown import Passage, label, passages
from bench.cells import (
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
from bench.compare import Comparison
from bench.plan import Plan, Slot
from bench.records import RunRecord
from bench.statistics import Estimate, median

_SECOND = 1_000_000_000
FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Fonts that rich's SVG would fetch from a server; without them the reader's own monospace is used."""


@dataclass(frozen=True)
class _Kind:
    """How a stretch of a step is drawn: the character tells it apart without colour."""

    name: str
    character: str
    style: str


WAIT = _Kind("wait", "·", "bright_black")
STARTUP = _Kind("start-up", "░", "yellow")
IMPORTS = _Kind("imports", "▒", "magenta")
USER = _Kind("user", "█", "green")
LOST = _Kind("did not finish", "x", "bold red")
KINDS = (WAIT, STARTUP, IMPORTS, USER, LOST)


@dataclass(frozen=True)
class _Stretch:
    kind: _Kind
    start: float
    end: float


def seconds(value: float) -> str:
    """A duration to three figures: `0.042 s`, `9.53 s`, `134 s`."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if size >= 10 else f"{value:.2f} s" if size >= 1 else f"{value:.3f} s"


def figures(value: float) -> str:
    """A number to three figures, or all before the point where there are more: `0.324`, `1038`."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(estimate: Estimate | None, level: float | None = None) -> str:
    """`9.53 s`, and below it `[9.1, 10.2] 94%`: the median, its interval and the level that attains.

    The level is left out where it is `level`, which the reader has been told already. A dash where unknown.
    """
    if estimate is None:
        return "—"
    if estimate.interval is None:
        return seconds(estimate.value)
    low, high = seconds(estimate.interval.low)[:-2], seconds(estimate.interval.high)[:-2]
    attained = "" if estimate.interval.level == level else f" {estimate.interval.level:.0%}"
    return f"{seconds(estimate.value)}\n[{low}, {high}]{attained}"


def timeline(record: RunRecord, width: int = 100, until: float = 0.0) -> RenderableType:
    """One row for each step and attempt, drawn to scale over `width` columns, with axis and legend.

    The axis reaches to `until` (s) at least, so that several runs can be drawn to one scale.
    """
    found = passages(record.timeline, record.pods, record.ledger)
    client = record.client
    head = Text(f"{record.run_id}  {record.scenario.key}  {record.status}", style="bold")
    if client is None:
        return Group(head, Text(record.reason or "no clock was stored for this run"))
    total = (client.first_terminal_ns - client.submit_ns) / _SECOND
    if not found:
        return Group(head, Text(f"no steps; submit to terminal state {seconds(total)}"))
    if record.task == "call":  # its process is older than the step: all that is seen is the wait for the call
        found = [replace(passage, process_start=None) for passage in found]
    rows = _rows(found, client.submit_ns, client.accepted_ns)
    names = [_name(passage, found) for passage, _ in rows]
    gutter = max(len(name) for name in names)
    last = max(stretch.end for _, stretches in rows for stretch in stretches)
    first = min(0.0, min(stretch.start for _, stretches in rows for stretch in stretches))
    span = max(total, last, until) - first or 1.0
    columns = max(20, width - gutter - 12)
    lines = [head, *_axis(gutter, columns, first, span)]
    for name, (_passage, stretches) in zip(names, rows, strict=True):
        line = Text(f"{name:>{gutter}} ")
        line.append_text(_bar(stretches, columns, first, span))
        user = sum(s.end - s.start for s in stretches if s.kind is USER)
        line.append(f" {seconds(user):>9}" if user else f" {'—':>9}")
        lines.append(line)
    legend = Text(" " * (gutter + 1))
    for kind in KINDS:
        if any(stretch.kind is kind for _, stretches in rows for stretch in stretches):
            legend.append(kind.character, style=kind.style).append(f" {kind.name}   ")
    legend.append(f"| terminal state at {seconds(total)}; right: user time")
    lines.append(legend)
    return Group(*lines)


def picture(records: Sequence[RunRecord], title: str, width: int = 112) -> str:
    """The timelines of several runs, drawn to one scale, as an SVG; the same bytes for the same records."""
    until = max(
        ((r.client.first_terminal_ns - r.client.submit_ns) / _SECOND for r in records if r.client), default=0
    )
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for record in records:
        console.print(timeline(record, width, until))
        console.print()
    return FONT_FACE.sub("", console.export_svg(title=title))


def _name(passage: Passage, found: Sequence[Passage]) -> str:
    several = sum(other.key == passage.key for other in found) > 1
    return label(*passage.key) + (f" #{passage.attempt}" if several else "")


def _rows(found: Sequence[Passage], submit: int, accepted: int) -> list[tuple[Passage, list[_Stretch]]]:
    """Each attempt's stretches, seconds after submit. A step waits from the last end before its first sign."""
    ends = sorted(p.user_end for p in found if p.user_end is not None and p.succeeded)
    rows = []
    for passage in found:
        pod = passage.pod
        created = round(pod.created * _SECOND) if pod is not None and pod.created is not None else None
        if created is not None and pod is not None:
            created = min(created + _SECOND, pod.arrivals_ns.get("created", created + _SECOND))
        finished = round(pod.finished * _SECOND) if pod is not None and pod.finished is not None else None
        sign = next(
            (at for at in (created, passage.process_start, passage.user_start) if at is not None), None
        )
        if sign is None:
            continue
        ready = max((end for end in ends if end <= sign), default=min(accepted, sign))
        user_start = passage.user_start
        process = passage.process_start
        if process is None:
            process = finished or user_start or sign
        marks: list[tuple[_Kind, int, int]] = [(WAIT, ready, sign), (STARTUP, sign, process)]
        if user_start is not None:
            marks.append((IMPORTS, process, user_start))
            marks.append((USER, user_start, passage.user_end or finished or user_start))
        if not passage.succeeded:
            at = max(end for _, _, end in marks)
            marks.append((LOST, at, at))
        rows.append(
            (
                passage,
                [
                    _Stretch(kind, (start - submit) / _SECOND, (end - submit) / _SECOND)
                    for kind, start, end in marks
                    if end > start or kind is LOST
                ],
            )
        )
    return rows


def _column(at: float, columns: int, first: float, span: float) -> int:
    return min(columns - 1, max(0, int((at - first) / span * columns)))


def _bar(stretches: Sequence[_Stretch], columns: int, first: float, span: float) -> Text:
    """Characters by scale: a column shows what takes up most of it, but user code is always seen."""
    drawn: list[tuple[float, _Kind] | None] = [None] * columns
    for stretch in stretches:
        start, end = _column(stretch.start, columns, first, span), _column(stretch.end, columns, first, span)
        for column in range(start, end + 1):
            left = first + column * span / columns
            covered = min(stretch.end, left + span / columns) - max(stretch.start, left)
            if covered <= 0 and column > start:
                continue
            weight = float("inf") if stretch.kind is LOST else covered
            there = drawn[column]
            if there is None or weight > there[0]:
                drawn[column] = (weight, stretch.kind)
    for stretch in stretches:
        if stretch.kind is USER and not any(mark and mark[1] is USER for mark in drawn):
            drawn[_column(stretch.start, columns, first, span)] = (0.0, USER)
    bar = Text()
    for mark in drawn:
        if mark is None:
            bar.append(" ")
        else:
            bar.append(mark[1].character, style=mark[1].style)
    return bar


def _axis(gutter: int, columns: int, first: float, span: float) -> list[Text]:
    step = _tick(span, columns)
    numbers, marks = [" "] * (columns + 8), ["─"] * columns
    at = -(-first // step) * step + 0.0  # no minus in front of a zero
    while at <= first + span:
        column = _column(at, columns, first, span)
        text = f"{at:g}"
        if all(c == " " for c in numbers[max(0, column - 1) : column + len(text) + 1]):
            numbers[column : column + len(text)] = text
            marks[column] = "┬"
        at = round(at + step, 6)
    pad = " " * (gutter + 1)
    return [Text(pad + "".join(numbers).rstrip() + " s"), Text(pad + "".join(marks), style="bright_black")]


def _tick(span: float, columns: int) -> float:
    wanted = span / max(2, columns // 10)
    scale = 1e-3
    while True:
        for step in (1, 2, 5):
            if step * scale >= wanted:
                return step * scale
        scale *= 10


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
    for name in ("runs", "n", "all", "one alone", "× alone", "first done", "last done", "runs/min"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        alone, times = row["alone"], row["times_alone"]
        table.add_row(
            f"{row['orchestrator']} {row['configuration']}",
            row["work"],
            str(row["runs"]),
            str(row["n"]),
            seconds(row["together"]["value"]),
            seconds(alone["value"]) if alone else "—",
            f"{times:.2f}" if times else "—",
            seconds(row["shortest"]),
            seconds(row["longest"]),
            f"{row['per_minute']:.1f}",
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
        for name in ("recovered", "attempts", "claimed", "step done", "noticed", "resumed", "over"):
            table.add_column(name, justify="right", no_wrap=True)
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


def duration(value: float) -> str:
    """`45 s`, `12 min` or `3.4 h`: for what is only roughly known."""
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


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
    columns = lineage.columns([cell for cell in cells(records) if cell.key.fault])
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
    for each, asks in lineage.ASKS.items():
        table.add_row(asks, *(lineage.shown(column["answers"][each]) for column in columns))
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
        row["delivered"],
        *("—" if value is None else seconds(value) for value in times),
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
        whole = median([sum(found.values()) for found in sums])
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
