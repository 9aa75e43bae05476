"""A schedule of one minute, or of a few in a row, as the orchestrators take it."""

import time

from adapters.base import BenchError, RunRequest


def due_of(request: RunRequest) -> int:
    """When a schedule is to start the run, seconds since the epoch. Raises `BenchError` where that is not said."""
    if request.due is None:
        raise BenchError(f"it is not said when {request.run_id} is due", "set `due` of the request")
    return request.due


def cron_of(request: RunRequest) -> str:
    """The cron expression (UTC) of the minutes in which a schedule is to start the run; they come back after a year.

    Raises `BenchError` where `due` is no whole minute, or where the hour ends before its last firing.
    """
    due, firings = due_of(request), request.firings
    at = time.gmtime(due)
    last = at.tm_min + firings - 1
    if due % 60 or last > 59:
        raise BenchError(
            f"{request.run_id} cannot be scheduled for {due}",
            "a whole minute in seconds since the epoch, and all firings within its hour",
        )
    minutes = str(at.tm_min) if firings == 1 else f"{at.tm_min}-{last}"
    return f"{minutes} {at.tm_hour} {at.tm_mday} {at.tm_mon} *"
