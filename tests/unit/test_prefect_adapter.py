"""What the Prefect adapter makes of the API's answers."""

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters import podspec
from adapters.base import BenchError, RunRequest, Target, Unsupported
from adapters.local.state import LocalState
from adapters.prefect import cluster, records, triggers
from adapters.prefect.adapter import PrefectAdapter, parameters_of, why
from adapters.prefect.local import LocalRuntime
from adapters.prefect.variants import environment
from adapters.workloads import PIPELINE, Member
from cluster.state import PROJECT

EPOCH = 1795453829.0
"""2026-11-23T17:10:29Z."""


def at(seconds: float) -> str:
    return f"2026-11-23T17:10:{29 + seconds:09.6f}Z"


def task_run(name: str, start: float, end: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"id-{name}",
        "name": name,
        "state_id": f"state-{name}",
        "state_type": "RUNNING" if end is None else "COMPLETED",
        "state_name": "Running" if end is None else "Completed",
        "run_count": 1,
        "start_time": at(start),
        "end_time": None if end is None else at(end),
        "state": {"message": ""},
        **more,
    }


def flow_run(name: str = "Completed", **more: Any) -> dict[str, Any]:
    return {
        "state_type": "COMPLETED",
        "state_name": name,
        "start_time": at(0),
        "end_time": at(9),
        "parameters": {"run_id": "r1"},
        "state": {"message": None},
        **more,
    }


def state(name: str, kind: str, when: float) -> dict[str, Any]:
    return {"name": name, "type": kind, "timestamp": at(when), "message": ""}


RETRIED = [
    state("Completed", "COMPLETED", 3),
    state("Retrying", "RUNNING", 2),
    state("Pending", "PENDING", 0.5),
    state("Running", "RUNNING", 1),
]
"""In no order, as the API does not promise one."""


def test_attempts_of_a_task_that_ran_once() -> None:
    (attempt,) = records.attempts_of(task_run("train-2", 1.25, 4))
    assert (attempt.step, attempt.index, attempt.attempt) == ("train", 2, 1)
    assert (attempt.started, attempt.finished) == (EPOCH + 1.25, EPOCH + 4)


def test_an_attempt_begins_with_each_running_state_and_ends_with_the_next_state() -> None:
    first, second = records.attempts_of(task_run("probe-0", 1, 3, run_count=2), RETRIED)
    assert (first.attempt, first.started, first.finished, first.status) == (
        1,
        EPOCH + 1,
        EPOCH + 2,
        "Retrying",
    )
    assert (second.attempt, second.started, second.finished, second.status) == (
        2,
        EPOCH + 2,
        EPOCH + 3,
        "Completed",
    )


def test_an_attempt_that_waits_for_its_retry_ends_before_the_wait() -> None:
    states = [
        state("Running", "RUNNING", 1),
        state("AwaitingRetry", "SCHEDULED", 2),
        state("Retrying", "RUNNING", 5),
        state("Failed", "FAILED", 6),
    ]
    spans = [(a.started, a.finished) for a in records.attempts_of(task_run("probe", 1, 6), states)]
    assert spans == [(EPOCH + 1, EPOCH + 2), (EPOCH + 5, EPOCH + 6)]


def test_a_task_that_did_not_run_or_is_no_step_has_no_attempt() -> None:
    assert records.attempts_of(task_run("train", 1, 2, run_count=0)) == []
    assert records.attempts_of(task_run("Notify people", 1, 2)) == []


def test_a_task_whose_process_died_has_no_end() -> None:
    (attempt,) = records.attempts_of(task_run("probe-0", 1, None))
    assert attempt.finished is None
    assert attempt.status == "Running"


def test_the_timeline_is_in_order_of_start_whatever_the_order_of_the_rows() -> None:
    rows = [task_run(step, 8 - number, 8.5 - number) for number, step in enumerate(reversed(PIPELINE), 1)]
    timeline = records.timeline_of("r1", flow_run(), "pipeline", rows, {})
    assert [a.step for a in timeline.attempts] == list(PIPELINE)
    assert (timeline.started, timeline.finished) == (EPOCH, EPOCH + 9)
    assert timeline.skipped == ()


def test_the_name_of_the_last_state_tells_what_was_left_out() -> None:
    assert records.left_out(flow_run("NotPromoted"), "pipeline") == ("register", "promote", "monitor")
    assert records.left_out(flow_run("NotPromoted"), "sweep") == ("register",)
    assert records.left_out(flow_run(), "pipeline") == ()


def test_a_completed_run_is_complete_when_every_step_has_arrived() -> None:
    rows = [task_run(f"probe-{index}", index, index + 0.5) for index in range(3)]
    run = flow_run(parameters={"run_id": "r1", "steps": 3})
    assert records.expected(run, "chain") == {Member("probe", index) for index in range(3)}
    assert records.is_complete(run, "chain", rows, {})
    assert not records.is_complete(run, "chain", rows[:2], {})
    assert not records.is_complete(run, "chain", [*rows[:2], task_run("probe-2", 2, None)], {})


def test_a_run_is_not_complete_before_each_of_its_attempts_has_a_state() -> None:
    row = task_run("probe-0", 1, 3, run_count=2)
    run = flow_run(parameters={"run_id": "r1", "steps": 1})
    assert records.is_complete(run, "chain", [row], {row["id"]: RETRIED})
    assert not records.is_complete(run, "chain", [row], {row["id"]: RETRIED[2:]})


def test_a_gate_that_did_not_pass_leaves_four_steps_to_wait_for() -> None:
    rows = [task_run(step, number, number + 0.5) for number, step in enumerate(PIPELINE[:4])]
    assert records.is_complete(flow_run("NotPromoted"), "pipeline", rows, {})
    assert not records.is_complete(flow_run(), "pipeline", rows, {})


def request(workload: str, **parameters: str | int | float) -> RunRequest:
    return RunRequest(
        run_id="r1", workload=workload, configuration="default", parameters=parameters, steps=40
    )


def test_parameters_are_those_that_the_run_sets() -> None:
    assert parameters_of(request("chain", fibo=12)) == {"run_id": "r1", "steps": 40, "config": {"fibo": 12}}
    assert parameters_of(request("pipeline", min_score_gate="1.0")) == {
        "run_id": "r1",
        "config": {"min_score_gate": 1.0},
    }
    fault = parameters_of(request("chain", fault='{"step": "probe", "kind": "exception"}'))["config"]["fault"]
    assert fault == {"step": "probe", "kind": "exception"}


def test_an_unknown_parameter_is_refused_before_anything_starts() -> None:
    with pytest.raises(BenchError, match="colour"):
        parameters_of(request("chain", colour="red"))


def test_the_reason_is_prefect_s() -> None:
    crashed = flow_run("Crashed", state={"message": "Process exited with status code: 137."})
    assert why(crashed) == "Crashed: Process exited with status code: 137."


class DeadServer:
    """Servers of which none comes up."""

    def __init__(self, last_words: str) -> None:
        self.last_words = last_words

    def running(self, name: str) -> None:
        return None

    def stop(self, name: str) -> None:
        pass

    def start(self, *words: Any) -> None:
        pass

    def wait_until(self, *words: Any) -> None:
        raise BenchError(self.last_words)


def deploy(folder: Path, last_words: str) -> None:
    where: Any = SimpleNamespace(
        state=LocalState(folder),
        servers=DeadServer(last_words),
        postgres=SimpleNamespace(url=lambda database, driver: f"{driver}://{database}"),
        env_of=lambda extra: {},
        python=lambda extra: folder / "bin" / "python",
    )
    LocalRuntime(where).deploy("default")


def test_a_postgresql_without_the_extension_is_a_gap_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="pg_trgm"):
        deploy(tmp_path, 'DBAPIError: extension "pg_trgm" is not available')


def test_a_server_that_dies_of_anything_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no space left") as caught:
        deploy(tmp_path, "no space left")
    assert not isinstance(caught.value, Unsupported)


IMAGE = "bench.local/prefect@sha256:" + "a" * 64


def test_every_pod_on_kubernetes_is_restricted_and_its_image_by_digest() -> None:
    documents = [
        *cluster.server_objects(IMAGE, "postgresql+asyncpg://u:p@h/d", "bench:word"),
        *cluster.worker_objects(IMAGE, "pods-tuned", "bench:word"),
        *cluster.registration(IMAGE),
        cluster.job_template(IMAGE)["job_configuration"]["job_manifest"],
    ]
    pods = [each["spec"]["template"] for each in documents if each["kind"] in ("Deployment", "Job")]
    assert len(pods) == 4
    for pod in pods:
        assert podspec.is_restricted(pod)
        assert podspec.has_read_only_root(pod)
        assert {container["image"] for container in pod["spec"]["containers"]} == {IMAGE}


def test_no_password_is_in_a_deployment() -> None:
    documents = [
        *cluster.server_objects(IMAGE, "postgresql+asyncpg://u:secret@h/d", "bench:secret"),
        *cluster.worker_objects(IMAGE, "default", "bench:secret"),
    ]
    assert not any("secret@" in str(d) or ":secret'" in str(d) for d in documents if d["kind"] != "Secret")


def test_the_knob_is_the_worker_s() -> None:
    def knobs(configuration: str) -> dict[str, str]:
        (worker,) = (d for d in cluster.worker_objects(IMAGE, configuration, "") if d["kind"] == "Deployment")
        env = worker["spec"]["template"]["spec"]["containers"][0]["env"]
        return {each["name"]: each["value"] for each in env if "QUERY" in each["name"]}

    assert knobs("default") == knobs("pods") == knobs("assets") == {}
    assert knobs("tuned") == knobs("pods-tuned") == {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}


def test_versions_on_kubernetes_are_those_locked() -> None:
    packages = tomllib.loads((PROJECT / "uv.lock").read_text(encoding="utf-8"))["package"]
    locked = {each["name"].replace("-", "_"): each.get("version") for each in packages}
    assert {name: locked[name] for name in cluster.VERSIONS} == cluster.VERSIONS


def child(name: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return task_run(name, start, end, created=at(start), **more)


def test_a_step_apart_is_a_flow_run_for_each_attempt() -> None:
    rows = [child("probe-0", 3, 4, id="b"), child("probe-0", 1, 2, id="a", state_name="Crashed")]
    run = flow_run(parameters={"run_id": "r1", "steps": 1, "apart": True})
    assert records.is_apart(run) and not records.is_apart(flow_run())
    first, second = records.timeline_apart("r1", run, "chain", rows, {"b": "pod-b"}).attempts
    assert (first.attempt, first.status, first.pod_name) == (1, "Crashed", None)
    assert (second.attempt, second.index, second.pod_name) == (2, 0, "pod-b")


def test_the_worker_s_events_name_the_pods() -> None:
    event = {
        "resource": {"prefect.resource.name": "pod-a"},
        "related": [
            {"prefect.resource.role": "flow-run", "prefect.resource.id": "prefect.flow-run.a"},
            {"prefect.resource.role": "flow", "prefect.resource.id": "prefect.flow.f"},
        ],
    }
    assert records.pods_of([event]) == {"a": "pod-a"}


def test_what_a_step_is_on_each_target() -> None:
    adapter = PrefectAdapter()
    assert adapter.configurations(Target.K8S) == adapter.configurations(Target.KIND)
    assert adapter.configurations(Target.KIND)[0].name == "default"
    assert {each.task for each in adapter.configurations(Target.KIND)} == {"call", "pod"}
    assert {each.task for each in adapter.configurations(Target.LOCAL)} == {"call"}


DUE = 1795637340
"""2026-11-25T20:09:00Z."""
BASE = {name: f"base's {name}" for name in triggers.SAME} | {"job_variables": {"command": "x"}}


def test_a_schedule_is_one_minute_in_utc_with_the_run_s_parameters() -> None:
    made = triggers.deployment_for(
        BASE,
        request("chain").model_copy(update={"due": DUE}),
        {"run_id": "r1"},
        {"labels": {"a": "b"}},
    )
    (schedule,) = made["schedules"]
    assert schedule["schedule"] == {"cron": "9 20 25 11 *", "timezone": "UTC"}
    assert schedule["parameters"] == {"run_id": "r1"}
    assert (made["name"], made["flow_id"]) == ("r1", "base's flow_id")
    assert made["job_variables"] == {"command": "x", "labels": {"a": "b"}}


def test_a_run_that_is_not_due_has_no_schedule() -> None:
    assert triggers.deployment_for(BASE, request("chain"), {}, {})["schedules"] == []


def test_an_event_starts_the_run_it_is_about_with_what_it_brings() -> None:
    parameters = {"run_id": "r1", "config": {"fibo": 12}}
    event = triggers.event_of("r1", parameters)
    automation = triggers.automation_for("r1", "d1", parameters)
    assert event["payload"] == parameters
    assert automation["trigger"]["expect"] == [event["event"]]
    assert automation["trigger"]["match"] == event["resource"]
    (action,) = automation["actions"]
    assert action["deployment_id"] == "d1"
    assert action["parameters"] == {
        "run_id": "{{ event.payload.run_id }}",
        "config": "{{ event.payload.config }}",
    }


def test_a_plain_run_s_process_is_told_nothing() -> None:
    plain = request("pipeline")
    assert environment(plain) == {}
    assert environment(plain.model_copy(update={"approval": True})) == {"BENCH_APPROVAL": "1"}
    assert environment(plain.model_copy(update={"configuration": "assets"})) == {"BENCH_ASSETS": "1"}
    shipped = plain.model_copy(update={"retries_as_shipped": True})
    assert environment(shipped) == {"BENCH_RETRIES_AS_SHIPPED": "1"}


def test_only_approval_needs_a_store_on_kubernetes() -> None:
    runtime = cluster.ClusterRuntime.__new__(cluster.ClusterRuntime)
    assert runtime.job_variables(request("pipeline")) == {"labels": {podspec.RUN_LABEL: "r1"}}
    asked = request("pipeline").model_copy(update={"approval": True})
    env = runtime.job_variables(asked)["env"]
    assert env["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] == "remote-file-system/bench"


def test_what_was_kept_for_a_resumed_flow_is_no_attempt() -> None:
    assert records.attempts_of(task_run("train", 1, 2, state_name="Cached")) == []
