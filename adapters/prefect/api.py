"""Prefect's REST API, as far as runs and their records need it."""

import itertools
import json
import time
from typing import Any

import httpx

from adapters.base import BenchError, TargetUnreachable

Document = dict[str, Any]
PAGE = 200
"""Rows per request: what the server allows as shipped."""


class NotFound(BenchError):
    """The server knows no such thing."""


class PrefectApi:
    """A connection to one server, kept open. Raises `TargetUnreachable` where it does not answer.

    What changes nothing is asked again for `patience` seconds where the connection breaks.
    """

    def __init__(self, url: str, auth: str = "", patience: float = 0.0) -> None:
        self.url, self._patience = url, patience
        user, _, password = auth.partition(":")
        self._client = httpx.Client(
            base_url=url, timeout=60, trust_env=False, auth=(user, password) if auth else None
        )

    def get(self, path: str, **params: str) -> Any:
        """What the server has at `path`."""
        return self._send("GET", path, params=params).json()

    def post(self, path: str, body: Document | list[Document]) -> httpx.Response:
        """The answer to `body`."""
        return self._send("POST", path, json=body)

    def patch(self, path: str, body: Document) -> None:
        """Change what is at `path`."""
        self._send("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """Remove what is at `path`."""
        self._send("DELETE", path)

    def rows(self, path: str, body: Document) -> list[Document]:
        """All rows that a filter finds, page by page; each once, although rows may arrive meanwhile."""
        rows: dict[str, Document] = {}
        for offset in itertools.count(0, PAGE):
            page = self.post(path, {**body, "limit": PAGE, "offset": offset}).json()
            rows |= {row["id"]: row for row in page}
            if len(page) < PAGE:
                break
        return list(rows.values())

    def flow_run_of(self, run_id: str) -> Document | None:
        """The flow run that was submitted for `run_id`, or that Prefect has made of the deployment made for it."""
        submitted = self.rows("/flow_runs/filter", {"flow_runs": {"idempotency_key": {"any_": [run_id]}}})
        made = submitted or self.rows("/flow_runs/filter", {"deployments": {"name": {"any_": [run_id]}}})
        return next(iter(made), None)

    def named(self, kind: str, name: str) -> list[Document]:
        """The `deployments` or `automations` of that name."""
        return self.rows(f"/{kind}/filter", {kind: {"name": {"any_": [name]}}})

    def children_of(self, flow_run_id: str) -> list[Document]:
        """The flow runs that a flow run has started."""
        return self.rows("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run_id]}}})

    def events(self, prefixes: list[str], about: list[str]) -> list[Document]:
        """The events whose names begin with one of `prefixes` and that refer to one of the resources `about`."""
        if not about:
            return []
        body = {
            "filter": {"event": {"prefix": prefixes}, "related": {"id": about}, "order": "ASC"},
            "limit": 50,
        }
        page = self.post("/events/filter", body).json()
        found = list(page["events"])
        while page.get("next_page"):
            query = page["next_page"].split("/events/filter/next", 1)[1]
            page = self._send("GET", f"/events/filter/next{query}").json()
            found += page["events"]
        return found

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = self._answer(method, path, **more)
        if answer.is_success:
            return answer
        text = f"the Prefect server refused {method} {path}: {answer.status_code} {_detail(answer)}"
        raise (NotFound if answer.status_code == 404 else BenchError)(text, "bench doctor")

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        again = method == "GET" or path.endswith("/filter")
        end = time.monotonic() + (self._patience if again else 0.0)
        while True:
            try:
                return self._client.request(method, path, **more)
            except httpx.HTTPError as error:
                if time.monotonic() >= end:
                    what = f"the Prefect server does not answer: {error or type(error).__name__}"
                    raise TargetUnreachable(what, "bench doctor") from error
            time.sleep(0.2)


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:500]
    except (json.JSONDecodeError, KeyError, TypeError):
        return answer.text[:500]
