"""Two sets of results against each other, scenario by scenario: how far apart, how sure, and in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.base import BenchError
from bench.analysis.cells import Cell, cells, comparable, makespan
from bench.analysis.statistics import Difference, difference, judge, median
from bench.results.records import RunRecord

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Compared:
    """One scenario that both sets have measured. Seconds; positive where the second set takes longer."""

    scenario: str
    task: str
    medians: tuple[float, float]
    found: Difference
    p: float | None
    """Holm-adjusted over all scenarios compared; None where so few samples cannot tell."""
    smallest_p: float
    """What p could have been at the least, as one of so many."""
    verdict: str
    """In words, what the second set is."""
    differs: tuple[str, ...]
    """Blocking facts of the two environments that are not the same: only with `force`."""


@dataclass(frozen=True)
class Comparison:
    """All scenarios of both sets, and those that only one of them has measured."""

    compared: tuple[Compared, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare(first: Sequence[RunRecord], second: Sequence[RunRecord], force: bool = False) -> Comparison:
    """Makespans of runs without a fault, by scenario.

    Raises `BenchError` where a scenario's environments differ in a blocking fact and `force` is not given, where
    a set has one scenario in several environments, and where the two have no scenario in common.
    """
    a, b = _by_scenario(first, "first"), _by_scenario(second, "second")
    pairs = [(a[name], b[name]) for name in sorted(a.keys() & b.keys())]
    if not pairs:
        raise BenchError(
            f"no scenario is measured in both: {_names(a)} against {_names(b)}",
            "bench results ls --results DIR shows what each has",
        )
    differing = {
        name: differences(*pair) for name, pair in zip(sorted(a.keys() & b.keys()), pairs, strict=True)
    }
    if any(differing.values()) and not force:
        facts = sorted({fact for found in differing.values() for fact in found})
        raise BenchError(
            "measured in different environments: " + "; ".join(facts),
            "measure both in one, or --force to compare all the same (the difference is then the environment's too)",
        )
    judged = judge([difference(one.values(makespan), other.values(makespan)) for one, other in pairs])
    return Comparison(
        compared=tuple(
            Compared(
                scenario=one.scenario.key,
                task=one.key.task,
                medians=(median(one.values(makespan)), median(other.values(makespan))),
                found=each.found,
                p=each.p,
                smallest_p=each.smallest_p,
                verdict=each.verdict,
                differs=differences(one, other),
            )
            for (one, other), each in zip(pairs, judged, strict=True)
        ),
        only_first=tuple(sorted(a[name].scenario.key for name in a.keys() - b.keys())),
        only_second=tuple(sorted(b[name].scenario.key for name in b.keys() - a.keys())),
    )


def differences(one: Cell, other: Cell) -> tuple[str, ...]:
    """What forbids a comparison of two cells of one scenario: `kernel: 6.1 and 6.8`, `cpu: X and not recorded`."""
    a, b = one.blocking, other.blocking
    facts = [
        f"{name}: {a.get(name, UNKNOWN)} and {b.get(name, UNKNOWN)}"
        for name in comparable(one, other, strict=True)
    ]
    if one.all_cold != other.all_cold:
        facts.append("in one set each run was the first after a switch, in the other none")
    return tuple(facts)


def _by_scenario(records: Sequence[RunRecord], which: str) -> dict[tuple[object, ...], Cell]:
    found: dict[tuple[object, ...], Cell] = {}
    for cell in cells(records):
        if not cell.key.undisturbed or not cell.measured:
            continue
        name = (*cell.key.work, cell.key.orchestrator, cell.key.configuration, cell.key.task)
        if name in found:
            facts = "; ".join(differences(found[name], cell)) or "facts that only one has"
            raise BenchError(
                f"the {which} set has {cell.scenario.key} in more than one environment: {facts}",
                "keep a results folder for each environment",
            )
        found[name] = cell
    return found


def _names(found: dict[tuple[object, ...], Cell]) -> str:
    return ", ".join(sorted(cell.scenario.key for cell in found.values())) or "nothing"
