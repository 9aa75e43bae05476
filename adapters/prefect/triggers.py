"""What makes Prefect start a run by itself: a deployment of its own with a schedule, or an automation."""

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from adapters.base import RunRequest
from adapters.cron import cron_of
from adapters.prefect.api import Document

EVENT = "bench.data.arrived"
SAME = (
    "flow_id",
    "entrypoint",
    "path",
    "pull_steps",
    "parameter_openapi_schema",
    "enforce_parameter_schema",
    "work_pool_name",
    "work_queue_name",
    "parameters",
    "tags",
)
"""What the deployment made for a run has of the deployment of its workload."""


def schedule_of(request: RunRequest, parameters: Mapping[str, Any]) -> Document:
    """The schedule of a run. A year from now lies beyond what the scheduler looks ahead (100 days)."""
    return {
        "schedule": {"cron": cron_of(request), "timezone": "UTC"},
        "parameters": dict(parameters),
        "active": True,
    }


def deployment_for(
    base: Document,
    request: RunRequest,
    parameters: Mapping[str, Any],
    job_variables: Mapping[str, Any],
) -> Document:
    """The deployment made for one run, called after it; with a schedule where the run is due at some time."""
    return {
        **{name: base[name] for name in SAME},
        "name": request.run_id,
        "job_variables": {**base["job_variables"], **job_variables},
        "schedules": [] if request.due is None else [schedule_of(request, parameters)],
    }


def resource_of(run_id: str) -> str:
    """The resource that a run's data event is about."""
    return f"bench.dataset.{run_id}"


def automation_for(run_id: str, deployment_id: str, names: Iterable[str]) -> Document:
    """Run the deployment when the data event comes; the parameters of these names are in its payload."""
    return {
        "name": run_id,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": [EVENT],
            "match": {"prefect.resource.id": resource_of(run_id)},
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "run-deployment",
                "source": "selected",
                "deployment_id": deployment_id,
                "parameters": {name: f"{{{{ event.payload.{name} }}}}" for name in names},
            }
        ],
    }


def event_of(run_id: str, parameters: Mapping[str, Any]) -> Document:
    """The data event: what has arrived, and the run's parameters."""
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {"prefect.resource.id": resource_of(run_id)},
        "payload": dict(parameters),
    }
