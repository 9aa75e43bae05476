"""What an installation of Prefect is on any target, as the driver uses it."""

from typing import Protocol

from adapters.base import Configuration, RunRequest, Runtime
from adapters.prefect.api import Document, NotFound, PrefectApi
from adapters.prefect.records import epoch
from adapters.prefect.variants import IN_ASSETS

NAME = "prefect"
"""Of the extra, the image, the namespace, the state folder and the database."""
SERVER, WORKER = "prefect-server", "prefect-worker"
POOL = "bench"
KNOB = "PREFECT_WORKER_QUERY_SECONDS"
SETTINGS = "https://docs.prefect.io/v3/api-ref/settings-ref"
ASSETS = Configuration(
    name=IN_ASSETS,
    task="call",
    knob="a step is",
    value="a materialization of an asset (@materialize)",
    source="https://docs.prefect.io/v3/how-to-guides/workflows/assets",
)


class Site(Runtime, Protocol):
    """An installation."""

    def api(self) -> PrefectApi:
        """A connection to the running server. Raises `BenchError` where it does not run."""

    def is_installed(self) -> bool:
        """Whether there may be runs, although nothing may be running."""

    def wake(self) -> None:
        """Have the server of the last deployment running."""

    def deployment(self, configuration: str) -> str:
        """Which deployment of a workload a configuration uses."""

    def job_variables(self, request: RunRequest) -> Document:
        """What the worker must be told of a run besides."""

    def cancels(self) -> bool:
        """Whether anybody is there who carries out a cancellation."""

    def is_left(self, run_id: str, native_id: str) -> bool:
        """Whether processes or pods of a run are still there."""

    def end(self, run_id: str, native_id: str) -> None:
        """End the processes or pods of a run; returns when they are gone."""


def worker_health(api: PrefectApi, since: float) -> str:
    """What is wrong with the worker; it has asked for work after `since` (epoch seconds) when all is well."""
    try:
        found = api.rows(f"/work_pools/{POOL}/workers/filter", {})
    except NotFound:
        return "the worker has not made its pool yet"
    beats = [epoch(row["last_heartbeat_time"]) or 0.0 for row in found if row["status"] == "ONLINE"]
    return "" if max(beats, default=-1.0) >= since else "the worker has not asked for work yet"
