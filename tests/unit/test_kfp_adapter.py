"""What is read from the log records of KFP's local runner and from its backend, and what is installed for that."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters import podspec
from adapters.base import RunRequest, Unsupported
from adapters.kfp import api, cluster, journal, records
from cluster import MissingImages, VendorImage

RED, GREEN, CYAN, PLAIN = "\x1b[91m", "\x1b[92m", "\x1b[96m", "\x1b[0m"


def executing(at: float, thread: int, component: str, index: int | None = None) -> list[dict[str, Any]]:
    """What the runner process writes when KFP starts an attempt."""
    name = component.removeprefix("comp-")
    return [
        {"thread": thread, "task": component, "index": index},
        {"thread": thread, "at": at, "said": f"Executing task {CYAN}'{name}'{PLAIN}"},
        {"thread": thread, "at": at, "said": "Streamed logs:\n"},
    ]


def finished(at: float, thread: int, component: str, status: str = "SUCCESS") -> list[dict[str, Any]]:
    """What KFP says when an attempt has ended."""
    name = component.removeprefix("comp-")
    said = f"Task {CYAN}'{name}'{PLAIN} finished with status {GREEN}{status}{PLAIN}"
    return [
        {"thread": thread, "at": at, "said": said},
        {"thread": thread, "at": at + 0.001, "said": f"Task '{name}' outputs:\n    Output: '55'"},
    ]


def retrying(at: float, thread: int, task: str, attempt: int) -> list[dict[str, Any]]:
    """What KFP says before the next attempt."""
    said = f"Task {task} failed (attempt {attempt}/3). Retrying in 0.0s..."
    return [{"thread": thread, "at": at, "said": said}]


def said(at: float, text: str) -> list[dict[str, Any]]:
    """Another record of the main thread."""
    return [{"thread": 1, "at": at, "said": text}]


def kept(folder: Path, *parts: Iterable[Mapping[str, Any]], torn: str = "") -> list[journal.Line]:
    """The journal as it is read back from a file."""
    text = "".join(json.dumps(line) + "\n" for part in parts for line in part)
    (folder / journal.JOURNAL).write_text(text + torn, encoding="utf-8")
    return journal.read(folder)


def test_attempts_are_numbered_as_kfp_says(tmp_path: Path) -> None:
    lines = kept(
        tmp_path,
        said(1.0, f"Running pipeline: {RED}'chain-2'{PLAIN}"),
        executing(2.0, 1, "comp-probe", 0),
        finished(3.0, 1, "comp-probe", "FAILURE"),
        retrying(3.5, 1, "probe", 1),
        executing(4.0, 1, "comp-probe", 0),
        finished(5.0, 1, "comp-probe"),
        executing(6.0, 1, "comp-probe-2", 1),
        finished(7.0, 1, "comp-probe-2"),
        said(8.0, f"Pipeline {RED}'chain-2'{PLAIN} finished with status {GREEN}SUCCESS{PLAIN}"),
    )
    found = journal.timeline_of("r1", lines)
    assert [(a.step, a.index, a.attempt, a.started, a.finished, a.status) for a in found.attempts] == [
        ("probe", 0, 1, 2.0, 3.0, "FAILURE"),
        ("probe", 0, 2, 4.0, 5.0, "SUCCESS"),
        ("probe", 1, 1, 6.0, 7.0, "SUCCESS"),
    ]
    assert (found.started, found.finished, found.native_status) == (1.0, 8.0, "SUCCESS")
    assert (journal.ending(lines), journal.why(lines)) == ("SUCCESS", "")


def test_iterations_are_told_apart_by_thread(tmp_path: Path) -> None:
    lines = kept(
        tmp_path,
        executing(1.0, 7, "comp-probe", 0),
        executing(1.1, 8, "comp-probe", 1),
        finished(2.0, 8, "comp-probe", "FAILURE"),
        retrying(2.1, 8, "probe", 1),
        finished(2.2, 7, "comp-probe"),
        executing(2.3, 7, "comp-probe", 2),
        executing(2.4, 8, "comp-probe", 1),
        finished(3.0, 8, "comp-probe"),
        finished(3.1, 7, "comp-probe"),
    )
    found = {(a.index, a.attempt): (a.started, a.finished) for a in journal.timeline_of("r1", lines).attempts}
    assert found == {(0, 1): (1.0, 2.2), (1, 1): (1.1, 2.0), (1, 2): (2.4, 3.0), (2, 1): (2.3, 3.1)}


def test_steps_of_a_gate_that_does_not_pass_are_skipped(tmp_path: Path) -> None:
    lines = kept(
        tmp_path,
        [{"thread": 1, "groups": {"condition-1": ["monitor", "promote", "register"]}}],
        executing(1.0, 1, "comp-evaluate"),
        finished(2.0, 1, "comp-evaluate"),
        said(2.1, "Skipping conditional task condition-1 (condition evaluated to False)"),
        said(2.2, "Pipeline 'recommender' finished with status SUCCESS"),
    )
    found = journal.timeline_of("r1", lines)
    assert [a.step for a in found.attempts] == ["eval"]
    assert found.skipped == ("monitor", "promote", "register")


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    lines = kept(tmp_path, executing(1.0, 1, "comp-probe", 0), torn='{"thread": 1, "at": 2.0, "sa')
    (attempt,) = journal.timeline_of("r1", lines).attempts
    assert (attempt.started, attempt.finished, attempt.status) == (1.0, None, "")
    assert journal.ending(lines) == ""


def test_a_failure_is_told_in_kfps_words(tmp_path: Path) -> None:
    words = f"Pipeline 'x' finished with status {RED}FAILURE{PLAIN}. Inner task failed: {CYAN}'train'{PLAIN}."
    lines = kept(tmp_path, said(1.0, words))
    assert journal.ending(lines) == "FAILURE"
    assert journal.why(lines) == "Pipeline 'x' finished with status FAILURE. Inner task failed: 'train'."


def test_no_journal_yet(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []


def test_logs_of_one_step() -> None:
    log = "\n".join(
        [
            f"17:00:00.000 - INFO - Executing task {CYAN}'ingest'{PLAIN}",
            '    {"step": "ingest", "outputs": {}}',
            f"17:00:01.000 - INFO - Task {CYAN}'ingest'{PLAIN} finished with status {GREEN}SUCCESS{PLAIN}",
            f"17:00:01.000 - INFO - Executing task {CYAN}'evaluate'{PLAIN}",
            '    {"step": "eval", "outputs": {"passed": "true"}}',
            f"17:00:02.000 - INFO - Task {CYAN}'evaluate'{PLAIN} finished with status {GREEN}SUCCESS{PLAIN}",
            "17:00:02.000 - INFO - something else",
        ]
    )
    assert journal.printed(log, "eval").splitlines()[1] == '{"step": "eval", "outputs": {"passed": "true"}}'
    assert "ingest" not in journal.printed(log, "eval") and "else" not in journal.printed(log, "eval")
    assert journal.printed(log, "train") == ""


IMAGES = {
    name: f"registry/{name}@sha256:1"
    for name in (*map(cluster.short, cluster.VENDOR_IMAGES), "argo_controller", "argo_executor", "kfp")
}
SECRETS = {"mysql_password": "word", "s3_key": "key", "s3_secret": "secret"}


def servers(configuration: str) -> dict[str, Any]:
    """The Deployments of a configuration, by name."""
    documents = cluster.server_documents(configuration, IMAGES, SECRETS)
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == "Deployment"}


def test_servers_are_restricted_and_their_images_are_by_digest() -> None:
    found = servers("default")
    assert set(found) == set(cluster.ROLES)
    for name, deployment in found.items():
        template = deployment["spec"]["template"]
        assert template["metadata"]["labels"] == {"app": name}
        assert podspec.is_restricted(template) and podspec.has_read_only_root(template), name
        assert all("@sha256:" in each["image"] for each in template["spec"]["containers"])
        assert template["spec"]["enableServiceLinks"] is False


def test_a_configuration_changes_the_controller_alone() -> None:
    default, tuned = servers("default"), servers("tuned")
    assert {name for name in default if default[name] != tuned[name]} == {cluster.CONTROLLER}


def test_the_patch_makes_an_executor_a_step_pod() -> None:
    patch = cluster.spec_patch(IMAGES["kfp"])
    executor = patch["templates"][1]
    main = executor["container"]
    assert main["resources"] == podspec.RESOURCES and main["volumeMounts"] == podspec.mounts()
    assert set(map(str, podspec.env_from())) < set(map(str, main["envFrom"]))
    for template in patch["templates"]:
        containers = [template["container"]]
        pod = {
            "spec": {
                "securityContext": patch["securityContext"],
                "containers": containers,
                "initContainers": template.get("initContainers", []),
            }
        }
        assert podspec.is_restricted(pod) and podspec.has_read_only_root(pod)


def test_what_pods_may_read_is_named() -> None:
    (role,) = (
        each
        for each in cluster.pipeline_documents()
        if (each["kind"], each["metadata"]["name"]) == ("Role", "pipeline-kfp")
    )
    assert all(rule.get("resourceNames") for rule in role["rules"] if rule["apiGroups"] == [""])


def test_an_image_that_is_nowhere_is_said_before_anything_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(names: Iterable[str]) -> None:
        raise MissingImages(["ghcr.io/kubeflow/kfp-driver:2.15.0"])

    monkeypatch.setattr(cluster.cluster, "vendor_images", nowhere)
    runtime = cluster.KfpClusterRuntime(SimpleNamespace(kube=None))  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="kfp-driver"):
        runtime.deploy("default")


def test_used_images_say_which_are_stand_ins() -> None:
    found = {
        "ghcr.io/kubeflow/kfp-driver:2.15.0": VendorImage("ghcr.io/kubeflow/kfp-driver@sha256:2", "ours"),
        "docker.io/library/mysql:8.4": VendorImage("docker.io/library/mysql@sha256:3", ""),
    }
    assert cluster.used_images(found, "step@sha256:4")["data"] == {
        "image_kfp-driver": "ghcr.io/kubeflow/kfp-driver:2.15.0 sha256:2 (stand-in: ours)",
        "image_mysql": "docker.io/library/mysql:8.4 sha256:3",
    }


def node(name: str, **more: Any) -> dict[str, Any]:
    """A node of a Workflow's status, by default an executor's pod that succeeded."""
    return {
        "id": f"wf-{abs(hash(name))}",
        "name": name,
        "displayName": name.rsplit(".", 1)[-1],
        "type": "Pod",
        "phase": "Succeeded",
        "templateName": "retry-system-container-impl",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:05Z",
        **more,
    }


def workflow(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A Workflow with these nodes."""
    return {
        "metadata": {"name": "wf"},
        "status": {"phase": "Succeeded", "nodes": {each["id"]: each for each in nodes}},
    }


def test_executors_are_attempts_and_drivers_are_not() -> None:
    found = records.timeline_of(
        "r",
        {"state": "SUCCEEDED"},
        workflow(
            node("wf.root-driver", templateName="system-dag-driver"),
            node("wf.root.ingest-driver", templateName="system-container-driver"),
            node("wf.root.evaluate.executor(0)", phase="Failed"),
            node("wf.root.evaluate.executor(1)", startedAt="2026-01-01T00:00:06Z"),
            node("wf.root.evaluate.executor", type="Retry"),
        ),
    )
    assert [(each.step, each.index, each.attempt) for each in found.attempts] == [
        ("eval", None, 1),
        ("eval", None, 2),
    ]
    assert (
        found.attempts[0].pod_name
        == f"wf-retry-system-container-impl-{abs(hash('wf.root.evaluate.executor(0)'))}"
    )


@pytest.mark.parametrize(
    ("name", "step", "index"),
    [
        ("wf.root.probe.executor(0)", "probe", 0),
        ("wf.root.probe-12.executor(0)", "probe", 11),
        ("wf.root.for-loop-1.iteration-item(3:3).probe.executor(0)", "probe", 3),
        ("wf.root.for-loop-2.iteration-item(1:1).train.executor(2)", "train", 1),
        ("wf.root.condition-1.register.executor(0)", "register", None),
    ],
)
def test_the_index_of_an_executor_is_in_its_path(name: str, step: str, index: int | None) -> None:
    found = records.attempt_of("wf", node(name))
    assert found is not None and (found.step, found.index) == (step, index)


def test_a_group_left_out_leaves_out_its_steps() -> None:
    spec = {
        "components": {"comp-condition-1": {"dag": {"tasks": {"register": {}, "promote": {}, "monitor": {}}}}}
    }
    nodes = [node("wf.root.condition-1", type="Skipped", displayName="condition-1")]
    assert records.skipped(spec, nodes) == ("monitor", "promote", "register")


def test_why_is_the_last_failed_pod() -> None:
    failed = node("wf.root.train.executor(2)", phase="Failed", message="exit code 137")
    assert records.why(workflow(node("wf.root.ingest.executor(0)"), failed)) == (
        "root.train.executor(2): exit code 137"
    )


def test_retries_as_shipped_are_a_definition_of_their_own() -> None:
    plain = RunRequest(run_id="r", workload="chain", configuration="default", steps=4)
    names = [api.definition_name(plain.model_copy(update={"retries_as_shipped": on})) for on in (False, True)]
    assert names == ["chain-4", "chain-4-as-shipped"]


def test_a_scheduled_workflow_is_named_as_a_submitted_one() -> None:
    spec = {"podMetadata": {"labels": {podspec.RUN_LABEL: cluster.RUN_NAME}}}
    named = json.loads(api.named_workflow(json.dumps({"metadata": {}, "spec": spec}), "r-60"))
    assert api.RUN_NAME_ANNOTATION in cluster.RUN_NAME
    assert named == {"metadata": {"annotations": {api.RUN_NAME_ANNOTATION: "r-60"}}, "spec": spec}
