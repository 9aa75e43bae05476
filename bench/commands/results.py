"""`bench results`: list, show, verify and export what is stored."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from adapters.base import BenchError
from bench.analysis.cells import is_measured, makespan, overhead
from bench.errors import EXIT_FAILED, EXIT_LOSSES, BadInput
from bench.report import numbers, tables, timeline
from bench.report.export import FORMATS, as_csv, as_jsonl, as_parquet, as_pytest_benchmark
from bench.results import schema
from bench.results.records import RecordStatus, RunRecord
from bench.results.store import FILE, Reading, by_run_id, default_folder, verify
from cluster.state import write_atomic

app = typer.Typer(help="What is stored: list, show, verify, export.", no_args_is_help=True)

MOST_TOLD = 20
"""Problems of a file that stand on stderr one by one."""

Results = Annotated[
    Path | None,
    typer.Option(
        "--results", metavar="DIR", help="Results folder. [default: $BENCH_HOME/results or .bench/results]"
    ),
]


@app.command("ls", epilog="Example: bench results ls --orchestrator argo --status failed")
def list_runs(
    results: Results = None,
    orchestrator: Annotated[str | None, typer.Option(help="Only this orchestrator's.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only these: succeeded, failed, timeout, void, unsupported.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the stored runs, in the order of the file.

    Exit codes: 0 done, 1 nothing is stored, 2 bad input, 4 done without the rows named on stderr.
    """
    if status not in (None, *get_args(RecordStatus)):
        raise BadInput(f"unknown status '{status}'", f"one of: {', '.join(get_args(RecordStatus))}")
    folder = folder_of(results)
    reading = opened(folder)
    found = [
        record
        for record in reading.records
        if orchestrator in (None, record.scenario.orchestrator) and status in (None, record.status)
    ]
    if as_json:
        for record in found:
            print(json.dumps(_line(record), sort_keys=True, ensure_ascii=False))
        end(reading)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "scenario", "#", "status", "makespan", "overhead", "recorded"):
        table.add_column(
            name, justify="right" if name in ("#", "makespan", "overhead") else "left", no_wrap=True
        )
    for record in found:
        whole, over = makespan(record), overhead(record)
        note = "" if record.status != "succeeded" or is_measured(record) else " (not as it should be)"
        table.add_row(
            record.run_id,
            record.scenario.key,
            str(record.sample.index),
            record.status + note,
            "—" if whole is None else numbers.seconds(whole),
            "—" if over is None else numbers.seconds(over),
            record.recorded_at,
        )
    _console().print(table)
    print(f"{len(found)} runs in {folder / FILE}", file=sys.stderr)
    end(reading)


@app.command(epilog="Example: bench results show b1f2-0-3-1")
def show(
    run_id: Annotated[str, typer.Argument(help="A run id of `bench results ls`, or how it begins.")],
    results: Results = None,
    as_json: Annotated[bool, typer.Option("--json", help="The record as stored.")] = False,
) -> None:
    """Show one run: its timeline to scale, and where its time went.

    Exit codes: 0 done, 1 nothing is stored, 2 no such run.
    """
    record = by_run_id(opened(folder_of(results)).records, run_id)
    if as_json:
        print(json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False))
        return
    console = _console()
    console.print(timeline.timeline(record, console.width))
    console.print(tables.breakdown_table([record]))
    if record.reason:
        console.print(f"reason: {record.reason}", markup=False)
    if record.verification is not None:
        for problem in record.verification.problems:
            console.print(f"not as it should be: {problem}", markup=False)


@app.command("verify", epilog="Example: bench results verify --results /mnt/old-results")
def verify_store(results: Results = None) -> None:
    """Check every stored byte against the records' content hashes, and each record against the others and itself.

    Exit codes: 0 all is as it was written, 1 it is not, 2 bad input.
    """
    folder = folder_of(results)
    if not (folder / FILE).exists():
        raise BadInput(f"there is no {folder / FILE}", "to make one: bench run --orchestrator noop")
    problems = verify(folder)
    for problem in problems:
        print(problem)
    if problems:
        print(f"error: {len(problems)} problems in {folder / FILE}", file=sys.stderr)
        print("kept: the file as it is", file=sys.stderr)
        print(f"next: to see a line: sed -n '{problems[0].line}p' {folder / FILE}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED)
    count = (folder / FILE).read_bytes().count(b"\n")
    print(f"{count} records in {folder / FILE}: every byte as it was written")


@app.command(
    epilog="Example: bench results export --format pytest-benchmark --out runs.json · "
    "bench results export --plan 9b4d0275 > part/runs.jsonl"
)
def export(
    results: Results = None,
    plan: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only the runs of this plan; repeatable.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}.")] = "jsonl",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here instead of to stdout.")] = None,
) -> None:
    """Write the stored runs in another format; the last is for `pytest-benchmark compare FILE`.

    Exit codes: 0 done, 1 nothing is stored, 2 bad input, 4 done without the rows named on stderr.
    """
    if form not in FORMATS:
        raise BadInput(f"unknown format {form!r}", f"one of: {', '.join(FORMATS)}")
    reading = opened(folder_of(results))
    records = _of_plans(reading.records, plan or [])
    forms: dict[str, Callable[[Sequence[RunRecord]], str | bytes]] = {
        "jsonl": as_jsonl,
        "csv": as_csv,
        "parquet": as_parquet,
        "pytest-benchmark": as_pytest_benchmark,
    }
    made = forms[form](records)
    content = made.encode() if isinstance(made, str) else made
    if isinstance(made, bytes) and out is None and sys.stdout.isatty():
        raise BadInput("Parquet is not for a terminal", "give --out FILE")
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        end(reading)
        return
    if out.resolve() == reading.path.resolve():
        raise BadInput(f"{out} is where the runs are stored", "give another --out FILE", "the file as it is")
    if not out.parent.is_dir():
        raise BadInput(f"cannot write {out}: there is no folder {out.parent}", f"mkdir -p {out.parent}")
    try:
        write_atomic(out, [content])
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror or error}", "give another --out FILE") from error
    print(f"{len(records)} records written to {out}", file=sys.stderr)
    end(reading)


@app.command("schema", epilog="Example: bench results schema > run-record.schema.json")
def print_schema() -> None:
    """Print the JSON Schema of a stored record.

    Exit code: 0.
    """
    sys.stdout.write(schema.text())


def folder_of(results: Path | None) -> Path:
    """The results folder that was asked for, or the usual one. Raises `BadInput` for what is no folder."""
    folder = results or default_folder()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is no folder", "give the folder that holds it: --results DIR")
    return folder


def opened(folder: Path, model: type[RunRecord] = RunRecord) -> Reading:
    """What is stored in `folder`, read without a change to it; what is wrong with it is said on stderr.

    Raises `BenchError` where no run is left.
    """
    reading = Reading(folder, model)
    for problem in reading.problems[:MOST_TOLD]:
        print(f"warning: {reading.path}, {problem}; {problem.outcome}", file=sys.stderr)
    if (more := len(reading.problems) - MOST_TOLD) > 0:
        print(f"warning: and {more} more: bench results verify --results {folder}", file=sys.stderr)
    if reading.records:
        return reading
    if reading.left_out:
        raise BenchError(
            f"none of the {reading.left_out} lines of {reading.path} can be used",
            f"to see why: bench results verify --results {folder}",
            "the file as it is",
        )
    raise BenchError(
        f"no runs are stored in {folder}", f"to store one: bench run --orchestrator noop --results {folder}"
    )


def end(*readings: Reading) -> None:
    """Leave with an exit code of its own where what is stored is not all in what was done."""
    if lost := sum(len(reading.losses) for reading in readings):
        print(
            f"warning: done, but not with all that is stored: {lost} lines are named above", file=sys.stderr
        )
        raise typer.Exit(EXIT_LOSSES)


def _of_plans(records: list[RunRecord], plans: Sequence[str]) -> list[RunRecord]:
    """Those of the plans named, all where none is. Raises `BadInput` for a plan of which nothing is stored."""
    known = {record.sample.plan_id for record in records}
    if unknown := [plan for plan in plans if plan not in known]:
        raise BadInput(
            f"no run of plan {', '.join(unknown)} is stored", f"one of: {', '.join(sorted(known))}"
        )
    return [record for record in records if not plans or record.sample.plan_id in plans]


def _console() -> Console:
    """As wide as the terminal; wide enough for a table where the output goes to a file."""
    width = None if sys.stdout.isatty() else max(140, shutil.get_terminal_size((140, 24)).columns)
    return Console(width=width, highlight=False)


def _line(record: RunRecord) -> dict[str, object]:
    return {
        "run_id": record.run_id,
        "scenario": record.scenario.key,
        "index": record.sample.index,
        "status": record.status,
        "reason": record.reason,
        "makespan_seconds": makespan(record),
        "overhead_seconds": overhead(record),
        "recorded_at": record.recorded_at,
    }
