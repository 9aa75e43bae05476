"""What Prefect's rows say of a run, as a timeline: pure functions of the API's answers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from adapters.base import Attempt, Timeline
from adapters.prefect.api import Document
from adapters.workloads import GATED, Member, phases

TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
NOT_PROMOTED = "NotPromoted"
"""How a flow names its end when the gate did not pass."""
CACHED = "Cached"
"""The state of a task run that took what an earlier one had left: no attempt."""
RESOLUTION = 1e-6
"""Seconds: timestamps have microseconds."""
TASK_RUN_NAME = re.compile(r"(?P<step>[a-z]+)(?:-(?P<index>\d+))?")


def epoch(text: str | None) -> float | None:
    """Seconds since the epoch of the API's timestamps; None where there is none."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


def member_of(task_run: Document) -> Member | None:
    """The step of the core that a task run is, by its name: `train`, or `train-2`. None for any other task."""
    found = TASK_RUN_NAME.fullmatch(task_run["name"])
    if found is None:
        return None
    return Member(found["step"], None if found["index"] is None else int(found["index"]))


def is_over(row: Document) -> bool:
    """Whether a flow run or task run has ended."""
    return row["state_type"] in TERMINAL


def left_out(flow_run: Document, workload: str) -> tuple[str, ...]:
    """The steps that the flow left out, by the name of its last state."""
    if flow_run["state_name"] != NOT_PROMOTED:
        return ()
    members = [member.step for phase in phases(workload, 1) for member in phase]
    return tuple(step for step in GATED if step in members)


def expected(flow_run: Document, workload: str) -> set[Member]:
    """The steps that a completed flow run has gone through."""
    steps = int(flow_run["parameters"].get("steps", 1))
    members = {member for phase in phases(workload, steps) for member in phase}
    return {member for member in members if member.step not in left_out(flow_run, workload)}


def is_complete(
    flow_run: Document,
    workload: str,
    task_runs: Sequence[Document],
    states: Mapping[str, Sequence[Document]],
) -> bool:
    """Whether all records of a flow run have arrived; never, by this, for one that did not complete."""
    arrived = {member_of(row) for row in task_runs if is_over(row)}
    return (
        flow_run["state_type"] == "COMPLETED"
        and expected(flow_run, workload) <= arrived
        and all(
            len(_running(states[row["id"]])) == row["run_count"] for row in task_runs if row["id"] in states
        )
    )


def timeline_of(
    run_id: str,
    flow_run: Document,
    workload: str,
    task_runs: Sequence[Document],
    states: Mapping[str, Sequence[Document]],
) -> Timeline:
    """The attempts of a flow run. `states` are those of the task runs that ran more than once, by id."""
    attempts = [attempt for row in task_runs for attempt in attempts_of(row, states.get(row["id"]))]
    return Timeline(
        run_id=run_id,
        native_status=str(flow_run["state_name"]),
        resolution_seconds=RESOLUTION,
        started=epoch(flow_run["start_time"]),
        finished=epoch(flow_run["end_time"]),
        attempts=tuple(sorted(attempts, key=lambda a: (a.started or 0.0, a.step, a.index or 0, a.attempt))),
        skipped=left_out(flow_run, workload),
    )


def is_apart(flow_run: Document) -> bool:
    """Whether each step of a flow run is a flow run of its own."""
    return bool(flow_run["parameters"].get("apart"))


def timeline_apart(
    run_id: str,
    flow_run: Document,
    workload: str,
    children: Sequence[Document],
    pods: Mapping[str, str],
) -> Timeline:
    """A run whose steps are flow runs of their own, an attempt each. `pods` are theirs, by flow run id."""
    counts: dict[Member, int] = {}
    attempts = []
    for row in sorted(children, key=lambda row: (row["created"], row["id"])):
        member = member_of(row)
        if member is None:
            continue
        counts[member] = counts.get(member, 0) + 1
        attempts.append(
            Attempt(
                step=member.step,
                index=member.index,
                attempt=counts[member],
                native_id=row["id"],
                pod_name=pods.get(row["id"]),
                started=epoch(row["start_time"]),
                finished=epoch(row["end_time"]),
                status=row["state_name"],
                message=(row.get("state") or {}).get("message") or "",
            )
        )
    return Timeline(
        run_id=run_id,
        native_status=str(flow_run["state_name"]),
        resolution_seconds=RESOLUTION,
        started=epoch(flow_run["start_time"]),
        finished=epoch(flow_run["end_time"]),
        attempts=tuple(attempts),
        skipped=left_out(flow_run, workload),
    )


def pods_of(events: Iterable[Document]) -> dict[str, str]:
    """The pods of flow runs, by flow run id, from the worker's events of them; the latest of each."""
    pods = {}
    for event in events:
        for related in event["related"]:
            if related.get("prefect.resource.role") == "flow-run":
                flow_run = related["prefect.resource.id"].removeprefix("prefect.flow-run.")
                pods[flow_run] = event["resource"]["prefect.resource.name"]
    return pods


def attempts_of(task_run: Document, states: Sequence[Document] | None = None) -> list[Attempt]:
    """The attempts of one task run: by its own times, or by its states where there was more than one.

    An attempt begins with a state of type RUNNING (`Running`, `Retrying`) and ends with the next state; a
    retry without delay therefore begins where the attempt before it ends.
    """
    member = member_of(task_run)
    if member is None or not task_run["run_count"] or task_run["state_name"] == CACHED:
        return []
    spans = [_span(task_run)] if states is None else _spans(states)
    return [
        Attempt(
            step=member.step,
            index=member.index,
            attempt=number,
            native_id=task_run["id"],
            started=epoch(started),
            finished=epoch(finished),
            status=status,
            message=message,
        )
        for number, (started, finished, status, message) in enumerate(spans, start=1)
    ]


Span = tuple[str | None, str | None, str, str]
"""Start, end, name and message of the state that an attempt ended with."""


def _span(task_run: Document) -> Span:
    message = (task_run.get("state") or {}).get("message") or ""
    return task_run["start_time"], task_run["end_time"], task_run["state_name"], message


def _spans(states: Sequence[Document]) -> list[Span]:
    ordered = sorted(states, key=lambda state: state["timestamp"])
    following: list[Document | None] = [*ordered[1:], None]
    spans: list[Span] = []
    for state, after in zip(ordered, following, strict=True):
        if state["type"] == "RUNNING":
            ended = after or state
            spans.append(
                (
                    state["timestamp"],
                    after["timestamp"] if after else None,
                    ended["name"],
                    ended["message"] or "",
                )
            )
    return spans


def _running(states: Sequence[Document]) -> list[Document]:
    return [state for state in states if state["type"] == "RUNNING"]
