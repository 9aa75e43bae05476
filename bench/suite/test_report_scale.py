"""What 10,000 stored runs cost to load and to report: the command as typed, in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.results.records import canonical
from bench.results.store import FILE, PUBLISHED

RUNS = 10_000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published runs over and over, each time as further blocks of their plans, sealed anew."""
    rows = [json.loads(line) for line in (PUBLISHED / FILE).read_bytes().splitlines()]
    folder = tmp_path_factory.mktemp("many")
    with (folder / FILE).open("wb") as file:
        for number in range(RUNS):
            row = rows[number % len(rows)]
            again = number // len(rows)
            sample = {**row["sample"], "index": row["sample"]["index"] + 1000 * again}
            body = {**row, "run_id": f"{row['run_id']}-{again}", "sample": sample}
            del body["sha256"]
            body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
            file.write(canonical(body) + b"\n")
    return folder


def test_load_and_report(benchmark: BenchmarkFixture, results: Path, tmp_path: Path) -> None:
    """`bench report` from start to end: its CPU time and memory stand beside the time on the clock."""
    command = [sys.executable, "-m", "bench", "report", "--results", str(results), "--out", str(tmp_path)]
    used: list[tuple[float, float, int]] = []

    # Python keeps its bytecode, as it does where nobody tells it not to; the warm-up writes it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def one() -> None:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        used.append((usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024))

    benchmark.pedantic(one, rounds=3, iterations=1, warmup_rounds=1)
    assert json.loads((tmp_path / "report.json").read_text())["runs"] == RUNS
    user, system, memory = (list(each) for each in zip(*used[1:], strict=True))
    benchmark.extra_info.update(
        runs=RUNS,
        bytes=(results / FILE).stat().st_size,
        user_seconds=user,
        system_seconds=system,
        peak_rss_bytes=max(memory),
    )
