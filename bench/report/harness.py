"""What the harness itself costs, from the timed suite: `make harness` stores it, the report sets it beside the limits.

python -m bench.report.harness PYTEST_BENCHMARK.json… docs/results/harness.json
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import BenchError
from bench.analysis.cells import Cell, makespan
from bench.errors import run_cli
from bench.report.numbers import seconds

FILE = "harness.json"
RUN_SHARE = 0.01
"""Of any run, at most: what of the harness's own is within its makespan, besides the steps."""
STEP_SECONDS = 0.002
"""Of any step, at most, besides what the ledger takes to have its entries on disk."""
REPORT_SECONDS = 5.0
"""Of `bench report` over 10,000 runs, by the clock, at most."""


@dataclass(frozen=True)
class Figure:
    """One row: which benchmark, which series of it (the time itself where empty), and what the limit is of."""

    test: str
    series: str
    says: str
    limit: str = ""


FIGURES = (
    Figure(
        "test_one_sample",
        "",
        "a sample of `noop`, before and after the run too: journal, submit, wait, verify, seal, append with fsync",
    ),
    Figure("test_one_sample", "within_seconds", "of that, within the makespan", "run"),
    Figure(
        "test_step",
        "besides_ledger_seconds",
        "a step: a client for the ledger, two entries sent and answered for, less the next row",
        "step",
    ),
    Figure("test_step", "ledger_seconds", "the ledger's own: lock, write and fsync of both entries"),
    Figure("test_step", "client_seconds", "of a step, the client alone"),
    Figure(
        "test_after_a_run",
        "step_seconds",
        "after a run, for each of its steps: verify, break down, seal",
        "step",
    ),
    Figure("test_gauge", "", "a look at the machine's pressure, two a run"),
    Figure("test_load[1000]", "", "1,000 stored records of `noop`, opened and read"),
    Figure("test_load_and_report", "", "`bench report` over 10,000 runs, by the clock", "report"),
    Figure("test_load_and_report", "user_seconds", "the same, user CPU time"),
    Figure("test_load_and_report", "system_seconds", "the same, system CPU time"),
)


def compact(bodies: Sequence[Mapping[str, Any]], note: str = "") -> dict[str, Any]:
    """What is kept of pytest-benchmark's JSON, of one file or several from one machine.

    When, on what, what else there is to `note`, and by benchmark and series n, median and quartiles. A list of
    numbers in a benchmark's `extra_info` is a series of its own.
    """
    machine = bodies[0]["machine_info"]
    kept: dict[str, dict[str, Any]] = {}
    for each in (each for body in bodies for each in body["benchmarks"]):
        stats = each["stats"]
        kept[each["name"]] = {
            "": {
                "n": stats["rounds"],
                "median": stats["median"],
                "q1": stats["q1"],
                "q3": stats["q3"],
                "iterations": stats["iterations"],
            },
            **{
                name: _series(values)
                for name, values in each["extra_info"].items()
                if isinstance(values, list)
            },
        }
    return {
        "recorded_at": max(body["datetime"] for body in bodies)[:19] + "Z",
        "cpu": machine["cpu"]["brand_raw"],
        "cores": machine["cpu"]["count"],
        "python": machine["python_version"],
        "note": note,
        "benchmarks": kept,
    }


def _series(values: Sequence[float]) -> dict[str, Any]:
    q1, middle, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    return {"n": len(values), "median": float(middle), "q1": float(q1), "q3": float(q3)}


def load(folder: Path) -> dict[str, Any] | None:
    """What is stored beside the results; None where nothing is.

    Raises:
        BenchError: if it cannot be read.
    """
    path = folder / FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BenchError(f"{path} is not JSON: {error}", f"make harness, or remove {path}") from error
    return found


def rows(stored: Mapping[str, Any] | None, found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each figure that is stored, in seconds, with the limit in words and whether it keeps to it."""
    if stored is None:
        return []
    runs = [value for cell in found if cell.key.task != "nothing" for value in cell.values(makespan)]
    shortest = min(runs, default=None)
    made = []
    for figure in FIGURES:
        value = stored["benchmarks"].get(figure.test, {}).get(figure.series)
        if value is not None:
            allowed, text = _limit(figure.limit, value["median"], shortest)
            kept = None if allowed is None else value["median"] <= allowed
            made.append({"says": figure.says, **value, "limit": text, "kept": kept})
    return made


def _limit(kind: str, value: float, shortest: float | None) -> tuple[float | None, str]:
    """Seconds allowed, None where there is no limit, and in words."""
    if kind == "step":
        return STEP_SECONDS, f"{STEP_SECONDS * 1000:g} ms a step"
    if kind == "report":
        return REPORT_SECONDS, f"{REPORT_SECONDS:g} s"
    if kind == "run" and shortest is not None:
        share = f"{value / shortest:.2%} of the shortest stored run, {seconds(shortest)}"
        return RUN_SHARE * shortest, f"{RUN_SHARE:.0%} of a run; this is {share}"
    return None, ""


def shown(value: float) -> str:
    """`6.82 ms` below a second, as elsewhere above."""
    return f"{value * 1000:.3g} ms" if value < 1 else seconds(value)


def main() -> None:
    """Write the last file from those before it; `$NOTE` is what the reader should know of the conditions."""
    *sources, target = map(Path, sys.argv[1:])
    bodies = [json.loads(source.read_text(encoding="utf-8")) for source in sources]
    text = json.dumps(compact(bodies, os.environ.get("NOTE", "")), indent=1, sort_keys=True)
    target.write_text(text + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    run_cli(main)
