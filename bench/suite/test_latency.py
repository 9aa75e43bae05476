"""End to end: one run of each scenario on the cluster, timed from submission to the terminal state seen.

    pytest bench/suite/test_latency.py --benchmark-json latency.json

Rounds and warm-up are set here, since `pedantic` would take one round and no warm-up. Rounds of one scenario run
back to back: for interleaved blocks, use `bench run`.
"""

import os
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import cluster
from adapters.base import Target
from bench.measure import plan as planning
from bench.measure.runner import Runner
from bench.results.records import RunRecord, Scenario
from bench.results.store import Store

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
WARMUP = int(os.environ.get("BENCH_WARMUP", "1"))
CASES = [
    ("noop", "default", "pipeline", 7),
    ("pods", "default", "pipeline", 7),
    ("argo", "default", "pipeline", 7),
    ("argo", "tuned", "pipeline", 7),
    ("pods", "default", "chain", 3),
    ("argo", "default", "chain", 3),
    ("argo", "tuned", "chain", 3),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One runner for all scenarios, on the real cluster."""
    cluster.up()
    with Store.locked(tmp_path_factory.mktemp("results")) as store:
        yield Runner(store, Target.KIND)


@pytest.mark.parametrize(("orchestrator", "configuration", "workload", "steps"), CASES)
def test_run(
    benchmark: BenchmarkFixture,
    runner: Runner,
    orchestrator: str,
    configuration: str,
    workload: str,
    steps: int,
) -> None:
    scenario = Scenario(
        orchestrator=orchestrator,
        target=Target.KIND.value,
        workload=workload,
        configuration=configuration,
        steps=steps,
    )
    records: list[RunRecord] = []

    def one() -> None:
        plan = planning.make([scenario], 1, seed=None)
        planning.save(runner.folder, plan)
        records.extend(runner.run(plan))

    benchmark.group = f"{workload}-{steps}"
    benchmark.pedantic(one, rounds=ROUNDS, iterations=1, warmup_rounds=WARMUP)
    assert [record.status for record in records] == ["succeeded"] * (ROUNDS + WARMUP)
    measured = records[WARMUP:]
    # What pytest-benchmark times includes reading the results; the runs' own figures stand beside it.
    benchmark.extra_info["makespan_seconds"] = [r.breakdown.makespan for r in measured if r.breakdown]
    benchmark.extra_info["overhead_seconds"] = [r.breakdown.overhead for r in measured if r.breakdown]
    benchmark.extra_info["knob"] = records[0].knob
    benchmark.extra_info["environment_sha256"] = records[0].environment.digest
