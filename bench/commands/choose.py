"""`bench choose`: a team's needs and weights in, a ranking out."""

import json
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from adapters.base import Target
from bench.analysis.cells import TARGETS
from bench.choice.options import Figure, Option, floor_for
from bench.choice.ranking import CRITERIA, Choice, Team, choose
from bench.commands import results as results_cli
from bench.errors import EXIT_FAILED, BadInput
from bench.report import capabilities, numbers, tables
from bench.report.capabilities import Conformance
from bench.results.records import RunRecord
from bench.results.store import FILE, PUBLISHED, default_folder

EPILOG = """
[bold]Examples[/bold]

  bench choose --results docs/results

  bench choose --target local --weight latency=3,lineage=1

  bench choose --needs approval_waits,event_triggers --limit memory=1 --limit lineage=9

  bench choose --team team.toml --json

A team's file has the same in TOML: target = "kind", needs = ["approval_waits"], and tables \\[weights] and \\[limits].
"""


def choose_one(
    team: Annotated[
        Path | None,
        typer.Option("--team", metavar="FILE", help="TOML; numbers beside it replace its own, needs add up."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="`kind`, `k8s` or `local`; default: the first of them of which there are results."),
    ] = "",
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help=f"Of {', '.join(CRITERIA)}; default: 1 each. Those not named count 0."
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help="The worst figure that is good enough: latency=2 is twice the floor."
        ),
    ] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES", help="Capabilities it must have: those of `bench capabilities --json`."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Where results are stored; default: yours, or where none are those published."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Rank the orchestrators for a team by stored results: latency, retries, lineage, memory.

    Each figure says how many runs it rests on and of which days. An option without a figure that counts is not ranked.
    `--json` names the runs behind each figure, and the command that measures what is missing.

    Exit codes: 0 ranked, 1 nothing can be ranked, 2 bad input, 4 ranked without all that is stored.
    """
    wanted = _team(team, target, weight or [], limit or [], needs or [])
    folder = results_cli.folder_of(results or _stored())
    reading = results_cli.opened(folder)
    if "target" not in wanted.model_fields_set:
        wanted = wanted.model_copy(update={"target": _stored_target(reading.records)})
    verdicts, stale = _verdicts(folder, wanted)
    found = choose(reading.records, verdicts, wanted)
    if as_json:
        typer.echo(json.dumps({**as_data(found, folder), "stale_verdicts": stale}, indent=1))
    else:
        _show(found, folder, stale)
    if not found.ranked:
        raise typer.Exit(EXIT_FAILED)
    results_cli.end(reading)


def _stored() -> Path:
    """The user's own results; where there are none, those published with the project."""
    folder = default_folder()
    if (folder / FILE).exists() or not (PUBLISHED / FILE).exists():
        return folder
    print(f"no results of yours in {folder}: these are the published ones", file=sys.stderr)
    return PUBLISHED


def _stored_target(records: Sequence[RunRecord]) -> Target:
    """For a team that does not say: `kind`, or what there is where nothing of that is stored."""
    stored = {record.scenario.target for record in records if record.scenario.orchestrator != "noop"}
    return Target(next((target for target in TARGETS if target in stored), Target.KIND))


def _verdicts(folder: Path, team: Team) -> tuple[list[Conformance], list[str]]:
    """What the suite found on the team's target, where it is asked for, and what of it no longer holds."""
    if not team.needs:
        return [], []
    found = capabilities.load(folder) or capabilities.load(PUBLISHED)
    there = [one for one in found if one.target == team.target]
    return there, capabilities.stale(there)


def _team(
    path: Path | None, target: str, weights: Iterable[str], limits: Iterable[str], needs: Iterable[str]
) -> Team:
    """What the file says, and what the options say: numbers over the file's, needs beside them. Raises `BadInput`."""
    said: dict[str, Any] = {}
    if path:
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadInput(
                f"{path} cannot be read: {error}", "bench choose --help shows such a file"
            ) from None
    named = [name for text in needs for name in text.split(",") if name]
    for field, given in (
        ("needs", named),
        ("weights", _numbers("--weight", weights)),
        ("limits", _numbers("--limit", limits)),
    ):
        before = said.get(field)
        if given and isinstance(before, list) and isinstance(given, list):
            said[field] = [*before, *given]
        elif given and isinstance(before, dict) and isinstance(given, dict):
            said[field] = {**before, **given}
        elif given and before is None:
            said[field] = given
    if target:
        said["target"] = target
    try:
        return Team.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{where}: {message}" if where else message, "bench choose --help") from None


def _numbers(option: str, given: Iterable[str]) -> dict[str, float]:
    made: dict[str, float] = {}
    for text in (part for each in given for part in each.split(",")):
        name, _, number = text.partition("=")
        if name in made:
            raise BadInput(f"{option} {text}: {name} was given before", "each name once")
        try:
            made[name] = float(number)
        except ValueError:
            raise BadInput(f"{option} {text}: not NAME=NUMBER", f"such as {option} latency=2") from None
    return made


def _show(found: Choice, folder: Path, stale: Iterable[str]) -> None:
    width = None if sys.stdout.isatty() else tables.PLAIN_WIDTH
    console = Console(highlight=False, width=width)

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False)

    if found.ranked:
        console.print(_table(found))
        for place, each in enumerate(found.ranked, 1):
            say(f"{place} {each.option}")
            for name, figure in each.figures.items():
                say(f"    {name}: {_reason(figure)}")
        say("")
    say(found.verdict[0].upper() + found.verdict[1:] + ".", "bold")
    for why in dict.fromkeys(found.excluded.values()):
        say(f"Out: {', '.join(str(option) for option, its in found.excluded.items() if its == why)}: {why}")
    for name in found.even:
        say(f"{name}: the same for all that are ranked, so it decides nothing")
    for option, names in found.unmeasured.items():
        has = "; ".join(f"{name}: {_reason(figure)}" for name, figure in found.known.get(option, {}).items())
        lacks = [name + _never(found.not_struck.get(option, ())) * (name == "retries") for name in names]
        say(
            f"Not ranked: {option}: no stored figure that counts of {', '.join(lacks)}"
            + (f" ({has})" if has else "")
        )
    if found.unmeasured:
        for name in dict.fromkeys(name for names in found.unmeasured.values() for name in names):
            say(f"What counts for {name}: {CRITERIA[name].counts}.", "dim")
        option, names = min(found.unmeasured.items(), key=lambda each: len(each[1]))
        say(f"To measure what is missing, such as {names[0]}: {command(found, option, names[0], folder)}")
    if by := _enough(found):
        where = f"--results {folder} --target {found.team.target}"
        say(f"By what is stored alone: bench choose {where} --weight {by}")
    for name in found.team.asked:
        say(f"{name}: {CRITERIA[name].asks}. Worth: {CRITERIA[name].scale}.", "dim")
    say(
        "Score: the weighted mean of the worths; in brackets, at the ends of the figures' intervals"
        + (f", which attain {found.level:.0%} or more" if found.level else "")
        + "; no bracket where a figure was measured once. First in: the share of all weightings of these criteria in "
        "which it has the best score, the figures as they are; where several have it, they share it.",
        "dim",
    )
    if len({task for each in found.ranked for task in each.tasks}) > 1:
        say(
            "A step is not the same in all rows: calls and processes are kept apart less than pods are.",
            "dim",
        )
    for problem in stale:
        say(f"No longer sure: {problem}", "dim")
    say(f"From {folder}; the runs behind each figure: --json", "dim")


def _never(faults: Sequence[str]) -> str:
    return f" (never struck by {', '.join(faults)})" if faults else ""


def _enough(found: Choice) -> str:
    """The weights by which something could be ranked where nothing is; empty where figures would not help."""
    if found.ranked or not found.unmeasured:
        return ""
    most = max((found.known.get(option, {}) for option in found.unmeasured), key=len)
    return ",".join(f"{name}={found.team.shares[name]:g}" for name in most if name in found.team.shares)


def _table(found: Choice) -> Table:
    """Score and worths of what is ranked."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("orchestrator", min_width=20)
    table.add_column("a step is")
    for name in ("score", "first in"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in found.team.asked:
        table.add_column(f"{name}\n({found.team.shares.get(name, 0):.0%})", justify="right", no_wrap=True)
    for place, each in enumerate(found.ranked, 1):
        within = f" [{each.bracket[0]:.2f}, {each.bracket[1]:.2f}]" if each.bracket else ""
        table.add_row(
            str(place),
            f"{each.option}{' (stand-in images)' if each.stand_ins else ''}",
            ", ".join(each.tasks),
            f"{each.score:.2f}{within}",
            f"{each.first:.0%}",
            *(f"{each.worths[name]:.2f}" for name in found.team.asked),
        )
    return table


def _reason(figure: Figure) -> str:
    within = ""
    if figure.interval:
        low, high = numbers.figures(figure.interval.low), numbers.figures(figure.interval.high)
        within = f" [{low}, {high}] at {figure.interval.level:.0%}"
    of = f", measured as {figure.of}" if figure.of else ""
    other = f", other {', '.join(figure.differs)}" if figure.differs else ""
    return f"{figure.said}{within} (n = {figure.n}{of}, {figure.days}{other})"


def command(found: Choice, option: Option, criterion: str, folder: Path) -> str:
    """What measures that criterion of an option, its floor with it, into `folder`."""
    target = found.team.target
    names = f"{option.orchestrator},{floor_for(target)}" if criterion == "latency" else option.orchestrator
    measure = CRITERIA[criterion].measure
    return f"bench run -o {names} --target {target} -c {option.configuration} {measure} --results {folder}"


def as_data(found: Choice, folder: Path) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "team": found.team.model_dump(mode="json"),
        "shares": found.team.shares,
        "verdict": found.verdict,
        "results": str(folder),
        "ranked": [
            {
                "orchestrator": each.option.orchestrator,
                "configuration": each.option.configuration,
                "tasks": list(each.tasks),
                "stand_ins": list(each.stand_ins),
                "score": each.score,
                "bracket": each.bracket,
                "first": each.first,
                "figures": {
                    name: {
                        **asdict(figure),
                        "of": figure.of or each.option.configuration,
                        "worth": each.worths[name],
                    }
                    for name, figure in each.figures.items()
                },
            }
            for each in found.ranked
        ],
        "excluded": [{**option._asdict(), "why": why} for option, why in found.excluded.items()],
        "unmeasured": [
            {
                **option._asdict(),
                "criteria": list(names),
                "not_struck": list(found.not_struck.get(option, ())),
                "measure": [command(found, option, name, folder) for name in names],
            }
            for option, names in found.unmeasured.items()
        ],
    }
