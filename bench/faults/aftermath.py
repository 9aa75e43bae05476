"""What stored runs show of the faults that struck them: recovered or not, attempts, and how long it took."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.analysis import recent
from bench.analysis.cells import Cell, load
from bench.analysis.statistics import median, proportion
from bench.analysis.verify import did_its_work
from bench.faults import inject
from bench.results.records import RunRecord


@dataclass(frozen=True)
class Aftermath:
    """What one run shows of its fault. Seconds are from the strike; None where it did not come to that."""

    recovered: bool
    """The run succeeded, the struck step finished, and so did all after it: the model promoted is the one served."""
    attempts: int
    """Starts of the struck step in the ledger."""
    claimed: int | None
    """Attempts of it in the orchestrator's own timeline; None where it has none."""
    finishes: int
    """How often the struck step was done to its end: more than once is work done twice."""
    noticed: float | None
    """Until the end of the struck attempt by the orchestrator's own clock, as coarse as that is.

    None where its record has fewer attempts than the ledger: the struck one is not in it, or is one with the next.
    None, too, where there was one attempt and it went on to its end: there was nothing to notice.
    """
    resumed: float | None
    """Until the next attempt's process was at work (ledger)."""
    done: float | None
    """Until the harness saw the run's terminal state; None where it was cut at its deadline, which is no end."""
    resolution: float | None
    """Of the orchestrator's clock, seconds."""
    left: str = ""
    """What a promotion that was never done left, by the writes that it announced; empty where it is not of one."""


def aftermath(record: RunRecord) -> Aftermath | None:
    """What the stored clocks say of a run with a fault.

    None where it never struck, the run is void for another reason, or the clocks go backwards.
    """
    at = inject.struck_ns(record)
    if at is None or not record.scenario.fault or record.status == "void" or record.backwards:
        return None
    step = inject.struck_step(record.scenario.fault, record.scenario.workload)
    starts = [e for e in record.ledger if e["event"] == "start" and e["step"] == step]
    finishes = [e for e in record.ledger if e["event"] == "finish" and e["step"] == step]
    again = min((e["wall_ns"] for e in starts if e["wall_ns"] > at), default=None)
    timeline = record.timeline
    claimed = [a for a in timeline.attempts if a.step == step] if timeline else []
    unharmed = len(starts) == len(finishes) == 1
    told = claimed if len(claimed) >= len(starts) and not unharmed else []
    ended = min((a.finished for a in told if a.finished is not None), default=None)
    return Aftermath(
        recovered=record.status == "succeeded" and bool(finishes) and did_its_work(record.verification),
        attempts=len(starts),
        claimed=len(claimed) if timeline else None,
        finishes=len(finishes),
        noticed=None if ended is None else ended - at / 1e9,
        resumed=None if again is None else (again - at) / 1e9,
        done=(record.client.first_terminal_ns - at) / 1e9
        if record.client and record.status != "timeout"
        else None,
        resolution=timeline.resolution_seconds if timeline else None,
        left="" if finishes else _left(record),
    )


def _left(record: RunRecord) -> str:
    """Which of promote's writes were begun where it never came to its end."""
    announced = {
        event["data"]["effect"]
        for event in record.ledger
        if event["event"] == "effect" and event["step"] == inject.PROMOTE
    }
    if announced & {"serving.reload", "serving.swap"}:
        return "registry and service begun"
    if "registry.champion" in announced:
        return "registry changed, service not"
    return "intent noted, nothing changed" if "registry.intent" in announced else ""


def struck(cell: Cell) -> list[tuple[RunRecord, Aftermath]]:
    """Every run of the cell that was struck, and what it shows."""
    return [(record, found) for record in cell.records if (found := aftermath(record)) is not None]


def middle(found: Iterable[Aftermath], of: Callable[[Aftermath], float | None]) -> float | None:
    """The median of a number over the runs that have it; None where none has."""
    values = [value for each in found if (value := of(each)) is not None]
    return median(values) if values else None


def over(found: Sequence[Aftermath]) -> float | None:
    """`done` of the runs that recovered, the median; where none did, of those that failed: never of both together."""
    return middle([each for each in found if each.recovered] or found, lambda after: after.done)


def counts(values: Iterable[int | None]) -> str:
    """`2`, or `1 to 3` where the runs differ; a dash where nothing is known."""
    known = sorted({value for value in values if value is not None})
    return "—" if not known else str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def verdict(found: Sequence[Aftermath]) -> str:
    """How often the struck step's work was done, over these runs and by the ledger; empty without runs.

    *Exactly once*, *at least once* (more than once in some run, never less), *at most once* (never more), or
    *neither*; in brackets what was seen, and what a promotion that was never done left.
    """
    if not found:
        return ""
    least, most = min(each.finishes for each in found), max(each.finishes for each in found)
    seen = []
    if least == 0:
        undone = [each for each in found if not each.finishes]
        left = ", ".join(sorted({each.left for each in undone if each.left}))
        seen.append(f"not done in {len(undone)} of {len(found)}" + (f": {left}" if left else ""))
    if most > 1:
        seen.append(f"{most} times in {sum(each.finishes == most for each in found)} of {len(found)}")
    name = {(True, True): "exactly once", (True, False): "at least once", (False, True): "at most once"}.get(
        (least > 0, most < 2), "neither"
    )
    return name + (f" ({'; '.join(seen)})" if seen else "")


def row(cell: Cell) -> dict[str, Any]:
    """A cell as a row of the retry table. `recovered` is a count with its exact binomial interval, or None."""
    runs = struck(cell)
    found = [after for _, after in runs]
    return {
        **cell.who,
        "n": len(found),
        "recovered": sum(after.recovered for after in found),
        "interval": asdict(proportion(sum(a.recovered for a in found), len(found))) if found else None,
        "attempts": counts(after.attempts for after in found),
        "claimed": counts(after.claimed for after in found),
        "verdict": verdict(found),
        "noticed": middle(found, lambda after: after.noticed),
        "resumed": middle(found, lambda after: after.resumed),
        "done": over(found),
        "resolution": middle(found, lambda after: after.resolution),
        **load([record for record, _ in runs]),
        "void": len(cell.void),
        "unsupported": cell.unsupported[0].reason if cell.unsupported else None,
    }


def tables(found: Sequence[Cell], located: Callable[[Cell], dict[str, Any]]) -> list[dict[str, Any]]:
    """A table for each target, fault, struck work, policy and environment; `located` says where raw rows are."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in found:
        key = cell.key
        group = (key.target, key.fault, key.workload, key.steps, key.retries, key.variant, key.parameters)
        groups.setdefault(group, []).append(cell)
    made = []
    for _, members in sorted(groups.items()):
        parts = recent.environments(members)
        for facts, cells in parts:
            key = cells[0].key
            work = (key.sized, *(f"{name}={value}" for name, value in key.parameters))
            made.append(
                {
                    "target": key.target,
                    "fault": key.fault,
                    "title": inject.FAULTS[key.fault].title,
                    "workload": ", ".join(work),
                    "step": inject.struck_step(key.fault, key.workload),
                    "retries": key.retries,
                    "policy": inject.POLICIES[key.retries],
                    "days": recent.days(cells) if len(parts) > 1 else None,
                    "differs": list(recent.differing(parts[0][0], facts)),
                    "rows": [{**row(cell), "raw": located(cell)} for cell in cells],
                }
            )
    return made
