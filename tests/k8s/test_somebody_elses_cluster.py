"""A cluster of somebody else's, with two nodes or more: `make k8s-target CONTEXT=NAME`."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapters.base import Target
from adapters.workloads import PIPELINE
from bench.measure.observe import ClusterScene
from bench.results.records import RunRecord
from bench.results.store import Store


def measured(folder: Path, *words: str) -> list[RunRecord]:
    """What `bench run` with these words stored, without warm-ups and the control that runs nothing."""
    command = [sys.executable, "-m", "bench", "run", "--n", "1", "--target", "k8s", "--results", str(folder)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return [
        r for r in Store(folder).records() if r.scenario.orchestrator != "noop" and not r.scenario.warm_up
    ]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """A sample of the pipeline under Argo, under Prefect in one pod and with a pod per step, and of the floor."""
    return measured(tmp_path_factory.mktemp("results"), "-o", "argo,prefect", "-c", "default,pods")


def nodes(record: RunRecord) -> dict[str, str]:
    """Where each step of a run was, by the ledger."""
    return {row["step"]: row["node"] for row in record.ledger if row["event"] == "finish"}


def test_every_orchestrator_ran_the_pipeline_to_one_model(records: list[RunRecord]) -> None:
    assert {"argo", "prefect", "pods", "calls"} == {record.scenario.orchestrator for record in records}
    assert {record.status for record in records} == {"succeeded"}
    assert len({record.verification.model_sha256 for record in records if record.verification}) == 1
    assert all(set(nodes(record)) == set(PIPELINE) for record in records)


def test_steps_at_the_same_time_are_on_different_nodes(tmp_path: Path) -> None:
    """Steps in turn need not be: the scheduler sends each to the node with most room, on an idle cluster the same."""
    (record,) = measured(tmp_path, "-o", "argo", "-c", "default", "-w", "sweep", "--no-controls")
    rows = [row for row in record.ledger if row["event"] == "finish"]
    there = {node.metadata.name for node in ClusterScene(Target.K8S).where.kube.core.list_node().items}
    assert len({row["node"] for row in rows}) > 1
    assert {row["node"] for row in rows} <= there


def test_the_nodes_clocks_were_asked(records: list[RunRecord]) -> None:
    for record in records:
        told = record.environment.informational["node_clocks"]
        assert " ms" in told and "not measured" not in told


def test_every_pod_was_restricted(records: list[RunRecord]) -> None:
    pods = [pod for record in records for pod in record.pods]
    assert pods and all(pod.restricted for pod in pods)
