"""What Dagster's own store knows of a run: its config, image, the events of its steps, and the gate's check.

Materialisations name assets, not files: what the assets hold is with the I/O manager, which is not Dagster's store.
"""

from typing import Any

from adapters.base import RunHandle
from adapters.dagster.adapter import DagsterDriver
from adapters.lineage import Kept, Known

SOURCE = "Dagster's run and event storage"
SUCCEEDED = "success"
IMAGE_TAG = "dagster/image"
"""The run launcher for Kubernetes notes there which image it gave the run's pods, its steps' too."""
STORED = """
query ($id: ID!) {
  answer: runOrError(runId: $id) { __typename ... on Run { runId runConfig tags { key value } } }
  checks: logsForRun(runId: $id, limit: 1000) {
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
      }
    }
  }
}"""


def known(driver: DagsterDriver, handle: RunHandle) -> Known:
    """Config, attempts and the check's score. Raises `BenchError` as GraphQL does."""
    query = f"GraphQL runOrError({handle.native_id}): runConfig, tags; logsForRun: step events, asset checks"
    parts = driver.api.ask_all(STORED, id=handle.native_id)
    if parts["answer"]["__typename"] != "Run":
        return Known(source=SOURCE, query=query)
    timeline = driver.timeline(handle)
    checked = checks_of((parts["checks"] or {}).get("events") or [])
    config = (((parts["answer"]["runConfig"] or {}).get("resources") or {}).get("run") or {}).get(
        "config"
    ) or {}
    tags = {tag["key"]: str(tag["value"]) for tag in parts["answer"]["tags"]}
    attempts = tuple(
        Kept(
            step=each.step,
            attempt=each.attempt,
            succeeded=each.status == SUCCEEDED,
            outputs=checked if each.step == "eval" and each.status == SUCCEEDED else {},
            finished=each.finished,
            image=tags.get(IMAGE_TAG, "").rpartition("@")[2],
        )
        for each in timeline.attempts
    )
    return Known(
        source=SOURCE,
        query=query,
        parameters={name: str(value) for name, value in (config.get("parameters") or {}).items()},
        attempts=attempts,
        run=str(config.get("run_id", "")),
    )


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
