"""A/A: the same scenario deployed twice, in one plan and under two: what differs is not the orchestrator's doing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.analysis.cells import CONTROLS, Cell, comparable, makespan
from bench.analysis.statistics import LEVEL, difference, judge_rows, median_estimate

FEWEST = 3
"""Runs of one plan that are worth a comparison."""
FEWEST_BLOCKS = 4
"""Blocks of either half of a plan: fewer can tell nothing apart."""


@dataclass(frozen=True)
class _Planned:
    """What one plan measured of a cell."""

    cell: Cell
    plan: str
    began: str
    seconds: list[float]


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The first plan of each scenario against each later one of the same environment and code of the steps.

    p is Holm-adjusted over all of them. Where environment or code differ it is no A/A: such a row names the facts
    that do, once for each further environment, and has no difference.
    """
    scenarios: dict[tuple[object, ...], list[_Planned]] = {}
    for cell in found:
        if cell.key.orchestrator != "noop":
            name = (cell.key.orchestrator, cell.key.configuration, cell.key.task, *cell.key.work)
            scenarios.setdefault(name, []).extend(_plans(cell))
    made = [row for members in scenarios.values() for row in _of_scenario(members)]
    judge_rows(made)
    return made


def halves(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The even blocks of a plan against its odd ones, of each cell with enough of both. p is Holm-adjusted over all.

    What takes turns with others is deployed anew in each block, so that these are deployments minutes apart.
    """
    made = []
    for cell in found:
        for plan in sorted(cell.plans) if cell.key.orchestrator != "noop" else ():
            runs = cell.of_plans(frozenset({plan})).measured
            even, odd = (
                [value for r in runs if r.sample.index % 2 == half and (value := makespan(r)) is not None]
                for half in (0, 1)
            )
            if min(len(even), len(odd)) >= FEWEST_BLOCKS:
                made.append(
                    {
                        "scenario": cell.scenario.key,
                        "plan": plan,
                        "first": asdict(median_estimate(even)),
                        "second": asdict(median_estimate(odd)),
                        "difference": difference(even, odd),
                    }
                )
    judge_rows(made)
    return made


def said(between: Sequence[dict[str, Any]], within: Sequence[dict[str, Any]] = ()) -> str:
    """What the A/A pairs of `rows` and `halves` say of the differences between other rows, in a few sentences."""
    texts = []
    if within:
        texts.append(f"A/A within plans (a scenario's even blocks against its odd): {_counted(within)}")
    if compared := [row for row in between if row["difference"]]:
        most = max(compared, key=lambda row: abs(_moved(row)))
        texts.append(
            f"A/A between plans (a scenario measured again under the same conditions): {_counted(compared)} The "
            f"median that moved most is that of {_shift(most)}. Plans are hours or days apart: a difference no larger "
            "than that may be the machine's, which is why two are compared within plans, and a ratio to the floor is "
            "of blocks that have both where there are any."
        )
    if not texts:
        return "No scenario was measured twice under the same conditions (A/A): how far chance alone goes is not known."
    measured = {row["scenario"].split("/")[1] for row in (*within, *compared)}
    return " ".join(texts if measured - set(CONTROLS) else [*texts, "No orchestrator is among them yet."])


def _counted(compared: Sequence[dict[str, Any]]) -> str:
    """How many came out different, each test by itself: an adjustment would make a control pass by being run more."""
    tested = [row for row in compared if row["difference"]["p"] is not None]
    if not tested:
        return "none could be tested: too few runs."
    apart = [row for row in tested if row["difference"]["p"] <= 1 - LEVEL]
    text = (
        f"{len(apart) or 'none'} of the {len(tested)} with enough runs came out different at p ≤ {1 - LEVEL:.2f}, each "
        f"test by itself, where chance alone makes at most {len(tested) * (1 - LEVEL):.1f} of them"
    )
    return f"{text}: {', '.join(_shift(row) for row in apart)}." if apart else f"{text}."


def _shift(row: dict[str, Any]) -> str:
    return f"{row['scenario']} by {_moved(row):+.0%}"


def _moved(row: dict[str, Any]) -> float:
    """How far the second median is from the first, as a share of that."""
    return float(row["second"]["value"] / row["first"]["value"] - 1)


def _plans(cell: Cell) -> list[_Planned]:
    plans: dict[str, list[tuple[str, float]]] = {}
    for record in sorted(cell.measured, key=lambda record: (record.recorded_at, record.run_id)):
        if (seconds := makespan(record)) is not None:
            plans.setdefault(record.sample.plan_id, []).append((record.recorded_at, seconds))
    return [
        _Planned(cell, plan, runs[0][0], [seconds for _, seconds in runs])
        for plan, runs in plans.items()
        if len(runs) >= FEWEST
    ]


def _of_scenario(members: Sequence[_Planned]) -> list[dict[str, Any]]:
    environments: dict[str, list[_Planned]] = {}
    for each in sorted(members, key=lambda each: (each.began, each.plan)):
        environments.setdefault(each.cell.key.environment, []).append(each)
    firsts = [plans[0] for plans in environments.values()]
    return [
        *(_row(first, later) for first, *others in environments.values() for later in others),
        *(_row(firsts[0], other) for other in firsts[1:]),
    ]


def _row(first: _Planned, later: _Planned) -> dict[str, Any]:
    reason = _reason(first.cell, later.cell)
    return {
        "scenario": first.cell.scenario.key,
        "knob": first.cell.knob,
        "plans": [first.plan, later.plan],
        "days": [first.began[:10], later.began[:10]],
        "first": asdict(median_estimate(first.seconds)),
        "second": asdict(median_estimate(later.seconds)),
        "not_compared": reason,
        "difference": None if reason else difference(first.seconds, later.seconds),
    }


def _reason(one: Cell, other: Cell) -> str:
    """Why two of one scenario are no A/A; nothing where they are."""
    if differing := comparable(one, other, strict=True):
        return f"not the same {', '.join(differing)}"
    return "" if "code" in one.blocking else "the steps' code is not recorded"
