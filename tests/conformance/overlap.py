"""What becomes of a scheduled run that is due while the last one is at work, by the ledger."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

BESIDE, WAITS, REPLACES, LEFT_OUT = "starts beside it", "waits for its end", "replaces it", "is left out"
LOOK_SECONDS = 1.0

Events = Sequence[Mapping[str, Any]]


def watched(ledger: Callable[[], Events], patience: float) -> str:
    """What became of the second of two runs of one step; returns when that is clear.

    `patience`: for so many seconds after the first has ended the second may start, and the first is known to have been
    replaced when it has not ended that long after the second's start.
    """
    while True:
        found = became(ledger(), time.time(), patience)
        if found:
            return found
        time.sleep(LOOK_SECONDS)


def became(events: Events, now: float, patience: float) -> str:
    """The same from the events so far; empty while it is not clear. `now`: seconds since the epoch."""
    starts = sorted((e for e in events if e["event"] == "start"), key=lambda e: e["wall_ns"])
    ends = {e["attempt_token"]: e["wall_ns"] for e in events if e["event"] == "finish"}
    if not starts:
        return ""
    end = ends.get(starts[0]["attempt_token"])
    if len(starts) == 1:
        return LEFT_OUT if end and now > end / 1e9 + patience else ""
    second = starts[1]["wall_ns"]
    if end:
        return BESIDE if second < end else WAITS
    return REPLACES if now > second / 1e9 + patience else ""
