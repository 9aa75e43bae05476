"""A cluster of somebody else's, with two nodes or more: `make k8s-target CONTEXT=NAME`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.base import Target
from adapters.workloads import PIPELINE
from bench.observe import ClusterScene
from bench.records import RunRecord
from bench.store import Store


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """A sample each of Argo and Prefect with a pod per step, and of the floor."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "bench", "run", "-o", "argo,prefect", "-c", "default,pods", "--n", "1"]
    command += ["--target", "k8s", "--context", os.environ["BENCH_CONTEXT"], "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return [record for record in Store(Path(folder)).records() if record.scenario.orchestrator != "noop"]


def nodes(record: RunRecord) -> dict[str, str]:
    """Where each step of a run was, by the ledger."""
    return {row["step"]: row["node"] for row in record.ledger if row["event"] == "finish"}


def test_every_orchestrator_ran_the_pipeline_to_one_model(records: list[RunRecord]) -> None:
    assert {"argo", "prefect", "pods"} == {record.scenario.orchestrator for record in records}
    assert {record.status for record in records} == {"succeeded"}
    assert len({record.verification.model_sha256 for record in records if record.verification}) == 1
    assert all(set(nodes(record)) == set(PIPELINE) for record in records)


def test_steps_go_where_the_scheduler_sends_them(records: list[RunRecord]) -> None:
    assert any(len(set(nodes(record).values())) > 1 for record in records)
    core = ClusterScene(Target.K8S).where.kube.core
    there = {node.metadata.name for node in core.list_node().items}
    assert {name for record in records for name in nodes(record).values()} <= there


def test_every_pod_was_restricted(records: list[RunRecord]) -> None:
    assert all(pod.restricted for record in records for pod in record.pods)
