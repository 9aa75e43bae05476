"""What stored runs say of each option that a team could choose, by criterion: figures, and the runs behind them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from adapters.base import Target
from bench.analysis import recent, upkeep
from bench.analysis.against import TUNED, base_of
from bench.analysis.cells import (
    CONTROLS,
    FLOORS,
    Cell,
    block_of,
    makespan,
    pairs,
    ratio_to_floor,
)
from bench.analysis.statistics import LEVEL, Interval, added, median_estimate, proportion
from bench.faults import aftermath
from bench.faults.inject import FAULTS
from bench.lineage import answers, questions
from bench.report.numbers import figures as digits
from bench.report.numbers import seconds
from bench.results.records import RunRecord

GIB = 2**30
QUESTIONS = len(questions.ASKS)


class Option(NamedTuple):
    """What can be chosen."""

    orchestrator: str
    configuration: str

    def __str__(self) -> str:
        return f"{self.orchestrator} {self.configuration}"

    @property
    def base(self) -> "Option":
        """What it is with a setting changed for speed: `pods` of `pods-tuned`; itself where it is not tuned."""
        is_tuned = TUNED in self.configuration.split("-")
        return self._replace(configuration=base_of(self.configuration)) if is_tuned else self


@dataclass(frozen=True)
class Figure:
    """What stored runs say of an option by one criterion."""

    value: float
    said: str
    interval: Interval | None
    """None where it is a count that has none, or where one run gives none: then `known` is false."""
    n: int
    runs: tuple[str, ...]
    """Run ids: `bench results show ID`."""
    days: str
    task: str
    stand_ins: tuple[str, ...]
    known: bool = True
    """Whether value and interval say all there is to say: not so of something that was measured once."""
    differs: tuple[str, ...] = ()
    """Facts in which its environment is not the newest one."""
    of: str = ""
    """The configuration that it was measured in, where that is another."""


Known = dict[Option, dict[str, Figure]]
SHARED = ("retries", "lineage")
"""What a tuned configuration, which differs in one setting for speed, has from the one that it was made of."""


def figures_of(found: Sequence[Cell], target: str) -> Known:
    """What is stored of each option, by criterion; each as it was measured last.

    Latency is of the newest environment alone: what was measured in others is no figure. What servers hold doing
    nothing, and counts of what an orchestrator does, are taken from older ones too, which they name.
    """
    made: Known = {}
    newest = recent.newest(found)
    for name, read in READ.items():
        for option, figure in read(found, target, newest).items():
            made.setdefault(option, {})[name] = figure
    for option, figures in made.items():
        if option.base not in made:
            continue
        for name in SHARED:
            if name not in figures and name in made[option.base]:
                figures[name] = replace(made[option.base][name], of=option.base.configuration)
    return dict(sorted(made.items()))


def floor_for(target: str) -> str:
    """The floor that keeps steps apart: pods on a cluster, processes on this machine."""
    return FLOORS["process" if target == Target.LOCAL else "pod"]


def _latency(found: Sequence[Cell], target: str, newest: recent.Newest) -> dict[Option, Figure]:
    """Against one floor, whatever a step is."""
    pipelines = [cell for cell in newest.cells if cell.key.workload == "pipeline" and cell.key.undisturbed]
    made = {}
    for option, cell in _last(c for c in pipelines if c.is_plain_pipeline).items():
        floors = [c for c in pipelines if c.key.orchestrator == floor_for(target)]
        floor = max(floors, key=lambda each: (len(pairs(each, cell)), each.last), default=None)
        ratio = ratio_to_floor(cell, floor)
        if ratio is None or floor is None:
            continue
        blocks = _blocks(cell) & _blocks(floor) if pairs(floor, cell) else _blocks(cell) | _blocks(floor)
        runs = [r for each in (cell, floor) for r in each.measured if block_of(r) in blocks]
        said = f"{ratio.estimate.value:.2f} × the floor, {floor_for(target)}"
        figure = _figure(cell, ratio.estimate.value, said, ratio.estimate.interval, runs, newest)
        made[option] = replace(figure, n=ratio.estimate.n, known=ratio.estimate.interval is not None)
    return made


def _blocks(cell: Cell) -> set[tuple[str, int]]:
    return {block_of(record) for record in cell.measured if makespan(record) is not None}


def _retries(found: Sequence[Cell], target: str, newest: recent.Newest) -> dict[Option, Figure]:
    """A single step that fails in every way that the target has; the mean of the shares, and of their intervals' ends.

    Each interval is at a level at which all hold together (Bonferroni).
    """
    by_fault = _struck(found, target)
    if not by_fault:
        return {}
    level = 1 - (1 - LEVEL) / len(by_fault)
    made = {}
    for option in set.intersection(*map(set, by_fault.values())):
        struck = {fault: aftermath.struck(cells[option]) for fault, cells in by_fault.items()}
        counts = {fault: (sum(a.recovered for _, a in runs), len(runs)) for fault, runs in struck.items()}
        parts = [proportion(*count, level) for count in counts.values()]
        low, high = (
            added(ends) / len(parts)
            for ends in zip(*((p.interval.low, p.interval.high) for p in parts if p.interval), strict=True)
        )
        value = added(part.value for part in parts) / len(parts)
        again = {fault: _resumed(runs) for fault, runs in struck.items()}
        said = "recovered " + "; ".join(
            f"{fault}: {of} of {n}{again[fault]}" for fault, (of, n) in counts.items()
        )
        within = Interval(low, high, LEVEL, "mean of Clopper–Pearson, Bonferroni")
        runs = [record for each in struck.values() for record, _ in each]
        oldest = min((cells[option] for cells in by_fault.values()), key=lambda cell: cell.last)
        made[option] = _figure(oldest, value, said, within, runs, newest)
    return made


def _struck(found: Sequence[Cell], target: str) -> dict[str, dict[Option, Cell]]:
    """By each fault that fails a step, and that struck any option there, what it struck."""
    faults = [each.name for each in FAULTS.values() if each.fails_a_step and Target(target) in each.targets]
    by_fault = {
        fault: _last(
            cell
            for cell in found
            if cell.key.fault == fault
            and (cell.key.workload, cell.key.steps, cell.key.retries) == ("chain", 1, "equal")
            and aftermath.struck(cell)
        )
        for fault in faults
    }
    return {fault: cells for fault, cells in by_fault.items() if cells}


def not_struck(
    found: Sequence[Cell], target: str, options: Iterable[Option]
) -> dict[Option, tuple[str, ...]]:
    """The faults that struck others and neither this option nor the one that it is tuned from."""
    by_fault = _struck(found, target)
    return {
        option: tuple(
            fault for fault, cells in by_fault.items() if option not in cells and option.base not in cells
        )
        for option in options
    }


def _resumed(struck: Sequence[tuple[RunRecord, aftermath.Aftermath]]) -> str:
    """`, at work again after 310 s`: the median over struck runs; empty where none was."""
    again = aftermath.middle((after for _, after in struck), lambda after: after.resumed)
    return "" if again is None else f", at work again after {seconds(again)}"


def _lineage(found: Sequence[Cell], target: str, newest: recent.Newest) -> dict[Option, Figure]:
    """What all runs have answered, less what any has answered wrongly."""
    asked = [c for c in found if c.key.fault and c.key.retries == "equal" and answers.asked_alike(c)]
    made = {}
    for option, cell in _last(asked).items():
        (column,) = answers.columns([cell])
        value = float(column["answered"] - column["wrong"])
        said = f"answers {column['answered']} of {QUESTIONS}, {column['wrong']} wrong"
        made[option] = _figure(cell, value, said, None, answers.asked_alike(cell), newest)
    return made


def _memory(found: Sequence[Cell], target: str, newest: recent.Newest) -> dict[Option, Figure]:
    """Of all windows in which all of its servers were watched idle, beside whatever work, where it was watched last."""
    made: dict[Option, Figure] = {}
    watched = [cell for cell in found if not cell.key.fault and upkeep.idles(cell)]
    for _, there in recent.environments(watched):
        held = upkeep.idle(there)
        for option, cell in _last(there).items():
            if option in made or (seen := held.get((target, *option))) is None:
                continue
            estimate = median_estimate([upkeep.memory(parts) / GIB for _, parts in seen])
            said = f"{digits(estimate.value)} GiB idle"
            runs = [record for record, _ in seen]
            figure = _figure(cell, estimate.value, said, estimate.interval, runs, newest)
            made[option] = replace(figure, known=estimate.interval is not None)
    return made


READ: Mapping[str, Callable[[Sequence[Cell], str, recent.Newest], dict[Option, Figure]]] = {
    "latency": _latency,
    "retries": _retries,
    "lineage": _lineage,
    "memory": _memory,
}


def _last(found: Iterable[Cell]) -> dict[Option, Cell]:
    """Of each option the cell that was measured last."""
    ours = sorted((c for c in found if c.key.orchestrator not in CONTROLS), key=lambda cell: cell.last)
    return {Option(cell.key.orchestrator, cell.key.configuration): cell for cell in ours}


def _figure(
    cell: Cell,
    value: float,
    said: str,
    within: Interval | None,
    runs: Sequence[RunRecord],
    newest: recent.Newest,
) -> Figure:
    return Figure(
        value,
        said,
        within,
        n=len(runs),
        runs=tuple(record.run_id for record in runs),
        days=recent.period(runs),
        task=cell.key.task,
        stand_ins=cell.stand_ins,
        differs=newest.differing(cell),
    )


def failures(found: Sequence[Cell]) -> dict[Option, str]:
    """Options whose newest pipelines did not all succeed: a median of the others would hide that."""
    of = [c for c in found if c.is_plain_pipeline and c.answered]
    return {
        option: f"{len(cell.failed)} of {cell.ended} pipelines failed"
        for option, cell in _last(of).items()
        if cell.failed
    }
