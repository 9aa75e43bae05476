"""`bench run` on the real cluster: what the issue's reader would check by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

import adapters
import cluster
from adapters.base import Target
from adapters.workloads import PIPELINE
from bench.analysis.cells import CONTROLS, FLOORS
from bench.measure.observe import ClusterScene
from bench.results.records import RunRecord
from bench.results.store import Store

pytestmark = [pytest.mark.kind, pytest.mark.usefixtures("cluster_is_up", "alone")]
BENCH = [sys.executable, "-m", "bench"]


def bench(
    *words: str, env: dict[str, str] | None = None, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user would."""
    done = subprocess.run(
        [*BENCH, *words], capture_output=True, text=True, timeout=1800, env={**os.environ, **(env or {})}
    )
    assert not check or done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def records(folder: Path) -> list[RunRecord]:
    """A sample each of argo shipped, argo tuned, the floors and the no-op, and two warm-ups; runs are kept.

    Argo is stopped first: what an earlier test left running would be no new deployment, so not warmed up.
    """
    adapters.load("argo").runtime(Target.KIND).scale(False)
    done = bench(
        *("run", "-o", "argo,processes,calls", "--n", "1", "--jitter", "2", "--idle", "15"),
        *("--keep", "--json", "--results", str(folder)),
    )
    answered = [RunRecord.model_validate(row) for row in json.loads(done.stdout)]
    assert answered == Store(folder).records()
    return answered


def of(records: Sequence[RunRecord], orchestrator: str) -> list[RunRecord]:
    """The samples of one orchestrator."""
    return [r for r in records if r.scenario.orchestrator == orchestrator and not r.scenario.warm_up]


def test_every_run_has_its_seven_steps(records: list[RunRecord]) -> None:
    for record in [run for name in ("argo", *FLOORS.values()) for run in of(records, name)]:
        assert record.status == "succeeded"
        finished = [row["step"] for row in record.ledger if row["event"] == "finish"]
        assert finished == list(PIPELINE)
        assert record.verification is not None and record.verification.promoted is True


def test_default_and_tuned_and_the_floors_are_there(records: list[RunRecord]) -> None:
    seen = {(r.scenario.orchestrator, r.scenario.configuration) for r in records}
    assert seen == {("argo", "default"), ("argo", "tuned"), *((name, "default") for name in CONTROLS)}
    assert all(r.task == task for task, name in FLOORS.items() for r in of(records, name))
    assert {r.knob for r in of(records, "argo")} == {
        "DEFAULT_REQUEUE_TIME=10s (shipped)",
        "DEFAULT_REQUEUE_TIME=1s",
    }


def test_each_deployment_of_argo_was_warmed_up_and_no_sample_is_its_first_run(
    records: list[RunRecord],
) -> None:
    first = [record for record in records if record.scenario.warm_up]
    assert {r.scenario.configuration for r in first} == {"default", "tuned"} and len(first) == 2
    assert all(r.cold and r.status == "succeeded" and r.scenario.orchestrator == "argo" for r in first)
    assert not any(record.cold for record in of(records, "argo"))


def test_breakdown_has_no_error(records: list[RunRecord]) -> None:
    for record in records:
        assert record.breakdown is not None
        assert record.breakdown.errors == (), record.run_id


def test_what_the_controller_used_is_recorded_idle_and_under_the_run(records: list[RunRecord]) -> None:
    for record in of(records, "argo"):
        assert record.resources is not None
        for window in (record.resources.idle, record.resources.run):
            assert window is not None
            (part,) = window.parts
            assert part.component == "workflow-controller"
            assert part.cpu_seconds > 0 and part.memory_bytes > 1 << 20
            assert window.api_requests is not None and window.api_requests > 0
        under = record.resources.run
        assert under is not None and under.api_writes is not None and under.api_writes >= len(PIPELINE)


def test_one_model_digest_and_the_service_returns_it(records: list[RunRecord]) -> None:
    digests = {r.verification.model_sha256 for r in records if r.verification and r.verification.model_sha256}
    assert len(digests) == 1
    served = ClusterScene(Target.KIND).served()
    assert served is not None
    assert {served["sha256"]} == digests


def test_ledger_rows_carry_what_kubernetes_reports(records: list[RunRecord]) -> None:
    for record in [run for name in ("argo", *FLOORS.values()) for run in of(records, name)]:
        pods = {pod.uid: pod for pod in record.pods}
        rows = [row for row in record.ledger if row["event"] in ("start", "finish", "effect")]
        assert len(pods) == (len(PIPELINE) if record.task == "pod" else 1)
        assert {row["pod_uid"] for row in rows} == set(pods)
        for row in rows:
            pod = pods[row["pod_uid"]]
            assert row["pod_name"] == pod.name
            assert pod.image_id.endswith(row["image_digest"]), (pod.image_id, row["image_digest"])


def test_every_pod_is_restricted_with_a_read_only_root(records: list[RunRecord]) -> None:
    pods = [pod for record in records for pod in record.pods]
    assert pods
    assert all(pod.restricted for pod in pods)
    assert all(pod.read_only_root for pod in pods)


def test_the_namespace_enforces_restricted() -> None:
    kube = ClusterScene(Target.KIND).where.kube
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "not-allowed"},
        "spec": {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": True}}]},
    }
    with pytest.raises(ApiException) as refused:
        kube.core.create_namespaced_pod("bookstore-ml", pod, dry_run="All")
    assert refused.value.status == 403
    assert "PodSecurity" in refused.value.body


@pytest.mark.parametrize("account", ["pipeline-argo", "pipeline-pods"])
def test_a_pipeline_cannot_read_secrets(records: list[RunRecord], account: str, tmp_path: Path) -> None:
    config = kubeconfig_of(account, tmp_path)
    core = client.CoreV1Api(config)
    for namespace in ("bench-system", "argo", "kube-system"):
        with pytest.raises(ApiException) as refused:
            core.list_namespaced_secret(namespace)
        assert refused.value.status == 403


def kubeconfig_of(account: str, folder: Path) -> Any:
    """A client that is the service account `account`; its kubeconfig is left in `folder`."""
    kube = ClusterScene(Target.KIND).where.kube
    token = kube.core.create_namespaced_service_account_token(
        account, "bookstore-ml", {"spec": {"expirationSeconds": 600}}
    ).status.token
    config = yaml.safe_load(cluster.info().kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    from kubernetes.config import new_client_from_config

    return new_client_from_config(config_file=str(path))


def test_another_seed_is_another_model(records: list[RunRecord], folder: Path) -> None:
    done = bench(
        *("run", "-o", "pods", "--n", "1", "--jitter", "0", "--no-controls", "--set", "seed=43"),
        *("--json", "--results", str(folder)),
    )
    (record,) = [RunRecord.model_validate(row) for row in json.loads(done.stdout)]
    assert record.verification is not None
    first = of(records, "pods")[0].verification
    assert first is not None
    assert record.verification.model_sha256 not in (None, first.model_sha256)


def test_a_missing_ratings_file_is_named_and_not_retried(records: list[RunRecord], tmp_path: Path) -> None:
    done = bench(
        *("run", "-o", "argo", "-c", "tuned", "--n", "1", "--jitter", "0", "--no-controls", "--no-warm-up"),
        *("--set", "dataset_uri=s3://artifacts/no-such.csv", "--results", str(tmp_path)),
        check=False,
    )
    assert done.returncode == 1
    assert "s3://artifacts/no-such.csv" in done.stdout
    (record,) = Store(tmp_path).records()
    assert record.status == "failed"
    assert [row["step"] for row in record.ledger if row["event"] == "start"] == ["ingest"]


def test_no_secret_in_a_result(records: list[RunRecord], folder: Path) -> None:
    kube = ClusterScene(Target.KIND).where.kube
    import base64

    secret = kube.core.read_namespaced_secret("pipeline-secrets", "bookstore-ml").data
    text = (folder / "runs.jsonl").read_text()
    for name, value in secret.items():
        assert base64.b64decode(value).decode() not in text, name


def test_a_namespace_without_rights(records: list[RunRecord], tmp_path: Path) -> None:
    kubeconfig_of("pipeline-pods", tmp_path)
    done = bench(
        *("run", "-o", "pods", "--n", "1", "--no-controls", "--results", str(tmp_path / "results")),
        env={"BENCH_KUBECONFIG": str(tmp_path / "kubeconfig")},
        check=False,
    )
    assert done.returncode == 1
    assert "not allowed" in done.stderr
    assert "next:" in done.stderr


def test_an_unreachable_cluster(tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.info().kubeconfig.read_text())
    for entry in config["clusters"]:
        entry["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    done = bench(
        *("run", "-o", "pods", "--n", "1", "--no-controls", "--results", str(tmp_path / "results")),
        env={"BENCH_KUBECONFIG": str(tmp_path / "kubeconfig")},
        check=False,
    )
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "bench cluster" in done.stderr
