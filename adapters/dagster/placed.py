"""What the code location has beside its fixed jobs, put there by the driver for the runs that need it."""

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from adapters.dagster.names import FIXED_JOBS

PLACED_FILE = "BENCH_DAGSTER_PLACED"
"""Environment variable with the path of `Placed` as JSON."""


class Trigger(TypedDict):
    """A schedule or a listener that starts one run."""

    run_id: str
    job: str
    cron: str
    """The minute in UTC when it is due; empty for a listener."""
    parameters: Mapping[str, object]
    """Of a schedule; a listener has them from its event."""
    execution: Mapping[str, Any]
    """The executor's part of the run's configuration."""
    tags: Mapping[str, str]


class Placed(TypedDict):
    """Jobs such as `chain_40`, `fanout_10` and `sweep_as_shipped`, and what starts runs."""

    jobs: list[str]
    triggers: list[Trigger]


NOTHING: Placed = {"jobs": [], "triggers": []}


def needed(known: Placed, running: set[str], jobs: set[str], triggers: list[Trigger]) -> Placed:
    """What is to be there for `jobs` and `triggers`: beside their own, of `known`, the jobs of runs under way."""
    wanted = jobs | {each["job"] for each in triggers} | (set(known["jobs"]) & running)
    return {"jobs": sorted(wanted - set(FIXED_JOBS)), "triggers": triggers}


def names_in(placed: Placed) -> set[str]:
    """What Dagster calls these jobs, schedules and sensors."""
    return set(placed["jobs"]) | {trigger_name(each["run_id"]) for each in placed["triggers"]}


def trigger_name(run_id: str) -> str:
    """A schedule's or sensor's name; Dagster takes letters, digits and underscores."""
    return re.sub(r"\W", "_", run_id)


def delivery(run_id: str) -> list[str]:
    """The key of the external asset whose materialization starts the run."""
    return ["deliveries", run_id]


def run_config(run_id: str, parameters: Mapping[str, object], execution: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration."""
    own = {"run_id": run_id, "parameters": {name: str(value) for name, value in parameters.items()}}
    return {"execution": {"config": execution}, "resources": {"run": {"config": own}}}


def of_day(day: str) -> dict[str, int]:
    """A day's parameters. Its ratings are those that the generator makes of its date: seed 20250131, for instance."""
    return {"seed": int(day.replace("-", ""))}
