"""All that the report says, computed from stored records alone, as plain data.

The same records give the same content, in whatever order they come: all seeds are fixed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from adapters.workloads import WORKLOADS, phases
from bench.analysis import again, against, concurrency, grouping, observer, spent, starts, upkeep
from bench.analysis.cells import (
    BUSY,
    CONTROLS,
    FLOORS,
    ORCHESTRATORS,
    Cell,
    CellKey,
    cells,
    floor_of,
    handoff,
    handoff_bounds,
    is_measured,
    load,
    makespan,
    overhead,
    ratio_to_floor,
)
from bench.analysis.grouping import Group
from bench.analysis.statistics import (
    LEVEL,
    P95_FROM,
    Estimate,
    bootstrap_interval,
    cost_curve,
    median,
    median_estimate,
    outliers,
    p95,
    proportion,
)
from bench.faults import aftermath
from bench.lineage import answers, questions
from bench.report import caveats, coverage, harness, overview, published
from bench.report.capabilities import Conformance
from bench.results.records import RunRecord
from bench.results.store import Problem

SCHEMA_VERSION = 1
RAW = "runs.jsonl"
Located = Callable[[Cell], dict[str, Any]]
"""Says where the rows behind a cell are."""

STEP_LENGTHS = ((1, "1 s"), (30, "30 s"), (60, "1 min"), (600, "10 min"), (3600, "60 min"))
NEAR = 0.2
"""A cell whose mean step is within this fraction of a length counts as measured at that length."""


def contents(records: Sequence[RunRecord]) -> dict[str, Any]:
    """All that the report says, as plain data: the JSON file, and what the templates render."""
    return contents_of(cells(records))


def contents_of(
    everything: Sequence[Cell],
    own: Mapping[str, Any] | None = None,
    verdicts: Sequence[Conformance] = (),
    problems: Sequence[Problem] = (),
) -> dict[str, Any]:
    """The same of records that are grouped already; the rest as `bench.report.build.build` has it."""
    records = [record for cell in everything for record in cell.records]
    where = located(everything)
    found = [cell for cell in everything if cell.key.undisturbed]
    struck = [cell for cell in everything if cell.key.fault]
    environments = grouping.groups(everything)
    groups = [group.undisturbed() for group in environments]
    twice, halves = again.rows(found), again.halves(found)
    times = {cell.key: entry for cell in found if (entry := spent.of_cell(cell)) is not None}
    tables = spent.tables(groups, times)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": len(records),
        "ended": _ended(everything),
        "problems": [{**asdict(problem), "outcome": problem.outcome} for problem in problems],
        "period": _period(records),
        "level": LEVEL,
        "p95_from": P95_FROM,
        "bias": list(caveats.BIAS),
        "limits": caveats.limits(everything),
        "proxies": caveats.proxies(everything),
        "flawed_total": sum(len(cell.flawed) for cell in found),
        "measured_total": sum(len(cell.measured) for cell in found),
        "environments": [grouping.environment(group) for group in environments],
        "facts": grouping.facts(environments),
        "environment_names": grouping.names(environments),
        "overview": overview.tables(everything, where),
        "overview_notes": list(overview.NOTES),
        "coverage": coverage.table(everything, ORCHESTRATORS, verdicts),
        "tables": _tables(groups, where),
        "against": against.tables(groups),
        "controls": [_control(cell) for cell in found if cell.key.orchestrator == "noop" and cell.measured],
        "retries": aftermath.tables(struck, where),
        "busy": BUSY,
        "lineage": {
            "questions": [{"id": each, "asks": questions.ASKS[each]} for each in questions.ASKS],
            "columns": [
                {**column, "shown": {each: answers.shown(e) for each, e in column["answers"].items()}}
                for column in answers.columns(struck)
            ],
        },
        "tuning": [row for group in groups for row in _tuning(group)],
        "again": twice,
        "halves": halves,
        "again_said": again.said(twice, halves),
        "observer": observer.rows(everything),
        "ledger": observer.ledger(found),
        "harness": {
            **{name: own[name] for name in ("recorded_at", "cpu", "cores", "python", "note")},
            "rows": harness.rows(own, everything),
        }
        if own
        else None,
        "breakdowns": list(times.values()),
        "spent": tables,
        "parts": {
            name: says for name, says in spent.MEANS.items() if any(name in t["columns"] for t in tables)
        },
        "large": spent.LARGE,
        "cold": _cold(everything),
        "shares": [
            {**entry, "environment": group.name}
            for group in groups
            for cell in sorted(group.cells, key=lambda cell: (cell.key.place, rank(cell), cell.key))
            if (entry := _share(cell)) is not None
        ],
        "near": NEAR,
        "published": published.rows(found),
        "upkeep": upkeep.rows(found),
        "unlike": caveats.UNLIKE,
        "concurrent": concurrency.rows(everything),
        "starts": starts.rows(everything),
        "curves": [row for group in groups for row in _curves(group)],
        "step_lengths": [text for _, text in STEP_LENGTHS],
        "failures": _list([c for c in everything if not c.key.fault], lambda cell: cell.failed),
        "voids": _list(everything, lambda cell: cell.void),
        "unsupported": _list(everything, lambda cell: cell.unsupported),
        "contradictions": _contradictions(everything),
        "outliers": [entry for cell in found for entry in _outliers(cell)],
    }


def _ended(found: Sequence[Cell]) -> dict[str, int]:
    """What became of the stored runs: each is counted once."""
    kinds = ("compared", "apart", "first", "recovered", "lost", "unsupported", "void", "backwards", "failed")
    ended = dict.fromkeys(kinds, 0)
    for cell in found:
        ran = [record for record in cell.records if record.status not in ("void", "unsupported")]
        ended["void"] += len(cell.void)
        ended["unsupported"] += len(cell.unsupported)
        if cell.key.fault:
            back = sum(bool(record.backwards) for record in ran)
            recovered = sum(after.recovered for r in ran if (after := aftermath.aftermath(r)) is not None)
            ended["recovered"] += recovered
            ended["lost"] += len(ran) - recovered - back
        else:
            back = len(ran) - len(cell.measured) - len(cell.failed)
            kind = "first" if cell.key.first else "compared" if cell.key.undisturbed else "apart"
            ended[kind] += len(cell.measured)
            ended["failed"] += len(cell.failed)
        ended["backwards"] += back
    return ended


def _contradictions(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Runs whose clocks contradict each other, samples or not; what a failed run did not reach is no contradiction."""
    return [
        {"run_id": record.run_id, "scenario": record.scenario.key, "errors": list(errors), "measured": sample}
        for cell in found
        for record in cell.records
        if (errors := record.clock_errors if (sample := is_measured(record)) else record.backwards)
    ]


def _tables(groups: Sequence[Group], where: Located) -> list[dict[str, Any]]:
    """One for each kind of step, piece of work and environment in which any was run; floor and control first."""
    ran: dict[tuple[Any, ...], list[Cell]] = {}
    for number, group in enumerate(groups):
        for cell in group.cells:
            if cell.key.task in FLOORS:
                ran.setdefault((cell.key.place, number), []).append(cell)
    return [
        _table(groups[number], members, groups, where)
        for (_, number), members in sorted(ran.items(), key=lambda entry: entry[0])
        if not all(cell.refused for cell in members)
    ]


def _table(group: Group, ran: Sequence[Cell], groups: Sequence[Group], where: Located) -> dict[str, Any]:
    key = ran[0].key
    floor = FLOORS[key.task]
    idle = [cell for cell in group.cells if cell.key.work == key.work and cell.key.task == "nothing"]
    members = sorted([*ran, *idle], key=lambda cell: (rank(cell), cell.key))
    present = {cell.key.orchestrator for cell in members}
    label = f" ({group.label})" if group.label else ""
    return {
        "title": f"{key.target}, one {key.task} per step: {key.title}{label}",
        "environment": group.name,
        "differs": group.differs,
        "target": group.target,
        "task": key.task,
        "workload": key.workload,
        "about": WORKLOADS.get(key.workload, ""),
        "steps": key.steps,
        "variant": key.variant,
        "parameters": dict(key.parameters),
        "floor": floor,
        "commits": sorted({_commit(record) for cell in ran for record in cell.records}),
        "rows": [_row(cell, group.cells, where) for cell in members],
        "missing": [
            {"orchestrator": name, "see": _elsewhere(name, key, group, groups)}
            for name in (floor, "noop", *ORCHESTRATORS)
            if name not in present
        ],
    }


def _elsewhere(orchestrator: str, key: CellKey, group: Group, groups: Sequence[Group]) -> str:
    """Where that orchestrator's runs of this work are, or why there are none; empty where nothing is known."""

    def its(group: Group) -> list[Cell]:
        return [c for c in group.cells if c.key.orchestrator == orchestrator and c.key.work == key.work]

    there = [(g, {c.key.task for c in its(g) if c.measured and c.key.task in FLOORS}) for g in groups]
    if kinds := next(tasks for g, tasks in there if g is group):
        return f"one {', one '.join(sorted(kinds))} per step"
    if alike := [g.name for g, tasks in there if key.task in tasks]:
        return f"in {', '.join(alike)}"
    if others := sorted({(task, g.name) for g, tasks in there for task in tasks}):
        return ", ".join(f"one {task} per step in {name}" for task, name in others)
    known = [cell for cell in group.cells if cell.key.orchestrator == orchestrator]
    return "unsupported" if known and all(cell.refused for cell in known) else ""


def _commit(record: RunRecord) -> str:
    return record.environment.informational.get("commit", "unknown")


def _control(cell: Cell) -> dict[str, Any]:
    """What the harness takes for a run of nothing."""
    return {
        "target": cell.key.target,
        "work": cell.key.title,
        "n": len(cell.measured),
        "makespan": _estimated(cell, makespan),
    }


def rank(cell: Cell) -> int:
    """Where a cell stands in a table: floors, then the control, then orchestrators."""
    if cell.key.orchestrator in CONTROLS:
        return 1 if cell.key.orchestrator == "noop" else 0
    return 2


def _row(cell: Cell, among: Sequence[Cell], where: Located) -> dict[str, Any]:
    ratio = ratio_to_floor(cell, floor_of(cell, among))
    twins = [
        c for c in among if c is not cell and replace(c.key, environment=cell.key.environment) == cell.key
    ]
    apart = sorted(
        f"{name}={value}"
        for name, value in cell.blocking.items()
        if any(twin.blocking.get(name) != value for twin in twins)
    )
    return {
        "orchestrator": cell.key.orchestrator,
        "role": ("floor", "control", "orchestrator")[rank(cell)],
        "configuration": cell.key.configuration,
        "knob": cell.knob,
        "stand_ins": list(cell.stand_ins),
        "apart": apart,
        "n": len(cell.measured),
        "plans": len(cell.plans),
        "cold": cell.cold,
        "days": cell.days,
        "pressure": load(cell.measured)["pressure"],
        "makespans": [round(value, 3) for value in sorted(cell.values(makespan))],
        "makespan": _estimated(cell, makespan),
        "overhead": _estimated(cell, overhead),
        "handoff": _estimated(cell, handoff),
        "handoff_bounds": _handoff_bounds(cell),
        "p95": asdict(p95(cell.values(makespan))) if cell.measured else None,
        "ratio": None if ratio is None else {**asdict(ratio.estimate), "paired": ratio.paired},
        "success": asdict(proportion(cell.ended - len(cell.failed), cell.ended)) if cell.ended else None,
        "ended": cell.ended,
        "failed": len(cell.failed),
        "void": len(cell.void),
        "unsupported": cell.unsupported[0].reason if cell.unsupported else None,
        "flawed": len(cell.flawed),
        "raw": where(cell),
        "environment_sha256": cell.key.environment,
    }


def located(found: Sequence[Cell]) -> Located:
    """Says of each of these cells, of all that a report is made of, where the rows behind it are."""
    first: dict[CellKey, int] = {}
    at = 1
    for each in found:
        first[each.key] = at
        at += len(each.records)

    def where(cell: Cell) -> dict[str, Any]:
        return {
            "file": RAW,
            "first_line": first[cell.key],
            "last_line": first[cell.key] + len(cell.records) - 1,
            "run_ids": [record.run_id for record in cell.records],
        }

    return where


def _estimated(cell: Cell, of: Callable[[RunRecord], float | None]) -> dict[str, Any] | None:
    values = cell.values(of)
    if not values:
        return None
    bootstrap = bootstrap_interval(values)
    return {
        **asdict(median_estimate(values)),
        "bootstrap": None if bootstrap is None else asdict(bootstrap),
    }


def _handoff_bounds(cell: Cell) -> dict[str, float] | None:
    """Medians over runs of what the clocks' resolution allows a handoff to have been."""
    found = [bounds for record in cell.measured if (bounds := handoff_bounds(record)) is not None]
    if not found:
        return None
    return {"at_least": median([low for low, _ in found]), "at_most": median([high for _, high in found])}


def _tuning(group: Group) -> list[dict[str, Any]]:
    """Each configuration against what it is a change of: same orchestrator, work, kind of step and environment.

    Holm's adjustment is over all of an environment's tests. Pairs of which nothing was measured are left out.
    """
    known = {cell.key: cell for cell in group.cells if cell.key.orchestrator not in CONTROLS}
    uses = upkeep.idle_uses(group.cells)
    both = [
        against.together(base, tuned)
        for key, tuned in known.items()
        if (base := known.get(replace(key, configuration=against.base_of(key.configuration))))
        if base is not tuned and (base.measured or tuned.measured)
    ]
    rows: list[dict[str, Any]] = []
    for contrast in against.contrasts(both):
        base, tuned = contrast["first"], contrast["second"]
        rows.append(
            {
                "environment": group.name,
                "target": group.target,
                "task": tuned.key.task,
                "workload": tuned.key.sized,
                "orchestrator": tuned.key.orchestrator,
                "base": base.key.configuration,
                "configuration": tuned.key.configuration,
                "knob": tuned.knob,
                "default": _estimated(base, makespan),
                "tuned": _estimated(tuned, makespan),
                "idle": [
                    use._asdict()
                    for cell in (base, tuned)
                    if (use := uses.get((group.target, cell.key.orchestrator, cell.key.configuration)))
                ],
                **{name: contrast[name] for name in ("not_compared", "paired", "difference")},
            }
        )
    return rows


def _cold(everything: Sequence[Cell]) -> list[dict[str, Any]]:
    """First runs after a switch, warm-ups among them, and the others of the same scenario; none of floors.

    Set against each other only within a plan, where one has both: another is of another day. The shift is the median
    of all differences within plans (Hodges and Lehmann, 1963, by strata).
    """
    alike: dict[CellKey, list[Cell]] = {}
    for cell in everything:
        if not (cell.key.fault or cell.key.observer or cell.key.orchestrator in CONTROLS):
            alike.setdefault(replace(cell.key, first=False), []).append(cell)
    rows = []
    for members in alike.values():
        runs = [record for cell in members for record in cell.measured]
        first, later = (_by_plan(r for r in runs if r.cold is cold) for cold in (True, False))
        both = sorted(first.keys() & later.keys())
        cold = [value for plan in both or first for value in first[plan]]
        warm = [value for plan in both for value in later[plan]]
        more = [value - other for plan in both for value in first[plan] for other in later[plan]]
        if cold and (warm or any(cell.key.first for cell in members)):
            rows.append(
                {
                    **_named(members[0]),
                    "cold": asdict(median_estimate(cold)),
                    "warm": asdict(median_estimate(warm)) if warm else None,
                    "shift": median(more) if more else None,
                }
            )
    return rows


def _by_plan(runs: Iterable[RunRecord]) -> dict[str, list[float]]:
    """Makespans by the plan that measured them."""
    found: dict[str, list[float]] = {}
    for record in runs:
        if (value := makespan(record)) is not None:
            found.setdefault(record.sample.plan_id, []).append(value)
    return found


def _share(cell: Cell) -> dict[str, Any] | None:
    """What of a makespan is not user time, as run and for longer steps.

    Computed shares keep the cell's median of makespan − user time and put every phase's user time at the given
    length; a length is `measured` only where the cell's own mean step is that long.
    """
    if cell.key.orchestrator == "noop":
        return None
    both = [
        (whole, r.breakdown.user)
        for r in cell.measured
        if (whole := makespan(r)) and r.breakdown is not None and not r.clock_errors
        if r.breakdown.user is not None
    ]
    if not both:
        return None
    count = len(phases(cell.key.workload, cell.key.steps))
    cost = median([whole - user for whole, user in both])
    step = median([user for _, user in both]) / count
    as_run = median([(whole - user) / whole for whole, user in both])
    entries = []
    for length, text in STEP_LENGTHS:
        near = abs(step - length) <= NEAR * length
        share = as_run if near else cost / (cost + count * length)
        entries.append({"length": text, "share": share, "basis": "measured" if near else "computed"})
    return {
        **_named(cell),
        "task": cell.key.task,
        "role": ("floor", "control", "orchestrator")[rank(cell)],
        "n": len(both),
        "besides_user": cost,
        "phases": count,
        "step_seconds": step,
        "as_run": as_run,
        "lengths": entries,
    }


def _curves(group: Group) -> list[dict[str, Any]]:
    """What a run costs before its first step and what each step adds, from chains of two lengths or more.

    First runs after a switch and later ones make no line together.
    """
    lines: dict[CellKey, list[Cell]] = {}
    for cell in group.cells:
        if cell.key.workload == "chain" and cell.key.orchestrator != "noop" and cell.measured:
            lines.setdefault(replace(cell.key, steps=0, first=cell.all_cold), []).append(cell)
    rows = []
    for key, members in sorted(lines.items()):
        points = [(cell.key.steps, value) for cell in members for value in cell.values(makespan)]
        if len({length for length, _ in points}) < 2:
            continue
        curve = cost_curve(points)
        rows.append(
            {
                "environment": group.name,
                "target": key.target,
                "task": key.task,
                "orchestrator": key.orchestrator,
                "configuration": key.configuration,
                "knob": members[0].knob,
                "parameters": dict(key.parameters),
                "all_cold": key.first,
                "in_one_plan": bool(frozenset.intersection(*(cell.plans for cell in members))),
                "fixed": {**asdict(curve.fixed), "caution": _caution(curve.fixed)},
                "marginal": {**asdict(curve.marginal), "caution": _caution(curve.marginal)},
                "lengths": [{"steps": length, "n": n} for length, n in curve.lengths],
                "points": [[length, round(value, 3)] for length, value in sorted(points)],
            }
        )
    return rows


def _caution(cost: Estimate) -> str:
    """What a line's cost that may be none is not to be taken for; nothing for one that is told apart from 0."""
    if cost.interval is not None and cost.interval.low <= 0 <= cost.interval.high:
        return "not told apart from 0: polling or chance dominates"
    return "below 0, which no cost is: polling or chance dominates" if cost.value < 0 else ""


def _outliers(cell: Cell) -> list[dict[str, Any]]:
    values = cell.values(makespan)
    if not values:
        return []
    middle = median(values)
    return [
        {**_named(cell), "run_id": cell.measured[i].run_id, "makespan": values[i], "median": middle}
        for i in outliers(values)
    ]


def _list(found: Sequence[Cell], of: Callable[[Cell], Sequence[RunRecord]]) -> list[dict[str, Any]]:
    return [
        {
            **_named(cell),
            "run_id": record.run_id,
            "status": record.status,
            "censored_at": makespan(record) if record.status == "timeout" else None,
            "reason": _reason(record),
        }
        for cell in found
        for record in of(cell)
    ]


def _reason(record: RunRecord) -> str:
    problems = record.verification.problems if record.verification else ()
    said = "; ".join(text for text in (record.reason, *problems) if text)
    if not said and record.status == "succeeded" and record.client is None:
        said = "no client clock is stored"
    return said or "no reason is stored"


def _named(cell: Cell) -> dict[str, Any]:
    return {
        "scenario": cell.scenario.key,
        "orchestrator": cell.key.orchestrator,
        "configuration": cell.key.configuration,
        "knob": cell.knob,
        "workload": cell.key.sized,
        "target": cell.key.target,
        "environment_sha256": cell.key.environment,
    }


def _period(records: Sequence[RunRecord]) -> dict[str, str] | None:
    stamps = sorted(record.recorded_at for record in records)
    return {"first": stamps[0], "last": stamps[-1]} if stamps else None
