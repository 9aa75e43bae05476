"""What the README says of the stored results: `bench report --readme README.md` writes it anew."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adapters.base import BenchError
from bench.analysis.cells import cells, is_measured
from bench.report import overview
from bench.report.contents import located
from bench.report.markdown import escaped
from bench.results.records import RunRecord
from cluster.state import write_atomic

BEGIN, END = "<!-- results: made by `bench report --readme` -->", "<!-- /results -->"
TIMES_BEGIN, TIMES_END = "<!-- times: made by `bench report --readme` -->", "<!-- /times -->"
COMMANDS = "commands.jsonl"
"""Beside the results: how long the README's commands took, a row each time one was timed."""
WHERE = {
    "kind": "On **kind**, a Kubernetes cluster in containers",
    "k8s": "On **k8s**, a cluster of somebody's own",
    "local": "On **local**, without Kubernetes",
}


def comparison(records: Sequence[RunRecord], folder: str) -> str:
    """A table for each target; `folder` is where the raw rows are, seen from the README."""
    found = cells(records)
    made = [
        f"{WHERE[table['target']]} (pipeline measured {table['days']}):\n\n{overview.markdown(table, folder)}"
        for table in overview.tables(found, located(found))
    ]
    notes = "\n".join(f"- {note}" for note in overview.NOTES)
    return "\n\n".join([machines(records), *made, notes]) if made else ""


def machines(records: Sequence[RunRecord]) -> str:
    """On how large a machine the stored runs were measured, newest first; empty where none was."""
    newest = {
        (facts.get("cores", "?"), facts.get("cpu", "?"), facts.get("memory_gib", "?")): record.recorded_at
        for record in sorted(records, key=lambda record: record.recorded_at)
        if is_measured(record) and (facts := record.environment.deciding)
    }
    kinds = sorted(newest, key=lambda kind: newest[kind], reverse=True)
    said = [escaped(f"{cores} cores ({cpu}) and {memory} GiB") for cores, cpu, memory in kinds]
    if len(said) > 1:
        return f"Every run was on a single machine, not always the same; the newest first: {', '.join(said)}."
    return f"Every run was on a single machine, of {said[0]}." if said else ""


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
    """Between which times the runs of one command were, and when it was timed last."""
    seconds_of = sorted(row["seconds"] for row in rows)
    between = " to ".join(dict.fromkeys(_minutes(each) for each in (seconds_of[0], seconds_of[-1])))
    newest = max(rows, key=lambda row: row["recorded_at"])
    runs = f"{len(rows)} runs" if len(rows) > 1 else "one run"
    return f"{between} min on {newest['cores']} cores ({runs}, the last {newest['recorded_at'][:10]})"


def _minutes(total: float) -> str:
    return f"{round(total) // 60}:{round(total) % 60:02}"


def write(readme: Path, records: Sequence[RunRecord], folder: Path, out: Path) -> None:
    """Put the comparison and times between their marks in `readme`.

    `folder` has the timed commands, `out` the report, whose raw rows the comparison links to.

    Raises `BenchError` where marks are missing.
    """
    raw = quote(os.path.relpath(out, readme.parent))
    written = readme.read_text(encoding="utf-8")
    written = _between(readme, written, BEGIN, END, comparison(records, f"{raw}/"))
    if said := times(folder):
        written = _between(readme, written, TIMES_BEGIN, TIMES_END, said)
    write_atomic(readme, written)


def _between(readme: Path, text: str, first: str, last: str, new: str) -> str:
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise BenchError(f"{readme} has no marks for the results", f"add the lines {first} and {last}")
    return f"{before}{begin}\n{new}\n{end}{after}"
