"""What Prefect's own store knows of a run: flow-run parameters, task runs with their states.

Results are not in it: they are in memory, or where a flow persists them. A step that is a flow run of its own has
its inputs there as parameters.
"""

from collections.abc import Mapping
from typing import Any

from adapters.base import RunHandle
from adapters.lineage import Kept, Known
from adapters.prefect.adapter import PrefectDriver
from adapters.prefect.api import NotFound
from adapters.prefect.records import is_apart

SOURCE = "Prefect's database"
COMPLETED = "Completed"


def known(driver: PrefectDriver, handle: RunHandle) -> Known:
    """Parameters and attempts. Raises `BenchError` where the server does not answer."""
    api = driver.runtime.api()
    query = f"GET flow_runs/{handle.native_id}: parameters; task_runs and child flow_runs of it, with their states"
    try:
        flow_run = api.get(f"/flow_runs/{handle.native_id}")
    except NotFound:
        return Known(source=SOURCE, query=query)
    given: dict[str, Mapping[str, str]] = {}
    if is_apart(flow_run):
        given = {row["id"]: _inputs(row["parameters"]) for row in api.children_of(handle.native_id)}
    attempts = tuple(
        Kept(
            step=each.step,
            attempt=each.attempt,
            succeeded=each.status == COMPLETED,
            inputs=given.get(each.native_id, {}),
            finished=each.finished,
        )
        for each in driver.timeline(handle).attempts
    )
    config = flow_run["parameters"].get("config") or {}
    return Known(
        source=SOURCE,
        query=query,
        parameters={name: str(value) for name, value in config.items()},
        attempts=attempts,
        run=str(flow_run["parameters"].get("run_id", flow_run["name"])),
    )


def _inputs(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in (parameters.get("inputs") or {}).items()}
