"""How many samples a wanted precision takes: from a pilot whose runs are kept apart and are in no result."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, stdev

from bench.analysis.cells import is_measured, makespan
from bench.analysis.statistics import LEVEL, median
from bench.errors import BadInput
from bench.measure import plan as planning
from bench.measure.plan import Plan
from bench.results.records import RunRecord
from bench.results.store import Store

FOLDER = "pilot"
"""Where its plan and runs are, beside the results."""
RUNS = 5
"""Of each scenario."""
MOST = 200
"""Samples that a precision may ask for."""


def share(option: str, text: str) -> float:
    """`5%` or `0.05` as 0.05. Raises `BadInput` for anything but a share between 0 and 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise BadInput(f"{option} takes a share such as 5%, not '{text}'", f"{option} 5%")
    return value


def needed(samples: Sequence[float], precision: float, level: float = LEVEL) -> int:
    """How many samples put the median's interval at about `precision` of it to either side; at least `RUNS`.

    The sample median's variance is about π/2 · σ²/n (asymptotic, normal): n = (z · √(π/2) · s / (precision · m))².
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    wide = z * math.sqrt(math.pi / 2) * stdev(samples) / (precision * median(samples))
    return max(RUNS, math.ceil(wide**2))


def by_scenario(records: Iterable[RunRecord]) -> dict[str, list[float]]:
    """The makespans (seconds) of a pilot's good runs, by scenario key; the no-op control and warm-ups left out."""
    found: dict[str, list[float]] = {}
    for record in records:
        seconds = makespan(record)
        if is_measured(record) and seconds is not None and not _beside(record):
            found.setdefault(record.scenario.key, []).append(seconds)
    return found


def _beside(record: RunRecord) -> bool:
    return record.scenario.orchestrator == "noop" or record.scenario.warm_up


def samples_for(found: Mapping[str, Sequence[float]], precision: float) -> tuple[int, str]:
    """The largest number that a scenario needs, and which.

    Raises `BadInput` where no scenario has two good runs, or more than `MOST` samples would be needed.
    """
    wanted = {key: needed(values, precision) for key, values in found.items() if len(values) > 1}
    if not wanted:
        raise BadInput("no scenario of the pilot has two good runs", "bench run without --precision")
    key = max(wanted, key=lambda each: (wanted[each], each))
    if wanted[key] > MOST:
        raise BadInput(
            f"{key} would need {wanted[key]} samples for {precision:.3g} of its median: more than {MOST}",
            "a larger --precision, or --n to say how many",
            "the pilot's runs",
        )
    return wanted[key], key


def asked_by(results: Path, pilot: Plan, precision: float) -> Plan | None:
    """The unfinished plan whose number of samples this pilot has said for that precision."""
    store = Store(results)
    return planning.newest(
        plan
        for plan in planning.stored(results)
        if plan.pilot == pilot.plan_id and plan.precision in (None, precision)
        if planning.lacks_samples(plan, store)
    )


def current(results: Path, store: Store, digest: str) -> Plan | None:
    """The newest pilot of the same request that is unfinished or whose answer has not been used up."""
    results_store = Store(results)
    used = {
        plan.pilot
        for plan in planning.stored(results)
        if plan.pilot and not planning.lacks_samples(plan, results_store)
    }
    return planning.newest(
        plan
        for plan in planning.stored(store.folder)
        if plan.request_sha256 == digest and plan.plan_id not in used
    )
