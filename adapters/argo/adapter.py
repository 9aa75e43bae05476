"""Argo Workflows v3.7 on Kubernetes: install it, start runs, read what it says of them."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from hera.workflows import models as m
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from adapters.argo import pipeline
from adapters.argo.events import Events
from adapters.base import (
    Attempt,
    BenchError,
    Component,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    Timeline,
    Unsupported,
)
from adapters.cron import cron_of, due_of
from adapters.installation import digest_of, render
from adapters.kube import Document, Gone, Kube, epoch_seconds, explain, explained
from adapters.podspec import RUN_LABEL
from adapters.targets import PIPELINE_NAMESPACE, ClusterTarget, connect

PACKAGE = "adapters.argo"
GROUP, VERSION = "argoproj.io", "v1alpha1"
WORKFLOWS = {"group": GROUP, "version": VERSION, "namespace": PIPELINE_NAMESPACE, "plural": "workflows"}
"""Where the runs are, as the client's custom-object calls take it."""
OUR_RUNS = "!pipeline/runid"
"""Which Workflows there are ours: Kubeflow Pipelines puts this label on its own."""
VERSION_PIN = "v3.7.3"
KNOB = "DEFAULT_REQUEUE_TIME"
CONFIGURATIONS = (
    Configuration(name="default", knob=KNOB, value="10s (shipped)"),
    Configuration(
        name="tuned",
        knob=KNOB,
        value="1s",
        source="https://argo-workflows.readthedocs.io/en/release-3.7/environment-variables/",
    ),
)
REQUEUE = {"default": None, "tuned": "1s"}
OWN_NAMESPACE = "argo"
LEASE = "workflow-controller"
SOONEST_SECONDS = 5
"""A schedule must reach the controller's watch before it is due."""
READ_SECONDS = 120.0
"""Longest time until the controller has read a new template."""
ANSWER_SECONDS = 20.0
"""Longest wait for one Workflow that asks whether it has."""
TERMINAL = {"Succeeded": Status.SUCCEEDED, "Failed": Status.FAILED, "Error": Status.FAILED}
MADE_FOR_RUNS = ("cronworkflows", "workflows", "workflowtemplates")
"""What runs leave in the pipeline's namespace; schedules first, so that none starts another run."""


class ArgoRuntime:
    """The controller in its own namespace, its resource types, and the pipeline's templates."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where = where
        self.kube = where.kube
        self.events = Events(where)

    def _manifests(self, configuration: str) -> tuple[list[Document], list[Document], list[Document]]:
        values = {
            "namespace": PIPELINE_NAMESPACE,
            "controller": self.where.image("argo_controller"),
            "executor": self.where.image("argo_executor"),
            "requeue": REQUEUE[configuration],
            "config_sha256": "",
        }
        settings = [d for d in render(PACKAGE, "controller.yaml", **values) if d["kind"] == "ConfigMap"]
        # Another configuration is another pod: the controller reads some settings at its start only.
        values["config_sha256"] = digest_of(settings)
        return (
            render(PACKAGE, "crds.yaml"),
            render(PACKAGE, "controller.yaml", **values),
            [
                *render(PACKAGE, "pipeline.yaml", namespace=PIPELINE_NAMESPACE),
                *pipeline.templates(self.where.image("step")),
            ],
        )

    def deploy(self, configuration: str) -> None:
        """Install or change to `configuration`; returns when the controller is ready.

        Raises `BenchError` for an unknown configuration, or where the controller does not become ready.
        """
        if configuration not in REQUEUE:
            known = ", ".join(REQUEUE)
            raise BenchError(f"argo has no configuration '{configuration}'", f"one of: {known}")
        for group in self._manifests(configuration):
            self.kube.apply(group)
        self.scale(True)

    def undeploy(self) -> None:
        """Remove what starts runs, runs, templates, the controller, its rights and its resource types."""
        self.events.remove()
        crds, controller, definitions = self._manifests("default")
        if self._installed():
            with explained("removing runs"):
                for plural in MADE_FOR_RUNS:
                    self.kube.custom.delete_collection_namespaced_custom_object(
                        **{**WORKFLOWS, "plural": plural}, label_selector=OUR_RUNS
                    )
                self._runs_gone()
        self.kube.remove(definitions)
        self.kube.remove(controller)
        if not self._shared():
            self.kube.remove(crds)

    def _shared(self) -> bool:
        """Whether Kubeflow Pipelines is installed, whose controller has the same resource types."""
        with explained("looking for the namespace kubeflow"):
            return bool(self.kube.core.list_namespace(field_selector="metadata.name=kubeflow").items)

    def _installed(self) -> bool:
        try:
            self.kube.custom.get_api_resources(GROUP, VERSION)
        except ApiException as error:
            if error.status == 404:
                return False
            raise explain(error, "looking for Argo's resource types") from error
        return True

    def _runs_gone(self) -> None:
        listing = self.kube.custom.list_namespaced_custom_object
        ours = {**WORKFLOWS, "label_selector": OUR_RUNS}
        end = time.monotonic() + 120
        while left := self.kube.listed(listing, **ours)["items"]:
            if time.monotonic() > end:
                names = ", ".join(item["metadata"]["name"] for item in left)
                raise BenchError(f"runs that do not go away: {names}", "bench cluster status")
            version = self.kube.listed(listing, **ours)["metadata"]["resourceVersion"]
            for kind, _ in self.kube.events(listing, version, 10, **ours):
                if kind == "DELETED":
                    break

    def scale(self, on: bool) -> None:
        """Start or stop the controller; with it stops what waits for data events."""
        if not on:
            self.events.stop()
        body = {"spec": {"replicas": 1 if on else 0}}
        with explained("scaling the workflow controller"):
            self.kube.apps.patch_namespaced_deployment_scale("workflow-controller", OWN_NAMESPACE, body)
        self.kube.rolled_out(OWN_NAMESPACE, "workflow-controller", 120)
        if on:
            self._leads(60)

    def _leads(self, seconds: float) -> None:
        """Wait until the running controller holds the lease: a ready one works on nothing before that.

        Raises `BenchError` where it does not within `seconds`.
        """
        with explained("waiting for the workflow controller to lead"):
            pods = self.kube.core.list_namespaced_pod(OWN_NAMESPACE, label_selector="app=workflow-controller")
            names = {pod.metadata.name for pod in pods.items}
            leases = client.CoordinationV1Api(self.kube.api).list_namespaced_lease
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                try:
                    for _, lease in self.kube.follow(leases, LEASE, left, namespace=OWN_NAMESPACE):
                        if lease["spec"].get("holderIdentity") in names:
                            return
                except Gone:
                    time.sleep(0.2)  # a first installation: the controller is about to make it
        raise BenchError(
            f"the workflow controller did not lead within {seconds:.0f} s", "bench cluster status"
        )

    def health(self) -> str:
        """Empty when the controller is ready."""
        with explained("looking at the workflow controller"):
            found = self.kube.apps.list_namespaced_deployment(
                OWN_NAMESPACE, field_selector="metadata.name=workflow-controller"
            ).items
        if not found:
            return "the workflow controller is not installed"
        return "" if found[0].status.ready_replicas else "the workflow controller is not ready"

    def components(self) -> tuple[Component, ...]:
        """The controller is all that runs between steps."""
        return (
            Component(
                name="workflow-controller",
                namespace=OWN_NAMESPACE,
                selector="app=workflow-controller",
                role="controller",
            ),
        )

    def versions(self) -> Mapping[str, str]:
        """The pinned version; the knob is part of the scenario."""
        return {"argo_workflows": VERSION_PIN}

    def metrics(self) -> str:
        """The controller's Prometheus metrics, as text."""
        return self.kube.service_get(OWN_NAMESPACE, "http:workflow-controller-metrics:9090", "metrics", {})


class ArgoDriver:
    """Runs are `Workflow` objects that refer to a `WorkflowTemplate`; their names are the run ids."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where = where
        self.kube: Kube = where.kube
        self.events = Events(where)

    def prepare(self, request: RunRequest) -> None:
        """Make sure the template that `request` refers to is there (a chain's length is part of its template)."""
        name, image = pipeline.template_name(request), self.where.image("step")
        if name in pipeline.KEPT:
            return
        before = self._version(name)
        self.kube.apply([pipeline.plain(pipeline.definition(image, request))])
        if self._version(name) != before:
            self._read(name, image)

    def _version(self, template: str) -> str:
        """A template's resource version; empty where it is not there."""
        where = {**WORKFLOWS, "plural": "workflowtemplates", "field_selector": f"metadata.name={template}"}
        with explained(f"looking for the template {template}"):
            found = self.kube.listed(self.kube.custom.list_namespaced_custom_object, **where)["items"]
        return str(found[0]["metadata"]["resourceVersion"]) if found else ""

    def _read(self, template: str, image: str) -> None:
        """Wait until the controller has read a template that has just been made or has now this image.

        Its copy of the templates is a moment behind, and a Workflow that comes before ends as an error. A suspended
        Workflow, which has no pods, finds out; each that asks has a name of its own, since the controller remembers
        the names of those that ended. Raises `BenchError` where the controller does not come to it.
        """
        listing = self.kube.custom.list_namespaced_custom_object
        asks = m.Workflow(
            api_version=f"{GROUP}/{VERSION}",
            kind="Workflow",
            metadata=m.ObjectMeta(generate_name=f"{template}-is-read-", namespace=PIPELINE_NAMESPACE),
            spec=m.WorkflowSpec(
                workflow_template_ref=m.WorkflowTemplateRef(name=template),
                suspend=True,
                active_deadline_seconds=int(READ_SECONDS),
                ttl_strategy=m.TTLStrategy(seconds_after_completion=int(READ_SECONDS)),
            ),
        )
        document = json.loads(asks.model_dump_json(by_alias=True, exclude_none=True))
        end = time.monotonic() + READ_SECONDS
        while (left := end - time.monotonic()) > 0:
            with explained(f"asking whether the controller has read {template}"):
                made = self.kube.custom.create_namespaced_custom_object(**WORKFLOWS, body=document)
                name = made["metadata"]["name"]
                status: Mapping[str, Any] = {}
                for _, found in self.kube.follow(listing, name, min(left, ANSWER_SECONDS), **WORKFLOWS):
                    status = found.get("status", {})
                    if status.get("phase"):
                        break
                self._deleted("workflows", name)
            if image in json.dumps(status.get("storedWorkflowTemplateSpec")):
                return
        raise BenchError(
            f"the workflow controller does not read the template {template}", "bench cluster status"
        )

    def workflow(self, request: RunRequest) -> Document:
        """The object that `submit` creates."""
        values = {name.replace("_", "-"): str(value) for name, value in request.parameters.items()}
        if request.workload == "fanout":
            values["width"] = str(request.steps)
        unknown = sorted(set(values) - set(pipeline.DEFAULTS))
        if unknown:
            raise BenchError(
                f"argo's templates have no parameter {', '.join(unknown)}",
                f"one of: {', '.join(pipeline.DEFAULTS)}",
            )
        if values.get("promote-order") == "naive":
            values.setdefault("promote-retries", "0")
        workflow = m.Workflow(
            api_version=f"{GROUP}/{VERSION}",
            kind="Workflow",
            metadata=m.ObjectMeta(
                name=request.run_id, namespace=PIPELINE_NAMESPACE, labels={RUN_LABEL: request.run_id}
            ),
            spec=m.WorkflowSpec(
                workflow_template_ref=m.WorkflowTemplateRef(name=pipeline.template_name(request)),
                arguments=m.Arguments(
                    parameters=[m.Parameter(name=name, value=value) for name, value in values.items()]
                ),
                active_deadline_seconds=int(request.deadline_seconds),
            ),
        )
        document: Document = json.loads(workflow.model_dump_json(by_alias=True, exclude_none=True))
        return document

    def submit(self, request: RunRequest) -> RunHandle:
        """Create the Workflow. A second submission of a run id finds the first one's object."""
        document = self.workflow(request)
        with explained(f"submitting {request.run_id}"):
            submit_ns = time.time_ns()
            try:
                self.kube.custom.create_namespaced_custom_object(
                    GROUP, VERSION, PIPELINE_NAMESPACE, "workflows", document
                )
            except ApiException as error:
                if error.status != 409:
                    raise
            return _handle(request.run_id, submit_ns, time.time_ns())

    def schedule(self, request: RunRequest) -> None:
        """Make the CronWorkflow that starts the run; the controller, which watches them, has its next time at once.

        Raises `BenchError` where the run is due already or within seconds.
        """
        document = cron_workflow(self.workflow(request), request)
        self.prepare(request)
        if due_of(request) - time.time() < SOONEST_SECONDS:
            raise BenchError(
                f"{request.run_id} is due too soon to be scheduled",
                f"a time that is at least {SOONEST_SECONDS} s away",
            )
        self.kube.apply([document])

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """Wait for the Workflow that the CronWorkflow makes. Raises `BenchError` where none comes in time."""
        due = due_of(request)
        self._appears(request.run_id, due + deadline_seconds - time.time())
        return _handle(request.run_id, due * 10**9, due * 10**9)

    def listen(self, request: RunRequest) -> None:
        """Have Argo Events start the run when its event comes; installs and starts what that takes.

        Raises `Unsupported` where it cannot be had.
        """
        document = self.workflow(request)
        self.prepare(request)
        self.events.listen(document)

    def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        """Send the event to the webhook, and wait for the Workflow that comes of it."""
        submit_ns, accepted_ns = self.events.publish(self.workflow(request))
        self._appears(request.run_id, deadline_seconds - (accepted_ns - submit_ns) / 1e9)
        return _handle(request.run_id, submit_ns, accepted_ns)

    def _appears(self, run_id: str, seconds: float) -> None:
        """Wait until the Workflow of that name is there. Raises `BenchError` where it is not within `seconds`."""
        listing = self.kube.custom.list_namespaced_custom_object
        this = {**WORKFLOWS, "field_selector": f"metadata.name={run_id}"}
        end = time.monotonic() + seconds
        with explained(f"waiting for {run_id}"):
            while (left := end - time.monotonic()) > 0:
                listed = self.kube.listed(listing, **this)
                if listed["items"]:
                    return
                version = listed["metadata"]["resourceVersion"]
                if any(True for _ in self.kube.events(listing, version, int(left) + 1, **this)):
                    return
        raise BenchError(f"nothing has started {run_id}", "bench cluster status")

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Watch the Workflow until its phase is terminal or the deadline has passed."""
        last_ns = handle.accepted_ns
        phase = ""
        try:
            with explained(f"watching {handle.run_id}"):
                for _, found in self.kube.follow(
                    self.kube.custom.list_namespaced_custom_object,
                    handle.run_id,
                    deadline_seconds,
                    **WORKFLOWS,
                ):
                    now, monotonic = time.time_ns(), time.monotonic_ns()
                    status = found.get("status", {})
                    phase = status.get("phase", "")
                    if phase in TERMINAL:
                        ended = TERMINAL[phase]
                        message = why(status)
                        if ended is Status.FAILED and "deadline" in message.lower():
                            ended = Status.TIMEOUT
                        return RunOutcome(
                            status=ended,
                            last_non_terminal_ns=last_ns,
                            first_terminal_ns=now,
                            first_terminal_monotonic_ns=monotonic,
                            reason=message,
                            native_status=phase,
                        )
                    last_ns = now
            reason, ended = f"still {phase or 'unknown'} after {deadline_seconds:.0f} s", Status.TIMEOUT
        except Gone:
            reason, ended = "the Workflow was deleted while it ran", Status.CANCELLED
        return RunOutcome(
            status=ended,
            last_non_terminal_ns=last_ns,
            first_terminal_ns=time.time_ns(),
            first_terminal_monotonic_ns=time.monotonic_ns(),
            reason=reason,
            native_status=phase,
        )

    def cancel(self, run_id: str) -> bool:
        """Delete what would start the run, then its Workflow with its pods; returns when all are gone."""
        with explained(f"removing {run_id}"):
            starters = [self._deleted("cronworkflows", name) for name in self._schedules(run_id)]
            starters.append(self.events.forget(run_id))
            return any((*starters, self._deleted("workflows", run_id)))

    def _schedules(self, run_id: str) -> list[str]:
        """The names of the CronWorkflows that were made for a run."""
        where = {**WORKFLOWS, "plural": "cronworkflows", "label_selector": f"{RUN_LABEL}={run_id}"}
        try:
            found = self.kube.listed(self.kube.custom.list_namespaced_custom_object, **where)["items"]
        except ApiException as error:
            if error.status == 404:  # Argo is not installed
                return []
            raise
        return [each["metadata"]["name"] for each in found]

    def _deleted(self, plural: str, name: str) -> bool:
        """Whether the object was there; returns when it is gone, and what it owns."""
        where = {**WORKFLOWS, "plural": plural}
        try:
            self.kube.custom.delete_namespaced_custom_object(
                **where, name=name, propagation_policy="Foreground"
            )
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        try:
            for _ in self.kube.follow(self.kube.custom.list_namespaced_custom_object, name, 120, **where):
                continue
        except Gone:
            return True
        raise BenchError(f"{name} did not go away within 120 s", "bench cluster status")

    def waits(self, handle: RunHandle, deadline_seconds: float) -> bool:
        """Watch the Workflow until its suspend node runs; False where it ends before, or does not get there."""
        listing = self.kube.custom.list_namespaced_custom_object
        try:
            with explained(f"watching {handle.run_id}"):
                for _, found in self.kube.follow(listing, handle.run_id, deadline_seconds, **WORKFLOWS):
                    if suspended(found):
                        return True
                    if found.get("status", {}).get("phase") in TERMINAL:
                        return False
        except Gone:
            pass
        return False

    def approve(self, run_id: str) -> None:
        """Let a suspended run go on: marks its suspend node as succeeded, as `argo resume` does."""
        with explained(f"approving {run_id}"):
            waiting = suspended(self._get(run_id))
            if not waiting:
                raise BenchError(f"{run_id} does not wait for approval", "bench cluster status")
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            change = {key: {"phase": "Succeeded", "finishedAt": now} for key in waiting}
            self.kube.custom.patch_namespaced_custom_object(
                GROUP, VERSION, PIPELINE_NAMESPACE, "workflows", run_id, {"status": {"nodes": change}}
            )

    def _get(self, run_id: str) -> Document:
        found: Document = self.kube.custom.get_namespaced_custom_object(
            GROUP, VERSION, PIPELINE_NAMESPACE, "workflows", run_id
        )
        return found

    def timeline(self, handle: RunHandle) -> Timeline:
        """The Workflow's own node records; whole seconds, like all of Kubernetes' times."""
        with explained(f"reading {handle.run_id}"):
            found = self._get(handle.run_id)
        return timeline_of(handle.run_id, found.get("status", {}))

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step's pods printed, as long as the pods exist (no log archive is configured)."""
        return self.where.logs(handle.run_id, step)


def _handle(run_id: str, submit_ns: int, accepted_ns: int) -> RunHandle:
    native_id = f"{PIPELINE_NAMESPACE}/{run_id}"
    return RunHandle(run_id=run_id, native_id=native_id, submit_ns=submit_ns, accepted_ns=accepted_ns)


def cron_workflow(workflow: Document, request: RunRequest) -> Document:
    """A CronWorkflow that makes this Workflow when it is due, and nothing before the same minutes of the next year.

    The controller names what it makes by the CronWorkflow and the time. Raises `BenchError` where that is not the name.
    """
    name, _, suffix = request.run_id.rpartition("-")
    if suffix != str(request.due):
        raise BenchError(
            f"{request.run_id} cannot be scheduled for {request.due}",
            "a run id that ends in the minute it is due",
        )
    return {
        "apiVersion": workflow["apiVersion"],
        "kind": "CronWorkflow",
        "metadata": {**workflow["metadata"], "name": name},
        "spec": {
            "schedules": [cron_of(request)],
            "timezone": "UTC",
            "workflowMetadata": {"labels": workflow["metadata"]["labels"]},
            "workflowSpec": workflow["spec"],
        },
    }


def suspended(workflow: Document) -> list[str]:
    """The ids of the nodes at which it waits for somebody."""
    nodes: Mapping[str, Mapping[str, Any]] = workflow.get("status", {}).get("nodes") or {}
    return [
        key for key, node in nodes.items() if node["type"] == "Suspend" and node.get("phase") == "Running"
    ]


def timeline_of(run_id: str, status: Mapping[str, Any]) -> Timeline:
    """A Workflow's status as a timeline: its pod nodes, numbered per step and index by start."""
    nodes: Mapping[str, Mapping[str, Any]] = status.get("nodes") or {}
    pods = sorted(
        (node for node in nodes.values() if node["type"] == "Pod"),
        key=lambda node: (node.get("startedAt") or "9999", node["id"]),
    )
    counts: dict[tuple[str, int | None], int] = {}
    attempts = []
    for node in pods:
        step, index = node["templateName"], _index(node)
        counts[step, index] = counts.get((step, index), 0) + 1
        attempts.append(
            Attempt(
                step=step,
                index=index,
                attempt=counts[step, index],
                native_id=node["id"],
                pod_name=pod_name(run_id, node),
                started=epoch_seconds(node.get("startedAt")),
                finished=epoch_seconds(node.get("finishedAt")),
                status=node.get("phase", ""),
                message=node.get("message", ""),
            )
        )
    skipped = (
        n["displayName"] for n in nodes.values() if n["type"] == "Skipped" or n.get("phase") == "Omitted"
    )
    return Timeline(
        run_id=run_id,
        native_status=status.get("phase", ""),
        resolution_seconds=1.0,
        started=epoch_seconds(status.get("startedAt")),
        finished=epoch_seconds(status.get("finishedAt")),
        attempts=tuple(attempts),
        skipped=tuple(sorted(skipped)),
    )


def why(status: Mapping[str, Any]) -> str:
    """Why a Workflow ended as it did: its own message, or that of its first failed pod; empty if it succeeded."""
    if status.get("message") or status.get("phase") == "Succeeded":
        return str(status.get("message", ""))
    nodes = sorted((status.get("nodes") or {}).values(), key=lambda node: node.get("startedAt") or "")
    failed = (n for n in nodes if n["type"] == "Pod" and n.get("phase") in ("Failed", "Error"))
    return next((f"{node['displayName']}: {node.get('message', '')}" for node in failed), "")


def pod_name(run_id: str, node: Mapping[str, Any]) -> str:
    """Argo's v2 pod names: workflow, template and the hash that ends the node id."""
    return f"{run_id}-{node['templateName']}-{node['id'].rsplit('-', 1)[1]}"


def _index(node: Mapping[str, Any]) -> int | None:
    given: Iterable[Mapping[str, Any]] = (node.get("inputs") or {}).get("parameters") or ()
    for parameter in given:
        if parameter["name"] == "index":
            return int(parameter["value"])
    return None


class ArgoAdapter:
    """Argo Workflows: a Kubernetes controller; a step is a pod."""

    name = "argo"
    title = "Argo Workflows"

    def targets(self) -> tuple[Target, ...]:
        """Kubernetes only."""
        return (Target.KIND, Target.K8S)

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        """`tuned` lets the controller look at a workflow again after 1 s instead of 10 s."""
        return CONFIGURATIONS

    def workloads(self) -> tuple[str, ...]:
        """All of them."""
        return ("pipeline", "chain", "fanout", "sweep")

    def _connect(self, target: Target) -> ClusterTarget:
        if target is Target.LOCAL:
            raise Unsupported(
                "Argo Workflows is a Kubernetes controller: there is nothing to run without a cluster",
                "bench cluster up, then bench run --orchestrator argo --target kind",
            )
        return connect(target)

    def runtime(self, target: Target) -> ArgoRuntime:
        """See `Adapter.runtime`."""
        return ArgoRuntime(self._connect(target))

    def driver(self, target: Target) -> ArgoDriver:
        """See `Adapter.driver`."""
        return ArgoDriver(self._connect(target))
