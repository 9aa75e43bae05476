"""The comparison in one table a target: latency, what happens when something fails, lineage and upkeep, side by side.

A column for each orchestrator and kind of step, as shipped; each entry is of the cell that was measured last, with how
many runs it rests on and where their raw rows are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapters.workloads import PIPELINE
from bench.analysis import concurrency, recent, upkeep
from bench.analysis.against import compared
from bench.analysis.cells import (
    CONTROLS,
    FLOORS,
    TARGETS,
    Cell,
    floor_of,
    makespan,
    ratio_to_floor,
    refusals,
    usual,
)
from bench.analysis.statistics import median
from bench.faults import aftermath
from bench.faults.inject import FAULTS, WORK_SECONDS
from bench.lineage import answers, questions
from bench.report import brief, listing
from bench.report.markdown import escaped
from bench.report.numbers import seconds
from bench.results.records import RetryPolicy

AT_ONCE = 16
"""Runs that are submitted together."""
OLDER = "†"
LATENCY, FAILURE, LINEAGE, UPKEEP = "Latency", "Failure", "Lineage", "Upkeep"
NOTES = (
    "A column is one way to run steps, its settings as shipped. Compare columns whose heads name the same kind of"
    f" step. {OLDER}: measured in another environment than the table's pipelines (other code or versions, perhaps "
    "another machine); what has no mark may still be of another day.",
    "So many runs (*n*), or pairs with the floor in one block, are behind an entry; the link leads to all stored "
    "runs of that scenario, void ones too. Square brackets: order-statistic interval of the median with the level "
    "that n attains. *3 of 3* leaves room for a true rate of 29 %, *1 of 1* for one of 3 %. A dash: no result is "
    "stored.",
    "*Makespan*: from the submission to the end, as seen from outside. *With no orchestrator*: the same pods, "
    "processes or calls one after another (on a cluster the last two in one pod); for a process that floor starts an "
    "interpreter each time, so that an executor that forks a warm one can be below 1. "
    f"*{AT_ONCE} runs*: cut after 300 s; a run with a pod of its own beside its steps' (Dagster's, Prefect's "
    "`pods`) holds CPU while it waits, and then two cores have no "
    "room for a step. What a pod requests is ours.",
    "Failures strike a run of one step, or a pipeline's `promote`: how many recovered, and how long until the "
    "next attempt was at work, median; where servers or database are struck, when the run was over, with the "
    f"{WORK_SECONDS} s that its step works. Three attempts, no delay of ours, unless it says *as shipped*; Argo's "
    "`promote` alone has one attempt in the order registry, service, which is our setting. The waits are shipped "
    "settings, which no run here tuned: Airflow's heartbeat timeout (300 s), Dagster's look at its Jobs (20 s), "
    "Argo's and KFP's next look at a run (10 s), Prefect's worker (10 s) and `run_deployment` (5 s). A pod that "
    "comes back as shipped, too, was started again outside of any retry policy. *busy*: something waited for a "
    "CPU more than half of the time.",
    "Lineage: asked of each one's own store, after a pipeline whose first attempt of `train` raised. Nothing is "
    "added to a pipeline for its sake but in the configurations named.",
)
STRIKES = {
    "exception": "a step raises",
    "sigkill": "a step's process is killed",
    "oom": "a step runs out of memory",
    "pod-deleted": "a step's pod is deleted",
    "promote-killed": "`promote` is killed between its writes: intent, service, registry",
    "promote-killed-naive": "`promote` is killed between its writes: registry, service",
    "servers-deleted": "all its servers are deleted while a step works",
    "database-crashed": "its PostgreSQL crashes and recovers while a step works",
}
"""Faults, and what they are called in a row."""
FAILS_A_STEP = tuple(name for name, fault in FAULTS.items() if fault.fails_a_step)
"""Those that are shown as shipped, too."""


class Who(NamedTuple):
    """Whose column it is."""

    orchestrator: str
    configuration: str
    task: str


class View:
    """The cells of a target, by whose they are, and which of them are of another environment than its pipelines."""

    def __init__(self, among: Sequence[Cell]) -> None:
        self.among = among
        self._own: dict[Who, list[Cell]] = {}
        for cell in among:
            who = Who(cell.key.orchestrator, cell.key.configuration, cell.key.task)
            self._own.setdefault(who, []).append(cell)
        self.columns = self._columns()
        controls = [cell for cell in among if cell.key.orchestrator in CONTROLS]
        ours = [who for who in self.columns if who.orchestrator not in CONTROLS]
        self.newest = recent.newest([*controls, *(c for who in ours for c in self.own(who))])

    def own(self, who: Who) -> list[Cell]:
        """Its cells."""
        return self._own.get(who, [])

    def others(self, who: Who) -> list[Who]:
        """The other configurations of the same orchestrator and kind of step."""
        return sorted(
            other
            for other in self._own
            if (other.orchestrator, other.task) == (who.orchestrator, who.task) and other != who
        )

    def pipeline(self, who: Who) -> Cell | None:
        """The pipelines of it that were measured last."""
        return max((c for c in self.own(who) if _is_measured_pipeline(c)), key=recent.last, default=None)

    def older(self, who: Who, cell: Cell) -> bool:
        """Whether a cell was measured elsewhere than the newest pipelines, or with another version than its own."""
        own = self.pipeline(who)
        apart = set(recent.differing(own.blocking, cell.blocking)) if own else set()
        return bool(self.newest.differing(cell) or apart - self.newest.facts.keys())

    def _columns(self) -> list[Who]:
        """What is compared, and after each kind of step its floor where it was measured."""
        found = {
            Who(cell.key.orchestrator, cell.key.configuration, cell.key.task)
            for cell in compared(filter(_is_measured_pipeline, self.among))
        }
        floors = {Who(FLOORS[task], "default", task) for task in {who.task for who in found}}
        found |= {who for who in floors if self.pipeline(who)}
        return sorted(
            found, key=lambda who: (list(FLOORS).index(who.task), who.orchestrator in CONTROLS, who)
        )


def _is_measured_pipeline(cell: Cell) -> bool:
    return cell.is_plain_pipeline and bool(cell.measured)


@dataclass(frozen=True)
class Entry:
    """What is stored of a criterion, in Markdown: `linked` is how much of `cell` it rests on, the rest surrounds it."""

    linked: str
    cell: Cell
    before: str = ""
    after: str = ""


Read = Callable[[Who, View], Entry | None]
"""What the cells of a target say of one; None where nothing is stored."""


@dataclass(frozen=True)
class Criterion:
    """One row."""

    group: str
    asks: str
    read: Read
    fault: str = ""
    retries: RetryPolicy = "equal"


def _pipeline(who: Who, view: View) -> Entry | None:
    cell = view.pipeline(who)
    found = cell.estimate(makespan) if cell else None
    if cell is None or found is None:
        return None
    failed = f"{len(cell.failed)} of {cell.ended} failed" if cell.failed else ""
    return Entry(_n(found.n), cell, before=brief.estimated(found, " s"), after=failed)


def _ratio(who: Who, view: View) -> Entry | None:
    if (cell := view.pipeline(who)) is None:
        return None
    code = cell.blocking.get("code")
    floor = floor_of(cell, [other for other in view.among if other.blocking.get("code") == code])
    if cell is floor:
        return Entry(_n(len(cell.measured)), cell, before="1")
    if (ratio := ratio_to_floor(cell, floor)) is None:
        return None
    rests_on = (
        f"{ratio.estimate.n} pairs" if ratio.paired else f"{_n(ratio.estimate.n)}, not in the same blocks"
    )
    return Entry(rests_on, cell, before=brief.estimated(ratio.estimate, ""))


def _at_once(who: Who, view: View) -> Entry | None:
    cell = _last(
        cell
        for cell in view.own(who)
        if (cell.key.concurrent, cell.key.sized) == (AT_ONCE, "chain-1") and cell.answered
    )
    if cell is None:
        return None
    (row,) = concurrency.rows([cell])
    said = [seconds(row["together"]["value"])] if row["together"] else []
    said += [f"{ended} of {row['runs']} succeeded" for ended in row["ended"]]
    return Entry(_n(cell.answered), cell, before="; ".join(said))


def _struck(fault: str, retries: RetryPolicy) -> Criterion:
    work = "pipeline" if FAULTS[fault].step else "chain"

    def read(who: Who, view: View) -> Entry | None:
        cell = _last(
            cell
            for cell in view.own(who)
            if (cell.key.fault, cell.key.retries, cell.key.workload) == (fault, retries, work)
            and aftermath.struck(cell)
        )
        if cell is None:
            return None
        counted, *said = brief.recovered(cell)
        said += ["busy"] if brief.was_busy(cell) else []
        return Entry(counted, cell, after=", ".join(said))

    asks = STRIKES[fault] if retries == "equal" else f"as shipped, {STRIKES[fault]}"
    return Criterion(FAILURE, asks, read, fault, retries)


def _answered(who: Who, view: View) -> Entry | None:
    if (asked := _asked(who, view)) is None:
        return None
    cell, column = asked
    more = [
        f"{_score(other[1])} with {escaped(each.configuration)}"
        + (f" {OLDER}" if view.older(who, other[0]) else "")
        for each in view.others(who)
        if (other := _asked(each, view)) and other[1]["answered"] > column["answered"]
    ]
    said = _score(column) + (f" ({'; '.join(more)})" if more else "")
    return Entry(_n(column["n"]), cell, before=said)


def _score(column: Mapping[str, Any]) -> str:
    return str(column["answered"]) + (f", {column['wrong']} wrong" if column["wrong"] else "")


def _kept(who: Who, view: View) -> Entry | None:
    if (asked := _asked(who, view)) is None:
        return None
    cell, column = asked
    return Entry(_n(column["n"]), cell, before=answers.kept(column))


def _asked(who: Who, view: View) -> tuple[Cell, dict[str, Any]] | None:
    """The runs whose store was asked last, and what it answered."""
    cell = _last(
        cell
        for cell in view.own(who)
        if cell.key.fault and cell.key.retries == "equal" and answers.asked_alike(cell)
    )
    return (cell, answers.columns([cell])[0]) if cell else None


def _idle(who: Who, view: View) -> Entry | None:
    """Over all windows of one environment, whatever was run beside them; the link leads to the newest one's rows."""
    watched = [cell for cell in view.own(who) if not cell.key.fault and upkeep.idles(cell)]
    for _, cells in recent.environments(watched):
        for seen in upkeep.idle(cells).values():
            newest = max(
                (record for record, _ in seen), key=lambda record: (record.recorded_at, record.run_id)
            )
            held = median([upkeep.memory(parts) for _, parts in seen])
            cell = next(cell for cell in cells if newest in cell.measured)
            return Entry(_n(len(seen)), cell, before=f"{held / 2**20:.0f} MiB")
    return None


CRITERIA = (
    Criterion(LATENCY, f"the pipeline's {len(PIPELINE)} steps: makespan", _pipeline),
    Criterion(LATENCY, "the same, in times what its steps take with no orchestrator", _ratio),
    Criterion(LATENCY, f"{AT_ONCE} runs of one step at once: until all are over", _at_once),
    *(_struck(fault, "equal") for fault in STRIKES),
    *(_struck(fault, "shipped") for fault in FAILS_A_STEP),
    Criterion(LINEAGE, f"of {len(questions.ASKS)} questions about a model its own store answers", _answered),
    Criterion(
        LINEAGE,
        "facts of its data, code, parameters and metrics that it had and keeps when the run's objects are deleted",
        _kept,
    ),
    Criterion(UPKEEP, "memory of its servers, idle, databases apart", _idle),
)


def tables(found: Sequence[Cell], located: Callable[[Cell], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for each target on which an orchestrator's pipeline was measured; `located` says where raw rows are."""
    everything = usual(found)
    views = {t: View([cell for cell in everything if cell.key.target == t]) for t in TARGETS}
    return [_table(target, view, located) for target, view in views.items() if view.columns]


def _table(target: str, view: View, located: Callable[[Cell], Mapping[str, Any]]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for criterion in CRITERIA:
        entries = [_entry(who, criterion, view, located) for who in view.columns]
        if any(entry["linked"] or entry["reason"] for entry in entries):
            rows.append({"group": criterion.group, "asks": criterion.asks, "entries": entries})
    shown = [cell for who in view.columns for cell in view.own(who) if cell in view.newest.cells]
    return {
        "target": target,
        "days": recent.period(r for c in shown if c.is_plain_pipeline for r in c.measured),
        "columns": [
            {**who._asdict(), "stand_ins": bool((cell := view.pipeline(who)) and cell.stand_ins)}
            for who in view.columns
        ],
        "rows": rows,
        "notes": sorted({e["reason"] for row in rows for e in row["entries"] if e["reason"]}),
        "absent": _absent(view),
    }


def _absent(view: View) -> dict[str, str]:
    """Orchestrators without a column, and why, where that is stored."""
    there = {who.orchestrator for who in view.columns}
    why = {name: reason for (_, name), reason in refusals(view.among).items()}
    for cell in view.among:
        if cell.is_plain_pipeline and cell.failed and cell.key.orchestrator not in CONTROLS:
            why.setdefault(cell.key.orchestrator, f"{len(cell.failed)} of {cell.ended} pipelines failed")
    return {name: reason for name, reason in sorted(why.items()) if name not in there}


def _entry(
    who: Who, criterion: Criterion, view: View, located: Callable[[Cell], Mapping[str, Any]]
) -> dict[str, Any]:
    """As plain data; of what is not there `linked` is empty, and the reason is given where that is stored."""
    entry = criterion.read(who, view)
    refused = max(
        (
            cell
            for cell in view.own(who)
            if criterion.fault and cell.refused
            if (cell.key.fault, cell.key.retries) == (criterion.fault, criterion.retries)
        ),
        key=recent.last,
        default=None,
    )
    why = f"{who.orchestrator}: {refused.unsupported[-1].reason}" if refused and not entry else None
    return {
        "control": who.orchestrator in CONTROLS,
        "before": entry.before if entry else "",
        "linked": entry.linked if entry else "",
        "after": entry.after if entry else "",
        "raw": dict(located(entry.cell)) if entry else None,
        "older": bool(entry and view.older(who, entry.cell)),
        "reason": why,
    }


def markdown(table: Mapping[str, Any], folder: str = "") -> str:
    """A table as Markdown, its notes below; `folder` is where the raw rows are, seen from the file that it is for."""
    heads = [f"{_head(column)}: a {escaped(column['task'])}" for column in table["columns"]]
    lines = [_line("", *heads), "|---|" + "--:|" * len(heads)]
    group = ""
    for row in table["rows"]:
        if row["group"] != group:
            group = row["group"]
            lines.append(_line(f"**{group}**", *("" for _ in heads)))
        lines.append(_line(row["asks"], *(_shown(entry, table["notes"], folder) for entry in row["entries"])))
    notes = [f"{number}. {note}" for number, note in enumerate(map(escaped, table["notes"]), 1)]
    absent = [
        f"Not in this table: {escaped(name)} ({escaped(reason)})." for name, reason in table["absent"].items()
    ]
    return "\n\n".join("\n".join(part) for part in (lines, notes, absent) if part)


def _head(column: Mapping[str, Any]) -> str:
    if column["orchestrator"] in CONTROLS:
        return "no orchestrator"
    name = column["orchestrator"]
    name += f" {column['configuration']}" if column["configuration"] != "default" else ""
    return escaped(name) + (" (stand-in images)" if column["stand_ins"] else "")


def _line(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def _shown(entry: Mapping[str, Any], notes: Sequence[str], folder: str) -> str:
    if entry["reason"]:
        return f"cannot ({notes.index(entry['reason']) + 1})"
    if not (raw := entry["raw"]):
        return "" if entry["control"] else "—"
    link = listing.link(raw, entry["linked"], folder)
    said = ", ".join(filter(None, (entry["before"], link, entry["after"])))
    return f"{said} {OLDER}" if entry["older"] else said


def _last(found: Iterable[Cell]) -> Cell | None:
    """The cell of which a run ended last, well or not."""
    return max(found, key=_ended, default=None)


def _ended(cell: Cell) -> str:
    ended = [r.recorded_at for r in cell.records if r.status not in ("void", "unsupported")]
    return max(ended, default="")


def _n(count: int) -> str:
    return f"n = {count}"
