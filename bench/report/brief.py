"""`tables.md`: the comparison in short tables, each of one environment, every scenario where it was measured last."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.analysis import concurrency, recent, starts, upkeep
from bench.analysis.cells import (
    BUSY,
    FLOORS,
    ORCHESTRATORS,
    Cell,
    floor_of,
    load,
    makespan,
    overhead,
    ratio_to_floor,
    usual,
)
from bench.analysis.statistics import Estimate
from bench.faults import aftermath
from bench.faults.inject import FAULTS, STRUCK, WORK_SECONDS, Fault, struck_step
from bench.lineage import answers
from bench.report import caveats, coverage
from bench.report.capabilities import Conformance
from bench.report.markdown import escaped
from bench.report.numbers import figures, seconds

STEP_IS = {
    "pod": "one pod per step",
    "process": "one process per step",
    "call": "steps as calls in one process",
}
STRIKES = {
    "exception": "raises",
    "sigkill": "is killed",
    "oom": "runs out of memory",
    "pod-deleted": f"loses its pod ({WORK_SECONDS} s of work)",
    "promote-killed": "is killed between its two writes (safe order)",
    "promote-killed-naive": "is killed between its two writes (naive order)",
    "servers-deleted": f"works {WORK_SECONDS} s while all servers are deleted",
    "database-crashed": f"works {WORK_SECONDS} s while PostgreSQL crashes and recovers",
}
HAPPENINGS: dict[str, Callable[[Fault], bool]] = {
    "A step fails": lambda fault: fault.fails_a_step,
    "A promotion is cut short": lambda fault: bool(fault.step),
    "The orchestrator itself is struck": lambda fault: fault.takes is not None,
}
"""What a table of faults is of."""
FAILING = (
    "Runs that recovered; how long until the next attempt was at work, median; *busy* where "
    f"the median CPU pressure of these runs was above {BUSY:.0%}. Each column names the workload and the step at which "
    "the fault strikes.\n\n"
    "- Retries are *equal* (three attempts, no delay; Argo's pipeline alone allows `promote` in the naive order only "
    "one) or *as shipped* (no retry setting of ours).\n"
    "- The long waits are shipped settings, none of them tuned here: Airflow misses a killed process by its heartbeat "
    "(300 s), Dagster looks at its Jobs every 20 s, Argo and KFP look at a run again after 10 s (each adapter's "
    "README).\n"
    "- Of a promotion that was never done it is said what it left.\n"
    "- Servers that are deleted are started again by Kubernetes; the run was *over* so long after the "
    f"strike, the {WORK_SECONDS} s for which the step works in it."
)
KEPT = (
    "Its own servers, doing nothing, databases apart; n looks of a minute at a deployed orchestrator. "
    f"{caveats.UNLIKE} ([Which parts](report.md#what-it-takes-to-keep-and-to-use).)"
)
ASKED = (
    "Thirteen questions to each orchestrator's own store, after a run of the pipeline in which the first "
    f"attempt of `{STRUCK['pipeline']}` raised, retries equal. What counts is what the pipeline's own way of handing "
    "values on leaves there: nothing is added for the sake of lineage but in `assets`, `metadata` and `openlineage` "
    "(`docs/limits.md` says why that matters). Question 12 counts as answered where what was known of "
    "questions 1 to 4 is known still once the run's objects are gone, however little: the last column says how much."
)
FIRST_ONLY = (
    "Where k is n, every run was the first after a deployment or a switch of configuration. How much longer those take "
    "differs by orchestrator ([how much](report.md#first-run-after-a-switch))."
)
NEXT_TO = ": compare with the floor of this table alone"
AT_ONCE = (
    "From the first submission until the end of the last run, median; where not all runs of a sample "
    "succeeded before its deadline, how many did. A run that has a pod of its own beside its steps' pods (Prefect's, "
    "Dagster's) holds CPU while it waits: on a node that is full of such pods no step is scheduled "
    "([the samples](report.md#runs-at-once))."
)


WORDS = (
    "*Makespan*: from the submission to the end as seen from outside. *Overhead*: the time between the start of the "
    "first step's code and the end of the last step's in which no step's code ran; what comes before and after is in "
    "the makespan only. *× floor*: the makespan against that of the same steps with no orchestrator, run in the same "
    "block; the floor of `process` starts an interpreter for each step, so an executor that forks a warm one can beat "
    "it. *(k)*: k of the n runs were the first after a deployment or a switch of configuration. Square brackets: "
    "order-statistic interval of the median, with the level that n attains. A dash: no result is stored. Each table "
    "covers one target and one environment; what the newest environment lacks is shown in an older table below it. "
    "Tables are not comparable with each other."
)


def text(found: Sequence[Cell], verdicts: Sequence[Conformance] = ()) -> str:
    """All of it as Markdown."""
    sections = {
        "The pipeline": table(found),
        "When something fails": failing(found),
        "Lineage": lineage(found),
        "What it takes to keep": upkept(found),
        "Until the first step is at work": started(found),
        "Runs at once": at_once(found),
        "Not measured yet": unmeasured(found, verdicts),
    }
    parts = [f"## {title}\n\n{said}" for title, said in sections.items() if said]
    return (
        "\n\n".join(["# The comparison in short tables", WORDS, *(parts or ["No runs are stored."])]) + "\n"
    )


def table(found: Sequence[Cell]) -> str:
    """The pipeline, a table for each target and kind of step: median makespan, overhead and ratio to the floor."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in usual(found):
        key = cell.key
        if key.workload == "pipeline" and key.task in FLOORS and cell.measured and key.undisturbed:
            groups.setdefault((key.target, key.task), []).append(cell)
    now = {target: recent.newest(members) for target, members in _by_target(usual(found))}
    lines: list[str] = []
    first_only = False
    for (target, task), members in sorted(
        groups.items(), key=lambda g: (g[0][0], list(FLOORS).index(g[0][1]))
    ):
        for part in recent.parts(members, now[target]):
            floors = {floor.key: floor for cell in part.rows if (floor := floor_of(cell, part.around))}
            lines += [
                *([""] if lines else []),
                f"The pipeline's seven steps on **{target}**, {STEP_IS[task]} ({_said(part, NEXT_TO)}):",
                "",
                "| orchestrator | configuration | setting | n (cold) | makespan, median | overhead, median | × floor |",
                "|---|---|---|--:|--:|--:|--:|",
                *(_row(cell, part.around) for cell in (*part.rows, *floors.values())),
            ]
            first_only |= any(cell.all_cold for cell in part.rows)
    if first_only:
        lines += ["", FIRST_ONLY]
    return "\n".join(lines)


def unmeasured(found: Sequence[Cell], verdicts: Sequence[Conformance]) -> str:
    """What the harness can measure and no stored run has, with no known reason why not."""
    if not found:
        return ""
    gaps = coverage.table(found, ORCHESTRATORS, verdicts)["gaps"]
    return "\n".join(f"- {name}: {escaped('; '.join(where))}" for name, where in gaps.items() if where)


def failing(found: Sequence[Cell]) -> str:
    """What each does when something fails: tables for each target and kind of happening."""
    made: list[str] = []
    for target, everything in _by_target(usual(found)):
        now = recent.newest(everything)
        members = [cell for cell in everything if cell.key.fault]
        struck = [cell for cell in members if aftermath.struck(cell)]
        for happening, strikes in HAPPENINGS.items():
            of_kind = [cell for cell in struck if strikes(FAULTS[cell.key.fault])]
            made += [_failing(happening, target, part) for part in recent.parts(of_kind, now)]
            made += _refused(happening, target, [c for c in members if strikes(FAULTS[c.key.fault])])
    return "\n\n".join([FAILING, *made]) if made else ""


def lineage(found: Sequence[Cell]) -> str:
    """What each knows of a model later: a table for each target."""
    made = [
        _lineage(target, part)
        for target, everything in _by_target(usual(found))
        for part in recent.parts(
            [c for c in everything if c.key.fault and c.key.retries == "equal" and answers.columns([c])],
            recent.newest(everything),
        )
    ]
    return "\n\n".join([ASKED, *made]) if made else ""


def _by_target(found: Iterable[Cell]) -> list[tuple[str, list[Cell]]]:
    members: dict[str, list[Cell]] = {}
    for cell in found:
        members.setdefault(cell.key.target, []).append(cell)
    return sorted(members.items())


def _failing(happening: str, target: str, part: recent.Part) -> str:
    """A column for each fault of each work, a row for each setting and retry policy: one cell of runs in each."""
    rows: dict[tuple[str, ...], dict[tuple[str, int, str], str]] = {}
    for cell in part.rows:
        key = cell.key
        policy = "equal" if key.retries == "equal" else "as shipped"
        of = rows.setdefault((_shown(key.orchestrator, key.configuration), escaped(key.task), policy), {})
        of[key.workload, key.steps, key.fault] = _recovered(cell)
    columns = sorted(
        {column for each in rows.values() for column in each},
        key=lambda column: (*column[:2], list(FAULTS).index(column[2])),
    )
    heads = {
        (
            workload,
            steps,
            fault,
        ): f"{escaped(workload)}-{steps}, `{struck_step(fault, workload)}` {STRIKES[fault]}"
        for workload, steps, fault in columns
    }
    of_kind = dict(sorted(rows.items(), key=lambda row: (row[0][1], row[0])))
    head = ("orchestrator", "a step is", "retries")
    return _grid(
        f"{happening} on **{target}** ({_said(part)}):",
        head,
        heads,
        of_kind,
    )


def _refused(happening: str, target: str, of_kind: Iterable[Cell]) -> list[str]:
    """What cannot be there, and why."""
    why: dict[str, set[str]] = defaultdict(set)
    for cell in of_kind:
        if cell.refused:
            who = f"{_shown(cell.key.orchestrator, cell.key.configuration)} ({cell.key.fault})"
            why[cell.unsupported[-1].reason].add(who)
    said = "; ".join(
        f"{', '.join(sorted(whose))}: {escaped(reason)}" for reason, whose in sorted(why.items())
    )
    return [f"{happening} on **{target}**, unsupported: {said}."] if said else []


def recovered(cell: Cell) -> list[str]:
    """`3 of 3`, `1.9 s` until the next attempt was at work, when the run was over where the orchestrator was struck.

    Over the cell's struck runs; and what was left where a promotion was never done.
    """
    runs = aftermath.struck(cell)
    found = [after for _, after in runs]
    again, over = aftermath.middle(found, lambda after: after.resumed), aftermath.over(found)
    said = [f"{sum(after.recovered for after in found)} of {len(found)}"]
    said += [] if again is None else [seconds(again)]
    said += [f"over after {seconds(over)}"] if FAULTS[cell.key.fault].takes and over is not None else []
    return said + sorted({after.left for after in found if after.left})


def was_busy(cell: Cell) -> bool:
    """Whether something waited for a CPU most of the time of the cell's struck runs."""
    return bool(load([record for record, _ in aftermath.struck(cell)])["busy"])


def _recovered(cell: Cell) -> str:
    said = "; ".join(recovered(cell))
    return f"{said}, busy" if was_busy(cell) else said


def _lineage(target: str, part: recent.Part) -> str:
    """How many of the thirteen questions each answers, and of how little question 12 says that it lasts."""
    lines = [
        f"Lineage on **{target}** ({_said(part)}):",
        "",
        "| orchestrator | a step is | n | answered of 13 | wrong | facts it had and keeps (question 12) |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for cell in part.rows:
        (column,) = answers.columns([cell])
        values = (column["n"], column["answered"], column["wrong"])
        who = (_shown(cell.key.orchestrator, cell.key.configuration), escaped(cell.key.task))
        lines.append("| " + " | ".join((*who, *map(str, values), answers.kept(column))) + " |")
    return "\n".join(lines)


def upkept(found: Sequence[Cell]) -> str:
    """What each orchestrator's own servers use doing nothing, where it was watched last: a table for each target."""
    made: list[str] = []
    for target, everything in _by_target(usual(found)):
        watched = [c for c in everything if not c.key.fault and any(w.parts for w in upkeep.idles(c))]
        shown: set[str] = set()
        parts = recent.parts(watched, recent.newest(everything))
        made += [text for part in parts if (text := _upkept(target, part, shown))]
    return "\n\n".join([KEPT, *made]) if made else ""


def _upkept(target: str, part: recent.Part, shown: set[str]) -> str:
    """A row for each setting that is not in `shown` yet, and is from now on; empty where none is left."""
    rows = []
    for (_, *who), use in sorted(upkeep.idle_uses(part.rows).items()):
        if (name := _shown(*who)) not in shown:
            shown.add(name)
            rows.append(f"| {name} | {use.n} | {use.memory / 2**20:.0f} | {use.cores:.3f} |")
    if not rows:
        return ""
    head = ["| orchestrator | n | memory, MiB | CPU, cores |", "|---|--:|--:|--:|"]
    return "\n".join([f"Idle on **{target}** ({_said(part)}):", "", *head, *rows])


def started(found: Sequence[Cell]) -> str:
    """How long until the first step is at work, by what started the run: a table for each target."""
    made: list[str] = []
    for target, everything in _by_target(usual(found)):
        asked = {replace(cell.key, trigger="api") for cell in everything if cell.key.trigger != "api"}
        with_starts = [cell for cell in everything if replace(cell.key, trigger="api") in asked]
        made += [_starting(target, part) for part in recent.parts(with_starts, recent.newest(everything))]
    return "\n\n".join(made)


def _starting(target: str, part: recent.Part) -> str:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in starts.rows(part.rows):
        shown = _shown(row["orchestrator"], row["configuration"])
        of = rows.setdefault((shown, escaped(row["task"]), escaped(row["work"])), {})
        if row["start"]:
            within = f"{figures(row['shortest'])} to {figures(row['longest'])}, " if row["n"] > 1 else ""
            cold = ", cold" if row["cold"] else ""
            of[row["by"]] = f"{seconds(row['start']['value'])} ({within}n = {row['n']}{cold})"
    title = (
        f"On **{target}** ({_said(part)}; median, shortest to longest), by what starts the run: a request, a "
        "schedule (from the minute it was due), a data event:"
    )
    columns = dict(zip(starts.SHOWN, ("request", "schedule", "data event"), strict=True))
    return _grid(title, ("orchestrator", "a step is", "work"), columns, rows)


def at_once(found: Sequence[Cell]) -> str:
    """How long several runs at once take, or how many of them ended: a table for each target and piece of work."""
    made: list[str] = []
    for target, everything in _by_target(usual(found)):
        now = recent.newest(everything)
        works: dict[str, list[Cell]] = {}
        for cell in everything:
            if not cell.key.fault and not cell.key.first:
                works.setdefault(cell.key.sized, []).append(cell)
        for work, members in sorted(works.items()):
            several = [cell for cell in members if cell.key.concurrent > 1 and cell.answered]
            alone = [cell for cell in members if cell.key.concurrent == 1]
            made += [_at_once(target, work, part) for part in recent.parts(several, now, alone)]
    return "\n\n".join([AT_ONCE, *made]) if made else ""


def _at_once(target: str, work: str, part: recent.Part) -> str:
    """Several runs at once of this part's rows and of its floors, one alone beside them."""
    floors = [cell for cell in part.around if cell.key.orchestrator in FLOORS.values()]
    ours = {
        (cell.key.orchestrator, cell.key.configuration, cell.key.concurrent) for cell in (*part.rows, *floors)
    }
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for row in concurrency.rows(part.around):
        if (row["orchestrator"], row["configuration"], row["runs"]) in ours:
            name = _shown(row["orchestrator"], row["configuration"])
            of = rows.setdefault((name + " (floor)" * (name in FLOORS.values()), escaped(row["task"])), {})
            of[row["runs"]] = _all_took(row)
            if row["alone"]:
                of[1] = f"{seconds(row['alone']['value'])} (n = {row['alone']['n']})"
    counts = sorted({count for of in rows.values() for count in of})
    of_kind = dict(sorted(rows.items(), key=lambda row: (row[0][1], row[0])))
    columns = {count: "one alone" if count == 1 else f"{count} at once" for count in counts}
    return _grid(
        f"{escaped(work)} on **{target}** ({_said(part)}):", ("orchestrator", "a step is"), columns, of_kind
    )


def _all_took(row: Mapping[str, Any]) -> str:
    """`41.2 s (n = 2)`, and of samples in which some failed how many runs ended."""
    said = [f"{seconds(row['together']['value'])} (n = {row['n']})"] if row["together"] else []
    said += [f"{ended} of {row['runs']} succeeded" for ended in row["ended"]]
    return "; ".join(said)


def _said(part: recent.Part, compare: str = "") -> str:
    """When a table was measured, and that an older one has only what the newer has not."""
    said = [f"older, {part.days}" if part.below else part.days]
    said += [f"other {', '.join(part.differs)} than the newest pipelines{compare}"] if part.differs else []
    return "; ".join([*said, *(["only rows that the table above lacks"] if part.below else [])])


def _grid(
    title: str,
    head: Sequence[str],
    columns: Mapping[Any, str],
    rows: Mapping[Any, Mapping[Any, str]],
) -> str:
    """A table: who each row is of, under `head`, then its numbers, by column; a dash where it has none."""
    return "\n".join(
        [
            title,
            "",
            "| " + " | ".join((*head, *columns.values())) + " |",
            "|" + "---|" * len(head) + "--:|" * len(columns),
            *(
                "| " + " | ".join((*who, *(of.get(column, "—") for column in columns))) + " |"
                for who, of in rows.items()
            ),
        ]
    )


def _shown(name: str, configuration: str) -> str:
    return escaped(name if configuration == "default" else f"{name} {configuration}")


def _row(cell: Cell, members: Sequence[Cell]) -> str:
    ratio = ratio_to_floor(cell, floor_of(cell, members))
    name = cell.key.orchestrator
    values = (
        escaped(name)
        + (" (floor)" if name in FLOORS.values() else " (stand-in images)" if cell.stand_ins else ""),
        escaped(cell.key.configuration),
        escaped(cell.knob or "—"),
        f"{len(cell.measured)} ({cell.cold})" if cell.cold else str(len(cell.measured)),
        estimated(cell.estimate(makespan), " s"),
        estimated(cell.estimate(overhead), " s"),
        estimated(ratio.estimate, "") if ratio else "1" if name in FLOORS.values() else "—",
    )
    return "| " + " | ".join(values) + " |"


def estimated(estimate: Estimate | None, unit: str) -> str:
    """`9.53 s [9.1, 10.2] at 94%`, of a ratio two places and no unit; a dash where unknown."""
    if estimate is None:
        return "—"
    value = seconds(estimate.value) if unit else f"{estimate.value:.2f}"
    if estimate.interval is None:
        return value
    within = estimate.interval
    return f"{value} [{figures(within.low)}, {figures(within.high)}] at {within.level:.0%}"
