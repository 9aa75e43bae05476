"""What Airflow's installations have in common, wherever they run."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from adapters.airflow.api import PAGE, UNFINISHED, AirflowApi, Json, run_path, seconds
from adapters.airflow.dags import DAGS, ONE_RUN

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

    def remove_dag(self, dag_id: str) -> bool:
        """Remove a DAG and its file; False where there is neither."""

    def remove_run(self, dag_id: str, dag_run_id: str) -> None:
        """End a run with its tasks, then delete it."""

    def log(self, dag_id: str, dag_run_id: str, task: Json, attempt: int) -> Sequence[str]:
        """The lines that an attempt of a task printed."""

    def lineage_events(self) -> Sequence[str | bytes]:
        """The OpenLineage events that were kept, each as JSON; none where the provider is not switched on."""


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


def look_for_files(api: AirflowApi) -> None:
    """Have the DAG processor look for new and removed files now, by asking it to parse one that it knows."""
    token = api.get(f"/dags/{next(iter(DAGS))}")["file_token"]
    api.find("PUT", f"/parseDagFile/{token}", 409)  # 409: already asked for


def not_stale(api: AirflowApi, dag_id: str) -> str:
    """Empty when Airflow has seen that the DAG's file is gone."""
    found = api.find("GET", f"/dags/{dag_id}")
    return f"the DAG {dag_id} is still there" if found and not found["is_stale"] else ""


def remove_abandoned(airflow: Airflow) -> None:
    """Remove the runs that an earlier command left unfinished, and what would start more: Airflow goes on."""
    for run in airflow.api.get("/dags/~/dagRuns", state=UNFINISHED, limit=PAGE)["dag_runs"]:
        airflow.remove_run(run["dag_id"], run["dag_run_id"])
    for dag in airflow.api.get("/dags", dag_id_prefix_pattern=ONE_RUN, limit=PAGE)["dags"]:
        airflow.remove_dag(dag["dag_id"])


def logged(api: AirflowApi, dag_id: str, run_id: str, task: Json, attempt: int) -> list[str]:
    """The lines of an attempt's log file, as the API server gives them."""
    path = f"{run_path(dag_id, run_id)}/taskInstances/{task['task_id']}/logs/{attempt}"
    found = api.find("GET", path, params={"map_index": task["map_index"], "full_content": True})
    entries = found["content"] if found else []
    return [entry if isinstance(entry, str) else entry["event"] for entry in entries]
