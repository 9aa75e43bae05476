"""The short tables of the README, from stored results alone: `bench report --readme README.md` writes it anew."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.base import BenchError
from bench import aftermath, capabilities, coverage, lineage, recent, starts
from bench.capabilities import Conformance
from bench.cells import (
    BUSY,
    FLOORS,
    ORCHESTRATORS,
    Cell,
    cells,
    floor_of,
    is_measured,
    load,
    makespan,
    overhead,
    ratio_to_floor,
    usual,
)
from bench.drawing import figures, seconds
from bench.faults import FAULTS, STRUCK, WORK_SECONDS
from bench.records import RunRecord
from bench.statistics import Estimate

STEP_IS = {
    "pod": "one pod per step",
    "process": "one process per step",
    "call": "steps as calls in one process",
}
STRIKES = {
    "exception": "raises",
    "sigkill": "is killed",
    "pod-deleted": f"loses its pod ({WORK_SECONDS} s of work)",
}
FAILING = (
    "**When a step fails**: runs that recovered; how long until the next attempt was at work, median; *busy* where "
    f"the median CPU pressure of these runs was above {BUSY:.0%}. Retries are *equal* (three attempts, no delay) or "
    "*as shipped* (no retry setting of ours). Each column is one work and its struck step."
)
ASKED = (
    "**Lineage**: thirteen questions to each orchestrator's own store, after a run of the pipeline in which the first "
    f"attempt of `{STRUCK['pipeline']}` raised, retries equal. What counts is what the pipeline's own way of handing "
    "values on leaves there: nothing is added for the sake of lineage but in `assets`, `metadata` and `openlineage` "
    "([why that matters](docs/limits.md)). Question 12 counts as answered where what was known of "
    "questions 1 to 4 is known still once the run's objects are gone, however little: the last column says how much."
)
FIRST_ONLY = (
    "Where k is n, all runs are first ones after a deployment or a switch. What those take more differs by "
    "orchestrator ([how much](docs/results/report.md#first-run-after-a-switch))."
)
BEGIN, END = "<!-- results: made by `bench report --readme` -->", "<!-- /results -->"
TIMES_BEGIN, TIMES_END = "<!-- times: made by `bench report --readme` -->", "<!-- /times -->"
COMMANDS = "commands.jsonl"
"""Beside the results: how long the README's commands took, a row each time one was timed."""


def table(records: Sequence[RunRecord]) -> str:
    """The pipeline, a table for each target and kind of step: median makespan, overhead and ratio to the floor."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in usual(cells(records)):
        key = cell.key
        if key.workload == "pipeline" and key.task in FLOORS and cell.measured and key.undisturbed:
            groups.setdefault((key.target, key.task), []).append(cell)
    lines: list[str] = []
    first_only = False
    for (target, task), members in sorted(
        groups.items(), key=lambda g: (g[0][0], list(FLOORS).index(g[0][1]))
    ):
        for part in recent.parts(members):
            floors = {floor.key: floor for cell in part.rows if (floor := floor_of(cell, part.around))}
            lines += [
                *([""] if lines else []),
                f"The pipeline's seven steps on **{target}**, {STEP_IS[task]} ({_said(part)}):",
                "",
                "| orchestrator | setting | n (cold) | makespan, median | overhead, median | × floor |",
                "|---|---|--:|--:|--:|--:|",
                *(_row(cell, part.around) for cell in (*part.rows, *floors.values())),
            ]
            first_only |= any(cell.all_cold for cell in part.rows)
    if first_only:
        lines += ["", FIRST_ONLY]
    return "\n".join(lines)


def machines(records: Sequence[RunRecord]) -> str:
    """On how large a machine the stored runs were measured, newest first."""
    newest = {
        (facts.get("cores", "?"), facts.get("cpu", "?"), facts.get("memory_gib", "?")): record.recorded_at
        for record in sorted(records, key=lambda record: record.recorded_at)
        if is_measured(record) and (facts := record.environment.deciding)
    }
    kinds = sorted(newest, key=lambda kind: newest[kind], reverse=True)
    said = "; ".join(f"{cores} cores ({cpu}), {memory} GiB" for cores, cpu, memory in kinds)
    return f"All of it on one machine each time: {said}." if said else ""


def unmeasured(records: Sequence[RunRecord], verdicts: Sequence[Conformance]) -> str:
    """What the harness can measure and no stored run has, with no known reason why not."""
    if not records:
        return ""
    gaps = coverage.table(cells(records), ORCHESTRATORS, verdicts)["gaps"]
    lines = [f"- {name}: {'; '.join(where)}" for name, where in gaps.items() if where]
    return "\n".join(["**Not measured yet**", "", *lines]) if lines else ""


def kept(records: Sequence[RunRecord]) -> str:
    """What each does when a step fails and what it knows of a model later: tables for each target."""
    by_target: dict[str, list[Cell]] = {}
    for cell in usual(cells(records)):
        if cell.key.fault:
            by_target.setdefault(cell.key.target, []).append(cell)
    failing: list[str] = []
    asked: list[str] = []
    for target, members in sorted(by_target.items()):
        struck = [cell for cell in members if aftermath.struck(cell)]
        failing += [_failing(target, part) for part in recent.parts(struck)]
        answers = [c for c in members if c.key.retries == "equal" and lineage.columns([c])]
        asked += [_lineage(target, part) for part in recent.parts(answers)]
    said = [[FAILING, *failing] if failing else [], [ASKED, *asked] if asked else []]
    return "\n\n".join(text for texts in said for text in texts)


def _failing(target: str, part: recent.Part) -> str:
    """A column for each fault of each work, a row for each setting and retry policy: one cell of runs in each."""
    columns = sorted(
        {(cell.key.workload, cell.key.steps, cell.key.fault) for cell in part.rows},
        key=lambda column: (*column[:2], list(FAULTS).index(column[2])),
    )
    rows: dict[tuple[str, ...], dict[tuple[str, int, str], str]] = {}
    for cell in part.rows:
        key = cell.key
        policy = "equal" if key.retries == "equal" else "as shipped"
        of = rows.setdefault((_shown(cell.key.orchestrator, cell.key.configuration), key.task, policy), {})
        of[key.workload, key.steps, key.fault] = _recovered(cell)
    heads = [
        f"{workload}-{steps}, `{STRUCK[workload]}` {STRIKES[fault]}" for workload, steps, fault in columns
    ]
    return "\n".join(
        [
            f"A step fails on **{target}** ({_said(part)}):",
            "",
            "| orchestrator | a step is | retries | " + " | ".join(heads) + " |",
            "|---|---|---|" + "--:|" * len(heads),
            *(
                "| " + " | ".join((*who, *(of.get(column, "—") for column in columns))) + " |"
                for who, of in sorted(rows.items(), key=lambda row: (row[0][1], row[0]))
            ),
        ]
    )


def _recovered(cell: Cell) -> str:
    """`3 of 3; 1.9 s`, over the cell's struck runs."""
    runs = aftermath.struck(cell)
    again = aftermath.middle((after for _, after in runs), lambda after: after.resumed)
    text = f"{sum(after.recovered for _, after in runs)} of {len(runs)}"
    text += "" if again is None else f"; {seconds(again)}"
    return f"{text}, busy" if load([record for record, _ in runs])["busy"] else text


def _lineage(target: str, part: recent.Part) -> str:
    """How many of the thirteen questions each answers, and of how little question 12 says that it lasts."""
    lines = [
        f"Lineage on **{target}** ({_said(part)}):",
        "",
        "| orchestrator | a step is | n | answered of 13 | wrong | facts kept for question 12 |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for cell in part.rows:
        (column,) = lineage.columns([cell])
        durable = column["answers"]["durable"]
        values = (column["n"], column["answered"], column["wrong"])
        still = f"{len(durable['given'])} of {durable['of']}"
        who = (_shown(cell.key.orchestrator, cell.key.configuration), cell.key.task)
        lines.append("| " + " | ".join((*who, *map(str, values), still)) + " |")
    return "\n".join(lines)


def started(records: Sequence[RunRecord]) -> str:
    """How long until the first step is at work, by what started the run: a table for each target."""
    by_target: dict[str, list[Cell]] = {}
    everything = usual(cells(records))
    asked = {replace(cell.key, trigger="api") for cell in everything if cell.key.trigger != "api"}
    for cell in everything:
        if replace(cell.key, trigger="api") in asked:
            by_target.setdefault(cell.key.target, []).append(cell)
    made = [
        _starting(target, part)
        for target, members in sorted(by_target.items())
        for part in recent.parts(members)
    ]
    return "\n\n".join(made)


def _starting(target: str, part: recent.Part) -> str:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in starts.rows(part.rows):
        shown = _shown(row["orchestrator"], row["configuration"])
        of = rows.setdefault((shown, row["task"], row["work"]), {})
        if row["start"]:
            within = f"{figures(row['shortest'])} to {figures(row['longest'])}, " if row["n"] > 1 else ""
            cold = ", cold" if row["cold"] else ""
            of[row["by"]] = f"{seconds(row['start']['value'])} ({within}n = {row['n']}{cold})"
    return "\n".join(
        [
            f"**Until the first step is at work** on **{target}** ({_said(part)}; median, shortest to longest), by "
            "what starts the run: a request, a schedule (from the minute it was due), a data event:",
            "",
            "| orchestrator | a step is | work | request | schedule | data event |",
            "|---|---|---|--:|--:|--:|",
            *(
                "| " + " | ".join((*who, *(of.get(by, "—") for by in starts.SHOWN))) + " |"
                for who, of in rows.items()
            ),
        ]
    )


def _said(part: recent.Part) -> str:
    """When a table was measured, and that an older one has only what the newer has not."""
    if part.differs is None:
        return part.days
    return (
        f"older, {part.days}; other {', '.join(part.differs)}, perhaps another machine: set it against its own floor; "
        "only what the table above lacks"
    )


def _shown(name: str, configuration: str) -> str:
    return name if configuration == "default" else f"{name} {configuration}"


def _row(cell: Cell, members: Sequence[Cell]) -> str:
    ratio = ratio_to_floor(cell, floor_of(cell, members))
    name = cell.key.orchestrator
    values = (
        name + (" (floor)" if name in FLOORS.values() else " (stand-in images)" if cell.stand_ins else ""),
        (cell.knob or cell.key.configuration).replace("_", r"\_"),
        f"{len(cell.measured)} ({cell.cold})" if cell.cold else str(len(cell.measured)),
        _text(cell.estimate(makespan), " s"),
        _text(cell.estimate(overhead), " s"),
        _text(ratio.estimate, "") if ratio else "1" if name in FLOORS.values() else "—",
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
    rows = defaultdict(list)
    for row in map(json.loads, lines):
        rows[row["command"], row["caches"]].append(row)
    return "\n".join(f"- `{command}`, {caches}: {_timed(rows)}" for (command, caches), rows in rows.items())


def _timed(rows: Sequence[Mapping[str, Any]]) -> str:
    """The newest time of one command, and between which times all of its runs were."""
    newest = max(rows, key=lambda row: row["recorded_at"])
    seconds_of = [row["seconds"] for row in rows]
    runs = f"{len(rows)} runs: {_minutes(min(seconds_of))} to {_minutes(max(seconds_of))}"
    said = (newest["recorded_at"][:10], newest["note"], runs if len(rows) > 1 else "one run")
    return f"{_minutes(newest['seconds'])} min on {newest['cores']} cores ({'; '.join(filter(None, said))})"


def _minutes(total: float) -> str:
    return f"{round(total) // 60}:{round(total) % 60:02}"


def write(readme: Path, records: Sequence[RunRecord], folder: Path) -> None:
    """Put tables and times between their marks in `readme`; `folder` has the timed commands and verdicts.

    Raises `BenchError` where marks are missing.
    """
    verdicts = capabilities.load(folder)
    texts = (
        machines(records),
        table(records),
        kept(records),
        started(records),
        unmeasured(records, verdicts),
    )
    tables = "\n\n".join(filter(None, texts))
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
