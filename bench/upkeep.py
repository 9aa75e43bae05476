"""What an orchestrator costs to keep and to use, from stored looks at its own parts: CPU, memory, requests, pods."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from bench.cells import Cell
from bench.records import RunRecord, Window
from bench.statistics import median

Seen = TypeVar("Seen", RunRecord, Window)


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """One for each cell whose runs were looked at. CPU in cores and seconds, memory in bytes, the rest in counts."""
    return [row for cell in found if (row := _row(cell)) is not None]


def _row(cell: Cell) -> dict[str, Any] | None:
    looked = [record for record in cell.measured if record.resources is not None]
    runs = [r.resources.run for r in looked if r.resources is not None and r.resources.run is not None]
    if not runs:
        return None
    parts = {part.component for window in runs for part in window.parts}
    idle = idles(cell)
    return {
        "target": cell.key.target,
        **cell.who,
        "work": f"{cell.key.workload}-{cell.key.steps}",
        "n": len(runs),
        "parts": sorted(parts),
        "idle_n": len(idle),
        "idle_cores": _middle(_whole(idle, parts), cores),
        "idle_memory": _middle(_whole(idle, parts), memory),
        "idle_requests": _middle(idle, requests_per_second),
        "run_cores": _middle(_whole(runs, parts), cores),
        "run_memory": _middle(_whole(runs, parts), memory),
        "requests": _middle(runs, lambda window: window.api_requests),
        "writes": _middle(runs, lambda window: window.api_writes),
        "pods": _middle(looked, lambda record: len(record.pods) or None),
        "processes": _middle(looked, processes),
    }


def idles(cell: Cell) -> list[Window]:
    """What was seen of it idle: once for each deployment, which the runs after it share."""
    seen = (r.resources.idle for r in cell.measured if r.resources is not None)
    return list({window.model_dump_json(): window for window in seen if window is not None}.values())


def _whole(windows: Iterable[Window], parts: set[str]) -> list[Window]:
    """Those in which every part was read: the counter of one that ran briefly may not have been renewed."""
    return [window for window in windows if {part.component for part in window.parts} == parts]


def cores(window: Window) -> float | None:
    """CPU time of all parts per second; None where none was read."""
    return sum(part.cpu_seconds / part.seconds for part in window.parts) if window.parts else None


def memory(window: Window) -> float | None:
    """Bytes of all parts; None where none was read."""
    return sum(part.memory_bytes for part in window.parts) if window.parts else None


def processes(record: RunRecord) -> float | None:
    """How many processes ran the steps, by what each wrote to the ledger; None where no step ran."""
    return len({(event["host"], event["process_start_ns"]) for event in record.ledger}) or None


def requests_per_second(window: Window) -> float | None:
    """Of anybody to the Kubernetes API; None without a cluster."""
    return None if window.api_requests is None else window.api_requests / window.seconds


def _middle(values: Iterable[Seen], of: Callable[[Seen], float | None]) -> float | None:
    known = [value for each in values if (value := of(each)) is not None]
    return median(known) if known else None
