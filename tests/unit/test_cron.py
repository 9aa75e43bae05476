"""A schedule of a few minutes, and what becomes of a run that is due while the last one is at work."""

from typing import Any

import pytest

from adapters.base import BenchError, RunRequest
from adapters.cron import cron_of
from tests.conformance.overlap import BESIDE, LEFT_OUT, REPLACES, WAITS, became

DUE = 1764101100
"""2025-11-25, 20:05 UTC."""


def request(**more: Any) -> RunRequest:
    return RunRequest.model_validate(
        {"run_id": "r-1", "workload": "chain", "configuration": "default", **more}
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"due": DUE}, "5 20 25 11 *"),
        ({"due": DUE, "firings": 2}, "5-6 20 25 11 *"),
        ({"due": DUE + 54 * 60}, "59 20 25 11 *"),
        ({"due": 1764547200}, "0 0 1 12 *"),
    ],
)
def test_a_cron_expression_names_each_minute(given: dict[str, int], expected: str) -> None:
    assert cron_of(request(**given)) == expected


@pytest.mark.parametrize("given", [{"due": DUE + 1}, {"due": DUE + 54 * 60, "firings": 2}])
def test_what_is_no_minute_of_one_hour_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="r-1 cannot be scheduled for"):
        cron_of(request(**given))


def test_a_schedule_needs_a_time() -> None:
    with pytest.raises(BenchError, match="not said when r-1 is due"):
        cron_of(request())


def event(kind: str, token: str, second: int) -> dict[str, Any]:
    return {"event": kind, "attempt_token": token, "wall_ns": second * 10**9}


FIRST, SECOND = event("start", "a", 0), event("start", "b", 60)


@pytest.mark.parametrize(
    ("events", "now", "expected"),
    [
        ([], 500, ""),
        ([FIRST], 500, ""),
        ([FIRST, SECOND], 100, ""),
        ([FIRST, SECOND], 211, REPLACES),
        ([SECOND, FIRST, event("finish", "a", 90)], 91, BESIDE),
        ([FIRST, SECOND, event("finish", "b", 150)], 209, ""),
        ([FIRST, event("finish", "a", 90)], 239, ""),
        ([FIRST, event("finish", "a", 90)], 241, LEFT_OUT),
        ([FIRST, event("finish", "a", 90), event("start", "b", 93)], 94, WAITS),
    ],
)
def test_what_became_of_the_second_run(events: list[dict[str, Any]], now: float, expected: str) -> None:
    assert became(events, now, patience=150) == expected
