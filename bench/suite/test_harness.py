"""The harness's own hot paths: what a sample costs besides the run itself."""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from adapters.base import Target
from bench import plan as planning
from bench.observe import Gauge
from bench.records import Scenario
from bench.runner import Runner
from bench.store import Store

SCENARIO = Scenario(
    orchestrator="noop", target="local", workload="pipeline", configuration="default", steps=7
)


def test_one_sample(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Journal, submit, wait, verify, breakdown, seal and append with fsync, of the no-op."""
    with Store.locked(tmp_path) as store:
        runner = Runner(store, Target.LOCAL)

        def one() -> None:
            plan = planning.make([SCENARIO], 1, seed=None, jitter_seconds=0.0)
            planning.save(tmp_path, plan)
            assert [record.status for record in runner.run(plan)] == ["succeeded"]

        benchmark.pedantic(one, rounds=50, iterations=1, warmup_rounds=5)


def test_gauge(benchmark: BenchmarkFixture) -> None:
    """Reading the machine's pressure."""
    assert benchmark.pedantic(Gauge.read, rounds=50, iterations=10, warmup_rounds=5).load >= 0


@pytest.mark.parametrize("n", [1_000])
def test_load(benchmark: BenchmarkFixture, tmp_path: Path, n: int) -> None:
    """Opening a store of `n` records."""
    with Store.locked(tmp_path) as store:
        plan = planning.make([SCENARIO], n, seed=1, jitter_seconds=0.0)
        planning.save(tmp_path, plan)
        for _ in Runner(store, Target.LOCAL).run(plan):
            continue
    loaded = benchmark.pedantic(lambda: Store(tmp_path).records(), rounds=5, iterations=1, warmup_rounds=1)
    assert len(loaded) == n
