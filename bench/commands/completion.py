"""What a shell may complete: in a comma list the known names that are not in it yet."""

from collections.abc import Callable, Iterable
from typing import get_args

import typer

import adapters
from adapters.base import BenchError, Target
from adapters.workloads import WORKLOADS
from bench.faults.inject import FAULTS
from bench.results.records import RetryPolicy, Trigger

ALL = "all"


def rest(incomplete: str, known: Iterable[str]) -> list[str]:
    """`airflow,` goes on with every known name but airflow."""
    before, comma, _ = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in dict.fromkeys(known) if name not in before.split(",")]


def orchestrators(incomplete: str) -> list[str]:
    """Of `bench orchestrators`, floors and the no-op too."""
    return rest(incomplete, (*adapters.names(), ALL))


def among(*known: str) -> Callable[[str], list[str]]:
    """Completes a comma list of these names."""

    def complete(incomplete: str) -> list[str]:
        return rest(incomplete, known)

    return complete


workloads = among(*WORKLOADS)
faults = among(*FAULTS, ALL)
triggers = among(*get_args(Trigger))
retries = among(*get_args(RetryPolicy))


def targets() -> list[str]:
    """One of them; there is no list."""
    return [target.value for target in Target]


def configurations(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the orchestrators that were typed before, on the target that was; of all where none was."""
    asked = [name for word in ctx.params.get("orchestrator") or () for name in str(word).split(",")]
    names = [name for name in asked if name in adapters.names()] or adapters.names()
    target = ctx.params.get("target")
    on = [Target(target)] if target in targets() else list(Target)
    found: list[str] = []
    for name in names:
        try:
            adapter = adapters.load(name)
        except BenchError:
            continue  # its extra is not installed: `bench run` says so
        found += [each.name for where in on for each in adapter.configurations(where)]
    return rest(incomplete, found)
