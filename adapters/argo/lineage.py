"""What Argo's own store knows of a run: the Workflow object, as long as it is there (no archive is configured)."""

from collections.abc import Iterable, Mapping
from typing import Any

from kubernetes.client.exceptions import ApiException

from adapters.argo.adapter import WORKFLOWS, ArgoDriver
from adapters.base import RunHandle
from adapters.kube import Document, epoch_seconds, explained
from adapters.lineage import Kept, Known

SOURCE = "the Workflow object in Kubernetes"


def known(driver: ArgoDriver, handle: RunHandle) -> Known:
    """Its arguments and the records of its nodes. Raises `BenchError` where Kubernetes does not answer."""
    query = f"GET workflows/{handle.run_id}: spec.arguments, status.nodes, status.storedWorkflowTemplateSpec"
    with explained(f"reading {handle.run_id}"):
        try:
            found: Document = driver.kube.custom.get_namespaced_custom_object(name=handle.run_id, **WORKFLOWS)
        except ApiException as error:
            if error.status != 404:
                raise
            return Known(source=SOURCE, query=query)
    return known_of(found, query)


def known_of(workflow: Document, query: str = "") -> Known:
    """From a Workflow."""
    status = workflow.get("status", {})
    template = status.get("storedWorkflowTemplateSpec") or {}
    given = {
        **_named((template.get("arguments") or {}).get("parameters")),
        **_named((workflow["spec"].get("arguments") or {}).get("parameters")),
    }
    images = {
        each["name"]: each["container"]["image"]
        for each in template.get("templates") or ()
        if "container" in each
    }
    pods = sorted(
        (node for node in (status.get("nodes") or {}).values() if node["type"] == "Pod"),
        key=lambda node: (node.get("startedAt") or "9999", node["id"]),
    )
    counts: dict[str, int] = {}
    attempts = []
    for node in pods:
        step = node["templateName"]
        counts[step] = counts.get(step, 0) + 1
        attempts.append(
            Kept(
                step=step,
                attempt=counts[step],
                succeeded=node.get("phase") == "Succeeded",
                inputs=_named((node.get("inputs") or {}).get("parameters")),
                outputs=_named((node.get("outputs") or {}).get("parameters")),
                finished=epoch_seconds(node.get("finishedAt")),
                image=images.get(step, "").rpartition("@")[2],
            )
        )
    return Known(
        source=SOURCE,
        query=query,
        parameters={name.replace("-", "_"): value for name, value in given.items()},
        attempts=tuple(attempts),
        run=workflow["metadata"]["name"],
    )


def _named(parameters: Iterable[Mapping[str, Any]] | None) -> dict[str, str]:
    return {each["name"]: str(each["value"]) for each in parameters or () if "value" in each}
