"""`rows.md`: every stored run in a line, by cell, in the order of the raw file: what the tables link to and rest on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.analysis.cells import Cell, makespan, overhead, pressure, steal
from bench.report.markdown import escaped
from bench.report.numbers import seconds
from bench.results.records import RunRecord

FILE = "rows.md"
HEADS = (
    "run",
    "plan, block, try",
    "status",
    "makespan",
    "overhead",
    "CPU pressure",
    "steal",
    "recorded",
    "why",
)


def link(raw: Mapping[str, Any], text: str, folder: str = "") -> str:
    """A link to a cell's lines; `raw` says where they are in the raw file, `folder` where this file is."""
    return f"[{text}]({folder}{FILE}#{_heading(raw).lower().replace(' ', '-')})"


def _heading(raw: Mapping[str, Any]) -> str:
    """Unlike any other, and as plain as its address: `lines-308-to-311`."""
    return f"Lines {raw['first_line']} to {raw['last_line']}"


def text(found: Sequence[Cell], located: Callable[[Cell], Mapping[str, Any]]) -> str:
    """All of it as Markdown."""
    return "\n".join(_lines(found, located)) + "\n"


def _lines(found: Sequence[Cell], located: Callable[[Cell], Mapping[str, Any]]) -> Iterator[str]:
    yield "# Every stored run"
    yield ""
    yield (
        "Under each heading one cell of the comparison, and which lines of `runs.jsonl` beside this file its runs "
        "are: `bench results show RUN --results DIR` draws one, `sed -n 3p runs.jsonl` prints a line. CPU pressure: "
        "the share of the run in which something waited for a CPU; steal: the share of CPU time that the host took."
    )
    for cell in found:
        yield ""
        yield f"## {_heading(located(cell))}"
        yield ""
        yield f"{_about(cell)}."
        yield ""
        yield "| " + " | ".join(HEADS) + " |"
        yield "|---|---|---|--:|--:|--:|--:|---|---|"
        for record in cell.records:
            yield "| " + " | ".join(_row(record)) + " |"


def _about(cell: Cell) -> str:
    key = cell.key
    said = [
        f"{key.orchestrator} {key.configuration}",
        cell.knob or "",
        f"{key.target}: {key.title}, one {key.task} per step",
        f"fault {key.fault}, retries {key.retries}" if key.fault else "",
        f"{key.concurrent} runs at once" if key.concurrent > 1 else "",
        f"started by {key.trigger}" if key.trigger != "api" else "",
        "not watched" if key.observer else "",
        "first runs after a switch" if key.first else "",
        f"environment {key.environment[:12]}",
    ]
    return "; ".join(escaped(each) for each in said if each)


def _row(record: RunRecord) -> tuple[str, ...]:
    whole, beside = makespan(record), overhead(record)
    sample = record.sample
    return (
        escaped(record.run_id),
        escaped(f"{sample.plan_id}, {sample.index}, {sample.number}"),
        record.status + (", cold" if record.cold else ""),
        "" if whole is None else seconds(whole),
        "" if beside is None else seconds(beside),
        _share(pressure(record)),
        _share(steal(record)),
        escaped(record.recorded_at),
        escaped(record.reason),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
