"""What a deployment of Dagster is on any target: its servers, its settings, what the driver asks of it."""

from collections.abc import Mapping
from typing import Protocol

from adapters.base import Configuration, Runtime
from adapters.dagster.api import Answer, Api, why
from adapters.dagster.names import METADATA
from adapters.dagster.placed import Placed

DEFINITIONS = "adapters.dagster.pipeline"
DATABASE = "dagster"
DATABASE_URL = "DAGSTER_POSTGRES_URL"
DIALECT = "postgresql+psycopg2"
"""What dagster-postgres brings; SQLAlchemy 2.1 takes another driver where none is named."""
CODE, WEB, DAEMON = "dagster-code", "dagster-webserver", "dagster-daemon"
SERVERS = (CODE, WEB, DAEMON)
ROLES: Mapping[str, str] = {WEB: "api", DAEMON: "scheduler", CODE: "worker"}
DOCS = "https://github.com/dagster-io/dagster/blob/1.13.27/docs/docs"
EXECUTORS = f"{DOCS}/guides/operate/run-executors.md"
WIDTH = 16
"""Steps of one run at a time; shipped: as many as there are CPUs, which would cap a fan-out on a small machine."""
PROCESSES: Answer = {"multiprocess": {"max_concurrent": WIDTH}}
POSTGRES: Answer = {"postgres": {"postgres_url": {"env": DATABASE_URL}}}
UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
NEEDED_DAEMONS = ("QUEUED_RUN_COORDINATOR", "MONITORING", "EVENT_LOG_CONSUMER")
RUN_RETRIES = "run-retries"
"""The configuration in which a run whose process died is run again."""

WITH_METADATA = Configuration(
    name=METADATA,
    knob="materializations say",
    value="what their steps left (add_output_metadata)",
    source=f"{DOCS}/guides/build/assets/metadata-and-tags/index.md",
)


class Site(Runtime, Protocol):
    """A deployment, as the driver uses it."""

    api: Api

    def deployed(self) -> bool:
        """Whether anything is installed here."""

    def placed(self) -> Placed:
        """What the code location is told to have beside its fixed jobs."""

    def place(self, wanted: Placed) -> None:
        """Tell it to have this; a reload of the code location finds it, at once or soon."""

    def execution(self, configuration: str, run_id: str) -> Answer:
        """The executor's part of a run's configuration."""

    def tags(self, run_id: str) -> dict[str, str]:
        """What else the launcher must be told of a run."""

    def end(self, native_id: str) -> None:
        """End processes or pods that outlived their run; returns when they are gone."""

    def pods(self, native_id: str) -> Mapping[str, str]:
        """The pods of a run's Kubernetes Jobs, by the Job's name."""

    def printed(self, native_id: str, step: str) -> str:
        """What the attempts of a step printed."""


def wrong_with(answer: Answer, since: float) -> str:
    """What is wrong by an answer to `HEALTH`, if anything. Heartbeats before `since` are of an earlier daemon."""
    location = answer["location"] or {}
    loaded = location.get("locationOrLoadError") or location
    if loaded.get("__typename") != "RepositoryLocation":
        return f"the definitions are not loaded: {why(loaded)}"
    beats = {
        status["daemonType"]: status["lastHeartbeatTime"] or 0.0
        for status in answer["answer"]["daemonHealth"]["allDaemonStatuses"]
        if status["required"]
    }
    silent = [name for name in NEEDED_DAEMONS if beats.get(name, since) < since]
    return f"the daemon has not shown {', '.join(silent)}" if silent else ""
