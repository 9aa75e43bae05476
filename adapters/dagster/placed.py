"""What the code location has beside its fixed jobs, put there by the driver for runs that need it."""

from typing import TypedDict

from adapters.dagster.names import FIXED_JOBS

PLACED_FILE = "BENCH_DAGSTER_PLACED"
"""Environment variable with the path of `Placed` as JSON."""


class Placed(TypedDict):
    """Jobs such as `chain_40`, `fanout_10` and `sweep_as_shipped`."""

    jobs: list[str]


NOTHING: Placed = {"jobs": []}


def needed(known: Placed, running: set[str], job: str) -> Placed:
    """What the code location needs for `job`, of what it has: the jobs of runs under way, no others."""
    return {"jobs": sorted(({job} | set(known["jobs"]) & running) - set(FIXED_JOBS))}
