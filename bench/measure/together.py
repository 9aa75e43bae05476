"""Several runs at once: submitted by threads of the harness at the same moment, each waited for by its own."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.base import Driver, RunHandle, RunOutcome, RunRequest, Timeline
from bench.results.records import ClientClock, Companion, RecordStatus, RunRecord, Verification


@dataclass(frozen=True)
class Ended:
    """One run that is over."""

    handle: RunHandle
    outcome: RunOutcome
    timeline: Timeline
    begin_ns: int
    """Monotonic, just before it was submitted."""


def members(request: RunRequest, count: int) -> list[RunRequest]:
    """The runs of one sample, each with an id of its own."""
    if count == 1:
        return [request]
    return [
        request.model_copy(update={"run_id": f"{request.run_id}-{number:02}"})
        for number in range(1, count + 1)
    ]


def run(drivers: Sequence[Driver], requests: Sequence[RunRequest], deadline_seconds: float) -> list[Ended]:
    """Submit all at the same moment, each through its own driver; returns when all are over, in the given order.

    An interruption ends the waiting at once: the threads end with their runs, which the caller cancels.
    Raises what the first of them that failed raised.
    """
    start = threading.Barrier(len(requests))
    done: queue.SimpleQueue[tuple[int, Ended | BaseException]] = queue.SimpleQueue()

    def one(driver: Driver, request: RunRequest) -> Ended:
        start.wait()
        begin = time.monotonic_ns()
        handle = driver.submit(request)
        outcome = driver.wait(handle, deadline_seconds)
        return Ended(handle, outcome, driver.timeline(handle), begin)

    for number, (driver, request) in enumerate(zip(drivers, requests, strict=True)):
        threading.Thread(target=_told, args=(done, number, one, driver, request), daemon=True).start()
    ended: dict[int, Ended] = {}
    while len(ended) < len(requests):
        number, result = done.get()
        if isinstance(result, BaseException):
            raise result
        ended[number] = result
    return [ended[number] for number in range(len(requests))]


def _told(
    done: "queue.SimpleQueue[tuple[int, Ended | BaseException]]",
    number: int,
    one: Callable[[Driver, RunRequest], Ended],
    driver: Driver,
    request: RunRequest,
) -> None:
    try:
        done.put((number, one(driver, request)))
    except BaseException as error:  # noqa: BLE001 - a thread's error is raised where its result is waited for
        done.put((number, error))


def as_one(run_id: str, records: Sequence[RunRecord], begins_ns: Sequence[int]) -> RunRecord:
    """The record of a sample of several runs, each of which `records` tells as if it had been alone.

    Its clock spans all of them: from the first submission until the end of the last was seen.
    """
    companions = tuple(_companion(record) for record in records)
    clocks = [companion.client for companion in companions]
    first = min(begins_ns)
    ends = [begin + clock.makespan_monotonic_ns for begin, clock in zip(begins_ns, clocks, strict=True)]
    last = clocks[ends.index(max(ends))]
    worst: RecordStatus = next(
        (wrong for wrong in ("timeout", "failed") if any(r.status == wrong for r in records)), "succeeded"
    )
    verified = _verified(companions)
    reasons = [f"{c.run_id}: {c.reason}" for c in companions if c.reason]
    if worst == "succeeded" and not verified.ok:
        worst, reasons = "failed", [*reasons, *verified.problems]
    return records[0].model_copy(
        update={
            "run_id": run_id,
            "status": worst,
            "reason": "; ".join(reasons),
            "client": ClientClock(
                jitter_seconds=clocks[0].jitter_seconds,
                submit_ns=min(clock.submit_ns for clock in clocks),
                accepted_ns=max(clock.accepted_ns for clock in clocks),
                last_non_terminal_ns=last.last_non_terminal_ns,
                first_terminal_ns=last.first_terminal_ns,
                makespan_monotonic_ns=max(ends) - first,
            ),
            "timeline": None,
            "ledger": tuple(event for record in records for event in record.ledger),
            "verification": verified,
            "together": companions,
        }
    )


def _companion(record: RunRecord) -> Companion:
    assert record.client is not None and record.verification is not None, "it has run"
    return Companion(
        run_id=record.run_id,
        status=record.status,
        reason=record.reason,
        client=record.client,
        verification=record.verification,
    )


def _verified(companions: Sequence[Companion]) -> Verification:
    """All of them as one: right where each is, with one model where all made the same."""
    each = [companion.verification for companion in companions]
    models = {verification.model_sha256 for verification in each if verification.model_sha256}
    problems = [f"{c.run_id}: {problem}" for c in companions for problem in c.verification.problems]
    if len(models) > 1:
        problems.append(f"{len(models)} models from the same inputs")
    return Verification(
        ok=not problems,
        problems=tuple(problems),
        model_sha256=models.pop() if len(models) == 1 else None,
        steps=tuple(sorted({step for verification in each for step in verification.steps})),
        attempts=sum(verification.attempts for verification in each),
    )
