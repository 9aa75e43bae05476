"""The short tables of the README, from stored results alone: `bench report --readme README.md` writes it anew."""

import json
from collections.abc import Sequence
from pathlib import Path

from adapters.base import BenchError
from bench import aftermath, lineage, starts
from bench.cells import FLOORS, Cell, cells, floor_of, makespan, overhead, ratio_to_floor
from bench.drawing import figures, seconds
from bench.faults import FAULTS
from bench.records import RunRecord
from bench.statistics import Estimate

STEP_IS = {
    "pod": "one pod per step",
    "process": "one process per step",
    "call": "steps as calls in one process",
}
BEGIN, END = "<!-- results: made by `bench report --readme` -->", "<!-- /results -->"
TIMES_BEGIN, TIMES_END = "<!-- times: made by `bench report --readme` -->", "<!-- /times -->"
COMMANDS = "commands.jsonl"
"""Beside the results: how long the README's commands took, a row each time one was timed."""


def table(records: Sequence[RunRecord]) -> str:
    """The pipeline, a table for each target and kind of step: median makespan, overhead and ratio to the floor."""
    found = [
        cell
        for cell in cells(records)
        if cell.key.workload == "pipeline"
        and cell.key.task in FLOORS
        and cell.measured
        and cell.key.undisturbed
    ]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell.key.target, cell.key.task), []).append(cell)
    lines: list[str] = []
    for (target, task), members in sorted(
        groups.items(), key=lambda g: (g[0][0], list(FLOORS).index(g[0][1]))
    ):
        lines += [
            *([""] if lines else []),
            f"The pipeline's seven steps on **{target}**, {STEP_IS[task]}:",
            "",
            "| orchestrator | setting | n | makespan, median | overhead, median | × floor |",
            "|---|---|--:|--:|--:|--:|",
            *(_row(cell, members) for cell in members),
        ]
    return "\n".join(lines)


def kept(records: Sequence[RunRecord]) -> str:
    """What each does when a step fails and what it knows of a model later: a row for each orchestrator and setting."""
    rows: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells(records):
        if cell.key.fault:
            key = cell.key
            rows.setdefault((key.target, key.orchestrator, key.configuration, key.task), []).append(cell)
    if not rows:
        return ""
    names = list(FAULTS)
    titles = {
        "exception": "a step raises",
        "sigkill": "its process is killed",
        "pod-deleted": "its pod is deleted",
    }
    lines = [
        "**When a step fails** under equal retries (runs that recovered; resumed after, median; in brackets what is "
        "recovered with the retry settings as shipped), and the thirteen **lineage** questions to "
        "each orchestrator's own store:",
        "",
        "| target | orchestrator | a step is | "
        + " | ".join(titles[name] for name in names)
        + " | answered of 13 | wrong |",
        "|---|---|---|" + "--:|" * (len(names) + 2),
    ]
    for (target, name, configuration, task), members in rows.items():
        faults = [_recovered([cell for cell in members if cell.key.fault == fault]) for fault in names]
        asked = lineage.columns(members)
        answered = str(asked[0]["answered"]) if asked else "not asked"
        wrong = str(asked[0]["wrong"]) if asked else ""
        shown = name if configuration == "default" else f"{name} {configuration}"
        lines.append("| " + " | ".join((target, shown, task, *faults, answered, wrong)) + " |")
    return "\n".join(lines)


def _recovered(members: Sequence[Cell]) -> str:
    """`3 of 3; 1.9 s (0 of 3)`, over all the cells' struck runs; a dash where none is stored."""
    equal, shipped = (
        [after for cell in members if cell.key.retries == policy for after in aftermath.of_cell(cell)]
        for policy in ("equal", "shipped")
    )
    again = aftermath.middle(equal, lambda after: after.resumed)
    text = _count(equal) if again is None else f"{_count(equal)}; {seconds(again)}"
    return f"{text} ({_count(shipped)})" if shipped else text


def started(records: Sequence[RunRecord]) -> str:
    """How long until the first step is at work, by what started the run: a row for each orchestrator and setting."""
    rows: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for row in starts.rows(cells(records)):
        shown = row["orchestrator"] + (
            f" {row['configuration']}" if row["configuration"] != "default" else ""
        )
        of = rows.setdefault((row["target"], shown, row["task"], row["work"]), {})
        if row["start"]:
            within = f"{figures(row['shortest'])} to {figures(row['longest'])}"
            of[row["by"]] = f"{seconds(row['start']['value'])} ({within}, n = {row['n']})"
    if not rows:
        return ""
    lines = [
        "**Until the first step is at work** (median, shortest to longest), by what starts the run: a request, a "
        "schedule (from the minute it was due), a data event:",
        "",
        "| target | orchestrator | a step is | work | request | schedule | data event |",
        "|---|---|---|---|--:|--:|--:|",
        *(
            "| " + " | ".join((*who, *(of.get(by, "—") for by in starts.SHOWN))) + " |"
            for who, of in rows.items()
        ),
    ]
    return "\n".join(lines)


def _count(found: Sequence[aftermath.Aftermath]) -> str:
    return f"{sum(after.recovered for after in found)} of {len(found)}" if found else "—"


def _row(cell: Cell, members: Sequence[Cell]) -> str:
    ratio = ratio_to_floor(cell, floor_of(cell, members))
    name = cell.key.orchestrator
    values = (
        name + (" (floor)" if name in FLOORS.values() else " (stand-in images)" if cell.stand_ins else ""),
        (cell.knob or cell.key.configuration).replace("_", r"\_"),
        str(len(cell.measured)),
        _text(cell.estimate(makespan), " s"),
        _text(cell.estimate(overhead), " s"),
        _text(ratio.estimate, "") if ratio else "",
    )
    return "| " + " | ".join(values) + " |"


def _text(estimate: Estimate | None, unit: str) -> str:
    if estimate is None:
        return "—"
    value = seconds(estimate.value) if unit else f"{estimate.value:.2f}"
    if estimate.interval is None:
        return value
    within = estimate.interval
    return f"{value} [{figures(within.low)}, {figures(within.high)}] at {within.level:.0%}"


def times(folder: Path) -> str:
    """How long the README's commands took when last timed, by what was there beforehand; empty where none was."""
    try:
        lines = (folder / COMMANDS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    newest = {(row["command"], row["caches"]): row for row in map(json.loads, lines)}
    return "\n".join(
        f"- `{row['command']}`, {row['caches']}: {row['seconds'] // 60:.0f}:{row['seconds'] % 60:02.0f} min on "
        f"{row['cores']} cores ({row['recorded_at'][:10]}, one run)"
        for row in newest.values()
    )


def write(readme: Path, records: Sequence[RunRecord], folder: Path) -> None:
    """Put tables and times between their marks in `readme`; `folder` has the timed commands.

    Raises `BenchError` where marks are missing.
    """
    tables = "\n\n".join(filter(None, (table(records), kept(records), started(records))))
    text = _between(readme, readme.read_text(encoding="utf-8"), BEGIN, END, tables)
    if said := times(folder):
        text = _between(readme, text, TIMES_BEGIN, TIMES_END, said)
    readme.write_text(text, encoding="utf-8")


def _between(readme: Path, text: str, first: str, last: str, new: str) -> str:
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise BenchError(f"{readme} has no marks for the results", f"add the lines {first} and {last}")
    return f"{before}{begin}\n{new}\n{end}{after}"
