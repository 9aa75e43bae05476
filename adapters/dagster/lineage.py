"""What Dagster's own store knows of a run: its config, image, the events of its steps, and the gate's check.

Materializations name assets, not files: what the assets hold is with the I/O manager, which is not Dagster's store.
Where they have metadata, these say it; a step's inputs are then what the steps said whose outputs it loaded.
"""

from typing import Any

from adapters.base import RunHandle
from adapters.dagster.adapter import DagsterDriver
from adapters.dagster.names import PARAMETERS
from adapters.lineage import Kept, Known

SOURCE = "Dagster's run and event storage"
SUCCEEDED = "success"
IMAGE_TAG = "dagster/image"
"""The run launcher for Kubernetes notes there which image it gave the run's pods, its steps' too."""
STORED = """
query ($id: ID!) {
  answer: runOrError(runId: $id) { __typename ... on Run { runId runConfig tags { key value } } }
  log: logsForRun(runId: $id, limit: 1000) {
    __typename
    ... on EventConnection {
      events {
        __typename
        ... on AssetCheckEvaluationEvent {
          timestamp
          evaluation {
            checkName success metadataEntries { label ... on FloatMetadataEntry { floatValue } }
          }
        }
        ... on MaterializationEvent { stepKey metadataEntries { label ... on TextMetadataEntry { text } } }
        ... on LoadedInputEvent { stepKey upstreamStepKey }
      }
    }
  }
}"""


def known(driver: DagsterDriver, handle: RunHandle) -> Known:
    """Config, attempts and the check's score. Raises `BenchError` as GraphQL does."""
    query = (
        f"GraphQL runOrError({handle.native_id}): runConfig, tags; "
        "logsForRun: step events, asset checks, materializations, loaded inputs"
    )
    parts = driver.api.ask_all(STORED, id=handle.native_id)
    if parts["answer"]["__typename"] != "Run":
        return Known(source=SOURCE, query=query)
    timeline = driver.timeline(handle)
    events = (parts["log"] or {}).get("events") or []
    checked, said, loaded = checks_of(events), said_by(events), loaded_by(events)
    config = (((parts["answer"]["runConfig"] or {}).get("resources") or {}).get("run") or {}).get(
        "config"
    ) or {}
    parameters = {name: str(value) for name, value in (config.get("parameters") or {}).items()}
    tags = {tag["key"]: str(tag["value"]) for tag in parts["answer"]["tags"]}
    attempts = []
    for each in timeline.attempts:
        key, done = each.native_id, each.status == SUCCEEDED
        left = {**(checked if each.step == "eval" else {}), **said.get(key, {})} if done else {}
        parameters |= parameters_in(left)
        attempts.append(
            Kept(
                step=each.step,
                attempt=each.attempt,
                succeeded=done,
                inputs={
                    name: text
                    for source in loaded.get(key, ())
                    for name, text in said.get(source, {}).items()
                },
                outputs=left,
                finished=each.finished,
                image=tags.get(IMAGE_TAG, "").rpartition("@")[2],
            )
        )
    return Known(
        source=SOURCE,
        query=query,
        parameters=parameters,
        attempts=tuple(attempts),
        run=str(config.get("run_id", "")),
    )


def said_by(events: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The metadata of the materializations of each step, by its key."""
    found: dict[str, dict[str, str]] = {}
    for event in events:
        if event["__typename"] == "MaterializationEvent":
            texts = {each["label"]: each["text"] for each in event["metadataEntries"] if each.get("text")}
            found.setdefault(event["stepKey"], {}).update(texts)
    return found


def loaded_by(events: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The steps whose outputs each step has loaded, by its key and in that order."""
    found: dict[str, list[str]] = {}
    for event in events:
        if event["__typename"] == "LoadedInputEvent" and event["upstreamStepKey"]:
            found.setdefault(event["stepKey"], []).append(event["upstreamStepKey"])
    return found


def parameters_in(said: dict[str, str]) -> dict[str, str]:
    """The run's parameters among what is said of an asset."""
    return {name.removeprefix(PARAMETERS): text for name, text in said.items() if name.startswith(PARAMETERS)}


def checks_of(events: list[dict[str, Any]]) -> dict[str, str]:
    """The gate's verdict and the numbers it rests on."""
    found: dict[str, str] = {}
    for event in events:
        if event["__typename"] == "AssetCheckEvaluationEvent":
            evaluation = event["evaluation"]
            found["passed"] = str(evaluation["success"]).lower()
            for entry in evaluation["metadataEntries"]:
                if entry.get("floatValue") is not None:
                    found[entry["label"]] = str(entry["floatValue"])
    return found
