"""A run's timeline: a row for each step and attempt, drawn to scale, for the terminal and as an SVG."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.text import Text

from bench.analysis.breakdown import Passage, label, passages
from bench.analysis.statistics import added
from bench.report.numbers import seconds
from bench.results.records import RunRecord

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
    if not any(stretches for _, stretches in rows):
        return Group(head, Text(f"no step has a time; submit to terminal state {seconds(total)}"))
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
        user = added(s.end - s.start for s in stretches if s.kind is USER)
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
