"""The harness's own hot paths: what a sample costs besides the run itself, and a step besides its work."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from adapters.base import Target
from bench.analysis.breakdown import breakdown
from bench.analysis.verify import verify
from bench.measure import plan as planning
from bench.measure.observe import Gauge
from bench.measure.runner import Runner
from bench.results.records import RunRecord, Scenario
from bench.results.store import PUBLISHED, Store
from core.ledger import SCHEMA, HttpLedger, new_id

SCENARIO = Scenario(
    orchestrator="noop", target="local", workload="pipeline", configuration="default", steps=7
)


def test_one_sample(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Journal, submit, wait, verify, breakdown, seal and append with fsync, of the no-op."""
    with Store.locked(tmp_path) as store:
        runner = Runner(store, Target.LOCAL)
        within: list[float] = []

        def one() -> None:
            plan = planning.make([SCENARIO], 1, seed=None)
            planning.save(tmp_path, plan)
            (record,) = runner.run(plan)
            assert record.status == "succeeded" and record.client is not None
            within.append(record.client.makespan_monotonic_ns / 1e9)

        benchmark.pedantic(one, rounds=50, iterations=1, warmup_rounds=5)
    benchmark.extra_info.update(within_seconds=within[5:])


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[str]:
    """The address of a ledger's collector, a process of its own on loopback as on the target `local`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "core.collector", "--port", "0", "--file", str(tmp_path / "ledger.jsonl")],
        env={**os.environ, "BENCH_TOKEN": "suite"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split("listening on ")[1].strip()
    process.kill()
    process.communicate()


def test_step(benchmark: BenchmarkFixture, collector: str) -> None:
    """What every step does for the harness's sake: it opens a client, says that it starts, and that it has ended."""
    common = {"schema": SCHEMA, "run_id": "suite", "step": "fibo", "index": None}
    client: list[float] = []
    besides: list[float] = []
    ledger: list[float] = []

    def one() -> None:
        begin = time.perf_counter()
        where = HttpLedger(collector, "suite")
        opened = time.perf_counter()
        event = {**common, "attempt_token": new_id(), "wall_ns": time.time_ns(), "data": {}}
        first = where.append({**event, "event": "start", "event_id": new_id(), "attempt": 0})
        second = where.append({**event, "event": "finish", "event_id": new_id(), "attempt": first.attempt})
        own = (first.append_ns + second.append_ns) / 1e9
        besides.append(time.perf_counter() - begin - own)
        client.append(opened - begin)
        ledger.append(own)

    benchmark.pedantic(one, rounds=100, iterations=1, warmup_rounds=5)
    benchmark.extra_info.update(
        besides_ledger_seconds=besides[5:], client_seconds=client[5:], ledger_seconds=ledger[5:]
    )


def test_after_a_run(benchmark: BenchmarkFixture) -> None:
    """What follows a run of seven steps, one of the published ones, before it is stored."""
    records = Store(PUBLISHED).records()
    record = next(r for r in records if r.scenario.key == "kind/argo/pipeline-7/default" and r.client)
    steps = record.scenario.steps
    times: list[float] = []

    def one() -> RunRecord:
        assert record.client is not None
        begin = time.perf_counter()
        found = record.model_copy(
            update={
                "verification": verify(record.scenario, record.ledger, record.timeline),
                "breakdown": breakdown(
                    record.scenario, record.client, record.timeline, record.pods, record.ledger, record.task
                ),
            }
        ).sealed()
        times.append((time.perf_counter() - begin) / steps)
        return found

    found = benchmark.pedantic(one, rounds=100, iterations=1, warmup_rounds=5)
    assert found.breakdown == record.breakdown
    benchmark.extra_info.update(steps=steps, step_seconds=times[5:])


def test_gauge(benchmark: BenchmarkFixture) -> None:
    """Reading the machine's pressure."""
    assert benchmark.pedantic(Gauge.read, rounds=50, iterations=10, warmup_rounds=5).load >= 0


@pytest.mark.parametrize("n", [1_000])
def test_load(benchmark: BenchmarkFixture, tmp_path: Path, n: int) -> None:
    """Opening a store of `n` records."""
    with Store.locked(tmp_path) as store:
        plan = planning.make([SCENARIO], n, seed=1)
        planning.save(tmp_path, plan)
        for _ in Runner(store, Target.LOCAL).run(plan):
            continue
    loaded = benchmark.pedantic(lambda: Store(tmp_path).records(), rounds=5, iterations=1, warmup_rounds=1)
    assert len(loaded) == n
