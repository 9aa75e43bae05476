"""Two sets of results against each other, scenario by scenario: how far apart, how sure, and in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.base import BenchError
from bench.cells import Cell, cells, comparable, makespan
from bench.records import RunRecord
from bench.statistics import LEVEL, Difference, difference, holm, median

Pair = tuple[Cell, Cell]


@dataclass(frozen=True)
class Compared:
    """One scenario that both sets have measured. Seconds; positive where the second set takes longer."""

    scenario: str
    task: str
    medians: tuple[float, float]
    found: Difference
    p: float | None
    """Holm-adjusted over all scenarios compared; None where so few samples cannot tell."""
    differs: tuple[str, ...]
    """Blocking facts of the two environments that are not the same: only with `force`."""

    @property
    def verdict(self) -> str:
        """In words: a difference is claimed only where the adjusted test allows it."""
        if self.p is None:
            return f"cannot tell: {self.found.note}"
        if self.p > 1 - LEVEL:
            return "no difference seen"
        return f"{'slower' if self.found.shift > 0 else 'faster'}, effect {self.found.size}"


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
    found = [difference(one.values(makespan), other.values(makespan)) for one, other in pairs]
    tested = [each.p for each in found if each.p is not None]
    adjusted = iter(holm(tested))
    return Comparison(
        compared=tuple(
            Compared(
                scenario=one.scenario.key,
                task=one.key.task,
                medians=(median(one.values(makespan)), median(other.values(makespan))),
                found=each,
                p=None if each.p is None else next(adjusted),
                differs=differences(one, other),
            )
            for (one, other), each in zip(pairs, found, strict=True)
        ),
        only_first=tuple(sorted(a[name].scenario.key for name in a.keys() - b.keys())),
        only_second=tuple(sorted(b[name].scenario.key for name in b.keys() - a.keys())),
    )


def differences(one: Cell, other: Cell) -> tuple[str, ...]:
    """What forbids a comparison: `kernel: 6.1 and 6.8`."""
    return tuple(
        f"{name}: {one.blocking[name]} and {other.blocking[name]}" for name in comparable(one, other)
    )


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
