"""What Airflow's own store knows of a run: the DAG run's conf, task instances with their tries, XCom."""

import ast
from collections.abc import Mapping
from typing import Any

from adapters.airflow.adapter import AirflowDriver, native, step_of
from adapters.airflow.api import Json, run_path, seconds
from adapters.base import RunHandle
from adapters.lineage import Kept, Known
from core.config import STEPS

SOURCE = "Airflow's metadata database"
QUERY = "GET dags/{dag}/details: params; GET {run}: conf; {run}/taskInstances (+ tries): rendered_fields; xcomEntries"


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
    attempts: list[Kept] = []
    for task in api.all(f"{path}/taskInstances", "task_instances"):
        step, _ = step_of(task)
        if step not in STEPS or not task["start_date"]:
            continue
        here = f"{path}/taskInstances/{task['task_id']}"
        returned = api.find("GET", f"{here}/xcomEntries/return_value")
        tries = api.get(f"{here}/tries")["task_instances"]
        attempts += [_kept(step, each, task, returned) for each in tries]
    return Known(
        source=SOURCE,
        query=query,
        parameters={
            name: str(value)
            for name, value in {**defaults, **(run["conf"] or {})}.items()
            if value is not None
        },
        attempts=tuple(sorted(attempts, key=lambda each: (each.finished or 0.0, each.attempt))),
        run=handle.run_id,
    )


def _kept(step: str, each: Json, task: Json, returned: Json | None) -> Kept:
    """A try; what was returned is the last one's."""
    succeeded = each["state"] == "success"
    return Kept(
        step=step,
        attempt=each["try_number"],
        succeeded=succeeded,
        inputs=flat(task.get("rendered_fields") or {}),
        outputs=flat(returned["value"]) if succeeded and returned else {},
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
