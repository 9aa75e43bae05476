"""What Argo offers beside the measured path: the shared volume, the shared template, the nightly run, the token."""

import os
import time
from collections.abc import Iterator

import httpx
import pytest

from adapters.argo.adapter import GROUP, VERSION, WORKFLOWS, ArgoDriver, ArgoRuntime
from adapters.argo.events import EVENT, event_of
from adapters.base import RunHandle, RunRequest, Status, Target
from adapters.podspec import RUN_LABEL
from adapters.targets import PIPELINE_NAMESPACE
from adapters.workloads import PIPELINE
from tests.conformance.suite import Bench

pytestmark = [pytest.mark.kind, pytest.mark.usefixtures("cluster_is_up")]


@pytest.fixture(scope="module")
def argo() -> Bench:
    bench = Bench("argo", Target.KIND, "tuned")
    bench.runtime.deploy("tuned")
    return bench


@pytest.fixture
def driver(argo: Bench) -> ArgoDriver:
    assert isinstance(argo.driver, ArgoDriver)
    return argo.driver


@pytest.fixture
def volume_run(driver: ArgoDriver, promoting: None) -> Iterator[RunHandle]:
    request = RunRequest(
        run_id=f"var-{os.urandom(4).hex()}",
        workload="pipeline",
        configuration="tuned",
        variant="volume",
        deadline_seconds=600,
    )
    yield driver.submit(request)
    driver.cancel(request.run_id)


def test_the_shared_volume_gives_the_same_model(
    argo: Bench, driver: ArgoDriver, volume_run: RunHandle
) -> None:
    outcome = driver.wait(volume_run, 600)
    assert outcome.status is Status.SUCCEEDED, outcome.reason
    finished = [row for row in argo.scene.ledger(volume_run.run_id) if row["event"] == "finish"]
    assert [row["step"] for row in finished] == list(PIPELINE)
    train = next(row for row in finished if row["step"] == "train")
    assert train["data"]["outputs"]["model_uri"].startswith("file:///shared/runs/")
    served = argo.scene.served()
    assert served is not None
    assert served["sha256"] == train["data"]["outputs"]["model_sha256"]


@pytest.fixture
def nightly_run(argo: Bench, promoting: None) -> Iterator[RunHandle]:
    """A run of the nightly definition at once, as `argo submit --from cronwf/recommender-nightly` makes it."""
    custom = argo.scene.where.kube.custom
    nightly = custom.get_namespaced_custom_object(
        GROUP, VERSION, PIPELINE_NAMESPACE, "cronworkflows", "recommender-nightly"
    )
    name = f"var-{os.urandom(4).hex()}"
    workflow = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Workflow",
        "metadata": {"name": name, "labels": {RUN_LABEL: name}},
        "spec": nightly["spec"]["workflowSpec"],
    }
    now = time.time_ns()
    custom.create_namespaced_custom_object(GROUP, VERSION, PIPELINE_NAMESPACE, "workflows", workflow)
    yield RunHandle(run_id=name, native_id=name, submit_ns=now, accepted_ns=now)
    argo.driver.cancel(name)


def test_the_outcome_of_a_nightly_run_is_recorded(argo: Bench, nightly_run: RunHandle) -> None:
    outcome = argo.driver.wait(nightly_run, 300)
    assert outcome.status is Status.SUCCEEDED, outcome.reason
    rows = argo.scene.ledger(nightly_run.run_id)
    assert [row["step"] for row in rows if row["event"] == "finish"] == [*PIPELINE, "outcome"]
    (said,) = [row for row in rows if row["event"] == "effect" and row["step"] == "outcome"]
    assert said["data"]["status"] == "Succeeded"


def test_the_schedule_and_the_shared_definition_are_there(argo: Bench) -> None:
    custom = argo.scene.where.kube.custom
    nightly = custom.get_namespaced_custom_object(
        GROUP, VERSION, PIPELINE_NAMESPACE, "cronworkflows", "recommender-nightly"
    )
    assert nightly["spec"]["schedules"] == ["0 2 * * *"]
    # The controller has accepted it: an invalid schedule or template reference is a condition here.
    bad = [c for c in nightly.get("status", {}).get("conditions") or [] if c["type"] == "SubmissionError"]
    assert bad == []
    shared = custom.get_cluster_custom_object(
        GROUP, VERSION, "clusterworkflowtemplates", "recommender-pipeline-shared"
    )
    assert shared["spec"]["entrypoint"] == "main"


def test_metrics_are_readable(argo: Bench) -> None:
    assert isinstance(argo.runtime, ArgoRuntime)
    assert "argo_workflows" in argo.runtime.metrics()


def test_a_run_right_after_its_template_is_made_finds_it(argo: Bench, driver: ArgoDriver) -> None:
    """The controller's copy of the templates is behind: of 40 such runs 9 were errors before `prepare` waited."""
    kube = argo.scene.where.kube
    listing = kube.custom.list_namespaced_custom_object
    for steps in range(101, 121):
        request = argo.request("chain", steps=steps)
        driver.prepare(request)
        workflow = driver.workflow(request)
        workflow["spec"]["suspend"] = True
        kube.custom.create_namespaced_custom_object(**WORKFLOWS, body=workflow)
        phases = (
            found.get("status", {}).get("phase")
            for _, found in kube.follow(listing, request.run_id, 60, **WORKFLOWS)
        )
        assert next(phase for phase in phases if phase) == "Running"
        assert driver.cancel(request.run_id)
        kube.custom.delete_namespaced_custom_object(
            **{**WORKFLOWS, "plural": "workflowtemplates"}, name=f"chain-{steps}"
        )


def test_an_event_without_the_token_is_refused(
    argo: Bench, driver: ArgoDriver, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--whole-conformance"):
        pytest.skip("the images of Argo Events are compiled at the first event: --whole-conformance")
    request = argo.request("chain", steps=1, fibo=13)
    driver.listen(request)
    event = event_of(driver.workflow(request))
    for headers in ({}, {"Authorization": "Bearer somebody"}):
        answer = httpx.post(f"{driver.events.url}/{EVENT}", json=event, headers=headers)
        assert answer.status_code == 401, answer.text
    handle = driver.publish(request, 60)
    ran = argo.finish(handle)
    assert ran.outcome.status is Status.SUCCEEDED, ran.outcome.reason
    (start,) = ran.events("start")
    assert start["wall_ns"] >= handle.submit_ns
    assert driver.cancel(request.run_id)
