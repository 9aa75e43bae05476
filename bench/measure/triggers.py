"""What starts a run: the harness through the API, or the orchestrator itself, by its schedule or a data event."""

import time
from math import ceil

from adapters.base import Driver, Listens, RunHandle, RunRequest, Schedules, Unsupported
from bench.results.records import Scenario

LEAD_SECONDS = 45
"""How long before it is due a run is put on a schedule, at least: what the slowest takes to know of it."""
COME_SECONDS = 300.0
"""How long after its schedule or event a run may come."""
EARLY_SECONDS = 2.0
"""Before it is due the harness is back at its watch."""


def next_minute(lead: float = LEAD_SECONDS, firings: int = 1) -> int:
    """The next whole minute that is at least `lead` seconds away, in seconds since the epoch.

    So many minutes in a row from it on are in one hour.
    """
    minute = ceil((time.time() + lead) / 60)
    return (minute if minute % 60 + firings <= 60 else ceil(minute / 60) * 60) * 60


def request_for(scenario: Scenario, request: RunRequest) -> RunRequest:
    """The run as the scenario's trigger needs it: one that a schedule starts has a minute when it is due."""
    return due_soon(request) if scenario.trigger == "schedule" else request


def due_soon(request: RunRequest, firings: int = 1) -> RunRequest:
    """The run with the next minute in which a schedule can start it, and the id that goes with that."""
    due = next_minute(firings=firings)
    return request.model_copy(update={"run_id": f"{request.run_id}-{due}", "due": due, "firings": firings})


def check(scenario: Scenario, driver: Driver, title: str) -> None:
    """Raises `Unsupported` where the orchestrator has no such trigger, or the adapter does not know it."""
    kinds = {"schedule": (Schedules, "schedule"), "event": (Listens, "data event")}
    if scenario.trigger in kinds:
        protocol, name = kinds[scenario.trigger]
        if not isinstance(driver, protocol):
            raise Unsupported(
                f"{title} starts no run by a {name} on {scenario.target}; docs/capabilities.md says why"
            )


def arm(scenario: Scenario, driver: Driver, request: RunRequest, pause: float) -> None:
    """Have the orchestrator know the schedule or the event; not timed.

    Returns shortly before a schedule is due. An event waits for the slot's `pause` here: right after the orchestrator
    has begun to listen it would always meet the same phase of its look for events.
    """
    if scenario.trigger == "schedule":
        assert isinstance(driver, Schedules) and request.due is not None
        driver.schedule(request)
        time.sleep(max(0.0, request.due - EARLY_SECONDS - time.time()))
    elif scenario.trigger == "event":
        assert isinstance(driver, Listens)
        driver.listen(request)
        time.sleep(pause)


def start(scenario: Scenario, driver: Driver, request: RunRequest) -> tuple[RunHandle, int]:
    """Start the run; its handle, and the monotonic clock at the moment that counts as its submission.

    That is when it was due by its schedule, or when the event left.
    """
    if scenario.trigger == "schedule":
        assert isinstance(driver, Schedules) and request.due is not None
        time.sleep(max(0.0, request.due - time.time()))
        begin = _monotonic_at(request.due * 10**9)
        return driver.scheduled(request, COME_SECONDS), begin
    if scenario.trigger == "event":
        assert isinstance(driver, Listens)
        handle = driver.publish(request, COME_SECONDS)
        return handle, _monotonic_at(handle.submit_ns)
    begin = time.monotonic_ns()
    return driver.submit(request), begin


def _monotonic_at(wall_ns: int) -> int:
    """What the monotonic clock said at a moment of the wall clock that has just been."""
    return time.monotonic_ns() - (time.time_ns() - wall_ns)
