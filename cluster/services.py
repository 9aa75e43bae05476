"""The platform on the cluster: render the manifests, apply them server-side, wait until everything is ready."""

from __future__ import annotations

import base64
import secrets as random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException

from cluster import pins
from cluster.errors import ClusterError
from cluster.ownership import PLATFORM_MANAGER
from cluster.stages import CommandFailed, Log, Outputs, Stages, digest_text
from cluster.state import DATA, ClusterInfo

MANIFESTS = DATA / "manifests"
NAMESPACES = ("bench-system", "bookstore-ml")
IMAGES = ("step", "mlflow", "postgres", "s3")
"""What the manifests run: another image on the cluster is no reason to apply them again."""
READY_SECONDS = 240
# A container in one of these states will not get better by waiting.
HOPELESS = {
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
}
# Once or twice is a service that came up before the database it needs.
MANY_RESTARTS = 4


@dataclass(frozen=True)
class Credentials:
    """What the platform's parts prove themselves with. Made once a cluster, kept in its Secrets, on no disk of ours."""

    postgres: str
    s3_key: str
    s3_secret: str
    token: str

    def __repr__(self) -> str:
        return "Credentials(…)"

    @classmethod
    def fresh(cls) -> Credentials:
        """New random ones, of letters and digits, so that they need no quoting in a URL."""
        return cls(
            random.token_hex(16), f"BENCH{random.token_hex(8).upper()}", *(random.token_hex(24) for _ in "ab")
        )


def render(
    images: dict[str, str], credentials: Credentials, node: str = "", storage_class: str = ""
) -> list[dict[str, Any]]:
    """Every object of the platform, in the order in which to apply them.

    With `node`, the one of our kind cluster, volumes are folders on it; without, `storage_class` provides them.
    """
    environment = Environment(
        loader=FileSystemLoader(MANIFESTS),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    objects: list[dict[str, Any]] = []
    for path in sorted(MANIFESTS.glob("*.yaml")):
        text = environment.get_template(path.name).render(
            images=images, secrets=asdict(credentials), node=node, storage_class=storage_class
        )
        objects += [document for document in yaml.safe_load_all(text) if document]
    return objects


def deploy(stages: Stages, info: ClusterInfo, node: str) -> None:
    """The platform as the manifests say, ready; cached while manifests, images and node are the same."""
    api = connect(info)

    def make(log: Log) -> Outputs:
        objects = render(info.images, credentials(api), pins.NODE_NAME)
        return apply(dynamic_client(api, stages.where.root / "discovery.json"), objects, READY_SECONDS, log)

    inputs = {
        "manifests": digest_text(*(path.read_text() for path in sorted(MANIFESTS.glob("*.yaml")))),
        "images": {key: info.images[key] for key in IMAGES},
        "node": node,
    }
    try:
        stages.run("platform", inputs, make, lambda _: _still_ready(api))
    except ApiException as problem:
        raise ClusterError(
            f"The API server refused: {problem.reason}: {str(problem.body)[:500]}",
            kept="the cluster and everything applied so far.",
            remedy="`bench cluster up` tries again.",
        ) from problem


def connect(info: ClusterInfo) -> client.ApiClient:
    """A Kubernetes client for this cluster only; never the user's own context."""
    return config.new_client_from_config(config_file=str(info.kubeconfig))


def deployed_names(objects: list[dict[str, Any]]) -> list[str]:
    """namespace/name of every Deployment among the objects."""
    found = [item["metadata"] for item in objects if item["kind"] == "Deployment"]
    return [f"{metadata['namespace']}/{metadata['name']}" for metadata in found]


def dynamic_client(api: client.ApiClient, cache: Path) -> dynamic.DynamicClient:
    """A client for objects of any kind; what kinds the cluster has is remembered in the file `cache`."""
    return dynamic.DynamicClient(api, cache_file=str(cache))


def apply(cluster: dynamic.DynamicClient, objects: list[dict[str, Any]], seconds: float, log: Log) -> Outputs:
    """Apply server-side, in the order given; returns when every Deployment is ready.

    CommandFailed with the reasons when that takes more than `seconds`.
    """
    for item in objects:
        metadata = item["metadata"]
        log.note(f"apply {item['kind']} {metadata.get('namespace', '')}/{metadata['name']}")
        resource = cluster.resources.get(api_version=item["apiVersion"], kind=item["kind"])
        resource.server_side_apply(
            body=item,
            name=metadata["name"],
            namespace=metadata.get("namespace"),
            field_manager=PLATFORM_MANAGER,
            force_conflicts=True,
        )
    wait_ready(cluster.client, seconds, log)
    return {"summary": f"{len(deployed_names(objects))} deployments ready"}


def credentials(api: client.ApiClient) -> Credentials:
    """Those in the cluster's Secrets; new ones where it has none yet."""
    return _existing_credentials(api) or Credentials.fresh()


def _existing_credentials(api: client.ApiClient) -> Credentials | None:
    core = client.CoreV1Api(api)
    try:
        pipeline = core.read_namespaced_secret("pipeline-secrets", "bookstore-ml").data or {}
        platform = core.read_namespaced_secret("platform-secrets", "bench-system").data or {}
        values = (
            platform["POSTGRES_PASSWORD"],
            pipeline["AWS_ACCESS_KEY_ID"],
            pipeline["AWS_SECRET_ACCESS_KEY"],
            pipeline["BENCH_TOKEN"],
        )
    except KeyError:
        return None
    except ApiException as problem:
        if problem.status == 404:
            return None
        raise
    return Credentials(*(base64.b64decode(value).decode() for value in values))


def deployment_state(deployment: Any) -> str:
    """`ready`, or why a Deployment is not: the same rule as `kubectl rollout status`."""
    spec, status = deployment.spec, deployment.status
    wanted = spec.replicas if spec.replicas is not None else 1
    if (status.observed_generation or 0) < deployment.metadata.generation:
        return "not looked at yet"
    if (status.updated_replicas or 0) < wanted:
        return f"{status.updated_replicas or 0} of {wanted} pods made"
    if (status.replicas or 0) > (status.updated_replicas or 0):
        return "old pods still going"
    if (status.available_replicas or 0) < wanted:
        return f"{status.available_replicas or 0} of {wanted} pods ready"
    return "ready"


def states(kubeconfig: Path | str, context: str | None = None) -> dict[str, str]:
    """namespace/deployment → `ready` or why not; one entry `api-server` when that does not answer."""
    try:
        return _states(config.new_client_from_config(config_file=str(kubeconfig), context=context))
    except Exception as problem:  # noqa: BLE001 - urllib3 and the client raise many kinds; status only tells
        return {"api-server": f"does not answer ({type(problem).__name__})"}


def _states(api: client.ApiClient) -> dict[str, str]:
    apps = client.AppsV1Api(api)
    found: dict[str, str] = {}
    for namespace in NAMESPACES:
        for deployment in apps.list_namespaced_deployment(namespace, _request_timeout=10).items:
            found[f"{namespace}/{deployment.metadata.name}"] = deployment_state(deployment)
    return found


def _still_ready(api: client.ApiClient) -> bool:
    """Whether everything is there and, after a restart of the node, comes back within a minute."""
    nothing = Credentials("", "", "", "")
    wanted = set(deployed_names(render(dict.fromkeys(pins.REPOSITORIES, "none"), nothing, pins.NODE_NAME)))
    try:
        if not wanted <= set(_states(api)):
            return False
        wait_ready(api, 60, None)
    except (CommandFailed, ApiException):
        return False
    return True


def wait_ready(api: client.ApiClient, seconds: float, log: Log | None) -> None:
    """Return when every Deployment of the platform is ready; CommandFailed with the reasons when it is too late.

    Waits on a watch: returns at the event that makes the last one ready, not at the next poll.
    """
    deadline = time.monotonic() + seconds
    for namespace in NAMESPACES:
        _wait_namespace(api, namespace, deadline, log)


def _wait_namespace(api: client.ApiClient, namespace: str, deadline: float, log: Log | None) -> None:
    apps = client.AppsV1Api(api)
    while True:
        listed = apps.list_namespaced_deployment(namespace)
        pending = {d.metadata.name: deployment_state(d) for d in listed.items}
        pending = {name: state for name, state in pending.items() if state != "ready"}
        left = deadline - time.monotonic()
        if not pending:
            return
        hopeless = list(_hopeless(api, namespace)) if left > 0 else []
        if left <= 0 or hopeless:
            told = "\n".join(describe(api, namespace, name) for name in pending)
            if log is not None:
                log.note(f"not ready in {namespace}: {pending}\n{told}")
            states = ", ".join(f"{name} ({state})" for name, state in pending.items())
            reasons = [*_unscheduled(api, namespace), *hopeless]
            more = f"; and {len(reasons) - 1} more" if reasons[1:] else ""
            raise CommandFailed("; ".join([f"not ready: {states}", *reasons[:1]]) + more)
        stream = watch.Watch()
        for event in stream.stream(
            apps.list_namespaced_deployment,
            namespace,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=max(1, min(10, int(left))),
        ):
            deployment = event["object"]
            state = deployment_state(deployment)
            if log is not None:
                log.note(f"{namespace}/{deployment.metadata.name}: {state}")
            pending[deployment.metadata.name] = state
            if all(value == "ready" for value in pending.values()):
                stream.stop()


def _unscheduled(api: client.ApiClient, namespace: str) -> Iterator[str]:
    """Pods that no node takes, with what the scheduler says: others may fail only because these are not there."""
    for pod in client.CoreV1Api(api).list_namespaced_pod(namespace).items:
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                yield f"{pod.metadata.name}: {condition.reason} ({(condition.message or '')[:200]})"


def _hopeless(api: client.ApiClient, namespace: str) -> Iterator[str]:
    for pod in client.CoreV1Api(api).list_namespaced_pod(namespace).items:
        status = pod.status
        for container in (status.init_container_statuses or []) + (status.container_statuses or []):
            waiting = container.state.waiting if container.state else None
            crashing = waiting is not None and waiting.reason == "CrashLoopBackOff"
            if waiting is not None and (
                waiting.reason in HOPELESS or (crashing and container.restart_count >= MANY_RESTARTS)
            ):
                # The cause is at the end of what the runtime says.
                yield f"{pod.metadata.name}: {waiting.reason} {container.image} (…{(waiting.message or '')[-120:]})"


def describe(api: client.ApiClient, namespace: str, name: str) -> str:
    """What a person would look up next: container states, the pod's events, the last lines of its log."""
    core = client.CoreV1Api(api)
    lines = [f"--- {namespace}/{name}"]
    for pod in core.list_namespaced_pod(namespace, label_selector=f"app={name}").items:
        lines.append(f"pod {pod.metadata.name}: {pod.status.phase}")
        for container in (pod.status.init_container_statuses or []) + (pod.status.container_statuses or []):
            state = container.state
            what = (state.waiting or state.terminated) if state else None
            if what is not None:
                lines.append(f"  {container.name}: {what.reason} {(what.message or '')[:300]}")
            if container.ready is False:
                lines.append(_last_log(core, namespace, pod.metadata.name, container))
        events = core.list_namespaced_event(
            namespace, field_selector=f"involvedObject.name={pod.metadata.name}"
        )
        lines += [f"  event {event.reason}: {(event.message or '')[:300]}" for event in events.items[-5:]]
    events = core.list_namespaced_event(
        namespace, field_selector="involvedObject.kind=ReplicaSet,type=Warning"
    )
    lines += [f"  event {event.reason}: {(event.message or '')[:300]}" for event in events.items[-2:]]
    return "\n".join(lines)


def _last_log(core: client.CoreV1Api, namespace: str, pod: str, container: Any) -> str:
    # A container that is waiting to restart says why in the log of its previous life.
    previous = bool(container.restart_count) and bool(container.state and container.state.waiting)
    try:
        text = core.read_namespaced_pod_log(
            pod, namespace, container=container.name, tail_lines=10, previous=previous
        )
    except ApiException as problem:
        return f"    (no log: {problem.reason})"
    return "\n".join(f"    {line}" for line in text.splitlines())
