"""Which orchestrator for a team: what it needs and what matters to it in, a ranking out, each figure from stored runs.

A figure becomes a worth between 0 and 1 on a scale of its own, so that no option changes another's; the score is their
weighted mean. What was not measured is not guessed: an option without a figure that is asked for is not ranked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from adapters.base import Frozen, Target
from bench.analysis.cells import ORCHESTRATORS, cells, refusals, usual
from bench.analysis.statistics import added
from bench.choice.options import QUESTIONS, Figure, Option, failures, figures_of, not_struck
from bench.report.capabilities import CAPABILITIES, SHOWN, Conformance
from bench.results.records import RunRecord

DRAWS = 10_000
SEED = 20_261_126
MOST = 1_000_000.0
"""The largest weight or limit."""


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
    counts: str
    """Which stored runs a figure is taken from."""
    most: float = MOST
    """The largest figure that there can be."""

    def meets(self, value: float, limit: float) -> bool:
        """Whether a figure is at least as good as `limit`."""
        return value >= limit if self.more_is_better else value <= limit


CRITERIA = {
    each.name: each
    for each in (
        Criterion(
            "latency",
            "makespan of the pipeline after a warm-up, in times what its steps take with no orchestrator, each in a "
            "pod (on this machine: process) of its own",
            lambda times: min(1.0, 1 / times),
            "1 ÷ figure, at most 1",
            False,
            "--n 6",
            "pipelines after a warm-up with their floor, in the newest environment",
        ),
        Criterion(
            "retries",
            "share of runs that recovered when a step failed, mean over the ways to fail, retries equal",
            lambda share: share,
            "the figure",
            True,
            "--fault all --n 3",
            "a chain of one step, struck in every way in which another option was there, retries equal",
            1.0,
        ),
        Criterion(
            "lineage",
            f"questions about a model that its own store answers, less those it answers wrongly, of {QUESTIONS}",
            lambda answered: max(0.0, answered / QUESTIONS),
            f"figure ÷ {QUESTIONS}",
            True,
            "--lineage --n 3",
            "runs asked by the newest query",
            float(QUESTIONS),
        ),
        Criterion(
            "memory",
            "GiB that its own servers hold doing nothing, databases apart; which servers an adapter leaves out differs "
            "(docs/limits.md)",
            lambda gib: 1 / (1 + gib),
            "1 ÷ (1 + figure): half at 1 GiB",
            False,
            "--idle 60 --n 2",
            "looks at all of its servers idle, in the environment where it was watched last",
        ),
    )
}
Number = Annotated[float, Field(strict=True, ge=0, le=MOST, allow_inf_nan=False)]


class Team(Frozen):
    """What a team needs and what matters to it. Without weights each criterion weighs 1."""

    target: Target = Target.KIND
    needs: tuple[str, ...] = ()
    """Capabilities of the conformance suite that it cannot do without."""
    weights: Mapping[str, Number] = Field(default_factory=dict)
    limits: Mapping[str, Number] = Field(default_factory=dict)
    """The worst figure that is good enough, by criterion."""

    @model_validator(mode="after")
    def _known(self) -> "Team":
        for kind, names, known in (
            ("capability", self.needs, CAPABILITIES),
            ("criterion", (*self.weights, *self.limits), CRITERIA),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"there is no {kind} '{unknown[0]}'; there are {', '.join(known)}")
        for name, limit in self.limits.items():
            if limit > CRITERIA[name].most:
                raise ValueError(f"a limit of {name} is from 0 to {CRITERIA[name].most:g}, not {limit:g}")
        if self.weights and not any(self.weights.values()):
            raise ValueError("all weights are 0: one must count")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Of each criterion that counts, its share of all weights."""
        given = self.weights or dict.fromkeys(CRITERIA, 1.0)
        whole = added(given.values())
        return {name: given[name] / whole for name in CRITERIA if given.get(name)}

    @property
    def asked(self) -> tuple[str, ...]:
        """The criteria that count or have a limit."""
        return tuple(name for name in CRITERIA if name in self.shares or name in self.limits)


@dataclass(frozen=True)
class Ranked:
    """An option that was scored."""

    option: Option
    figures: Mapping[str, Figure]
    worths: Mapping[str, float]
    score: float
    bracket: tuple[float, float] | None
    """The score where each figure is at an end of its interval; None where one that counts was measured only once."""
    first: float = 0.0
    """In which share of all weightings it is the first, the figures as they are."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What a step was in the runs behind its figures."""
        return tuple(sorted({figure.task for figure in self.figures.values()}))

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What stood in for images of the vendor's in any of them."""
        return tuple(sorted({name for figure in self.figures.values() for name in figure.stand_ins}))


@dataclass(frozen=True)
class Choice:
    """Options in order, and why the others are not among them."""

    team: Team
    ranked: tuple[Ranked, ...]
    excluded: Mapping[Option, str]
    """By a need, a limit, or because its runs failed."""
    unmeasured: Mapping[Option, tuple[str, ...]]
    """The criteria without a stored figure that counts."""
    known: Mapping[Option, Mapping[str, Figure]]
    """All figures, those of options that are not ranked too."""
    not_struck: Mapping[Option, tuple[str, ...]]
    """Of options without a figure of retries: the faults that none of its runs has met."""

    @property
    def even(self) -> tuple[str, ...]:
        """The criteria that count and are worth the same in all that is ranked."""
        return tuple(
            name
            for name in self.team.shares
            if len(self.ranked) > 1 and len({each.worths[name] for each in self.ranked}) == 1
        )

    @property
    def level(self) -> float | None:
        """The lowest level that an interval behind the brackets attains."""
        levels = [
            figure.interval.level
            for each in self.ranked
            for name, figure in each.figures.items()
            if figure.interval and name in self.team.shares
        ]
        return min(levels, default=None)

    @property
    def verdict(self) -> str:
        """In words; a lead that the figures' intervals do not carry is none."""
        if not self.ranked:
            return "nothing can be ranked"
        best, *others = self.ranked
        if not others:
            return f"{best.option}, which is the only one that can be ranked"
        if best.bracket is None:
            return f"{best.option} has the best score, but a figure of it was measured once: how sure it is, is unknown"
        low = best.bracket[0]
        near = [str(each.option) for each in others if each.bracket and each.bracket[1] >= low]
        once = [str(each.option) for each in others if each.bracket is None]
        but = [f"these runs do not tell it from {', '.join(near)}"] if near else []
        but += [f"figures of {', '.join(once)} were measured once"] if once else []
        if but:
            return f"{best.option} has the best score, but {'; '.join(but)}"
        return f"{best.option}: the brackets of all others are below its own"


def choose(records: Sequence[RunRecord], verdicts: Sequence[Conformance], team: Team) -> Choice:
    """Score every option that was measured on the team's target; reads nothing but what is given."""
    found = [cell for cell in usual(cells(records)) if cell.key.target == team.target]
    known = figures_of(found, team.target)
    failed, refused = failures(found), {name: why for (_, name), why in refusals(found).items()}
    stored = {option.orchestrator for option in (*known, *failed)}
    absent = [Option(name, "default") for name in ORCHESTRATORS if name not in stored]
    excluded: dict[Option, str] = {}
    unmeasured: dict[Option, tuple[str, ...]] = {}
    ranked: list[Ranked] = []
    for option in sorted({*known, *failed, *absent}):
        figures = known.get(option, {})
        lacking = tuple(name for name in team.asked if name not in figures)
        why = (
            refused.get(option.orchestrator, "")
            or ("latency" in team.asked and failed.get(option, ""))
            or _lacks(option, team, verdicts)
            or _beyond(figures, team)
        )
        if why:
            excluded[option] = why
        elif lacking:
            unmeasured[option] = lacking
        else:
            ranked.append(_scored(option, figures, team))
    ranked.sort(key=lambda each: (-each.score, each.option))
    without_retries = [option for option, names in unmeasured.items() if "retries" in names]
    lacking_faults = not_struck(found, team.target, without_retries)
    return Choice(team, tuple(_acceptable(ranked, team)), excluded, unmeasured, known, lacking_faults)


def _lacks(option: Option, team: Team, verdicts: Iterable[Conformance]) -> str:
    """Which need it does not meet, as the conformance suite found it; empty where it meets all.

    A verdict holds for the configuration that was asked, and for what it is tuned from.
    """
    asked = {
        name: verdict
        for one in verdicts
        if (one.adapter, one.target) == (option.orchestrator, str(team.target))
        if Option(one.adapter, one.configuration).base == option.base
        for name, verdict in one.verdicts.items()
    }
    for need in team.needs:
        if need not in asked:
            return f"{CAPABILITIES[need]}: this configuration was never asked"
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


def _scored(option: Option, figures: Mapping[str, Figure], team: Team) -> Ranked:
    """The weighted mean of the worths (Fishburn 1967), and between what it could be."""
    asked = {name: figures[name] for name in team.asked}
    worths = {name: CRITERIA[name].worth(figure.value) for name, figure in asked.items()}
    ends = {}
    for name, figure in asked.items():
        within = (figure.interval.low, figure.interval.high) if figure.interval else (figure.value,) * 2
        ends[name] = sorted(map(CRITERIA[name].worth, within))
    low, high = (added(share * ends[name][end] for name, share in team.shares.items()) for end in (0, 1))
    return Ranked(
        option,
        asked,
        worths,
        score=added(share * worths[name] for name, share in team.shares.items()),
        bracket=(low, high) if all(asked[name].known for name in team.shares) else None,
    )


def _acceptable(ranked: Sequence[Ranked], team: Team) -> list[Ranked]:
    """With `first`: its rank acceptability index over weightings drawn evenly (SMAA; Lahdelma et al. 1998).

    Options that are equal under a weighting share it.
    """
    if not ranked:
        return []
    names = list(team.shares)
    weights = np.random.default_rng(SEED).dirichlet(np.ones(len(names)), DRAWS)
    scores = weights @ np.array([[each.worths[name] for name in names] for each in ranked]).T
    leads = np.isclose(scores, scores.max(axis=1, keepdims=True), rtol=0, atol=1e-12)
    shares = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)
    return [replace(each, first=float(share)) for each, share in zip(ranked, shares, strict=True)]
