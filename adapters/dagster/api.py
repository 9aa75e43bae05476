"""Dagster's GraphQL API over one kept-alive connection."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from adapters.base import BenchError, TargetUnreachable
from adapters.dagster.names import LOCATION, REPOSITORY

Answer = dict[str, Any]
PAGE = 1000
"""Events in one answer."""
ATTEMPTS, PAUSE_SECONDS = 3, 0.5
WHERE = {"repositoryName": REPOSITORY, "repositoryLocationName": LOCATION}

LAUNCH = """
mutation ($job: String!, $repository: String!, $location: String!, $config: RunConfigData, $tags: [ExecutionTag!]) {
  answer: launchRun(executionParams: {
    selector: {jobName: $job, repositoryName: $repository, repositoryLocationName: $location}
    runConfigData: $config
    executionMetadata: {tags: $tags}
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""
FIND = """
query ($filter: RunsFilter!) {
  answer: runsOrError(filter: $filter) {
    __typename ... on Runs { results { runId jobName status } } ... on Error { message }
  }
}"""
RUN = """
query ($id: ID!) {
  answer: runOrError(runId: $id) { __typename ... on Run { status startTime endTime } ... on Error { message } }
}"""
TAGS = """
query ($id: ID!) {
  answer: runOrError(runId: $id) { __typename ... on Run { tags { key value } } ... on Error { message } }
}"""
EVENTS = """
query ($id: ID!, $after: String, $limit: Int) {
  answer: logsForRun(runId: $id, afterCursor: $after, limit: $limit) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { timestamp stepKey message eventType }
        ... on ErrorEvent { error { message } }
        ... on LogsCapturedEvent { fileKey stepKeys }
        ... on DisplayableEvent { metadataEntries { label ... on TextMetadataEntry { text } } }
      }
    }
    ... on Error { message }
  }
}"""
PRINTED = """
query ($key: [String!]!) { answer: capturedLogs(logKey: $key) { stdout } }"""
TERMINATE = """
mutation ($id: String!, $policy: TerminateRunPolicy!) {
  answer: terminateRun(runId: $id, terminatePolicy: $policy) {
    __typename ... on TerminateRunFailure { message } ... on Error { message }
  }
}"""
DELETE = """
mutation ($id: String!) { answer: deleteRun(runId: $id) { __typename ... on Error { message } } }"""
RELOAD = """
mutation ($location: String!) {
  answer: reloadRepositoryLocation(repositoryLocationName: $location) { __typename ... on Error { message } }
}"""
BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  answer: launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""
BACKFILLED = """
query ($id: String!) {
  answer: partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill {
      status
      error { message }
      partitionStatuses { results { partitionName runId } }
    }
    ... on Error { message }
  }
}"""
BACKFILLING = """
query {
  answer: partitionBackfillsOrError(status: REQUESTED) {
    __typename
    ... on PartitionBackfills { results { id partitionSetName tags { key value } } }
    ... on Error { message }
  }
}"""
CANCEL = """
mutation ($id: String!) {
  answer: cancelPartitionBackfill(backfillId: $id) { __typename ... on Error { message } }
}"""
PARTITIONS_OF = "_partition_set"
"""What Dagster calls the partitions of a job: its name and this."""
SCHEDULE, SENSOR = "Schedule", "Sensor"
START = """
mutation ($selector: %(kind)sSelector!) {
  answer: start%(kind)s(%(field)sSelector: $selector) { __typename ... on Error { message } }
}"""
RESET = """
mutation ($selector: %(kind)sSelector!) {
  answer: reset%(kind)s(%(field)sSelector: $selector) { __typename ... on Error { message } }
}"""
TICKS = """
query ($selector: SensorSelector!) {
  answer: sensorOrError(sensorSelector: $selector) {
    __typename
    ... on Sensor { sensorState { ticks(limit: 1) { status error { message } } } }
    ... on Error { message }
  }
}"""
WIPE = """
mutation ($key: [String!]!) {
  answer: wipeAssets(assetPartitionRanges: [{assetKey: {path: $key}}]) { __typename ... on Error { message } }
}"""
DEFINED = """
query ($location: String!) {
  answer: workspaceLocationEntryOrError(name: $location) {
    __typename
    ... on WorkspaceLocationEntry {
      locationOrLoadError {
        __typename
        ... on RepositoryLocation { repositories { jobs { name } schedules { name } sensors { name } } }
        ... on PythonError { message }
      }
    }
    ... on Error { message }
  }
}"""
HEALTH = """
query ($location: String!) {
  answer: instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } }
  location: workspaceLocationEntryOrError(name: $location) {
    __typename
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
    ... on Error { message }
  }
}"""


class Api:
    """Questions to a webserver; `address` says where it is now."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address
        self._client = httpx.Client(timeout=60, trust_env=False, verify=False)

    def ask(self, query: str, **variables: Any) -> Answer:
        """The answer to a query or mutation.

        Raises `TargetUnreachable` where nobody answers, `BenchError` where Dagster reports an error of its own.
        """
        return self.ask_all(query, **variables)["answer"]  # type: ignore[no-any-return]

    def ask_all(self, query: str, **variables: Any) -> Answer:
        """All parts of the answer; see `ask`."""
        url = f"{self._address()}/graphql"
        try:
            reply = self._post(url, {"query": query, "variables": variables})
        except httpx.HTTPError as error:
            raise TargetUnreachable(f"{url}: {error or type(error).__name__}", "bench doctor") from error
        try:
            body = reply.json()
        except ValueError:
            body = {"errors": [{"message": reply.text[:300]}]}
        if errors := body.get("errors"):
            raise BenchError(f"dagster: {errors[0].get('message')}", "see the webserver's log")
        parts: Answer = body["data"]
        return parts

    def _post(self, url: str, body: Answer) -> httpx.Response:
        """A question is asked again where the connection breaks, as on a server's restart; a mutation never."""
        attempts = 1 if "mutation" in body["query"] else ATTEMPTS
        while True:
            try:
                return self._client.post(url, json=body)
            except httpx.TransportError:
                attempts -= 1
                if not attempts:
                    raise
                time.sleep(PAUSE_SECONDS)

    def launch(self, job: str, config: Answer, tags: dict[str, str]) -> str:
        """Start a run; its id. Raises `BenchError` where Dagster refuses."""
        answer = self.ask(
            LAUNCH,
            job=job,
            repository=REPOSITORY,
            location=LOCATION,
            config=config,
            tags=_pairs(tags),
        )
        if answer["__typename"] != "LaunchRunSuccess":
            raise BenchError(f"dagster refuses to run {job}: {why(answer)}", "bench doctor")
        return str(answer["run"]["runId"])

    def backfill(self, job: str, partitions: Sequence[str], config: Answer, tags: dict[str, str]) -> str:
        """Ask for a run of each of the job's partitions; the backfill's id. Raises `BenchError` where refused."""
        params = {
            "selector": {"partitionSetName": job + PARTITIONS_OF, "repositorySelector": WHERE},
            "partitionNames": list(partitions),
            "runConfigData": config,
            "tags": _pairs(tags),
        }
        answer = self.ask(BACKFILL, params=params)
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise BenchError(f"dagster refuses the backfill of {job}: {why(answer)}", "bench doctor")
        return str(answer["backfillId"])

    def backfilled(self, backfill_id: str) -> tuple[str, dict[str, str], str]:
        """A backfill's status, the runs that it has made by their partitions, and its error, if any."""
        answer = self.ask(BACKFILLED, id=backfill_id)
        if answer["__typename"] != "PartitionBackfill":
            raise BenchError(f"dagster cannot read backfill {backfill_id}: {why(answer)}", "bench doctor")
        found = (answer["partitionStatuses"] or {}).get("results") or ()
        runs = {each["partitionName"]: str(each["runId"]) for each in found if each["runId"]}
        return answer["status"], runs, (answer["error"] or {}).get("message") or ""

    def backfilling(self) -> list[Answer]:
        """Backfills that are not over: each with `id`, `job` and `tags`."""
        answer = self.ask(BACKFILLING)
        if answer["__typename"] != "PartitionBackfills":
            raise BenchError(f"dagster cannot list its backfills: {why(answer)}", "bench doctor")
        return [
            {
                "id": each["id"],
                "job": (each["partitionSetName"] or "").removesuffix(PARTITIONS_OF),
                "tags": _texts(each["tags"]),
            }
            for each in answer["results"]
        ]

    def find(self, **wanted: Any) -> list[Answer]:
        """Runs that a `RunsFilter` lets through, the newest first."""
        answer = self.ask(FIND, filter=wanted)
        if answer["__typename"] != "Runs":
            raise BenchError(f"dagster cannot list its runs: {why(answer)}", "bench doctor")
        runs: list[Answer] = answer["results"]
        return runs

    def run(self, run_id: str) -> Answer | None:
        """Status and times of a run; None where there is none."""
        answer = self.ask(RUN, id=run_id)
        if answer["__typename"] == "RunNotFoundError":
            return None
        if answer["__typename"] != "Run":
            raise BenchError(f"dagster cannot read run {run_id}: {why(answer)}", "bench doctor")
        return answer

    def tags(self, run_id: str) -> dict[str, str]:
        """A run's tags; empty where there is no such run."""
        return _texts(self.ask(TAGS, id=run_id).get("tags") or ())

    def events(self, run_id: str) -> Iterator[Answer]:
        """A run's event log, in order."""
        after: str | None = None
        while True:
            page = self.ask(EVENTS, id=run_id, after=after, limit=PAGE)
            if page["__typename"] != "EventConnection":
                raise BenchError(f"dagster cannot read the events of {run_id}: {why(page)}", "bench doctor")
            yield from page["events"]
            if not page["hasMore"]:
                return
            after = page["cursor"]

    def reload(self) -> set[str]:
        """Load the code location again; see `defined`."""
        self.ask(RELOAD, location=LOCATION)  # its answer still shows what was there before
        return self.defined()

    def defined(self) -> set[str]:
        """The names of the code location's jobs, schedules and sensors.

        Raises `BenchError` where it could not be loaded.
        """
        answer = self.ask(DEFINED, location=LOCATION)
        found = answer.get("locationOrLoadError") or answer
        if found["__typename"] != "RepositoryLocation":
            raise BenchError(
                f"dagster cannot load the definitions: {why(found)}", "see the code server's log"
            )
        kinds = ("jobs", "schedules", "sensors")
        return {
            each["name"]
            for repository in found["repositories"]
            for kind in kinds
            for each in repository[kind]
        }

    def start(self, kind: str, name: str) -> None:
        """Turn a schedule or sensor on. Raises `BenchError` where Dagster refuses."""
        answer = self._switch(START, kind, name)
        if answer["__typename"].endswith("Error"):
            raise BenchError(f"dagster does not start {name}: {why(answer)}", "see the webserver's log")

    def reset(self, kind: str, name: str) -> None:
        """Turn a schedule or sensor off, if it is there, and forget that it was on."""
        self._switch(RESET, kind, name)

    def _switch(self, mutation: str, kind: str, name: str) -> Answer:
        query = mutation % {"kind": kind, "field": kind.lower()}
        return self.ask(query, selector=_selector(kind, name))

    def last_tick(self, sensor: str) -> Answer:
        """Status and error of a sensor's last evaluation; empty where there was none."""
        answer = self.ask(TICKS, selector=_selector(SENSOR, sensor))
        if answer["__typename"] != "Sensor":
            raise BenchError(f"dagster does not know the sensor {sensor}: {why(answer)}", "bench doctor")
        return next(iter(answer["sensorState"]["ticks"]), {})

    def materialized(self, key: list[str], metadata: Answer) -> None:
        """Report that an external asset was made. Raises `BenchError` where the report is refused."""
        url = f"{self._address()}/report_asset_materialization/{'/'.join(key)}"
        try:
            reply = self._client.post(url, json={"metadata": metadata})
        except httpx.HTTPError as error:
            raise TargetUnreachable(f"{url}: {error or type(error).__name__}", "bench doctor") from error
        if reply.is_error:
            raise BenchError(f"dagster refuses the event: {reply.text[:300]}", "see the webserver's log")


def _selector(kind: str, name: str) -> Answer:
    return {**WHERE, f"{kind.lower()}Name": name}


def _pairs(tags: Mapping[str, str]) -> list[Answer]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _texts(pairs: Iterable[Answer]) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in pairs}


def why(answer: Answer) -> str:
    """What Dagster says of a refusal."""
    said = [error["message"] for error in answer.get("errors") or ()] or [answer.get("message")]
    return "; ".join(str(text).strip() for text in said if text) or str(answer.get("__typename"))


def address_in(file: Path) -> Callable[[], str]:
    """Reads the webserver's address from the file that its start wrote."""

    def read() -> str:
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise TargetUnreachable("dagster is not deployed", "bench run --orchestrator dagster") from error

    return read
