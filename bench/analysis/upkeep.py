"""What an orchestrator costs to keep and to use, from stored looks at its own parts: CPU, memory, requests, pods."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from bench.analysis.cells import Cell
from bench.analysis.statistics import added, median
from bench.results.records import RunRecord, Usage, Window

Seen = TypeVar("Seen", RunRecord, Window)


DATABASE = "database"
"""Role of a part that others may share: its use is told apart from an orchestrator's own."""
SAME_PROCESS_NS = 5_000_000
"""Starts nearer than this are of one process: Linux counts them in ticks of 10 ms, read to microseconds."""


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell whose runs were looked at. CPU in cores and seconds, memory in bytes, the rest in counts.

    A sum is of windows in which every part was read that any run of the configuration had.
    """
    parts = _parts(found)
    return [_row(cell, parts.get(_of(cell), set())) for cell in found if _runs(cell)]


def idle(found: Sequence[Cell]) -> dict[tuple[str, str, str], list[tuple[RunRecord, list[Usage]]]]:
    """By target, orchestrator and configuration: a run beside each idle window, and its own servers in that window.

    Databases are no servers of its own. Windows in which not all of the others were read are left out; one that
    several runs share, of whatever work, is there once.
    """
    parts = _parts(found)
    seen: dict[tuple[str, str, str], dict[str, tuple[RunRecord, list[Usage]]]] = {}
    for cell in found:
        own = {name for name, role in parts.get(_of(cell), set()) if role != DATABASE}
        for record in cell.measured:
            window = record.resources.idle if record.resources else None
            if window and (read := _read(window, own)):
                seen.setdefault(_of(cell), {}).setdefault(window.model_dump_json(), (record, read))
    return {who: list(windows.values()) for who, windows in seen.items()}


class IdleUse(NamedTuple):
    """Medians over `n` idle windows: CPU cores, bytes, requests a second to the Kubernetes API (None without one)."""

    n: int
    cores: float
    memory: float
    requests: float | None


def idle_uses(found: Sequence[Cell]) -> dict[tuple[str, str, str], IdleUse]:
    """Of what `idle` gives."""
    return {
        who: IdleUse(
            n=len(seen),
            cores=median([cores(read) for _, read in seen]),
            memory=median([memory(read) for _, read in seen]),
            requests=_middle(
                (record.resources.idle for record, _ in seen if record.resources and record.resources.idle),
                requests_per_second,
            ),
        )
        for who, seen in idle(found).items()
    }


def _parts(found: Sequence[Cell]) -> dict[tuple[str, str, str], set[tuple[str, str]]]:
    """Name and role of every part that any run of a configuration had."""
    parts: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for cell in found:
        for window in (*_runs(cell), *idles(cell)):
            parts.setdefault(_of(cell), set()).update((part.component, part.role) for part in window.parts)
    return parts


def _of(cell: Cell) -> tuple[str, str, str]:
    return cell.key.target, cell.key.orchestrator, cell.key.configuration


def _runs(cell: Cell) -> list[Window]:
    return [r.resources.run for r in cell.measured if r.resources is not None and r.resources.run is not None]


def _row(cell: Cell, parts: set[tuple[str, str]]) -> dict[str, Any]:
    runs, idle = _runs(cell), idles(cell)
    looked = [record for record in cell.measured if record.resources is not None]
    own = {name for name, role in parts if role != DATABASE}
    database = {name for name, role in parts if role == DATABASE}
    return {
        "target": cell.key.target,
        **cell.who,
        "work": cell.key.sized,
        "n": len(runs),
        "parts": sorted(own),
        "idle_n": len(idle),
        "idle_cores": _sum(idle, own, cores),
        "idle_memory": _sum(idle, own, memory),
        "idle_requests": _middle(idle, requests_per_second),
        "run_cores": _sum(runs, own, cores),
        "run_memory": _sum(runs, own, memory),
        "database": sorted(database),
        "database_cores": _sum(runs, database, cores),
        "database_memory": _sum(runs, database, memory),
        "requests": _middle(runs, lambda window: window.api_requests),
        "writes": _middle(runs, lambda window: window.api_writes),
        "pods": _middle(looked, lambda record: len(record.pods) or None),
        "processes": _middle(looked, processes),
    }


def idles(cell: Cell) -> list[Window]:
    """What was seen of it idle: once for each deployment, which the runs after it share."""
    seen = (r.resources.idle for r in cell.measured if r.resources is not None)
    return list({window.model_dump_json(): window for window in seen if window is not None}.values())


def _sum(windows: Iterable[Window], names: set[str], of: Callable[[Iterable[Usage]], float]) -> float | None:
    """The median over the windows in which all of these parts were read; None where there is none.

    The counter of a part that ran briefly may not have been renewed.
    """
    sums = _sums(windows, names, of)
    return median(sums) if sums else None


def _sums(windows: Iterable[Window], names: set[str], of: Callable[[Iterable[Usage]], float]) -> list[float]:
    return [of(read) for window in windows if (read := _read(window, names))]


def _read(window: Window, names: set[str]) -> list[Usage]:
    """These parts as they were read in it; none where one of them was not."""
    read = [part for part in window.parts if part.component in names]
    return read if len(read) == len(names) else []


def cores(parts: Iterable[Usage]) -> float:
    """Their CPU time per second."""
    return added(part.cpu_seconds / part.seconds for part in parts)


def memory(parts: Iterable[Usage]) -> float:
    """Their bytes."""
    return sum(part.memory_bytes for part in parts)


def processes(record: RunRecord) -> float | None:
    """How many processes ran the steps, by what each wrote to the ledger; None where no step ran."""
    starts = sorted({(event["host"], event["process_start_ns"]) for event in record.ledger})
    others = (
        host != before or start - since > SAME_PROCESS_NS
        for (before, since), (host, start) in pairwise(starts)
    )
    return 1 + sum(others) if starts else None


def requests_per_second(window: Window) -> float | None:
    """Of anybody to the Kubernetes API; None without a cluster."""
    return None if window.api_requests is None else window.api_requests / window.seconds


def _middle(values: Iterable[Seen], of: Callable[[Seen], float | None]) -> float | None:
    known = [value for each in values if (value := of(each)) is not None]
    return median(known) if known else None
