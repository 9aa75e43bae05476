"""What the Kubernetes API answers, as the rest meets it."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from kubernetes.dynamic.exceptions import NotFoundError

from adapters.base import BenchError
from adapters.kube import Kube


def answers(*events: dict[str, Any], asked: dict[str, Any] | None = None) -> Any:
    """A list call whose watch gives these events."""

    def list_call(**where: Any) -> urllib3.HTTPResponse:
        """:return: V1PodList"""
        if asked is not None:
            asked.update(where)
        body = "".join(json.dumps(event) + "\n" for event in events).encode()
        return urllib3.HTTPResponse(io.BytesIO(body), status=200, preload_content=False)

    return list_call


ADDED = {"type": "ADDED", "object": {"metadata": {"name": "a"}}}


def test_a_watch_that_loses_its_place_ends_and_its_caller_lists_again() -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    asked: dict[str, Any] = {}
    found = list(Kube.events(answers(ADDED, gone, ADDED, asked=asked), "1", 60, namespace="n"))
    assert found == [("ADDED", ADDED["object"])]
    connecting, reading = asked["_request_timeout"]
    assert connecting < 60 < reading, "longer than the server's own"


def test_a_key_that_is_missing_otherwise_is_no_lost_place() -> None:
    with pytest.raises(KeyError, match="type"):
        list(Kube.events(answers({"object": {}}), "1", 60))


class Kept:
    """An object that stays however often it is asked for, or for so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def get(self, **where: Any) -> Any:
        self.times -= 1
        if self.times < 0:
            raise NotFoundError(
                type("Answer", (), {"status": 404, "reason": "", "body": "", "headers": {}})()
            )
        return type("Found", (), {"metadata": type("Metadata", (), {"resourceVersion": "1"})()})()

    def watch(self, **where: Any) -> Iterator[dict[str, Any]]:
        """Cut by the server before anything was told."""
        return iter(())


def test_what_does_not_go_away_is_an_error_and_a_watch_that_was_cut_is_not() -> None:
    Kube._gone(Kept(3), "run-1", None, 60)
    with pytest.raises(BenchError, match="run-1 is still there 0 s after it was deleted"):
        Kube._gone(Kept(10**9), "run-1", None, 0)
