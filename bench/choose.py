"""Which orchestrator for a team: what it needs and what matters to it in, a ranking out, each figure from stored runs.

A figure becomes a worth between 0 and 1 on a scale of its own, so that no option changes another's; the score is their
weighted mean. What was not measured is not guessed: an option without a figure that is asked for is not ranked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from adapters.base import Frozen, Target
from bench import aftermath, lineage, upkeep
from bench.against import base_of
from bench.capabilities import CAPABILITIES, SHOWN, Conformance
from bench.cells import (
    CONTROLS,
    FLOORS,
    ORCHESTRATORS,
    Cell,
    cells,
    comparable,
    ratio_to_floor,
)
from bench.drawing import figures as digits
from bench.faults import FAULTS
from bench.records import RunRecord
from bench.statistics import Interval, proportion

GIB = 2**30
QUESTIONS = len(lineage.ASKS)
DRAWS = 10_000
SEED = 20_261_126


@dataclass(frozen=True)
class Figure:
    """What stored runs say of an option by one criterion."""

    value: float
    said: str
    interval: Interval | None
    """None where it is a count, or one run gives none."""
    n: int
    days: str
    runs: tuple[str, ...]
    """Run ids: `bench results show ID`."""
    of: str = ""
    """The configuration that it was measured in, where that is another."""


@dataclass(frozen=True)
class Criterion:
    """Something that can matter to a team."""

    name: str
    asks: str
    worth: Callable[[float], float]
    """Of a figure, between 0 and 1."""
    scale: str
    """How the worth is made, in words."""
    more_is_better: bool
    measure: str
    """What `bench run` takes to measure it."""
    most: float = float("inf")
    """The largest figure that there can be."""

    def meets(self, value: float, limit: float) -> bool:
        """Whether a figure is at least as good as `limit`."""
        return value >= limit if self.more_is_better else value <= limit


CRITERIA = {
    each.name: each
    for each in (
        Criterion(
            "latency",
            "makespan of the pipeline after a warm-up, in times the floor",
            lambda times: min(1.0, 1 / times),
            "1 ÷ figure: the share of its makespan that the same steps take without an orchestrator, at most 1",
            False,
            "--n 6",
        ),
        Criterion(
            "retries",
            "share of runs that recovered when a step failed, mean over the faults, retries equal",
            lambda share: share,
            "the figure itself",
            True,
            "--fault all --n 3",
            1.0,
        ),
        Criterion(
            "lineage",
            f"questions about a model that its own store answers, less those it answers wrongly, of {QUESTIONS}",
            lambda answered: max(0.0, answered / QUESTIONS),
            f"figure ÷ {QUESTIONS}",
            True,
            "--lineage --n 3",
            float(QUESTIONS),
        ),
        Criterion(
            "memory",
            "GiB that its own servers hold doing nothing, databases apart",
            lambda gib: 1 / (1 + gib),
            "1 ÷ (1 + figure): half at 1 GiB",
            False,
            "--idle 60 --n 1",
        ),
    )
}
SHARED = ("retries", "lineage")
"""What a tuned configuration, which differs in one setting for speed, has from the one that it was made of."""


class Team(Frozen):
    """What a team needs and what matters to it. Each criterion weighs 1 where none is given a weight."""

    target: Target = Target.KIND
    needs: tuple[str, ...] = ()
    """Capabilities of the conformance suite that it cannot do without."""
    weights: Mapping[str, float] = Field(default_factory=dict)
    limits: Mapping[str, float] = Field(default_factory=dict)
    """The worst figure that is good enough, by criterion."""

    @model_validator(mode="after")
    def _known(self) -> "Team":
        for kind, names, known in (
            ("capability", self.needs, CAPABILITIES),
            ("criterion", (*self.weights, *self.limits), CRITERIA),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"there is no {kind} '{unknown[0]}'; there are {', '.join(known)}")
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"a weight is 0 or more: {name} has {weight:g}")
        for name, limit in self.limits.items():
            if not 0 <= limit <= CRITERIA[name].most:
                raise ValueError(f"a limit of {name} is from 0 to {CRITERIA[name].most:g}, not {limit:g}")
        if self.weights and not any(self.weights.values()):
            raise ValueError("all weights are 0: one must count")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Of each criterion that counts, its share of all weights."""
        given = self.weights or dict.fromkeys(CRITERIA, 1.0)
        whole = sum(given.values())
        return {name: given[name] / whole for name in CRITERIA if given.get(name)}

    @property
    def asked(self) -> tuple[str, ...]:
        """The criteria that count or have a limit."""
        return tuple(name for name in CRITERIA if name in self.shares or name in self.limits)


class Option(NamedTuple):
    """What can be chosen."""

    orchestrator: str
    configuration: str

    def __str__(self) -> str:
        return f"{self.orchestrator} {self.configuration}"


@dataclass(frozen=True)
class Ranked:
    """An option that was scored. `low` and `high`: its score where each figure is at an end of its interval."""

    option: Option
    task: str
    stand_ins: tuple[str, ...]
    figures: Mapping[str, Figure]
    worths: Mapping[str, float]
    score: float
    low: float
    high: float
    first: float = 0.0
    """In which share of all weightings it is the first."""


@dataclass(frozen=True)
class Choice:
    """Options in order, and why the others are not among them."""

    team: Team
    ranked: tuple[Ranked, ...]
    excluded: Mapping[Option, str]
    """By a need or a limit."""
    unmeasured: Mapping[Option, tuple[str, ...]]
    """The criteria without a stored figure."""

    @property
    def verdict(self) -> str:
        """In words; a lead that the figures' intervals do not carry is none."""
        if not self.ranked:
            return "nothing can be ranked"
        best, *others = self.ranked
        if not others:
            return f"{best.option}, which is the only one that can be ranked"
        near = [str(each.option) for each in others if each.high >= best.low]
        if near:
            return f"{best.option} has the best score, but these runs do not tell it from {', '.join(near)}"
        return f"{best.option}: even at the worse ends of its figures' intervals no other has a better score"


def choose(records: Sequence[RunRecord], verdicts: Iterable[Conformance], team: Team) -> Choice:
    """Score every option that was measured on the team's target; reads nothing but what is given."""
    found = _plain(cells(records), team.target)
    known = figures_of(found, team.target)
    excluded: dict[Option, str] = {}
    unmeasured: dict[Option, tuple[str, ...]] = {}
    ranked: list[Ranked] = []
    missing = [
        Option(name, "default") for name in ORCHESTRATORS if name not in {o.orchestrator for o in known}
    ]
    for option in (*known, *missing):
        figures = known.get(option, {})
        why = _lacks(option, team, verdicts) or _beyond(figures, team)
        lacking = tuple(name for name in team.asked if name not in figures)
        if why:
            excluded[option] = why
        elif lacking:
            unmeasured[option] = lacking
        else:
            ranked.append(_scored(option, figures, team, found))
    ranked.sort(key=lambda each: (-each.score, each.option))
    return Choice(team, tuple(_acceptable(ranked, team)), excluded, unmeasured)


def _plain(found: Sequence[Cell], target: str) -> list[Cell]:
    """Of one target, without variants, parameters and first runs after a switch."""
    return [
        cell
        for cell in found
        if cell.key.target == target
        and not cell.key.parameters
        and not cell.key.first
        and cell.key.variant in ("s3", "folder")
    ]


def figures_of(found: Sequence[Cell], target: str) -> dict[Option, dict[str, Figure]]:
    """What is stored of each option, by criterion; each as it was measured last."""
    made: dict[Option, dict[str, Figure]] = {}
    for name, read in READ.items():
        for option, figure in read(found, target).items():
            made.setdefault(option, {})[name] = figure
    for option, figures in made.items():
        base = Option(option.orchestrator, base_of(option.configuration))
        if not option.configuration.endswith("tuned") or base not in made:
            continue
        for name in SHARED:
            if name not in figures and name in made[base]:
                figures[name] = replace(made[base][name], of=base.configuration)
    return dict(sorted(made.items()))


def _latency(found: Sequence[Cell], target: str) -> dict[Option, Figure]:
    """Against the floor that keeps steps apart: pods on a cluster, processes here, whatever a step is."""
    floor_name = FLOORS["process" if target == Target.LOCAL else "pod"]
    of = [c for c in found if c.key.workload == "pipeline" and c.key.undisturbed and c.measured]
    made = {}
    for option, cell in _newest(c for c in of if not c.all_cold).items():
        floors = [c for c in of if c.key.orchestrator == floor_name and not comparable(cell, c)]
        ratio = ratio_to_floor(cell, max(floors, key=lambda floor: floor.last, default=None))
        if ratio is not None:
            value, within = ratio.estimate.value, ratio.estimate.interval
            said = f"{value:.2f} × the floor, {floor_name}"
            made[option] = _figure(value, said, within, cell.measured)
    return made


def _retries(found: Sequence[Cell], target: str) -> dict[Option, Figure]:
    """A single step, struck in every way that the target has."""
    faults = [fault.name for fault in FAULTS.values() if Target(target) in fault.targets]
    by_fault = {
        fault: _newest(
            cell
            for cell in found
            if cell.key.fault == fault
            and (cell.key.workload, cell.key.steps, cell.key.retries) == ("chain", 1, "equal")
            and aftermath.struck(cell)
        )
        for fault in faults
    }
    made = {}
    for option in set.intersection(*(set(each) for each in by_fault.values())):
        struck = {fault: aftermath.struck(by_fault[fault][option]) for fault in faults}
        recovered = {fault: sum(after.recovered for _, after in runs) for fault, runs in struck.items()}
        parts = [proportion(recovered[fault], len(struck[fault])) for fault in faults]
        value = sum(part.value for part in parts) / len(parts)
        within = proportion(sum(recovered.values()), sum(map(len, struck.values()))).interval
        said = "; ".join(f"{fault}: {recovered[fault]} of {len(struck[fault])}" for fault in faults)
        records = [record for runs in struck.values() for record, _ in runs]
        made[option] = _figure(value, f"recovered {said}", within, records)
    return made


def _lineage(found: Sequence[Cell], target: str) -> dict[Option, Figure]:
    """What all runs have answered, less what any has answered wrongly: the same each time, or not counted."""
    asked = [
        cell for cell in found if cell.key.fault and cell.key.retries == "equal" and lineage.columns([cell])
    ]
    made = {}
    for option, cell in _newest(asked).items():
        (column,) = lineage.columns([cell])
        value = float(column["answered"] - column["wrong"])
        said = f"answers {column['answered']} of {QUESTIONS}, {column['wrong']} wrong"
        records = [record for record in cell.records if record.lineage and record.status != "void"]
        made[option] = _figure(value, said, None, records)
    return made


def _memory(found: Sequence[Cell], target: str) -> dict[Option, Figure]:
    """Of the newest work beside which it was watched idle."""
    watched = [cell for cell in found if upkeep.idles(cell) and not cell.key.fault]
    made = {}
    for option, cell in _newest(watched).items():
        (row,) = upkeep.rows([cell]) or [{"idle_memory": None}]
        if row["idle_memory"] is not None:
            value = row["idle_memory"] / GIB
            records = [r for r in cell.measured if r.resources is not None and r.resources.idle is not None]
            made[option] = _figure(value, f"{digits(value)} GiB idle", None, records)
    return made


READ: Mapping[str, Callable[[Sequence[Cell], str], dict[Option, Figure]]] = {
    "latency": _latency,
    "retries": _retries,
    "lineage": _lineage,
    "memory": _memory,
}


def _newest(found: Iterable[Cell]) -> dict[Option, Cell]:
    """Of each option the cell that was measured last."""
    ours = sorted((c for c in found if c.key.orchestrator not in CONTROLS), key=lambda cell: cell.last)
    return {Option(cell.key.orchestrator, cell.key.configuration): cell for cell in ours}


def _figure(value: float, said: str, within: Interval | None, records: Sequence[RunRecord]) -> Figure:
    days = sorted({record.recorded_at[:10] for record in records})
    shown = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return Figure(value, said, within, len(records), shown, tuple(record.run_id for record in records))


def _lacks(option: Option, team: Team, verdicts: Iterable[Conformance]) -> str:
    """Which need it does not meet, as the conformance suite found it; empty where it meets all."""
    asked = {
        name: verdict
        for one in verdicts
        if (one.adapter, one.target) == (option.orchestrator, str(team.target))
        for name, verdict in one.verdicts.items()
    }
    for need in team.needs:
        if need not in asked:
            return f"{CAPABILITIES[need]}: never asked"
        if asked[need].outcome != "yes":
            return f"{CAPABILITIES[need]}: {SHOWN[asked[need].outcome]}: {asked[need].reason}"
    return ""


def _beyond(figures: Mapping[str, Figure], team: Team) -> str:
    """Which limit it is beyond; empty where none of what is known is."""
    for name, limit in team.limits.items():
        if name in figures and not CRITERIA[name].meets(figures[name].value, limit):
            word = "at least" if CRITERIA[name].more_is_better else "at most"
            return f"{name}: {figures[name].said}, where {word} {limit:g} is asked for"
    return ""


def _scored(option: Option, figures: Mapping[str, Figure], team: Team, found: Sequence[Cell]) -> Ranked:
    """The weighted mean of the worths (Fishburn 1967), and at which ends it could be."""
    cell = _newest(c for c in found if (c.key.orchestrator, c.key.configuration) == option)[option]
    asked = {name: figures[name] for name in team.asked}
    ends = {}
    for name, figure in asked.items():
        low, high = (figure.interval.low, figure.interval.high) if figure.interval else (figure.value,) * 2
        ends[name] = sorted((CRITERIA[name].worth(low), CRITERIA[name].worth(high)))
    worths = {name: CRITERIA[name].worth(figure.value) for name, figure in asked.items()}
    return Ranked(
        option,
        cell.key.task,
        cell.stand_ins,
        asked,
        worths,
        score=sum(share * worths[name] for name, share in team.shares.items()),
        low=sum(share * ends[name][0] for name, share in team.shares.items()),
        high=sum(share * ends[name][1] for name, share in team.shares.items()),
    )


def _acceptable(ranked: Sequence[Ranked], team: Team) -> list[Ranked]:
    """With `first`: its rank acceptability index over weightings drawn evenly (SMAA; Lahdelma et al. 1998)."""
    if not ranked:
        return []
    names = list(team.shares)
    weights = np.random.default_rng(SEED).dirichlet(np.ones(len(names)), DRAWS)
    worths = np.array([[each.worths[name] for name in names] for each in ranked])
    wins = np.bincount(np.argmax(weights @ worths.T, axis=1), minlength=len(ranked))
    return [replace(each, first=float(won) / DRAWS) for each, won in zip(ranked, wins, strict=True)]
