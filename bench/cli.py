"""The `bench` command."""

import io
import json
import math
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

import structlog
import typer
from rich.console import Console
from rich.table import Table

from adapters.base import Adapter, BenchError, Target
from bench.commands import choose as choose_command
from bench.commands import cluster as cluster_cli
from bench.commands import completion, doctor
from bench.commands import results as results_cli
from bench.errors import BadInput, run_cli
from bench.faults.inject import FAULTS
from bench.results.records import RetryPolicy, Trigger
from bench.results.store import PUBLISHED, no_collection

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done · 1 something failed · 2 bad input · 4 done, but not with all that is stored · "
    "130 interrupted (the same command goes on).",
)
app.add_typer(cluster_cli.app, name="cluster")
app.add_typer(results_cli.app, name="results")
app.command("doctor")(doctor.doctor)
app.command("choose", epilog=choose_command.EPILOG)(choose_command.choose_one)

MOST_AT_ONCE = 64
"""Runs that one sample may submit at once."""
MOST_STEPS = 500
"""Steps that a chain or a fan-out may have."""


def _version(wanted: bool) -> None:
    """Say which release this is and end."""
    if wanted:
        print(f"orchestrator-bench {version('orchestrator-bench')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Which release this is.")
    ] = False,
) -> None:
    """One ML pipeline, five orchestrators, measured: latency, retry behaviour and lineage capture."""


RUN_EPILOG = """
[bold]Examples[/bold]

  bench run --orchestrator argo

  bench run --orchestrator all --target local --configuration default --n 1

  bench run --orchestrator argo --n 20 --configuration default,tuned

  bench run --orchestrator argo --workload chain --steps 10 --no-controls --json

  bench run --orchestrator all --workload chain --steps 1,10,40

  bench run --orchestrator argo --set train_seconds=30 --set dataset_uri=s3://bucket/ratings.parquet

  bench run --orchestrator airflow,prefect --fault all --n 3

  bench run --orchestrator all --lineage --n 3

  bench run --orchestrator argo --workload chain --steps 1 --concurrent 1,4,16

  bench run --orchestrator all --workload chain --steps 1 --trigger api,schedule,event

  bench run --orchestrator airflow --fault all --retries equal,shipped --n 3

  bench run --orchestrator argo --fault promote-killed-naive,servers-deleted -w pipeline --retries equal,shipped

  bench run --orchestrator argo,prefect --target k8s --context my-cluster

  bench run --orchestrator all --n 20 --plan

  bench run --orchestrator prefect --target local --precision 5% --budget 2

An interrupted run goes on where it stopped when the same command is typed again.
"""


@app.command(epilog=RUN_EPILOG)
def run(
    orchestrator: Annotated[
        list[str],
        typer.Option(
            "--orchestrator",
            "-o",
            help="Name, comma list or `all`; repeatable.",
            autocompletion=completion.orchestrators,
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            help="`kind`, `local` or `k8s`; default: kind where our cluster was made, else local.",
            autocompletion=completion.targets,
        ),
    ] = "",
    context: Annotated[
        str,
        typer.Option(
            help="Of your kubeconfig, for `k8s`: which `bench cluster install` prepared; default: the only one."
        ),
    ] = "",
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Samples per scenario.")] = 5,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="pipeline, chain, fanout, sweep.",
            autocompletion=completion.workloads,
        ),
    ] = None,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            "--configuration",
            "-c",
            help="As `bench orchestrators` lists them; default: all.",
            autocompletion=completion.configurations,
        ),
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            metavar="COUNTS",
            help="Length of a chain, width of a fan-out, such as 1,10,40: a scenario each, of which the report "
            "makes what a step costs. Default: 10, with a fault 1.",
        ),
    ] = "",
    variant: Annotated[
        str,
        typer.Option(help="Where artifacts travel on a cluster: `s3` or `volume` (labelled: one node only)."),
    ] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the pipeline's config; repeatable.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What goes wrong on purpose: {', '.join(FAULTS)} or all; the workload is then a single step, with "
            "those of promote a pipeline.",
            autocompletion=completion.faults,
        ),
    ] = None,
    lineage: Annotated[
        bool,
        typer.Option(
            "--lineage",
            help="Ask each orchestrator thirteen questions about the model, after a run of the pipeline in "
            "which the first attempt of train fails: `--fault exception -w pipeline`.",
        ),
    ] = False,
    controls: Annotated[
        bool, typer.Option(help="Measure the floor (the same steps, no orchestrator) and the no-op beside.")
    ] = True,
    warm_up: Annotated[
        bool,
        typer.Option(
            help="After each deployment of an orchestrator run one step that does nearly nothing, so that no sample is "
            "the first under it; stored apart. With a fault there is none."
        ),
    ] = True,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds after which a run is cut.")] = 1800.0,
    jitter: Annotated[
        float, typer.Option(min=0, help="Longest random pause before a submission, seconds.")
    ] = 10.0,
    idle: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds to watch what each orchestrator uses doing nothing, after it was deployed and has had "
            "as long to settle; on Kubernetes at least 60, since the kubelet counts every 10 s or so.",
        ),
    ] = 0.0,
    max_steal: Annotated[
        str,
        typer.Option(
            envvar="BENCH_MAX_STEAL",
            help="A run during which others took more than this share of this machine's CPU time (steal) is void "
            "and repeated.",
        ),
    ] = "20%",
    seed: Annotated[
        int | None, typer.Option(help="Of the order and the pauses; default: drawn and stored.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Instead of --n: as many samples as put each median's interval at about this share of it to "
            "either side, such as 5%. A pilot says how many, and is discarded."
        ),
    ] = "",
    observer: Annotated[
        str,
        typer.Option(
            help="`on`, `off` (no watch of pods, no look at what the orchestrator's servers use) or `both`, which "
            "says what watching costs."
        ),
    ] = "on",
    concurrent: Annotated[
        str,
        typer.Option(
            metavar="COUNTS",
            help="Runs that a sample submits at once, such as 1,4,16: a scenario each. One sample is then all of "
            "them, from the first submission to the last end.",
        ),
    ] = "1",
    trigger: Annotated[
        str,
        typer.Option(
            metavar="TRIGGERS",
            help="What starts a run: api (the harness asks for it), schedule, event (the orchestrator starts it); "
            "a scenario each. A scheduled run counts from the minute it was due.",
            autocompletion=completion.triggers,
        ),
    ] = "api",
    retries: Annotated[
        str,
        typer.Option(
            metavar="POLICIES",
            help="With a fault: equal (three attempts, no delay) or shipped (no retry setting of ours); a scenario "
            "each.",
            autocompletion=completion.retries,
        ),
    ] = "equal",
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Refuse a plan that takes more hours than this by earlier runs, and begin no run after them.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print the plan and stop; the same command without it carries it out."),
    ] = False,
    fresh: Annotated[bool, typer.Option(help="Start a new plan even if the same one is unfinished.")] = False,
    keep: Annotated[bool, typer.Option(help="Leave the runs on the orchestrator to look at.")] = False,
    results: Annotated[Path | None, typer.Option(help="Where results are stored.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Records as JSON on stdout, progress on stderr.")
    ] = False,
) -> None:
    """Measure a workload on one or more orchestrators; store raw results, show where the time went.

    Exit codes: 0 measured, 1 a run failed without a fault, is missing, or one that was named is unsupported, 2 bad
    input, 130 interrupted: the same command goes on.
    """
    from bench.commands import run as run_command
    from bench.faults import inject
    from bench.measure import pilot
    from bench.measure.plan import Limits

    for name, value in (("--deadline", deadline), ("--jitter", jitter), ("--idle", idle)):
        if not math.isfinite(value):
            raise BadInput(f"{name} takes a number, not {value}", f"{name} 60")
    struck = _split(fault or []) or (("exception",) if lineage else ())
    usual = "pipeline" if lineage else inject.usual_workload(struck)
    workloads = _split(workload or [usual])
    if lineage and not ({"exception", "all"} & set(struck) and "pipeline" in workloads):
        raise BadInput(
            "lineage is asked after a pipeline in which a step raises: of what was asked for no run is one",
            "leave --fault and --workload out, or add --fault exception --workload pipeline",
        )
    if steps and not set(workloads) & {"chain", "fanout"}:
        raise BadInput(
            f"--steps is of a chain or a fan-out, not of: {', '.join(workloads)}",
            f"--workload chain --steps {steps}",
        )
    run_command.run(
        run_command.Options(
            orchestrators=_split(orchestrator),
            target=_target(target),
            context=context,
            n=n,
            workloads=workloads,
            configurations=_split(configuration or []),
            steps=_counts("--steps", steps or ("1" if struck else "10"), MOST_STEPS, "1,10,40"),
            faults=struck,
            variant=variant,
            parameters=_parameters(set_ or []),
            controls=controls,
            warm_up=warm_up,
            limits=Limits(
                deadline_seconds=deadline,
                max_steal=pilot.share("--max-steal", max_steal),
                jitter_seconds=jitter,
                idle_seconds=idle,
            ),
            observers=_observers(observer),
            concurrent=_counts("--concurrent", concurrent, MOST_AT_ONCE, "1,4,16"),
            triggers=_some("--trigger", trigger, get_args(Trigger)),
            retries=_some("--retries", retries, get_args(RetryPolicy)),
            seed=seed,
            fresh=fresh,
            keep=keep,
            results=results_cli.folder_of(results),
            as_json=as_json,
            budget_hours=budget,
            plan_only=plan,
            precision=pilot.share("--precision", precision) if precision else None,
        )
    )


@app.command()
def report(
    results: Annotated[Path | None, typer.Option(help="Where results are stored.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default: `report` beside the results.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(help="Also renew the comparison between the marks of this file.")
    ] = None,
) -> None:
    """Rebuild the comparison (Markdown, a page, JSON) from stored raw results alone; the same bytes each time.

    Rows that cannot be trusted are left out, and named at the report's top and on stderr. Results are only read.

    Exit codes: 0 written, 1 not written, 2 bad input, 4 written without all that is stored.
    """
    folder = results_cli.folder_of(results)
    out = out or folder.parent / "report"
    with no_collection(), _held(folder, out):
        _rebuild(folder, out, readme)


def _held(folder: Path, out: Path) -> AbstractContextManager[object]:
    """The store, where the report's raw rows take its own place: nothing is added to it meanwhile, and lost."""
    from bench.report.contents import RAW
    from bench.results.store import FILE, Store

    its_own = (folder / FILE).exists() and (out / RAW).resolve() == (folder / FILE).resolve()
    return Store.locked(folder) if its_own else nullcontext()


def _rebuild(folder: Path, out: Path, readme: Path | None) -> None:
    """The records are gone when it returns: a search for garbage need not look at them."""
    from bench.report import capabilities, harness
    from bench.report import readme as readme_file
    from bench.report.build import build
    from bench.report.contents import RAW
    from bench.results.records import Outline

    reading = results_cli.opened(folder, Outline)
    if reading.left_out and (out / RAW).resolve() == reading.path.resolve():
        raise BenchError(
            f"the report's raw rows would take the place of {reading.path}, and {reading.left_out} lines be lost",
            "give another folder: bench report --out DIR",
            "the file as it is",
        )
    verdicts = capabilities.load(folder) or capabilities.load(PUBLISHED)
    own = harness.load(folder)
    written = build(reading.records, out, reading.lines, own, verdicts, reading.losses)
    if readme:
        readme_file.write(readme, reading.records, folder, out)
        written.append(readme)
    for path in written:
        typer.echo(path)
    results_cli.end(reading)


@app.command(epilog="Examples: bench compare old/results .bench/results · bench compare A B --json")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A results folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, compared against the first.")],
    force: Annotated[bool, typer.Option("--force", help="Also where the environments differ.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say by how much B differs from A, scenario by scenario, and whether that is more than chance.

    Refuses sets that were measured in different environments, naming what differs.

    Exit codes: 0 compared, 1 the sets cannot be compared, 2 bad input, 4 compared without all that is stored.
    """
    from bench.analysis import compare as comparing
    from bench.report import tables

    sets = []
    for folder in (first, second):
        if not folder.is_dir():
            raise BadInput(f"there is no folder {folder}", "bench compare DIR DIR")
        sets.append(results_cli.opened(folder))
    found = comparing.compare(sets[0].records, sets[1].records, force)
    if as_json:
        rows = [
            {**asdict(each), "effect": each.found.size, "verdict": each.verdict} for each in found.compared
        ]
        only = {"only_first": found.only_first, "only_second": found.only_second}
        typer.echo(json.dumps({"compared": rows, **only}, indent=1))
    else:
        width = None if sys.stdout.isatty() else tables.PLAIN_WIDTH
        Console(highlight=False, width=width).print(tables.comparison(found))
    results_cli.end(*sets)


@app.command()
def orchestrators(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """What can be measured: adapters, their targets, workloads and configurations."""
    import adapters

    found: list[Adapter] = []
    missing: list[BenchError] = []
    for name in adapters.names():
        try:
            found.append(adapters.load(name))
        except BenchError as error:
            missing.append(error)
    if as_json:
        rows = [
            {
                "name": adapter.name,
                "title": adapter.title,
                "targets": {
                    str(target): [c.model_dump() for c in adapter.configurations(target)]
                    for target in adapter.targets()
                },
                "workloads": list(adapter.workloads()),
            }
            for adapter in found
        ]
        gaps = [{"missing": gap.message, "install": gap.remedy} for gap in missing]
        typer.echo(json.dumps([*rows, *gaps], indent=1))
        return
    table = Table("name", "is", "target", "configuration", "setting", "a step is a", box=None)
    for adapter in found:
        name, title = adapter.name, adapter.title
        for target in adapter.targets():
            where = str(target)
            for c in adapter.configurations(target):
                setting = f"{c.knob}={c.value}" if c.knob else ""
                table.add_row(name, title, where, c.name, setting, c.task)
                name = title = where = ""
    Console().print(table)
    for gap in missing:
        typer.echo(f"{gap.message}: {gap.remedy}")


@app.command(
    epilog="Examples: bench capabilities · bench capabilities --json · bench capabilities --check docs/capabilities.md"
)
def capabilities(
    results: Annotated[Path | None, typer.Option(help="Where the suite's verdicts are stored.")] = None,
    page: Annotated[
        Path | None, typer.Option("--write", help="Renew the table between the marks of this file.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Fail when this file, or what it was made from, is out of date.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The stored verdicts as JSON.")] = False,
) -> None:
    """What each orchestrator's adapter can do, as the conformance suite found it.

    `pytest tests/conformance --record-conformance DIR` stores the verdicts.
    """
    from bench.report import capabilities as known

    found = known.load(results or PUBLISHED)
    if not found:
        raise BenchError(
            f"no verdicts in {results or PUBLISHED}", "pytest tests/conformance --record-conformance DIR"
        )
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
    elif check is not None:
        problems = known.stale(found)
        if known.renewed(check, found) != check.read_text(encoding="utf-8"):
            problems.append(f"{check} is not what the verdicts say: bench capabilities --write {check}")
        for problem in problems:
            typer.echo(problem)
        raise typer.Exit(1 if problems else 0)
    elif page is not None:
        known.write(page, found)
        typer.echo(page)
    else:
        typer.echo(known.table(found))


def _split(values: list[str]) -> tuple[str, ...]:
    """Comma lists and repeated options as one list, without repeats, in the order given."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _parameters(values: list[str]) -> dict[str, str | int | float]:
    parameters: dict[str, str | int | float] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise BadInput(f"--set takes KEY=VALUE, not '{value}'", "bench run --help")
        parameters[key] = text
    return parameters


def _counts(option: str, text: str, most: int, such: str) -> tuple[int, ...]:
    """Whole numbers, each once. Raises `BadInput` for others than 1 to `most`; `such` is an example."""
    values = _split([text])
    if not values or not all(value.isdecimal() and 1 <= int(value) <= most for value in values):
        raise BadInput(f"{option} takes whole numbers from 1 to {most}, not '{text}'", f"{option} {such}")
    return tuple(dict.fromkeys(int(value) for value in values))


def _some(option: str, text: str, known: tuple[str, ...]) -> tuple[Any, ...]:
    """Some of the words that an option knows."""
    values = _split([text])
    if not values or (set(values) - set(known)):
        raise BadInput(f"{option} takes {', '.join(known)}, not '{text}'", f"{option} {','.join(known)}")
    return values


def _observers(text: str) -> tuple[Literal["", "off"], ...]:
    match text:
        case "on":
            return ("",)
        case "off":
            return ("off",)
        case "both":
            return ("", "off")
    raise BadInput(f"unknown observer '{text}'", "one of: on, off, both")


def _target(name: str) -> Target | None:
    if not name:
        return None
    try:
        return Target(name)
    except ValueError:
        raise BadInput(f"unknown target '{name}'", f"one of: {', '.join(Target)}") from None


def main() -> NoReturn:
    """The program: errors for people, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show ends no measurement
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(10 if os.environ.get("BENCH_DEBUG") else 30),
    )
    run_cli(app)
