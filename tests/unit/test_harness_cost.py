"""What the harness costs is printed as it was stored, beside its limits, and nowhere where nothing is stored."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.base import BenchError
from bench.analysis.cells import cells
from bench.report import harness
from bench.report.build import build
from tests.unit.made_records import made, scenario

ROOT = Path(__file__).parents[2]


def timed(name: str, median: float, **series: list[float]) -> dict[str, Any]:
    stats = {
        "rounds": 9,
        "iterations": 1,
        "median": median,
        "q1": median / 2,
        "q3": median * 2,
        "data": [median],
    }
    return {"name": name, "stats": stats, "extra_info": {"steps": 7, **series}}


def body(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    cpu = {"brand_raw": "made up", "count": 2}
    return {
        "machine_info": {"node": "a-host", "cpu": cpu, "python_version": "3.11.7"},
        "datetime": "2026-09-21T12:00:00.123456+00:00",
        "benchmarks": list(benchmarks),
    }


def test_what_is_kept_names_no_host_and_has_every_series() -> None:
    found = harness.compact(
        [body(timed("test_gauge", 0.001)), body(timed("test_step", 0.02, ledger_seconds=[1.0, 2.0, 4.0]))]
    )
    assert "a-host" not in json.dumps(found)
    assert found["recorded_at"] == "2026-09-21T12:00:00Z"
    assert found["benchmarks"]["test_gauge"] == {
        "": {"n": 9, "iterations": 1, "median": 0.001, "q1": 0.0005, "q3": 0.002}
    }
    assert found["benchmarks"]["test_step"]["ledger_seconds"] == {"n": 3, "median": 2.0, "q1": 1.5, "q3": 3.0}


def test_each_figure_stands_beside_its_limit_and_says_where_it_exceeds_it() -> None:
    run = made(scenario("argo", "chain", 3))
    stored = harness.compact(
        [
            body(
                timed("test_one_sample", 0.006, within_seconds=[0.0002]),
                timed("test_step", 0.02, besides_ledger_seconds=[0.019], ledger_seconds=[0.9]),
                timed("test_after_a_run", 0.007, step_seconds=[0.001]),
                timed("test_load_and_report", 9.0, user_seconds=[4.2]),
                timed("test_unknown", 1.0),
            )
        ]
    )
    found = {
        row["says"]: row for row in harness.rows(stored, cells([run, made(scenario("noop", "chain", 3))]))
    }
    kept = [(row["median"], row["kept"]) for row in found.values()]
    assert kept == [
        *((0.006, None), (0.0002, True), (0.019, False), (0.9, None), (0.001, True)),
        *((9.0, False), (4.2, None)),
    ]
    assert "1% of a run; this is 0." in found["of that, within the makespan"]["limit"], (
        "noop is no run to be held against"
    )
    assert harness.rows(stored, [])[1]["limit"] == ""


def test_the_report_prints_what_is_stored_and_nothing_where_nothing_is(tmp_path: Path) -> None:
    records = [made(scenario("argo", "chain", 3), n) for n in range(2)]
    own = harness.compact([body(timed("test_step", 0.02, besides_ledger_seconds=[0.019]))])
    for name in ("first", "second"):
        build(records, tmp_path / name, own=own)
    files = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    text = files["report.md"].decode()
    assert "(`make harness`, 2026-09-21; 2 × made up, Python 3.11.7)" in text
    assert "less the next row | 1 | 19 ms | 19 ms to 19 ms | **exceeded**: 2 ms a step |" in text
    build(records, tmp_path / "none")
    assert "make harness" not in (tmp_path / "none" / "report.md").read_text()


def test_the_stored_file_is_read_from_beside_the_results(tmp_path: Path) -> None:
    assert harness.load(tmp_path) is None
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps(body(timed("test_gauge", 0.001))))
    words = [sys.executable, "-m", "bench.report.harness", str(raw), str(tmp_path / harness.FILE)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    found = harness.load(tmp_path)
    assert found == harness.compact([body(timed("test_gauge", 0.001))])
    (tmp_path / harness.FILE).write_text("{")
    with pytest.raises(BenchError, match="is not JSON"):
        harness.load(tmp_path)
