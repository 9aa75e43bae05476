"""What KFP's local runner said of a run, as a timeline."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.base import Attempt, Timeline

REQUEST = "request.json"
JOURNAL = "journal.jsonl"
STEP_OF = {"evaluate": "eval"}
"""Components that are not named as their step."""

COLOUR = re.compile(r"\x1b\[\d*m")
EXECUTING = re.compile(r"Executing task '(?P<component>.+)'")
FINISHED = re.compile(r"Task '(?P<component>.+)' finished with status (?P<status>\w+)")
RETRYING = re.compile(r"Task (?P<task>\S+) failed \(attempt (?P<attempt>\d+)/\d+\)\. Retrying")
SKIPPING = re.compile(r"Skipping conditional task (?P<group>\S+) ")
RUNNING = re.compile(r"Running pipeline: ")
ENDED = re.compile(r"Pipeline '.+' finished with status (?P<status>\w+)")

Line = Mapping[str, Any]


@dataclass
class _Open:
    """What a thread of the runner is about."""

    component: str = ""
    index: int | None = None
    number: int = 1
    started: float | None = None


def read(folder: Path) -> list[Line]:
    """The lines of a run's journal so far, without colours; a torn last line is left out."""
    lines: list[Line] = []
    with suppress(FileNotFoundError):
        for text in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                line = json.loads(text)
                lines.append({**line, "said": COLOUR.sub("", line.get("said", ""))})
    return lines


def ending(lines: Sequence[Line]) -> str:
    """SUCCESS or FAILURE as KFP said it, empty where it did not."""
    return next((found["status"] for line in reversed(lines) if (found := ENDED.match(line["said"]))), "")


def why(lines: Sequence[Line]) -> str:
    """KFP's own words on how the run ended, where that is a failure."""
    found = (line["said"] for line in reversed(lines) if ENDED.match(line["said"]))
    said = next(found, "")
    return "" if ending(lines) == "SUCCESS" else str(said)


def step_of(component: str) -> str:
    """The core's step: `comp-probe-12` and `probe` are probes."""
    name = re.sub(r"-\d+$", "", component.removeprefix("comp-"))
    return STEP_OF.get(name, name)


def timeline_of(run_id: str, lines: Sequence[Line]) -> Timeline:
    """Attempts by KFP's log records; the threads of a loop are told apart by the thread of each record."""
    threads: dict[int, _Open] = {}
    groups: Mapping[str, Sequence[str]] = {}
    started = finished = None
    attempts, skipped = [], []
    for line in lines:
        at, said = line.get("at"), line["said"]
        groups = line.get("groups", groups)
        now = threads.setdefault(line["thread"], _Open())
        if "task" in line:
            now.component, now.index = line["task"], line["index"]
        elif EXECUTING.match(said):
            now.started = at
        elif found := FINISHED.match(said):
            attempts.append(_attempt(now, at, found["status"]))
            now.number, now.started = 1, None
        elif found := RETRYING.match(said):
            now.number = int(found["attempt"]) + 1
        elif found := SKIPPING.match(said):
            skipped += [step_of(task) for task in groups.get(found["group"], ())]
        elif RUNNING.match(said):
            started = at
        elif ENDED.match(said):
            finished = at
    attempts += [_attempt(left, None, "") for left in threads.values() if left.started is not None]
    return Timeline(
        run_id=run_id,
        native_status=ending(lines),
        resolution_seconds=1e-6,
        started=started,
        finished=finished,
        attempts=tuple(sorted(attempts, key=lambda attempt: attempt.started or 0.0)),
        skipped=tuple(sorted(skipped)),
    )


def _attempt(of: _Open, finished: float | None, status: str) -> Attempt:
    return Attempt(
        step=step_of(of.component),
        index=of.index,
        attempt=of.number,
        native_id=f"{of.component.removeprefix('comp-')}#{of.number}",
        started=of.started,
        finished=finished,
        status=status,
    )


def printed(log: str, step: str) -> str:
    """The part of a run's log from where a step's first task starts to where its last one ends.

    KFP keeps one stream for the whole run; tasks that ran at the same time are mixed in it.
    """
    lines = COLOUR.sub("", log).splitlines()
    starts = [n for n, line in enumerate(lines) if _names(EXECUTING, line, step)]
    ends = [n for n, line in enumerate(lines) if _names(FINISHED, line, step)]
    if not starts:
        return ""
    end = max(ends, default=len(lines) - 1)
    return "\n".join(line.strip() for line in lines[min(starts) : end + 1]) + "\n"


def _names(what: re.Pattern[str], line: str, step: str) -> bool:
    found = what.search(line)
    return found is not None and step_of(found["component"]) == step
