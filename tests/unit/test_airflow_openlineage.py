"""What the Airflow adapter reads out of the events of Airflow's OpenLineage provider; no server."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.airflow import lineage
from adapters.airflow.adapter import AirflowDriver
from adapters.airflow.openlineage import events_of, files_of, is_whole, transport
from adapters.base import RunHandle
from core.lineage import dataset_name

HANDLE = RunHandle(run_id="r-1", native_id="recommender/r-1", submit_ns=0, accepted_ns=0)


def event(kind: str, task_id: str, attempt: int = 1, at: int = 0, run_id: str = "r-1", **more: Any) -> Any:
    """An event of a task, as far as it is read."""
    told = {
        "dag": {"dag_id": "recommender"},
        "dagRun": {"run_id": run_id},
        "task": {"task_id": task_id},
        "taskInstance": {"try_number": attempt},
    }
    return {
        "eventType": kind,
        "eventTime": f"2026-01-01T00:00:{at:02}+00:00",
        "run": {"runId": f"{task_id}-{attempt}", "facets": {"airflow": told}},
        **{"inputs": [], "outputs": [], **more},
    }


def dataset(uri: str, sha256: str = "") -> Any:
    namespace, name = dataset_name(uri)
    facets = {"version": {"datasetVersion": f"sha256:{sha256}"}} if sha256 else {}
    return {"namespace": namespace, "name": name, "facets": facets}


def files(*events: Any) -> list[str]:
    return [json.dumps(each) for each in events]


def test_a_runs_steps_are_found_among_all_events_and_come_in_order() -> None:
    whole = {**event("START", "x"), "run": {"runId": "dag", "facets": {"airflowDagRun": {}}}}
    kept = [event("COMPLETE", "train", at=2), event("START", "train", at=1)]
    others = [event("START", "gate"), event("START", "train", run_id="r-2"), whole]
    assert events_of(files(*kept, *others), "recommender", "r-1") == kept[::-1]
    assert events_of(files(*kept), "another", "r-1") == []
    with pytest.raises(ValueError):
        events_of(['{"eventType": "STA'], "recommender", "r-1")


def test_a_run_is_whole_when_each_attempt_that_began_has_ended() -> None:
    events = [event("START", "train"), event("FAIL", "train"), event("START", "train", 2)]
    assert not is_whole([])
    assert not is_whole(events)
    assert not is_whole([*events, event("RUNNING", "train", 2)])
    assert is_whole([*events, event("COMPLETE", "train", 2)])


@pytest.mark.parametrize("root", ["s3://artifacts/runs/r-1", "file:///state/artifacts/r-1"])
def test_files_are_called_as_steps_call_them(root: str) -> None:
    source = "bookstore://generated?seed=42&n_books=200"
    ingested = event(
        "RUNNING",
        "ingest",
        inputs=[dataset(source, "d" * 64)],
        outputs=[dataset(f"{root}/1/ratings.parquet")],
    )
    assert files_of(ingested) == (
        {"dataset_uri": source, "dataset_sha256": "d" * 64},
        {"ratings_uri": f"{root}/1/ratings.parquet"},
    )
    trained = event(
        "RUNNING",
        "train",
        inputs=[dataset(f"{root}/1/train.npz")],
        outputs=[dataset(f"{root}/2/model.joblib", "a" * 64)],
    )
    assert files_of(trained) == ({}, {"model_uri": f"{root}/2/model.joblib", "model_sha256": "a" * 64})


def test_a_store_that_is_none_has_no_options() -> None:
    (setting,) = transport("/state/event").values()
    assert json.loads(setting) == {"type": "file", "log_file_path": "/state/event"}


class Api:
    """A run of one step that was tried twice."""

    def find(self, method: str, path: str) -> Any:
        return (
            {"value": {"model_uri": "s3://b/old.joblib"}} if path.endswith("return_value") else {"conf": {}}
        )

    def get(self, path: str) -> Any:
        tries = [
            {"try_number": number, "state": state, "end_date": "2026-01-01T00:00:00Z"}
            for number, state in ((1, "failed"), (2, "success"))
        ]
        return {"params": {}} if path.endswith("details") else {"task_instances": tries}

    def all(self, path: str, key: str) -> Any:
        return [{"task_id": "train", "map_index": -1, "start_date": "2026-01-01T00:00:00Z"}]


def read(*looks: list[str]) -> Any:
    """What the reader makes of the run where the store has these files, look by look."""
    left = [*looks]
    installed = SimpleNamespace(api=Api(), lineage_events=lambda: left.pop(0) if len(left) > 1 else left[0])
    return lineage.known(AirflowDriver(installed), HANDLE)  # type: ignore[arg-type]


def test_events_count_more_than_the_database_of_the_files_that_a_step_made() -> None:
    made = event("RUNNING", "train", 2, 4, outputs=[dataset("s3://b/model.joblib", "a" * 64)])
    ends = [event("START", "train", 1, 1), event("FAIL", "train", 1, 2), event("START", "train", 2, 3)]
    events = [*ends, made, event("COMPLETE", "train", 2, 5)]
    known = read(['{"eventType'], files(*events[:-1]), files(*events))
    assert [each.outputs for each in known.attempts] == [
        {},
        {"model_uri": "s3://b/model.joblib", "model_sha256": "a" * 64},
    ]
    assert [each["eventType"] for each in known.openlineage] == ["START", "FAIL", "START", "COMPLETE"]
    assert known.source == "Airflow's metadata database and its OpenLineage events"


def test_without_events_the_database_alone_is_asked() -> None:
    known = read([])
    assert known.openlineage == ()
    assert known.source == "Airflow's metadata database"
    assert known.attempts[-1].outputs == {"model_uri": "s3://b/old.joblib"}
