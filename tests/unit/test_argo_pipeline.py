"""Argo's manifests: the golden files, and what every step's template must have."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.argo import pipeline
from adapters.argo.adapter import ArgoDriver, cron_workflow, pod_name, suspended, timeline_of
from adapters.base import BenchError, RunRequest
from adapters.workloads import PIPELINE, SWEEP

IMAGE = "bench.local/step@sha256:" + "0" * 64
GOLDEN = Path(pipeline.__file__).parent / "golden"
CHAIN = RunRequest(run_id="r1", workload="chain", configuration="default", steps=3)
AS_SHIPPED = CHAIN.model_copy(update={"retries_as_shipped": True})
DOCUMENTS = [
    *pipeline.templates(IMAGE),
    *(pipeline.plain(pipeline.definition(IMAGE, request)) for request in (CHAIN, AS_SHIPPED)),
]


def _name(document: dict[str, Any]) -> str:
    return f"{document['kind'].lower()}-{document['metadata']['name']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_golden(document: dict[str, Any]) -> None:
    """`UPDATE_GOLDEN=1 pytest tests/unit/test_argo_pipeline.py` writes them anew; the diff is for review."""
    path = GOLDEN / f"{_name(document)}.yaml"
    text = yaml.safe_dump(document, sort_keys=False, width=110)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == {_name(document) for document in DOCUMENTS}


def _containers() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{_name(document)}/{template['name']}", template)
        for document in DOCUMENTS
        for template in document["spec"].get("templates", [])
        if "container" in template
    ]


@pytest.mark.parametrize("template", [t for _, t in _containers()], ids=[n for n, _ in _containers()])
def test_every_step_is_restricted_and_pinned(template: dict[str, Any]) -> None:
    container = template["container"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "@sha256:" in container["image"]
    assert container["command"] == ["step"]
    assert {entry["name"] for entry in container["env"]} >= {"POD_UID", "IMAGE_DIGEST"}


def test_every_step_is_retried_unless_the_retries_are_as_shipped() -> None:
    for name, template in _containers():
        assert ("retryStrategy" in template) is ("as-shipped" not in name), name


@pytest.mark.parametrize("workload", ["pipeline", "chain", "fanout", "sweep"])
def test_as_shipped_is_the_same_definition_without_retries(workload: str) -> None:
    request = RunRequest(run_id="r1", workload=workload, configuration="default")
    ours = pipeline.plain(pipeline.definition(IMAGE, request))
    shipped = pipeline.plain(
        pipeline.definition(IMAGE, request.model_copy(update={"retries_as_shipped": True}))
    )
    assert shipped["metadata"]["name"] == f"{ours['metadata']['name']}-as-shipped"
    for template in ours["spec"]["templates"]:
        template.pop("retryStrategy", None)
    assert shipped["spec"] == ours["spec"]


def _main(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    templates = {template["name"]: template for template in document["spec"]["templates"]}
    return {task["name"]: task for task in templates["main"]["dag"]["tasks"]}


def _document(name: str) -> dict[str, Any]:
    return next(document for document in DOCUMENTS if document["metadata"]["name"] == name)


def test_pipeline_is_seven_steps_with_the_gate_as_when() -> None:
    tasks = _main(_document("recommender-pipeline"))
    assert tuple(tasks) == PIPELINE
    assert tasks["register"]["when"] == "{{tasks.eval.outputs.parameters.passed}} == true"


def test_approval_stands_before_promote() -> None:
    document = _document("recommender-pipeline-approve")
    tasks = _main(document)
    assert tasks["approve"]["depends"] == "register.Succeeded"
    assert tasks["promote"]["depends"] == "approve.Succeeded"
    assert "onExit" not in document["spec"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "recommender-pipeline"),
        ({"variant": "volume"}, "recommender-pipeline-volume"),
        ({"approval": True}, "recommender-pipeline-approve"),
        ({"variant": "volume", "approval": True}, "recommender-pipeline-volume-approve"),
        ({"retries_as_shipped": True}, "recommender-pipeline-as-shipped"),
        ({"workload": "chain", "variant": "volume"}, "chain-7"),
        ({"workload": "sweep"}, "sweep"),
    ],
)
def test_a_run_refers_to_the_template_it_asks_for(asked: dict[str, Any], name: str) -> None:
    request = RunRequest(**{"run_id": "r1", "workload": "pipeline", "configuration": "default", **asked})
    assert pipeline.template_name(request) == name
    assert pipeline.definition(IMAGE, request).name == name


def test_what_is_kept_is_what_deploy_makes() -> None:
    made = {d["metadata"]["name"] for d in pipeline.templates(IMAGE) if d["kind"] == "WorkflowTemplate"}
    assert made == set(pipeline.KEPT)


def test_an_approval_of_what_promotes_nothing_is_refused() -> None:
    with pytest.raises(BenchError, match="chain promotes nothing"):
        pipeline.template_name(CHAIN.model_copy(update={"approval": True}))


def test_nightly_schedule() -> None:
    spec = _document("recommender-nightly")["spec"]
    assert spec["schedules"] == ["0 2 * * *"]
    assert (spec["timezone"], spec["concurrencyPolicy"]) == ("UTC", "Replace")
    assert spec["startingDeadlineSeconds"] == 600
    assert spec["workflowSpec"]["workflowTemplateRef"]["name"] == "recommender-pipeline"


def test_sweep_has_the_four_candidates() -> None:
    items = _main(_document("sweep"))["candidate"]["withItems"]
    assert [(int(item["seed"]), int(item["k"])) for item in items] == [(s["seed"], s["k"]) for s in SWEEP]


def test_volume_variant_passes_no_s3_artifact() -> None:
    text = yaml.safe_dump(_document("recommender-pipeline-volume"))
    assert "s3" not in text
    assert "claimName: pipeline-shared" in text


def test_a_naive_promotion_is_not_retried() -> None:
    driver = ArgoDriver.__new__(ArgoDriver)
    request = RunRequest(
        run_id="r1", workload="pipeline", configuration="default", parameters={"promote_order": "naive"}
    )
    parameters = driver.workflow(request)["spec"]["arguments"]["parameters"]
    assert {"name": "promote-retries", "value": "0"} in parameters


def test_an_unknown_parameter_is_refused() -> None:
    driver = ArgoDriver.__new__(ArgoDriver)
    request = RunRequest(run_id="r1", workload="pipeline", configuration="default", parameters={"nope": 1})
    with pytest.raises(BenchError, match="no parameter nope"):
        driver.workflow(request)


DUE = 1_790_000_040
"""21 September 2026, 14:14 UTC."""


def _scheduled(run_id: str = f"r1-{DUE}", due: int | None = DUE) -> dict[str, Any]:
    driver = ArgoDriver.__new__(ArgoDriver)
    request = RunRequest(
        run_id=run_id, workload="chain", configuration="default", parameters={"fibo": 12}, due=due
    )
    return cron_workflow(driver.workflow(request), request)


def test_a_schedule_makes_the_workflow_that_submit_would_make_at_its_minute() -> None:
    found = _scheduled()
    # The controller names what it makes `NAME-SECONDS`.
    assert found["metadata"]["name"] == "r1"
    assert found["spec"]["schedules"] == ["14 14 21 9 *"]
    assert found["spec"]["timezone"] == "UTC"
    assert found["spec"]["workflowMetadata"]["labels"] == {"bench.local/run-id": f"r1-{DUE}"}
    assert found["spec"]["workflowSpec"]["workflowTemplateRef"] == {"name": "chain-7"}
    assert found["spec"]["workflowSpec"]["arguments"]["parameters"] == [{"name": "fibo", "value": "12"}]


@pytest.mark.parametrize(
    ("run_id", "due"), [("r1", DUE), (f"r1-{DUE}", DUE + 60), ("r1-90", 90), ("r1", None)]
)
def test_a_run_whose_name_a_schedule_would_not_give_it_is_refused(run_id: str, due: int | None) -> None:
    with pytest.raises(BenchError, match="cannot be scheduled"):
        _scheduled(run_id, due)


def test_a_run_waits_at_a_suspend_node_that_runs() -> None:
    def workflow(kind: str, phase: str) -> dict[str, Any]:
        return {"status": {"nodes": {"n1": {"type": kind, "phase": phase}}}}

    assert suspended(workflow("Suspend", "Running")) == ["n1"]
    assert suspended(workflow("Suspend", "Succeeded")) == []
    assert suspended(workflow("Pod", "Running")) == []
    assert suspended({}) == []


def test_timeline_counts_attempts_per_step_and_index() -> None:
    def node(name: str, start: str, index: str | None = None, phase: str = "Succeeded") -> dict[str, Any]:
        inputs = {"parameters": [{"name": "index", "value": index}]} if index else {}
        return {
            "id": f"r1-{name}",
            "type": "Pod",
            "templateName": "probe",
            "phase": phase,
            "startedAt": f"2026-01-01T00:00:{start}Z",
            "finishedAt": "2026-01-01T00:01:00Z",
            "inputs": inputs,
        }

    nodes = [node("2", "05", "0"), node("1", "01", "0", "Failed"), node("3", "02", "1")]
    status = {"phase": "Succeeded", "nodes": {n["id"]: n for n in nodes}}
    status["nodes"]["s"] = {"id": "r1-4", "type": "Skipped", "displayName": "register"}
    timeline = timeline_of("r1", status)
    assert [(a.index, a.attempt, a.status) for a in timeline.attempts] == [
        (0, 1, "Failed"),
        (1, 1, "Succeeded"),
        (0, 2, "Succeeded"),
    ]
    assert timeline.skipped == ("register",)
    assert pod_name("r1", nodes[0]) == "r1-probe-2"
