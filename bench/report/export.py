"""Stored records in other tools' formats: JSON lines, CSV, Parquet, and what `pytest-benchmark compare` reads."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.analysis.cells import PART_ORDER, Cell, cells, handoff, makespan, overhead, part_seconds
from bench.analysis.statistics import median
from bench.results.records import RunRecord, canonical

FORMATS = ("jsonl", "csv", "parquet", "pytest-benchmark")
COLUMNS = (
    "run_id",
    "plan_id",
    "index",
    "number",
    "target",
    "orchestrator",
    "workload",
    "steps",
    "configuration",
    "variant",
    "parameters",
    "fault",
    "observer",
    "concurrent",
    "trigger",
    "retries",
    "warm_up",
    "knob",
    "task",
    "status",
    "reason",
    "cold",
    "makespan_seconds",
    "overhead_seconds",
    "user_seconds",
    "handoff_median_seconds",
    *(f"part_{name}_seconds" for name in PART_ORDER),
    "breakdown_errors",
    "environment_sha256",
    "recorded_at",
    "sha256",
)


def as_jsonl(records: Sequence[RunRecord]) -> str:
    """One record a line, as stored."""
    return "".join(canonical(r.model_dump(mode="json")).decode() + "\n" for r in records)


def as_csv(records: Sequence[RunRecord]) -> str:
    """One row a run; seconds; empty where there is no number. Merged parts are left to the JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(record) for record in records)
    return out.getvalue()


def as_parquet(records: Sequence[RunRecord]) -> bytes:
    """The rows of the CSV as one Parquet table with types; null where there is no number."""
    import polars

    numbers = [name for name in COLUMNS if name.endswith("_seconds")]
    rows = [{name: None if value == "" else value for name, value in _row(each).items()} for each in records]
    table = polars.DataFrame(
        rows, schema_overrides=dict.fromkeys(numbers, polars.Float64), infer_schema_length=None
    )
    out = io.BytesIO()
    table.select(COLUMNS).write_parquet(out)
    return out.getvalue()


def _row(record: RunRecord) -> dict[str, Any]:
    scenario, found = record.scenario, record.breakdown
    parts = part_seconds(record)
    return {
        "run_id": record.run_id,
        "plan_id": record.sample.plan_id,
        "index": record.sample.index,
        "number": record.sample.number,
        "target": scenario.target,
        "orchestrator": scenario.orchestrator,
        "workload": scenario.workload,
        "steps": scenario.steps,
        "configuration": scenario.configuration,
        "variant": scenario.variant,
        "parameters": json.dumps(scenario.parameters, sort_keys=True),
        "fault": scenario.fault,
        "observer": scenario.observer,
        "concurrent": scenario.concurrent,
        "trigger": scenario.trigger,
        "retries": scenario.retries,
        "warm_up": scenario.warm_up,
        "knob": record.knob or "",
        "task": record.task,
        "status": record.status,
        "reason": record.reason,
        "cold": record.cold,
        "makespan_seconds": _blank(makespan(record)),
        "overhead_seconds": _blank(overhead(record)),
        "user_seconds": _blank(found.user if found else None),
        "handoff_median_seconds": _blank(handoff(record)),
        **{f"part_{name}_seconds": _blank(parts.get(name)) for name in PART_ORDER},
        "breakdown_errors": "; ".join(record.clock_errors),
        "environment_sha256": record.environment.digest,
        "recorded_at": record.recorded_at,
        "sha256": record.sha256,
    }


def _blank(value: float | None) -> float | str:
    return "" if value is None else value


def as_pytest_benchmark(records: Sequence[RunRecord]) -> str:
    """A benchmark for each cell, its measured makespans as rounds: `pytest-benchmark compare FILE`."""
    found = [cell for cell in cells(records) if cell.measured and cell.key.undisturbed]
    stamps = sorted(record.recorded_at for cell in found for record in cell.measured)
    body = {
        "machine_info": _machine(found),
        "commit_info": {"id": "unversioned", "time": None, "dirty": False, "branch": "(unknown)"},
        "benchmarks": [_benchmark(cell) for cell in found],
        "datetime": stamps[-1] if stamps else "1970-01-01T00:00:00Z",
        "version": "5.0.0",
    }
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _machine(found: Sequence[Cell]) -> dict[str, Any]:
    """Where all cells ran alike, those facts; pytest-benchmark shows and compares `cpu` and `system`."""
    blocking: Mapping[str, str] = found[0].blocking if found else {}
    shared = {
        name: value
        for name, value in blocking.items()
        if all(cell.blocking.get(name) == value for cell in found)
    }
    return {**shared, "node": "", "cpu": {"brand_raw": shared.get("cpu", "unknown")}}


def _benchmark(cell: Cell) -> dict[str, Any]:
    key = cell.key
    name = cell.scenario.key
    digest = key.environment[:8]
    return {
        "group": f"{key.target}/{key.sized}",
        "name": name,
        "fullname": f"bench::{name}[{digest}]",
        "params": {"orchestrator": key.orchestrator, "configuration": key.configuration},
        "param": digest,
        "extra_info": {
            "knob": cell.knob,
            "task": key.task,
            "failed": len(cell.failed),
            "void": len(cell.void),
            "environment_sha256": key.environment,
            "run_ids": [record.run_id for record in cell.measured],
        },
        "options": {
            "disable_gc": False,
            "timer": "monotonic",
            "min_rounds": len(cell.measured),
            "warmup": False,
        },
        "stats": _stats(cell.values(makespan)),
    }


def _stats(data: Sequence[float]) -> dict[str, Any]:
    """The fields of pytest-benchmark's `Stats`, seconds."""
    values = np.sort(np.asarray(data))
    # pytest-benchmark takes the medians of the halves, or the mean of two ways to halve an odd number.
    if len(values) % 2 and len(values) > 1:
        half = len(values) // 2
        q1 = float(np.median(values[:half]) + np.median(values[: half + 1])) / 2
        q3 = float(np.median(values[half:]) + np.median(values[half + 1 :])) / 2
    else:
        half = max(1, len(values) // 2)
        q1, q3 = float(np.median(values[:half])), float(np.median(values[-half:]))
    iqr = q3 - q1
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    inside = values[(values >= q1 - 1.5 * iqr) & (values <= q3 + 1.5 * iqr)]
    beyond_deviation = int(np.sum(np.abs(values - mean) > deviation))
    beyond_iqr = len(values) - len(inside)
    total = float(values.sum())
    return {
        "min": float(values[0]),
        "max": float(values[-1]),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(values),
        "median": median(data),
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond_iqr,
        "stddev_outliers": beyond_deviation,
        "outliers": f"{beyond_deviation};{beyond_iqr}",
        "ld15iqr": float(inside[0]),
        "hd15iqr": float(inside[-1]),
        "ops": len(values) / total if total else 0.0,
        "total": total,
        "iterations": 1,
        "data": list(data),
    }
