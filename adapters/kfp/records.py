"""What KFP's backend and the workflow controller under it say of a run, as a timeline."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from adapters.base import Attempt, Timeline
from adapters.kfp.journal import step_of
from adapters.kube import epoch_seconds

EXECUTOR = re.compile(r"\.(?P<task>[^.]+)\.executor(?:\((?P<attempt>\d+)\))?$")
ITERATION = re.compile(r"\((?P<index>\d+):")
NUMBERED = re.compile(r"-(?P<number>\d+)$")

Json = Mapping[str, Any]


def timeline_of(run_id: str, run: Json, workflow: Json) -> Timeline:
    """The executors' nodes of a run's Workflow: a driver's pod is no attempt of a step, but its overhead.

    `run` is the API's answer: its state, and what was submitted, which says the steps of a group left out.
    """
    status = workflow.get("status") or {}
    nodes = (status.get("nodes") or {}).values()
    attempts = [found for node in nodes if (found := attempt_of(workflow["metadata"]["name"], node))]
    return Timeline(
        run_id=run_id,
        native_status=str(run.get("state", "")),
        resolution_seconds=1.0,
        started=epoch_seconds(status.get("startedAt")),
        finished=epoch_seconds(status.get("finishedAt")),
        attempts=tuple(sorted(attempts, key=lambda each: (each.started or 0.0, each.step, each.index or 0))),
        skipped=skipped(run.get("pipeline_spec") or {}, nodes),
    )


def attempt_of(workflow: str, node: Json) -> Attempt | None:
    """An executor's pod as an attempt; None for every other node."""
    found = EXECUTOR.search(node.get("name", "")) if node.get("type") == "Pod" else None
    if found is None:
        return None
    return Attempt(
        step=step_of(found["task"]),
        index=index_of(node["name"], found["task"]),
        attempt=int(found["attempt"] or 0) + 1,
        native_id=node["id"],
        pod_name=pod_name(workflow, node),
        started=epoch_seconds(node.get("startedAt")),
        finished=epoch_seconds(node.get("finishedAt")),
        status=node.get("phase", ""),
        message=node.get("message", ""),
    )


def index_of(name: str, task: str) -> int | None:
    """A loop's iteration, or the place of a probe in a chain: the SDK numbers equal tasks from 2 on."""
    if iterations := ITERATION.findall(name.rsplit(f".{task}.", 1)[0]):
        return int(iterations[-1])
    if step_of(task) != "probe":
        return None
    number = NUMBERED.search(task)
    return int(number["number"]) - 1 if number else 0


def pod_name(workflow: str, node: Json) -> str:
    """Argo's names of pods: workflow, template and the hash that ends the node id."""
    return f"{workflow}-{node['templateName']}-{node['id'].rsplit('-', 1)[1]}"


def skipped(spec: Json, nodes: Iterable[Json]) -> tuple[str, ...]:
    """The steps of the groups whose condition did not hold."""
    spec = spec.get("pipeline_spec", spec)
    components = spec.get("components") or {}
    left_out = {node["displayName"] for node in nodes if node["type"] == "Skipped"}
    groups = (components.get(f"comp-{name}", {}).get("dag", {}) for name in left_out)
    return tuple(sorted({step_of(task) for group in groups for task in group.get("tasks", ())}))


def why(workflow: Json) -> str:
    """The message of the first pod that failed last of its kind: the API gives none."""
    nodes = sorted(
        ((workflow.get("status") or {}).get("nodes") or {}).values(),
        key=lambda node: node.get("startedAt") or "",
    )
    failed = [node for node in nodes if node["type"] == "Pod" and node.get("phase") in ("Failed", "Error")]
    return f"{failed[-1]['name'].partition('.')[2]}: {failed[-1].get('message', '')}" if failed else ""
