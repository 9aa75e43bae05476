"""What the Airflow adapter makes of the API's answers; no server."""

from typing import Any

import pytest

from adapters.airflow.adapter import AirflowAdapter, dag_of, native, step_of, timeline_of
from adapters.airflow.api import seconds
from adapters.base import BenchError, RunHandle, RunRequest, Target, Unsupported

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


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("pipeline", ("recommender", "recommender()")),
        ("chain", ("probe_chain_40", "probe_chain(40)")),
        ("fanout", ("probe_fanout_40", "probe_fanout(40)")),
        ("sweep", ("recommender_sweep", "recommender_sweep()")),
    ],
)
def test_each_workload_has_its_dag(workload: str, expected: tuple[str, str]) -> None:
    assert dag_of(RunRequest(run_id="r", workload=workload, configuration="default", steps=40)) == expected


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(BenchError, match="no workload 'tree'"):
        dag_of(RunRequest(run_id="r", workload="tree", configuration="default"))


def test_a_handle_names_dag_and_run() -> None:
    handle = RunHandle(run_id="a-1", native_id="recommender/a-1", submit_ns=0, accepted_ns=0)
    assert native(handle) == ("recommender", "a-1")


def test_kubernetes_is_not_wired() -> None:
    adapter = AirflowAdapter()
    assert adapter.configurations(Target.KIND) == ()
    assert [each.name for each in adapter.configurations(Target.LOCAL)] == ["default", "tuned"]
    with pytest.raises(Unsupported, match="not wired yet"):
        adapter.runtime(Target.KIND)
