"""What survives being killed on the real cluster: the harness, and Argo's controller."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Target
from adapters.targets import PLATFORM_DATABASE
from bench.faults.aftermath import aftermath
from bench.measure.observe import ClusterScene
from bench.results.store import Store
from tests.conformance.suite import Bench
from tests.kind.test_run import BENCH
from tests.unit.conftest import wait_for

pytestmark = [pytest.mark.kind, pytest.mark.usefixtures("cluster_is_up")]


@pytest.fixture(scope="module")
def argo() -> Bench:
    bench = Bench("argo", Target.KIND, "tuned")
    bench.runtime.deploy("tuned")
    return bench


def test_controller_killed_between_steps(argo: Bench) -> None:
    """The run goes on and ends well; no step runs twice."""
    handle = argo.submit("chain", steps=2, sleep_seconds=3)
    with argo.scene.watch(handle.run_id) as watcher:
        assert watcher.wait_for("terminated", 120)
        assert argo.scene.delete_servers(argo.runtime.components())
        ran = argo.finish(handle)
    assert ran.outcome.status == "succeeded", ran.outcome.reason
    assert [(row["index"], row["attempt"]) for row in ran.events("start")] == [(0, 1), (1, 1)]
    assert argo.driver.cancel(handle.run_id)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("words", "recovered", "attempts", "finishes", "left"),
    [
        ("--fault servers-deleted", True, 1, 1, ""),
        ("--fault oom", True, 2, 1, ""),
        ("--fault promote-killed-naive --retries shipped", False, 1, 0, "registry changed, service not"),
    ],
)
def test_what_bench_run_records_of_a_fault(
    words: str, recovered: bool, attempts: int, finishes: int, left: str, argo: Bench, tmp_path: Path
) -> None:
    """The controller killed during a step; a step out of memory; a promotion cut short that nobody tries again."""
    asked = ["run", "-o", "argo", "-c", "tuned", *words.split(), "--n", "1", "--jitter", "0"]
    done = subprocess.run(
        [*BENCH, *asked, "--results", str(tmp_path)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    (record,) = Store(tmp_path).records()
    found = aftermath(record)
    assert found is not None, record.reason
    assert (found.recovered, found.attempts, found.finishes, found.left) == (
        recovered,
        attempts,
        finishes,
        left,
    )


@pytest.mark.usefixtures("alone")
def test_a_database_that_crashes_recovers_in_its_own_container(argo: Bench) -> None:
    core = argo.scene.where.kube.core
    database = PLATFORM_DATABASE

    def container() -> Any:
        (pod,) = core.list_namespaced_pod(database.namespace, label_selector=database.selector).items
        return pod.status.container_statuses[0].container_id

    def recovered() -> bool:
        said = core.read_namespaced_pod_log(name, database.namespace)
        _, crashed, after = said.rpartition("all server processes terminated; reinitializing")
        return bool(crashed) and "database system is ready to accept connections" in after

    before = container()
    (name,) = argo.scene.crash([database])
    wait_for(recovered, "the database is back", 60)
    assert container() == before


@pytest.mark.usefixtures("alone")
def test_bench_killed_on_argo(argo: Bench, tmp_path: Path) -> None:
    """Killed at three seeded moments of a run: every sample is there once, and nothing is left on the cluster."""
    words = ["run", "-o", "argo", "-c", "tuned", "-w", "chain", "--steps", "1", "--no-controls"]
    words += ["--n", "5", "--jitter", "0", "--results", str(tmp_path)]
    source = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen([*BENCH, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # The moment is the test's input: anywhere from the start-up of `bench` to the end of a run.
            process.wait(timeout=source.uniform(3, 12))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            pytest.fail("five samples were measured before the last kill: nothing was interrupted")
    done = subprocess.run([*BENCH, *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path)
    records = store.records()
    assert store.verify() == []
    good = [record for record in records if record.status == "succeeded"]
    assert sorted(r.sample.index for r in good if not r.scenario.warm_up) == [0, 1, 2, 3, 4]
    assert {r.status for r in records} <= {"succeeded", "void"}
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    started = [row["run_id"] for row in journal if not row["ended"]]
    assert sorted(started) == sorted(record.run_id for record in records)
    kube = ClusterScene(Target.KIND).where.kube
    listed = kube.custom.list_namespaced_custom_object("argoproj.io", "v1alpha1", "bookstore-ml", "workflows")
    assert not {item["metadata"]["name"] for item in listed["items"]} & set(started)


@pytest.mark.usefixtures("alone")
def test_a_run_that_never_ends_is_cut_at_its_deadline(argo: Bench, tmp_path: Path) -> None:
    words = ["run", "-o", "argo", "-c", "tuned", "-w", "chain", "--steps", "1", "--no-controls", "--n", "1"]
    words += [
        "--no-warm-up",
        "--jitter",
        "0",
        "--deadline",
        "15",
        "--set",
        "sleep_seconds=600",
        "--results",
        str(tmp_path),
    ]
    done = subprocess.run([*BENCH, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (record,) = Store(tmp_path).records()
    assert record.status == "timeout"
    assert record.reason
