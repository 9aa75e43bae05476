"""The short table of the README, from stored results alone: `bench report --readme README.md` writes it anew."""

from collections.abc import Sequence
from pathlib import Path

from adapters.base import BenchError
from bench.cells import FLOORS, Cell, cells, floor_of, makespan, overhead, ratio_to_floor
from bench.drawing import seconds
from bench.records import RunRecord
from bench.statistics import Estimate

STEP_IS = {
    "pod": "one pod per step",
    "process": "one process per step",
    "call": "steps as calls in one process",
}
BEGIN, END = "<!-- results: made by `bench report --readme` -->", "<!-- /results -->"


def table(records: Sequence[RunRecord]) -> str:
    """A table for each target and kind of step: median makespan, overhead and ratio to the floor of every cell."""
    found = [
        cell for cell in cells(records) if cell.key.task in FLOORS and cell.measured and not cell.key.fault
    ]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell.key.target, cell.key.task), []).append(cell)
    lines: list[str] = []
    for (target, task), members in groups.items():
        lines += [
            *([""] if lines else []),
            f"**{target}**, {STEP_IS[task]}:",
            "",
            "| workload | orchestrator | setting | n | makespan, median | overhead, median | × floor |",
            "|---|---|---|--:|--:|--:|--:|",
            *(_row(cell, members) for cell in members),
        ]
    return "\n".join(lines)


def _row(cell: Cell, members: Sequence[Cell]) -> str:
    ratio = ratio_to_floor(cell, floor_of(cell, members))
    name = cell.key.orchestrator
    values = (
        f"{cell.key.workload}, {cell.key.steps} steps",
        f"{name} (floor)" if name in FLOORS.values() else name,
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
    return f"{value} [{within.low:.3g}, {within.high:.3g}] at {within.level:.0%}"


def write(readme: Path, records: Sequence[RunRecord]) -> None:
    """Put the table between the two marks of `readme`. Raises `BenchError` where the marks are missing."""
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{readme} has no marks for the results", f"add the lines {BEGIN} and {END}")
    readme.write_text(f"{before}{begin}\n{table(records)}\n{end}{after}", encoding="utf-8")
