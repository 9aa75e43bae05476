"""What Prefect's own store knows of a run: flow-run parameters, task runs with their states, asset events.

Results are not in it: they are in memory, or where a flow persists them. A step that is a flow run of its own has
its inputs there as parameters; one that materializes an asset has left what it said of that in an event.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapters.base import RunHandle
from adapters.lineage import Kept, Known
from adapters.prefect.adapter import ARRIVAL_SECONDS, POLL_SECONDS, PrefectDriver
from adapters.prefect.api import Document, NotFound, PrefectApi
from adapters.prefect.records import is_apart
from adapters.prefect.variants import ASSETS, KEYS

SOURCE = "Prefect's database"
COMPLETED = "Completed"
MATERIALIZED = "prefect.asset.materialization.succeeded"


class Made(NamedTuple):
    """What a task run said of the asset it made."""

    left: Mapping[str, str] = {}
    given: Mapping[str, str] = {}
    """What the assets that it was made from are said to be."""
    parameters: Mapping[str, str] = {}


def known(driver: PrefectDriver, handle: RunHandle) -> Known:
    """Parameters, attempts and assets. Raises `BenchError` where the server does not answer."""
    api = driver.runtime.api()
    query = f"GET flow_runs/{handle.native_id}: parameters; task_runs and child flow_runs of it, with their states"
    try:
        flow_run = api.get(f"/flow_runs/{handle.native_id}")
    except NotFound:
        return Known(source=SOURCE, query=query)
    given: dict[str, Mapping[str, str]] = {}
    if is_apart(flow_run):
        given = {row["id"]: _inputs(row["parameters"]) for row in api.children_of(handle.native_id)}
    timeline = driver.timeline(handle).attempts
    made: dict[str, Made] = {}
    if ASSETS in (flow_run["job_variables"] or {}).get("env", {}):
        query += f"; POST events/filter: {MATERIALIZED}, related to it"
        done = {each.native_id for each in timeline if each.status == COMPLETED and each.step in KEYS}
        made = _materialized(api, handle.native_id, done)
    attempts = []
    for each in timeline:
        succeeded = each.status == COMPLETED
        asset = made.get(each.native_id, Made()) if succeeded else Made()
        attempts.append(
            Kept(
                step=each.step,
                attempt=each.attempt,
                succeeded=succeeded,
                inputs={**given.get(each.native_id, {}), **asset.given},
                outputs=asset.left,
                finished=each.finished,
            )
        )
    config = flow_run["parameters"].get("config") or {}
    parameters = {name: str(value) for name, value in config.items()}
    for asset in made.values():
        parameters |= asset.parameters
    return Known(
        source=SOURCE,
        query=query,
        parameters=parameters,
        attempts=tuple(attempts),
        run=str(flow_run["parameters"].get("run_id", flow_run["name"])),
    )


def made_of(events: Sequence[Document]) -> dict[str, Made]:
    """What the materializations of one flow run say, by task run.

    An event names the assets that its own was made from, not which materialization of them: where the flow run has
    several of one, none is taken for it.
    """
    said: dict[str, list[Mapping[str, str]]] = {}
    for event in events:
        said.setdefault(event["resource"]["prefect.resource.id"], []).append(_texts(event["payload"]))
    made = {}
    for event in events:
        sources = [said.get(key, []) for key in _related(event, "asset")]
        given = {name: text for each in sources if len(each) == 1 for name, text in each[0].items()}
        for task_run in _related(event, "task-run"):
            made[task_run.removeprefix("prefect.task-run.")] = Made(
                _texts(event["payload"]), given, _texts(event["payload"].get("parameters", {}))
            )
    return made


def _materialized(api: PrefectApi, flow_run_id: str, expected: set[str]) -> dict[str, Made]:
    """See `made_of`; waits for the events of the `expected` task runs, which come after the fact."""
    end = time.monotonic() + ARRIVAL_SECONDS
    while True:
        made = made_of(api.events([MATERIALIZED], [f"prefect.flow-run.{flow_run_id}"]))
        if expected <= made.keys() or time.monotonic() > end:
            return made
        time.sleep(POLL_SECONDS)


def _related(event: Document, role: str) -> list[str]:
    """The resources that have this role in an event."""
    return [each["prefect.resource.id"] for each in event["related"] if each["prefect.resource.role"] == role]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if not isinstance(value, Mapping)}


def _inputs(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in (parameters.get("inputs") or {}).items()}
