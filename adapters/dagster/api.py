"""Dagster's GraphQL API over one kept-alive connection."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from adapters.base import BenchError, TargetUnreachable
from adapters.dagster.names import LOCATION, REPOSITORY

Answer = dict[str, Any]
PAGE = 1000
"""Events in one answer."""
ATTEMPTS, PAUSE_SECONDS = 3, 0.5

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
JOBS = """
query ($location: String!) {
  answer: workspaceLocationEntryOrError(name: $location) {
    __typename
    ... on WorkspaceLocationEntry {
      locationOrLoadError {
        __typename ... on RepositoryLocation { repositories { jobs { name } } } ... on PythonError { message }
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
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        if answer["__typename"] != "LaunchRunSuccess":
            raise BenchError(f"dagster refuses to run {job}: {why(answer)}", "bench doctor")
        return str(answer["run"]["runId"])

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

    def reload(self) -> list[str]:
        """Load the code location again; the names of its jobs.

        Raises `BenchError` where it cannot be loaded.
        """
        self.ask(RELOAD, location=LOCATION)  # its answer still shows what was there before
        return self.jobs()

    def jobs(self) -> list[str]:
        """The names of the code location's jobs. Raises `BenchError` where it could not be loaded."""
        answer = self.ask(JOBS, location=LOCATION)
        found = answer.get("locationOrLoadError") or answer
        if found["__typename"] != "RepositoryLocation":
            raise BenchError(
                f"dagster cannot load the definitions: {why(found)}", "see the code server's log"
            )
        return [job["name"] for repository in found["repositories"] for job in repository["jobs"]]


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
