"""`bench cluster`: the kind cluster, up and down; the platform on any other cluster, installed and taken away."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table

import adapters
import cluster
from adapters.base import Target
from bench.commands import completion
from bench.errors import EXIT_FAILED, EXIT_INTERRUPTED
from cluster.lifecycle import ImagesMode, known_orchestrators
from cluster.pins import ORCHESTRATORS

EXIT_CODES = (
    "Exit codes: 0 done · 1 failed, or not all up (status) · 2 wrong arguments · "
    f"{EXIT_INTERRUPTED} interrupted."
)

app = typer.Typer(
    name="cluster",
    help="The clusters the orchestrators are measured on: our kind cluster, or any that you have.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EXIT_CODES,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


class _Progress:
    """Shows stages as they happen: a live line with the elapsed time on a terminal, one plain line each elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self.running: dict[str, float] = {}
        self.live: Live | None = None

    def __call__(self, event: cluster.Progress) -> None:
        if event.state == "start":
            self.running[event.stage] = time.monotonic()
            return
        self.running.pop(event.stage, None)
        if event.state == "note":
            self.console.print(f"  [yellow]·[/] {event.stage}: {escape(event.detail)}", highlight=False)
            return
        mark = {"done": "[green]✓[/]", "cached": "[dim]=[/]", "failed": "[red]✗[/]"}[event.state]
        detail = escape(event.detail) if event.state != "cached" else "unchanged"
        self.console.print(
            f"  {mark} {event.stage:<28} {event.seconds:7.1f} s  [dim]{detail}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def __rich__(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        now = time.monotonic()
        for stage, began in list(self.running.items()):
            grid.add_row(Spinner("dots"), stage, f"{now - began:.0f} s")
        grid.add_row("", "[dim]total[/]", f"[dim]{now - self.began:.0f} s[/]")
        return grid


@contextmanager
def _shown(verb: str) -> Iterator[Callable[[cluster.Progress], None]]:
    """Progress goes to standard error, so that standard output is the result alone; errors too, and end the command."""
    console = Console(stderr=True)
    progress = _Progress(console)
    # A polite kill is an interruption too: the commands under way are ended and what is finished is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    drawn = Live(progress, console=console, refresh_per_second=8, transient=True)
    try:
        with drawn if console.is_terminal else nullcontext():
            yield progress
    except cluster.ClusterError as problem:
        _fail(problem)
    except KeyboardInterrupt:
        said = f"Interrupted. Finished stages are kept; `bench cluster {verb}` goes on from here."
        console.print(said, highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(problem: cluster.ClusterError) -> NoReturn:
    Console(stderr=True).print(f"[red bold]error:[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


_complete_with = completion.among(*ORCHESTRATORS, completion.ALL)
"""Those whose images can be had beside Argo's."""


@app.command(epilog=EXIT_CODES)
def up(
    images: Annotated[
        str,
        typer.Option(
            help="Where images come from: [b]pull[/] (public registries), [b]build[/] (language and Debian "
            "packages only), [b]auto[/] (as BENCH_IMAGES says, else as for a cluster that is there, else one small "
            "pull is tried, and they are built where it is refused).",
            metavar="auto|pull|build",
        ),
    ] = "auto",
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Also build and load the images of these orchestrators. What is loaded stays known; "
            "Argo's are always there.",
            metavar="|".join((*ORCHESTRATORS, "all")),
            autocompletion=_complete_with,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the cluster and everything on it; quick when nothing changed.

    The first build takes about twenty minutes on two cores, a new cluster from finished images some four, and an
    `up` with nothing to do some ten seconds. Each stage is cached by the content of what goes into it, so an
    interrupted run goes on where it was.

    Examples:

      bench cluster up

      bench cluster up --images build

      bench cluster up --with airflow,prefect

      bench cluster up --json | jq -r .images.step
    """
    began = time.monotonic()
    mode, orchestrators = _mode(images), _with(with_ or [])
    with _shown("up") as report:
        found = cluster.up(mode, report, orchestrators=orchestrators)
    if as_json:
        typer.echo(found.to_json())
        return
    console = Console()
    console.print(
        f"Cluster [b]{found.name}[/] is up in {time.monotonic() - began:.0f} s: Kubernetes "
        f"{found.kubernetes_version}, kind {found.kind_version}, images by {found.origin}"
        f"{', through the OCI wrapper' if found.oci_wrapper else ''}.",
        highlight=False,
    )
    console.print(f"KUBECONFIG={found.kubeconfig}", highlight=False, soft_wrap=True)


ALWAYS_THERE = ("argo",)
"""Orchestrators whose images `up` makes whether asked to or not."""


def _with(values: list[str]) -> tuple[str, ...]:
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    try:
        return known_orchestrators(name for name in names if name not in ALWAYS_THERE)
    except cluster.ClusterError as unknown:
        raise typer.BadParameter(
            f"{unknown.what} Known: {', '.join((*ALWAYS_THERE, *ORCHESTRATORS))}, all.", param_hint="--with"
        ) from None


_MODES: dict[str, ImagesMode] = {"auto": "auto", "pull": "pull", "build": "build"}


def _mode(value: str) -> ImagesMode:
    if value not in _MODES:
        raise typer.BadParameter(f"{value!r} is not one of auto, pull, build.", param_hint="--images")
    return _MODES[value]


@app.command(epilog=EXIT_CODES)
def down(
    engine: Annotated[
        bool, typer.Option("--engine", help="Also stop the Docker engine, if `bench cluster up` started it.")
    ] = False,
) -> None:
    """Delete the cluster with all data in it; images and compiled programs are kept.

    Examples:

      bench cluster down

      bench cluster down --engine
    """
    with _shown("down") as report:
        cluster.down(report, stop_engine=engine)
    Console().print(
        "The cluster is down. Images are kept: the next `bench cluster up` is quick.", highlight=False
    )


@app.command(epilog=EXIT_CODES)
def status(
    context: Annotated[
        str, typer.Option(help="A cluster that `bench cluster install` prepared, not the kind cluster.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """What runs at this moment; exit code 1 unless all of it does.

    Examples:

      bench cluster status

      bench cluster status --json

      bench cluster status --context my-cluster
    """
    if context:
        _status_of(context, as_json)
    found = cluster.status()
    if as_json:
        info = json.loads(found.info.to_json()) if found.info else None
        record = asdict(found) | {"info": info, "up": found.up}
        typer.echo(json.dumps(record, indent=2, sort_keys=True))
    else:
        table = Table.grid(padding=(0, 2))
        table.add_row("engine", f"Docker {found.engine}" if found.engine else "[red]does not answer[/]")
        table.add_row("", "started by bench" if found.engine_ours else "not started by bench")
        table.add_row("node", found.node)
        for name, state in found.components.items():
            table.add_row(name, "[green]ready[/]" if state == "ready" else f"[red]{escape(state)}[/]")
        console = Console()
        console.print(table, highlight=False)
        if found.info is not None:
            for key, reference in sorted(found.info.images.items()):
                console.print(f"[dim]{key:<16}[/] {reference}", highlight=False, soft_wrap=True)
        console.print("up" if found.up else "not up: `bench cluster up`", highlight=False)
    raise typer.Exit(0 if found.up else 1)


@app.command(epilog=EXIT_CODES)
def load(
    image: Annotated[str, typer.Argument(help="A local Docker image, as name:tag.", metavar="IMAGE")],
) -> None:
    """Copy a local Docker image into the cluster's node and print its reference by digest.

    Example:

      bench cluster load my.registry/orchestrator:1.2
    """
    with _shown("load") as report:
        reference = cluster.load(image, report)
    typer.echo(reference)


def _status_of(context: str, as_json: bool) -> NoReturn:
    from cluster import contexts  # with Kubernetes' client, which other commands need not wait for

    try:
        states = contexts.states(context)
    except cluster.ClusterError as problem:
        _fail(problem)
    if as_json:
        typer.echo(json.dumps(states, indent=2, sort_keys=True))
    else:
        for name, state in sorted(states.items()):
            typer.echo(f"{name}  {state}")
    raise typer.Exit(0 if states and all(state == "ready" for state in states.values()) else 1)


Context = Annotated[str, typer.Option("--context", help="A context of the kubeconfig.", show_default=False)]
Kubeconfig = Annotated[
    str, typer.Option(help="Where the context is; default: $KUBECONFIG or ~/.kube/config.", metavar="FILE")
]


@app.command(epilog=EXIT_CODES)
def install(
    context: Context,
    kubeconfig: Kubeconfig = "",
    registry: Annotated[
        str,
        typer.Option(
            metavar="HOST/PREFIX",
            help="Push images there; the nodes must be able to pull from it by themselves.",
        ),
    ] = "",
    load: Annotated[
        bool,
        typer.Option("--load", help="Copy images into the nodes of a kind cluster in this Docker engine."),
    ] = False,
    storage_class: Annotated[
        str,
        typer.Option(help="For the database, the store and the ledger; default: the cluster's own default."),
    ] = "",
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Also the images of these orchestrators; Argo's are always there.",
            metavar="prefect|all",
        ),
    ] = None,
) -> None:
    """Put the platform on a cluster of yours, for `bench run --target k8s`; looks first, and refuses before it writes.

    It makes the namespaces bench-system and bookstore-ml, and runs make one for each orchestrator.
    `bench cluster uninstall` takes all of it away.

    Examples:

      bench cluster install --context my-cluster --registry registry.example.org/bench --with prefect

      bench cluster install --context kind-other --load
    """
    from cluster import contexts  # with Kubernetes' client, which other commands need not wait for

    if bool(registry) == load:
        raise typer.BadParameter("one of the two: --registry HOST/PREFIX or --load", param_hint="--registry")
    wanted = _with(with_ or [])
    able = tuple(name for name in wanted if Target.K8S in adapters.load(name).targets())
    if "all" not in (with_ or []) and (unable := ", ".join(name for name in wanted if name not in able)):
        raise typer.BadParameter(f"not wired for k8s yet: {unable}", param_hint="--with")
    with _shown(f"install --context {context}") as report:
        found = contexts.install(
            context,
            kubeconfig=kubeconfig,
            registry=registry.rstrip("/"),
            storage_class=storage_class,
            orchestrators=able,
            report=report,
        )
    Console().print(
        f"Installed on [b]{escape(found.context)}[/]: bench run --orchestrator argo --target k8s --context "
        f"{escape(found.context)}",
        highlight=False,
        soft_wrap=True,
    )


@app.command(epilog=EXIT_CODES)
def uninstall(context: Context, kubeconfig: Kubeconfig = "") -> None:
    """Take away what `install` and the orchestrators of `bench run` put on a cluster, data and all; nothing else.

    Example:

      bench cluster uninstall --context my-cluster
    """
    from cluster import contexts  # with Kubernetes' client, which other commands need not wait for

    with _shown(f"uninstall --context {context}") as report:
        removed = contexts.uninstall(context, kubeconfig=kubeconfig, report=report)
    for name in removed:
        typer.echo(f"removed {name}")
    typer.echo("Nothing of ours is left there." if removed else "Nothing of ours was there.")
