"""What Airflow's installations have in common, wherever they run."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from adapters.airflow.api import AirflowApi, Json, run_path, seconds

DATABASE = "airflow"
USER = "bench"
API, SCHEDULER, PROCESSOR, TRIGGERER = (
    "airflow-api-server",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
)
ROLES = {API: "api", SCHEDULER: "scheduler", PROCESSOR: "parser", TRIGGERER: "triggerer"}
HEARTBEATS = {"scheduler": SCHEDULER, "dag_processor": PROCESSOR, "triggerer": TRIGGERER}
"""Components in the answer of `/monitor/health`."""
START_SECONDS = 300.0
DAGS = {"recommender": "recommender()", "recommender_sweep": "recommender_sweep()"}
"""Those that are there from the start, and the calls that make them."""


class Airflow(Protocol):
    """An installation, as the driver uses it."""

    tasks_are_pods: bool

    @property
    def api(self) -> AirflowApi:
        """A connection to the API server. Raises `BenchError` where there is none."""

    def deployed(self) -> bool:
        """Whether there is a database that may know of runs."""

    def answering(self) -> AbstractContextManager[AirflowApi]:
        """The API; where its server does not run, one is started for as long as the block lasts."""

    def add_dag(self, dag_id: str, call: str) -> None:
        """Make sure that Airflow has the DAG that `call` gives."""

    def remove_run(self, dag_id: str, run_id: str) -> None:
        """End a run with its tasks, then delete it."""

    def log(self, dag_id: str, run_id: str, task: Json, attempt: int) -> Sequence[str]:
        """The lines that an attempt of a task printed."""


def dag_text(call: str) -> str:
    """The file of the DAG that `call` gives."""
    return f"from adapters.airflow.pipeline import {call.partition('(')[0]}\n\ndag = {call}\n"


def not_reported(said: Json, started: Mapping[str, float]) -> str:
    """What is wrong with the answer of `/monitor/health`; a report from before a server's start does not count."""
    for part, name in HEARTBEATS.items():
        if said[part]["status"] != "healthy":
            return f"{part} is {said[part]['status']}"
        if (seconds(said[part][f"latest_{part}_heartbeat"]) or 0) < started.get(name, 0.0):
            return f"{part} has not reported since it was started"
    return ""


def not_parsed(api: AirflowApi, dag_id: str, since: float) -> str:
    """Empty when Airflow has parsed the DAG's file after `since`, otherwise what it says."""
    found = api.find("GET", f"/dags/{dag_id}")
    if found and not found["is_stale"] and (seconds(found["last_parsed_time"]) or 0) >= since:
        return ""
    wrong = [each["stack_trace"] for each in api.get("/importErrors")["import_errors"]]
    return "\n".join([f"the DAG {dag_id} is not there yet", *wrong])


def logged(api: AirflowApi, dag_id: str, run_id: str, task: Json, attempt: int) -> list[str]:
    """The lines of an attempt's log file, as the API server gives them."""
    path = f"{run_path(dag_id, run_id)}/taskInstances/{task['task_id']}/logs/{attempt}"
    found = api.find("GET", path, params={"map_index": task["map_index"], "full_content": True})
    entries = found["content"] if found else []
    return [entry if isinstance(entry, str) else entry["event"] for entry in entries]
