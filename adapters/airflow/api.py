"""Airflow's public REST API, version 2, as far as this adapter uses it."""

import time
from datetime import datetime
from typing import Any

import httpx

from adapters.base import BenchError, TargetUnreachable

PAGE = 100
"""The largest page that the API server gives as shipped."""
UNFINISHED = ("queued", "running")
"""States of a run that is not over."""
TRIES, AGAIN_SECONDS = 3, 0.5
"""How often a question is asked over a connection that breaks: a server that was started anew is another one."""
Json = dict[str, Any]


class AirflowApi:
    """One keep-alive connection, logged in when first used."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._credentials = {"username": user, "password": password}
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def find(self, method: str, path: str, *absent: int, **more: Any) -> Json | None:
        """The answer to a call below `/api/v2`; None for 404 and the other status codes in `absent`.

        What only reads is asked again where the connection breaks. Raises `TargetUnreachable` where the server
        does not answer, `BenchError` where it refuses.
        """
        for left in reversed(range(TRIES if method == "GET" else 1)):
            try:
                self.log_in()
                answer = self._client.request(method, f"/api/v2{path}", **more)
                break
            except httpx.HTTPError as error:
                if not left:
                    raise self._unreachable(error) from error
                time.sleep(AGAIN_SECONDS)
        if answer.status_code in (404, *absent):
            return None
        _check(answer)
        found: Json = answer.json() if answer.content else {}
        return found

    def get(self, path: str, **params: Any) -> Json:
        """An object that must be there. Raises as `find` does."""
        found = self.find("GET", path, params=params)
        if found is None:
            raise BenchError(f"airflow has no {path}", "bench doctor")
        return found

    def all(self, path: str, key: str) -> list[Json]:
        """All entries of a collection, page by page. Raises as `find` does."""
        entries: list[Json] = []
        while True:
            page = self.get(path, limit=PAGE, offset=len(entries))
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def log_in(self) -> None:
        """Get a token unless there is one; it is good for a day."""
        if "Authorization" not in self._client.headers:
            answer = self._client.post("/auth/token", json=self._credentials)
            _check(answer)
            self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _unreachable(self, error: httpx.HTTPError) -> TargetUnreachable:
        what = str(error) or type(error).__name__
        return TargetUnreachable(f"airflow: {self.url} does not answer: {what}", "bench doctor")


def run_path(dag_id: str, run_id: str) -> str:
    """Where a run is."""
    return f"/dags/{dag_id}/dagRuns/{run_id}"


def seconds(text: str | None) -> float | None:
    """A timestamp of Airflow's in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp() if text else None


def _check(answer: httpx.Response) -> None:
    """Raises `BenchError` with the server's reason for an answer that is an error."""
    if answer.status_code < 300:
        return
    try:
        reason = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        reason = answer.text[:300]
    call = f"{answer.request.method} {answer.request.url.path}"
    raise BenchError(f"airflow: {call}: {answer.status_code}: {reason}", "bench doctor")
