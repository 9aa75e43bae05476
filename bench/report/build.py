"""The comparison, rebuilt from stored records alone: Markdown, HTML, JSON, and the raw rows they rest on.

The same records give the same bytes, in whatever order they come: no clock, no time zone, no random source
is read, and all seeds are fixed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from adapters.base import BenchError
from bench.analysis.cells import FLOORS, Cell, cells, makespan
from bench.analysis.statistics import p_by
from bench.report import brief, harness, listing, markdown, numbers, overview, published, timeline
from bench.report.capabilities import Conformance
from bench.report.contents import RAW, contents_of, located, rank
from bench.report.page import page
from bench.results.records import RunRecord, canonical
from bench.results.store import Problem
from cluster.state import write_atomic


def _pictures(found: Sequence[Cell]) -> dict[str, str]:
    """`timelines-TARGET.svg`: of each orchestrator as shipped, the pipeline run with the median makespan.

    Of several environments the newest in which it was measured.
    """
    newest: dict[tuple[str, str, str], Cell] = {}
    for cell in sorted(found, key=lambda cell: cell.last):
        usual = (
            cell.key.workload == "pipeline" and cell.key.configuration == "default" and cell.key.undisturbed
        )
        if usual and cell.measured and cell.key.task in FLOORS:
            newest[cell.key.target, cell.key.task, cell.key.orchestrator] = cell
    chosen: dict[str, list[RunRecord]] = {}
    for cell in sorted(newest.values(), key=lambda cell: (cell.key.place, rank(cell), cell.key)):
        ran = sorted(cell.measured, key=lambda record: (makespan(record) or 0.0, record.run_id))
        chosen.setdefault(cell.key.target, []).append(ran[(len(ran) - 1) // 2])
    return {
        f"timelines-{target}.svg": timeline.picture(runs, f"{target}: the run with the median makespan")
        for target, runs in chosen.items()
    }


def build(
    records: Sequence[RunRecord],
    out: Path,
    lines: Callable[[Sequence[RunRecord]], Iterable[bytes]] | None = None,
    own: Mapping[str, Any] | None = None,
    verdicts: Sequence[Conformance] = (),
    problems: Sequence[Problem] = (),
) -> list[Path]:
    """Write the report, its short tables, the raw rows and pictures; their paths.

    They are `report.md`, `.html` and `.json`, `tables.md`, `rows.md`, `runs.jsonl` (by cell), `timelines-TARGET.svg`.

    `lines` gives the raw rows of records that are `Outline`s; otherwise they are made from the records.
    `own` is what is stored of the harness's own cost, `verdicts` what the conformance suite found, `problems` what
    cost the stored results a row or a sample.

    Raises:
        BenchError: if a file cannot be written.
    """
    found = cells(records)
    ordered = [record for cell in found for record in cell.records]
    content = contents_of(found, own, verdicts, problems)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: the filter `md` escapes what comes from records
    )
    environment.filters.update(
        md=markdown.escaped,
        seconds=numbers.seconds,
        bare=lambda value: numbers.seconds(value).removesuffix(" s"),
        percent=_percent,
        estimate=_estimate_text,
        mebibytes=_mebibytes,
        per_step=published.shown,
        own=harness.shown,
        overview=overview.markdown,
        rows=listing.link,
        p_by=lambda found: p_by(found["exact"]),
    )
    text = environment.get_template("report.md.j2").render(**content)
    pictures = _pictures(found)
    files: dict[str, Iterable[bytes]] = {
        "report.md": [text.encode()],
        "report.html": [page(text, content, pictures).encode()],
        "report.json": [_by_line(content).encode()],
        "tables.md": [brief.text(found, verdicts).encode()],
        listing.FILE: [listing.text(found, located(found)).encode()],
        RAW: (lines or _canonical)(ordered),
        **{name: [svg.encode()] for name, svg in pictures.items()},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, parts in files.items():
            write_atomic(out / name, parts)  # the raw rows may take the place of the only copy
        return [out / name for name in files]
    except OSError as error:
        raise BenchError(
            f"cannot write the report to {out}: {error.strerror or error}",
            "give another folder: bench report --out DIR",
            "all stored results",
        ) from error


def _by_line(content: Mapping[str, Any]) -> str:
    """JSON with a line for each value and for each entry of a list: Python's fast encoder makes none itself."""

    def said(value: Any) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)

    def shown(value: Any) -> str:
        rows = ",\n ".join(map(said, value)) if isinstance(value, list) else ""
        return f"[\n {rows}\n]" if rows else said(value)

    return "{\n" + ",\n".join(f"{said(name)}: {shown(content[name])}" for name in sorted(content)) + "\n}\n"


def _estimate_text(value: dict[str, Any] | None, unit: str = " s") -> str:
    """`70.9 s [67.1, 72.2] 97 %`, or why there is no interval."""
    if value is None:
        return "—"
    middle = numbers.seconds(value["value"])[:-2] + unit
    interval = value["interval"]
    if interval is None:
        return f"{middle} ({value['note']})" if value["note"] else middle
    low, high = numbers.seconds(interval["low"])[:-2], numbers.seconds(interval["high"])[:-2]
    if "bootstrap" in interval["method"]:
        return f"{middle} [{low}, {high}] nominal {interval['level'] * 100:.0f} %, bootstrap"
    return f"{middle} [{low}, {high}] {_percent(interval['level'])}"


def _mebibytes(value: float | None) -> str:
    return "—" if value is None else f"{value / 2**20:.0f} MiB"


def _percent(value: float | None) -> str:
    """Whole per cent; a tenth near the ends, where it matters."""
    if value is None:
        return "—"
    edge = value != round(value) and (abs(value) < 0.1 or abs(value) > 0.9)
    return f"{value * 100:.1f} %" if edge else f"{value * 100:.0f} %"


def _canonical(records: Sequence[RunRecord]) -> Iterator[bytes]:
    """Each record as a line of canonical JSON."""
    for record in records:
        yield canonical(record.model_dump(mode="json")) + b"\n"
