"""What a run's events say: attempts with their times, processes, the first failure."""

from collections.abc import Iterable, Mapping, Sequence

from adapters.base import Attempt, Timeline
from adapters.dagster.api import Answer
from adapters.dagster.names import member_of
from adapters.workloads import Member


def steps_of(keys: Iterable[str]) -> set[str]:
    return {member.step for key in keys if (member := member_of(key))}


JOB_NAME = "Kubernetes Job name"
STARTS = ("ExecutionStepStartEvent", "ExecutionStepRestartEvent")
ENDS = {
    "ExecutionStepSuccessEvent": "success",
    "ExecutionStepUpForRetryEvent": "up for retry",
    "ExecutionStepFailureEvent": "failure",
}


def timeline_of(
    run_id: str, run: Answer, events: Iterable[Answer], pods: Mapping[str, str] | None = None
) -> Timeline:
    """A run's events as a timeline. Dagster gives their times in whole milliseconds, truncated.

    It names the Kubernetes Job of an attempt; `pods` has the pods of these.
    """
    attempts: dict[Member, list[Attempt]] = {}
    jobs: dict[Member, str] = {}
    skipped: list[str] = []
    for event in events:
        kind, member = event["__typename"], member_of(event.get("stepKey") or "")
        if member is None:
            continue
        at = int(event["timestamp"]) / 1000
        mine = attempts.setdefault(member, [])
        pod = (pods or {}).get(jobs.get(member, ""))
        if kind == "StepWorkerStartingEvent":
            jobs[member] = _entry(event, JOB_NAME)
        elif kind == "ExecutionStepSkippedEvent":
            skipped.append(member.step)
        elif kind in STARTS:
            mine.append(_attempt(member, len(mine) + 1, event["stepKey"], at, pod))
        elif kind in ENDS:
            # A process that died before its first event has an end only.
            open_one = mine.pop() if mine and mine[-1].finished is None else None
            base = open_one or _attempt(member, len(mine) + 1, event["stepKey"], None, pod)
            said = ((event.get("error") or {}).get("message") or "").strip()
            mine.append(base.model_copy(update={"finished": at, "status": ENDS[kind], "message": said}))
    return Timeline(
        run_id=run_id,
        native_status=run.get("status") or "",
        resolution_seconds=0.001,
        started=run.get("startTime"),
        finished=run.get("endTime"),
        attempts=tuple(
            sorted(
                (a for mine in attempts.values() for a in mine), key=lambda a: a.started or a.finished or 0
            )
        ),
        skipped=tuple(sorted(set(skipped))),
    )


def _entry(event: Answer, label: str) -> str:
    """A text among an event's metadata; empty where there is none."""
    found = (entry.get("text") for entry in event.get("metadataEntries") or () if entry["label"] == label)
    return next(found, None) or ""


def _attempt(member: Member, number: int, key: str, started: float | None, pod: str | None) -> Attempt:
    return Attempt(
        step=member.step,
        index=member.index,
        attempt=number,
        native_id=key,
        pod_name=pod,
        started=started,
        status="started",
    )


def first_failure(events: Iterable[Answer]) -> str:
    """What the first event of a failure says; empty where there is none."""
    for event in events:
        if event["__typename"] in ("ExecutionStepFailureEvent", "RunFailureEvent"):
            said = ((event.get("error") or {}).get("message") or event.get("message") or "").strip()
            return f"{event.get('stepKey') or 'run'}: {said}"
    return ""


def processes_of(events: Iterable[Answer]) -> Sequence[tuple[int, float]]:
    """Process ids that a run's events name, and until when each was seen (seconds since the epoch)."""
    found: dict[int, float] = {}
    for event in events:
        for entry in event.get("metadataEntries") or ():
            if entry["label"] == "pid" and (entry.get("text") or "").isdigit():
                found[int(entry["text"])] = int(event["timestamp"]) / 1000
    return tuple(found.items())
