"""What the Dagster adapter makes of Dagster's answers."""

from pathlib import Path
from typing import Any

import pytest

from adapters import podspec
from adapters.base import RunRequest, Target, Unsupported
from adapters.dagster import cluster
from adapters.dagster.adapter import DagsterAdapter
from adapters.dagster.api import why
from adapters.dagster.local import CONFIGURATIONS, EXECUTION
from adapters.dagster.names import AS_SHIPPED, DAILY, STEPS, job_name, member_of, plain, run_of_day
from adapters.dagster.placed import (
    NOTHING,
    Placed,
    Trigger,
    names_in,
    needed,
    of_day,
    run_config,
    trigger_name,
)
from adapters.dagster.records import first_failure, processes_of, timeline_of
from adapters.dagster.runtime import wrong_with
from adapters.workloads import SWEEP, Member, phases

T0 = 1_700_000_000_000


def event(kind: str, key: str | None = None, after_ms: int = 0, **more: Any) -> dict[str, Any]:
    return {"__typename": kind, "stepKey": key, "timestamp": str(T0 + after_ms), **more}


def test_a_retried_step_has_an_attempt_for_each_start() -> None:
    key = "chain_2__probe_1"
    timeline = timeline_of(
        "r1",
        {"status": "SUCCESS", "startTime": 1.5, "endTime": 9.5},
        [
            event("ExecutionStepStartEvent", "chain_2__probe_0", 0),
            event("ExecutionStepSuccessEvent", "chain_2__probe_0", 250),
            event("StepWorkerStartingEvent", key, 300),
            event("ExecutionStepStartEvent", key, 1000),
            event("ExecutionStepUpForRetryEvent", key, 1200, error={"message": "InjectedFault\n"}),
            event("ExecutionStepRestartEvent", key, 2000),
            event("ExecutionStepSuccessEvent", key, 2345),
            event("RunSuccessEvent", None, 2400),
        ],
    )
    assert [(a.step, a.index, a.attempt, a.status) for a in timeline.attempts] == [
        ("probe", 0, 1, "success"),
        ("probe", 1, 1, "up for retry"),
        ("probe", 1, 2, "success"),
    ]
    first, failed, last = timeline.attempts
    assert (first.started, first.finished) == (T0 / 1000, T0 / 1000 + 0.25)
    assert (failed.started, failed.finished, failed.message) == (
        T0 / 1000 + 1,
        T0 / 1000 + 1.2,
        "InjectedFault",
    )
    assert (last.started, last.finished) == (T0 / 1000 + 2, (T0 + 2345) / 1000)
    assert (timeline.native_status, timeline.started, timeline.finished) == ("SUCCESS", 1.5, 9.5)
    assert timeline.resolution_seconds == 0.001


def test_attempts_are_in_the_order_of_their_starts() -> None:
    timeline = timeline_of(
        "r1",
        {},
        [
            event("ExecutionStepStartEvent", "candidate_1__model", 20),
            event("ExecutionStepStartEvent", "candidate_0__model", 10),
            event("ExecutionStepSuccessEvent", "candidate_1__model", 30),
        ],
    )
    assert [(a.index, a.status) for a in timeline.attempts] == [(0, "started"), (1, "success")]
    assert timeline.attempts[0].finished is None


def test_a_process_that_dies_before_its_first_event_has_an_end_only() -> None:
    key = "model"
    events = [
        event("ExecutionStepUpForRetryEvent", key, 5),
        event("ExecutionStepRestartEvent", key, 10),
        event("ExecutionStepFailureEvent", key, 20),
    ]
    attempts = timeline_of("r1", {}, events).attempts
    assert [(a.attempt, a.started is None, a.status) for a in attempts] == [
        (1, True, "up for retry"),
        (2, False, "failure"),
    ]


def test_steps_behind_a_closed_gate_are_skipped() -> None:
    names = ("registered_model", "promotion", "drift_report")
    timeline = timeline_of("r1", {}, [event("ExecutionStepSkippedEvent", name) for name in names])
    assert timeline.skipped == ("monitor", "promote", "register")
    assert timeline.attempts == ()


def test_every_step_has_an_asset() -> None:
    assert member_of("ratings") == Member("ingest")
    assert member_of("candidate_3__evaluation") == Member("eval", 3)
    assert member_of("fanout_500__probe_499") == Member("probe", 499)
    assert member_of("something_else") is None
    assert member_of("") is None
    for workload in ("pipeline", "sweep"):
        wanted = {member.step for phase in phases(workload, 0) for member in phase}
        assert wanted <= set(STEPS.values())
    assert {member_of(f"candidate_{i}__split") for i in range(len(SWEEP))} == set(
        phases("sweep", 0)[1]  # preprocess of each candidate
    )


def test_a_length_has_a_job_of_its_own() -> None:
    assert [job_name(w, 40) for w in ("pipeline", "sweep", "chain", "fanout")] == [
        "recommender",
        "sweep",
        "chain_40",
        "fanout_40",
    ]


def test_as_shipped_is_another_job_of_the_same_assets() -> None:
    assert job_name("chain", 2, as_shipped=True) == "chain_2_as_shipped"
    for workload in ("pipeline", "sweep", "chain"):
        assert plain(job_name(workload, 2, as_shipped=True)) == job_name(workload, 2)


def trigger(run_id: str, job: str = "chain_1", cron: str = "") -> Trigger:
    return {"run_id": run_id, "job": job, "cron": cron, "parameters": {}, "execution": {}, "tags": {}}


def test_the_code_location_has_what_runs_need_and_no_more() -> None:
    known: Placed = {"jobs": ["chain_1", "chain_40", "fanout_9"], "triggers": []}
    wanted = needed(known, {"chain_40", "sweep"}, {"recommender"}, [])
    assert wanted == {"jobs": ["chain_40"], "triggers": []}
    waits = trigger("r-1")
    assert needed(NOTHING, set(), set(), [waits]) == {"jobs": ["chain_1"], "triggers": [waits]}
    assert needed(NOTHING, set(), {"sweep"}, [trigger("r-2", "recommender")])["jobs"] == []


def test_partitions_are_there_only_while_a_backfill_needs_them() -> None:
    asked = needed(NOTHING, set(), {DAILY + AS_SHIPPED}, [])
    assert asked["jobs"] == [DAILY + AS_SHIPPED]
    assert needed(asked, {DAILY + AS_SHIPPED}, {"recommender"}, []) == asked
    assert needed(asked, set(), {"recommender"}, []) == NOTHING


def test_a_day_is_a_run_and_a_seed() -> None:
    assert run_of_day("conf-1a", "2025-01-31") == "conf-1a-2025-01-31"
    assert of_day("2025-01-31") == {"seed": 20250131}


def test_names_are_ones_that_dagster_takes() -> None:
    assert trigger_name("conf-1a.b-60") == "conf_1a_b_60"
    assert names_in({"jobs": ["chain_1"], "triggers": [trigger("r-1")]}) == {"chain_1", "r_1"}


def test_a_run_has_its_id_and_parameters_as_text() -> None:
    config = run_config("r1", {"fibo": 12}, {"in_process": {}})
    assert config["resources"]["run"]["config"] == {"run_id": "r1", "parameters": {"fibo": "12"}}
    assert config["execution"] == {"config": {"in_process": {}}}


def test_a_run_that_is_to_wait_for_a_person_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    request = RunRequest(run_id="r1", workload="pipeline", configuration="default", approval=True)
    with pytest.raises(Unsupported):
        DagsterAdapter().driver(Target.LOCAL).prepare(request)


def health(beat: float, loaded: dict[str, Any]) -> dict[str, Any]:
    daemons = [
        {"daemonType": name, "lastHeartbeatTime": beat, "required": True}
        for name in ("QUEUED_RUN_COORDINATOR", "MONITORING")
    ]
    return {
        "answer": {"daemonHealth": {"allDaemonStatuses": daemons}},
        "location": {"__typename": "WorkspaceLocationEntry", "locationOrLoadError": loaded},
    }


def test_health_wants_definitions_and_a_heartbeat_of_this_daemon() -> None:
    loaded = {"__typename": "RepositoryLocation"}
    assert wrong_with(health(101.0, loaded), since=100.0) == ""
    assert "QUEUED_RUN_COORDINATOR" in wrong_with(health(99.0, loaded), since=100.0)
    broken = {"__typename": "PythonError", "message": "no module"}
    assert "no module" in wrong_with(health(101.0, broken), since=100.0)
    assert "not loaded" in wrong_with({**health(101.0, loaded), "location": None}, since=100.0)


def test_why_a_run_failed() -> None:
    events = [
        event("ExecutionStepUpForRetryEvent", "model", 1, error={"message": "once"}),
        event("ExecutionStepFailureEvent", "model", 2, error={"message": "twice\n"}, message="failed"),
        event("RunFailureEvent", None, 3, error=None, message="the run failed"),
    ]
    assert first_failure(events) == "model: twice"
    assert first_failure(events[2:]) == "run: the run failed"
    assert first_failure(events[:1]) == ""


def test_processes_are_those_that_events_name() -> None:
    pid = [{"label": "pid", "text": "4321"}]
    events = [
        event("StepWorkerStartedEvent", "model", 1000, metadataEntries=pid),
        event("EngineEvent", None, 2000, metadataEntries=[{"label": "step_keys"}, *pid]),
    ]
    assert processes_of(events) == ((4321, T0 / 1000 + 2),)


def test_a_refusal_is_said_in_words() -> None:
    invalid = {"__typename": "RunConfigValidationInvalid", "errors": [{"message": "a"}, {"message": "b"}]}
    assert why(invalid) == "a; b"
    assert why({"__typename": "PythonError", "message": "boom\n"}) == "boom"
    assert why({"__typename": "UnauthorizedError"}) == "UnauthorizedError"


def test_configurations_differ_from_default_in_one_named_setting() -> None:
    adapter = DagsterAdapter()
    assert adapter.configurations(Target.LOCAL) == CONFIGURATIONS
    assert {c.name for c in CONFIGURATIONS} == set(EXECUTION)
    assert CONFIGURATIONS[0].knob is None
    assert all(c.knob and c.source for c in CONFIGURATIONS[1:])
    assert Target.K8S not in adapter.targets()


IMAGE = "bench.local/dagster@sha256:" + "0" * 64


def test_servers_are_restricted_and_by_digest() -> None:
    documents = cluster.servers("default", IMAGE, "postgresql://u:p@h/d")
    pods = [each["spec"]["template"] for each in documents if each["kind"] == "Deployment"]
    assert len(pods) == 3
    for pod in pods:
        assert podspec.is_restricted(pod) and podspec.has_read_only_root(pod)
        assert [container["image"] for container in pod["spec"]["containers"]] == [IMAGE]
        assert "postgresql://" not in str(pod)


def test_pods_of_runs_are_like_everybodys() -> None:
    config = cluster.instance("default", IMAGE)["run_launcher"]["config"]["run_k8s_config"]
    pod = {"spec": {**config["pod_spec_config"], "containers": [config["container_config"]]}}
    assert podspec.is_restricted(pod) and podspec.has_read_only_root(pod)
    assert config["container_config"]["resources"] == podspec.RESOURCES
    assert {"name": "IMAGE_DIGEST", "value": "sha256:" + "0" * 64} in config["container_config"]["env"]


def test_configurations_on_kind_differ_in_one_setting() -> None:
    default, tuned, _, metadata = (cluster.instance(each.name, IMAGE) for each in cluster.CONFIGURATIONS)
    assert {key for key in tuned if tuned[key] != default.get(key)} == {"run_coordinator"}
    assert metadata == default, "what differs is the run's tag"
    assert all(each.source for each in cluster.CONFIGURATIONS[1:])


def test_an_attempt_has_the_pod_of_its_job() -> None:
    def starting(job: str) -> dict[str, Any]:
        entries = [{"label": "Kubernetes Job name", "text": job}]
        return event("StepWorkerStartingEvent", "model", metadataEntries=entries)

    events = [
        starting("job-a"),
        event("ExecutionStepUpForRetryEvent", "model", 5),
        starting("job-b"),
        event("ExecutionStepRestartEvent", "model", 10),
        event("ExecutionStepSuccessEvent", "model", 20),
    ]
    attempts = timeline_of("r1", {}, events, {"job-a": "pod-a", "job-b": "pod-b"}).attempts
    assert [a.pod_name for a in attempts] == ["pod-a", "pod-b"]
