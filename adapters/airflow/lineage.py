"""What Airflow's own stores know of a run: the DAG run's conf, task instances with their tries, XCom.

Where the OpenLineage provider is switched on, its events too: of the files that steps read and made they count more.
"""

import ast
import time
from collections.abc import Mapping
from typing import Any

from adapters.airflow.adapter import AirflowDriver, native, step_of
from adapters.airflow.api import Json, run_path, seconds
from adapters.airflow.openlineage import attempt_of, events_of, files_of, is_whole
from adapters.airflow.openlineage import step_of as step_of_event
from adapters.base import RunHandle
from adapters.lineage import Kept, Known
from core.config import STEPS

SOURCE = "Airflow's metadata database"
QUERY = "GET dags/{dag}/details: params; GET {run}: conf; {run}/taskInstances (+ tries): rendered_fields; xcomEntries"
EVENTS_SOURCE = f"{SOURCE} and its OpenLineage events"
EVENTS_QUERY = "; events in files: facet airflow.dagRun.run_id"
EVENTS_SECONDS = 20.0
"""How long the last event is waited for: the provider gives itself 10 s (`execution_timeout`) when the run may be over
already."""


def known(driver: AirflowDriver, handle: RunHandle) -> Known:
    """The run's parameters, and what each task was given and returned. Raises `BenchError` as the API does."""
    api = driver.airflow.api
    dag_id, run_id = native(handle)
    path = run_path(dag_id, run_id)
    query = QUERY.format(dag=dag_id, run=path)
    run = api.find("GET", path)
    if run is None:
        return Known(source=SOURCE, query=query)
    defaults = {
        name: each.get("value") for name, each in (api.get(f"/dags/{dag_id}/details")["params"] or {}).items()
    }
    events = _events(driver, dag_id, run_id)
    files = {(step_of_event(each), attempt_of(each)): files_of(each) for each in events if _has_files(each)}
    attempts: list[Kept] = []
    for task in api.all(f"{path}/taskInstances", "task_instances"):
        step, _ = step_of(task)
        if step not in STEPS or not task["start_date"]:
            continue
        here = f"{path}/taskInstances/{task['task_id']}"
        returned = api.find("GET", f"{here}/xcomEntries/return_value")
        tries = api.get(f"{here}/tries")["task_instances"]
        attempts += [
            _kept(step, each, task, returned, *files.get((step, each["try_number"]), ({}, {})))
            for each in tries
        ]
    return Known(
        source=EVENTS_SOURCE if events else SOURCE,
        query=query + EVENTS_QUERY if events else query,
        parameters={
            name: str(value)
            for name, value in {**defaults, **(run["conf"] or {})}.items()
            if value is not None
        },
        attempts=tuple(sorted(attempts, key=lambda each: (each.finished or 0.0, each.attempt))),
        run=handle.run_id,
        openlineage=tuple(each for each in events if each["eventType"] != "RUNNING"),
    )


def _events(driver: AirflowDriver, dag_id: str, run_id: str) -> list[Json]:
    """The events of the run's steps; waited for until every attempt's last is there."""
    end = time.monotonic() + EVENTS_SECONDS
    while files := driver.airflow.lineage_events():
        try:
            events = events_of(files, dag_id, run_id)
        except ValueError:  # one is being written
            events = []
        if is_whole(events) or time.monotonic() > end:
            return events
        time.sleep(0.5)
    return []


def _has_files(event: Json) -> bool:
    return bool(event["inputs"] or event["outputs"])


def _kept(
    step: str,
    each: Json,
    task: Json,
    returned: Json | None,
    read: Mapping[str, str],
    made: Mapping[str, str],
) -> Kept:
    """A try; what was returned is the last one's. `read` and `made` are what events have of it."""
    succeeded = each["state"] == "success"
    outputs = flat(returned["value"]) if succeeded and returned else {}
    return Kept(
        step=step,
        attempt=each["try_number"],
        succeeded=succeeded,
        inputs={**flat(task.get("rendered_fields") or {}), **read},
        outputs={**outputs, **made},
        finished=seconds(each["end_date"]),
    )


def flat(value: Any) -> dict[str, str]:
    """The texts in a value as Airflow keeps it: dictionaries in lists, or the text of such a thing."""
    if isinstance(value, str) and value[:1] in ("{", "[", "("):
        try:
            return flat(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            return {}
    if isinstance(value, list | tuple):
        return {name: text for each in value for name, text in flat(each).items()}
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, str] = {}
    for name, each in value.items():
        if isinstance(each, Mapping | list | tuple) or (
            isinstance(each, str) and each[:1] in ("{", "[", "(")
        ):
            found |= flat(each)
        elif each is not None:
            found[str(name)] = str(each)
    return found
