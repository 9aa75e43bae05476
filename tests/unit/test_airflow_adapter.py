"""What the Airflow adapter makes of the API's answers; no server."""

import json
from base64 import urlsafe_b64decode
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from adapters.airflow.adapter import AirflowAdapter, native, pod_of, step_of, timeline_of
from adapters.airflow.api import seconds
from adapters.airflow.cluster import event_of, fernet_key
from adapters.airflow.deploy.airflow_local_settings import pod_mutation_hook
from adapters.airflow.documents import (
    configuration_documents,
    dag_files,
    launcher_pod,
    migrate_documents,
    pipeline_documents,
    server_documents,
    task_pod,
)
from adapters.airflow.openlineage import TRANSPORT, transport
from adapters.airflow.runtime import not_reported
from adapters.base import RunHandle, Target, Unsupported
from adapters.podspec import has_read_only_root, is_restricted

RUN = {
    "dag_run_id": "r1",
    "dag_id": "recommender",
    "state": "success",
    "start_date": "2026-01-01T00:00:00.500000Z",
    "end_date": "2026-01-01T00:01:00Z",
}


def tried(task_id: str, start: str | None, *, attempt: int = 1, map_index: int = -1, **more: Any) -> Any:
    """A task instance as the API gives it, started so many seconds after the hour and two seconds long."""
    return {
        "task_id": task_id,
        "map_index": map_index,
        "try_number": attempt,
        "state": "success",
        "start_date": start and f"2026-01-01T00:00:{start}Z",
        "end_date": start and f"2026-01-01T00:00:{int(start[:2]) + 2:02}.000001Z",
        **more,
    }


def test_attempts_come_in_order_of_their_start() -> None:
    timeline = timeline_of(
        RUN, [tried("train", "20"), tried("ingest", "10"), tried("train", "15", attempt=2)]
    )
    assert [(a.step, a.attempt) for a in timeline.attempts] == [("ingest", 1), ("train", 2), ("train", 1)]
    assert timeline.attempts[0].finished == seconds("2026-01-01T00:00:12.000001Z")
    assert timeline.native_status == "success"
    assert timeline.finished is not None and timeline.started is not None
    assert timeline.finished - timeline.started == pytest.approx(59.5)


def test_helpers_are_left_out_and_skipped_steps_are_no_attempts() -> None:
    skipped = {"start_date": "2026-01-01T00:00:30Z", "end_date": "2026-01-01T00:00:30Z", "state": "skipped"}
    tries = [
        tried("eval", "10"),
        tried("gate", "20"),
        *(tried(s, None) | skipped for s in ("promote", "register")),
    ]
    timeline = timeline_of(RUN, tries)
    assert [a.step for a in timeline.attempts] == ["eval"]
    assert timeline.skipped == ("promote", "register")


def test_a_task_that_never_started_is_no_attempt() -> None:
    waiting = tried("train", None, state=None)
    unreached = tried("eval", "30", state="upstream_failed")
    assert timeline_of(RUN, [waiting, unreached]).attempts == ()


def test_failed_tries_keep_their_number_and_state() -> None:
    timeline = timeline_of(RUN, [tried("probe_0", "10", state="failed"), tried("probe_0", "13", attempt=2)])
    assert [(a.index, a.attempt, a.status) for a in timeline.attempts] == [
        (0, 1, "failed"),
        (0, 2, "success"),
    ]


@pytest.mark.parametrize(
    ("task_id", "map_index", "expected"),
    [
        ("ingest", -1, ("ingest", None)),
        ("probe_12", -1, ("probe", 12)),
        ("probe", 7, ("probe", 7)),
        ("candidate.train", 3, ("train", 3)),
    ],
)
def test_steps_and_indices(task_id: str, map_index: int, expected: tuple[str, int | None]) -> None:
    assert step_of({"task_id": task_id, "map_index": map_index}) == expected


def test_a_handle_names_dag_and_run() -> None:
    handle = RunHandle(run_id="a-1", native_id="recommender/a-1", submit_ns=0, accepted_ns=0)
    assert native(handle) == ("recommender", "a-1")


def test_only_kind_has_a_configuration_for_pods() -> None:
    adapter = AirflowAdapter()
    names = {target: [each.name for each in adapter.configurations(target)] for target in Target}
    assert names == {
        Target.LOCAL: ["default", "tuned", "openlineage"],
        Target.KIND: ["default", "tuned", "tuned-batch", "kpo", "openlineage"],
        Target.K8S: [],
    }
    assert {each.task for each in adapter.configurations(Target.KIND)} == {"pod"}
    with pytest.raises(Unsupported, match="not wired yet"):
        adapter.runtime(Target.K8S)


IMAGE = "bench.local/airflow@sha256:" + "a" * 64
STEP_IMAGE = "bench.local/step@sha256:" + "b" * 64


def pod_templates() -> dict[str, Any]:
    """Every pod that the manifests or the executor make, by the name of its owner."""
    documents = [*server_documents(IMAGE, {"KNOB": "0.1"}, "0"), *migrate_documents(IMAGE, "migrate")]
    return {
        **{each["metadata"]["name"]: each["spec"]["template"] for each in documents},
        "task": task_pod(IMAGE),
        "launcher": launcher_pod(IMAGE, STEP_IMAGE),
    }


def test_every_pod_is_restricted_with_a_read_only_root_and_an_image_by_digest() -> None:
    for name, pod in pod_templates().items():
        assert is_restricted(pod) and has_read_only_root(pod), name
        assert [each["image"] for each in pod["spec"]["containers"]] == [IMAGE], name
        assert all("requests" in each["resources"] for each in pod["spec"]["containers"]), name
        assert pod["spec"]["enableServiceLinks"] is False, name


def test_only_those_who_ask_kubernetes_have_a_token() -> None:
    asking = {n for n, pod in pod_templates().items() if pod["spec"]["automountServiceAccountToken"]}
    assert asking == {"airflow-api-server", "airflow-scheduler", "launcher"}


@pytest.mark.parametrize("pod", [task_pod(IMAGE), launcher_pod(IMAGE, STEP_IMAGE)])
def test_a_task_pod_gets_no_secret_of_the_servers(pod: Any) -> None:
    text = json.dumps(pod)
    assert "SQL_ALCHEMY" not in text and "airflow-secrets" not in text and "JWT" not in text


def test_who_starts_steps_knows_nothing_of_what_they_use() -> None:
    (container,) = launcher_pod(IMAGE, STEP_IMAGE)["spec"]["containers"]
    assert container["envFrom"] == []
    known = {each["name"]: each.get("value", "") for each in container["env"]}
    assert known["AIRFLOW_VAR_STEP_IMAGE"] == STEP_IMAGE
    connection = json.loads(known["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
    assert connection["extra"] == {"xcom_sidecar_container_image": STEP_IMAGE}


def test_starting_steps_is_a_right_of_its_own_account() -> None:
    documents = pipeline_documents()
    bound = {
        each["roleRef"]["name"]: [subject["name"] for subject in each["subjects"]]
        for each in documents
        if each["kind"] == "RoleBinding"
    }
    assert bound["airflow-step-launcher"] == ["pipeline-airflow-launcher"]
    assert not any("pipeline-airflow" in subjects for subjects in bound.values())


def test_the_scheduler_alone_gets_the_knob() -> None:
    pods = pod_templates()
    having = [name for name, pod in pods.items() if "KNOB" in json.dumps(pod)]
    assert having == ["airflow-scheduler"]


def test_events_go_to_the_store_from_every_server_and_task_or_from_none() -> None:
    setting = transport("s3://bucket/event", config_kwargs={})
    assert json.loads(setting[TRANSPORT]) == {
        "type": "file",
        "log_file_path": "s3://bucket/event",
        "storage_options": {"config_kwargs": {}},
    }
    servers = server_documents(IMAGE, {}, "0", setting)
    pods = [*(each["spec"]["template"] for each in servers), task_pod(IMAGE, setting)]
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert {"name": TRANSPORT, "value": setting[TRANSPORT]} in container["env"]
    for pod in pods[:-1]:
        assert {"secretRef": {"name": "airflow-store"}} in pod["spec"]["containers"][0]["envFrom"]
    without = json.dumps(list(pod_templates().values()))
    assert TRANSPORT not in without and "airflow-store" not in without


def test_rights_are_in_the_pipelines_namespace_only() -> None:
    documents = pipeline_documents()
    assert {each["metadata"]["namespace"] for each in documents} == {"bookstore-ml"}
    assert not any(each["kind"].startswith("Cluster") for each in documents)


def test_settings_hold_the_pod_template_and_the_policy() -> None:
    documents = configuration_documents(IMAGE, STEP_IMAGE, {"A": "word"}, "open-sesame")
    (settings,) = (each["data"] for each in documents if each["metadata"]["name"] == "airflow-settings")
    assert yaml.safe_load(settings["pod_template.yaml"]) == task_pod(IMAGE)
    assert yaml.safe_load(settings["launcher_pod.yaml"]) == launcher_pod(IMAGE, STEP_IMAGE)
    assert "pod_mutation_hook" in settings["airflow_local_settings.py"]
    assert "open-sesame" not in json.dumps([each for each in documents if each["kind"] != "Secret"])


def test_dag_files_are_there_and_links_are_not_followed() -> None:
    assert dag_files()["recommender.py"].endswith("dag = recommender()\n")
    assert dag_files()[".airflowignore"] == "..*\n"


@pytest.mark.parametrize(
    ("annotations", "label"),
    [
        ({"dag_id": "recommender", "run_id": "r-1"}, {"bench.local/run-id": "r-1"}),
        ({"dag_id": "run.r-2", "run_id": "scheduled__2026-01-01T00:00:00"}, {"bench.local/run-id": "r-2"}),
        (
            {"dag_id": "nightly", "run_id": "backfill__2026-01-01T00:00:00+00:00"},
            {"bench.local/run-id": "backfill__2026-01-01T00-00-00-00-00"},
        ),
        (None, {}),
    ],
)
def test_the_policy_labels_a_pod_with_its_run(annotations: Any, label: Any) -> None:
    pod = SimpleNamespace(metadata=SimpleNamespace(annotations=annotations, labels={"a": "b"}))
    pod_mutation_hook(pod)
    assert pod.metadata.labels == {"a": "b", **label}


@pytest.mark.parametrize(
    ("line", "expected"),
    [('{"event": "hello", "level": "info"}', "hello"), ("plain", "plain"), ("[1]", "[1]"), ("{}", "{}")],
)
def test_events_are_taken_out_of_what_a_pod_printed(line: str, expected: str) -> None:
    assert event_of(line) == expected


def test_a_fernet_key_is_32_bytes() -> None:
    assert len(urlsafe_b64decode(fernet_key("0" * 32))) == 32


def test_a_heartbeat_from_before_the_start_does_not_count() -> None:
    beat = "2026-01-01T00:00:00Z"
    said = {
        part: {"status": "healthy", f"latest_{part}_heartbeat": beat}
        for part in ("scheduler", "dag_processor", "triggerer")
    }
    at = seconds(beat) or 0.0
    assert not_reported(said, {"airflow-scheduler": at - 1}) == ""
    assert (
        not_reported(said, {"airflow-triggerer": at + 1}) == "triggerer has not reported since it was started"
    )
    said["scheduler"]["status"] = "unhealthy"
    assert not_reported(said, {}) == "scheduler is unhealthy"


def test_a_run_that_airflow_started_has_our_id() -> None:
    run = RUN | {"dag_id": "run.r-2", "dag_run_id": "scheduled__2026-01-01T00:00:00+00:00"}
    assert timeline_of(run, []).run_id == "r-2"
    assert timeline_of(RUN, []).run_id == "r1"


@pytest.mark.parametrize(
    ("task_id", "map_index", "expected"),
    [
        ("train", -1, "r-1-train-2"),
        ("probe_12", -1, "r-1-probe-12-2"),
        ("probe", 7, "r-1-probe-7-2"),
        ("candidate.train", 3, "r-1-train-3-2"),
    ],
)
def test_a_started_pods_name_is_known(task_id: str, map_index: int, expected: str) -> None:
    started = tried(
        task_id,
        "10",
        attempt=2,
        map_index=map_index,
        operator="KubernetesPodOperator",
        hostname="who-started-it",
    )
    assert pod_of("R.1", started) == expected
    assert timeline_of(RUN, [started], in_pods=True).attempts[0].pod_name == expected.replace("r-1", "r1", 1)


def test_a_pods_name_is_told_where_tasks_are_pods() -> None:
    tries = [tried("train", "10", hostname="recommender-train-x")]
    assert [a.pod_name for a in timeline_of(RUN, tries, in_pods=True).attempts] == ["recommender-train-x"]
    assert [a.pod_name for a in timeline_of(RUN, tries).attempts] == [None]
