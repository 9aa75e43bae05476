"""The platform on a cluster of somebody else's: any context of a kubeconfig, left as it was found.

Nothing is asked of the cluster but a StorageClass: no hostPath, no NodePort, no node that a pod is bound to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
import yaml
from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

from cluster import images, kind_cluster, lifecycle, pins, services
from cluster.engine import Docker
from cluster.engine import client as engine_client
from cluster.errors import ClusterError
from cluster.installations import Installed, discovery_of, file_of, folder, installed, read
from cluster.ownership import is_ours
from cluster.stages import Log, Outputs, Report, Stages, silent
from cluster.state import LOCK_PATIENCE, exclusive, paths, sweep, write_atomic
from core.codedigest import code_digest

READY_SECONDS = 600
"""Nodes may have to pull two gigabytes first."""
GONE_SECONDS = 180
ANSWER_SECONDS = 10
PLATFORM = "bench.local/platform"
"""A label of the platform's namespaces that says who put it there: `kind` (`bench cluster up`) or `k8s` (here)."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_RBAC = "rbac.authorization.k8s.io"
WRITE = ("create", "patch", "delete")
CLUSTER_RIGHTS = (
    ("", "namespaces", ("list", *WRITE)),
    (_RBAC, "clusterroles", WRITE),
    (_RBAC, "clusterrolebindings", WRITE),
    ("apiextensions.k8s.io", "customresourcedefinitions", WRITE),
    ("scheduling.k8s.io", "priorityclasses", WRITE),
)
NAMESPACE_RIGHTS = (
    ("apps", "deployments", WRITE),
    ("", "configmaps", WRITE),
    ("", "persistentvolumeclaims", WRITE),
    ("", "pods", ("list", "watch", "create", "delete")),
    ("", "pods/exec", ("create",)),
    ("", "pods/log", ("get",)),
    ("", "pods/portforward", ("create",)),
    ("", "secrets", ("get", *WRITE)),
    ("", "serviceaccounts", WRITE),
    ("", "services", WRITE),
    ("", "services/proxy", ("get",)),
    (_RBAC, "roles", WRITE),
    (_RBAC, "rolebindings", WRITE),
)
"""API group, resource and verbs: what installing, measuring and taking away needs."""
OUTSIDE = (
    ("argoproj.io/v1alpha1", "ClusterWorkflowTemplate"),
    (f"{_RBAC}/v1", "ClusterRoleBinding"),
    (f"{_RBAC}/v1", "ClusterRole"),
    ("scheduling.k8s.io/v1", "PriorityClass"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
)
"""Kinds of objects outside namespaces that the platform or an orchestrator's adapter applies, in order of removal."""


def install(
    context: str,
    *,
    kubeconfig: str = "",
    registry: str = "",
    storage_class: str = "",
    orchestrators: Iterable[str] = (),
    report: Report = silent,
) -> Installed:
    """The platform on the cluster of `context`, ready. Images go through `registry` (HOST/PREFIX), or, where that is
    empty, straight into the nodes of a kind cluster in the local engine.

    `orchestrators` are as for `up`; those of an earlier call stay known. Repeatable. Raises ClusterError; one that
    was refused beforehand has changed nothing, and a first installation that fails is taken away again.
    """
    wanted = lifecycle.known_orchestrators(orchestrators)
    kubeconfig = _absolute(kubeconfig or _usual_kubeconfig())
    where = paths()
    api = _connect(context, kubeconfig)
    with exclusive(where, "install", LOCK_PATIENCE), _explained(context):
        sweep(where)
        is_new = _refuse(api)
        chosen = _storage_class(api, storage_class)
        nodes = {} if registry else _kind_nodes(api)
        known = {} if is_new else _known_images(context)
        wanted = tuple(dict.fromkeys((*wanted, *(name for name in pins.ORCHESTRATORS if name in known))))
        way = f"--registry {registry}" if registry else "--load"
        stages = Stages(where, report, verb=f"install --context {context} {way}")
        try:
            docker, tags = lifecycle.platform_images(stages, wanted)
            references = {
                key: images.pushed(stages, docker, key, tag, registry)
                if registry
                else _loaded(stages, docker, key, tag, nodes)
                for key, tag in sorted(tags.items())
            }
            _deploy(stages, api, context, references, chosen, is_new)
        finally:
            stages.stop()
        found = Installed(context, kubeconfig, chosen, references, code_digest())
        write_atomic(file_of(context), json.dumps(asdict(found), indent=2, sort_keys=True) + "\n")
    return found


def uninstall(context: str, *, kubeconfig: str = "", report: Report = silent) -> list[str]:
    """Take away what `install` and the adapters have put on the cluster, data and all; returns what was removed.

    Objects that others have applied are not touched. Raises ClusterError.
    """
    known = read(file_of(context))
    api = _connect(context, _absolute(kubeconfig or (known.kubeconfig if known else _usual_kubeconfig())))
    where = paths()
    with exclusive(where, "uninstall"), _explained(context):
        _namespaces(api)
        stages = Stages(where, report, verb=f"uninstall --context {context}")
        removed: list[str] = []

        def remove(log: Log) -> Outputs:
            removed.extend(_removed(_dynamic(api, context), log))
            return {"summary": f"{len(removed)} objects, and what was in them"}

        stages.run("remove", {}, remove, lambda _: False)
        for file in (file_of(context), discovery_of(context)):
            file.unlink(missing_ok=True)
    return removed


def states(context: str) -> dict[str, str]:
    """See `services.states`. Raises ClusterError where nothing is installed on the context."""
    found = installed(context)
    return services.states(found.kubeconfig, found.context)


def _known_images(context: str) -> dict[str, str]:
    known = read(file_of(context))
    return known.images if known else {}


def _usual_kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")


def _absolute(kubeconfig: str) -> str:
    """The same files by names that hold in any folder."""
    return os.pathsep.join(str(Path(part).absolute()) for part in kubeconfig.split(os.pathsep))


def _connect(context: str, kubeconfig: str) -> client.ApiClient:
    """A client of the context. Raises ClusterError with the contexts there are where it is none of them."""
    try:
        contexts, _ = config.list_kube_config_contexts(config_file=kubeconfig)
        names = sorted(each["name"] for each in contexts)
        if context in names:
            return config.new_client_from_config(config_file=kubeconfig, context=context)
    except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError) as problem:
        raise ClusterError(
            f"The kubeconfig {kubeconfig} cannot be used: {' '.join(str(problem).split())[:300]}",
            kept="nothing was changed.",
            remedy="--kubeconfig FILE",
        ) from problem
    raise ClusterError(
        f"The kubeconfig {kubeconfig} has no context {context!r}.",
        kept="nothing was changed.",
        remedy=f"--context, one of: {', '.join(names) or '(it has none)'}",
    )


@contextmanager
def _explained(context: str) -> Iterator[None]:
    """The client's exceptions as errors for people."""
    try:
        yield
    except ApiException as problem:
        raise ClusterError(
            f"The API server refused: {problem.reason}: {str(problem.body)[:500]}",
            kept="what is on the cluster so far; the same command again goes on.",
            remedy=f"bench cluster uninstall --context {context}, to have it away",
        ) from problem
    except (urllib3.exceptions.HTTPError, OSError) as problem:
        raise ClusterError(
            f"The cluster of the context {context!r} does not answer ({type(problem).__name__}).",
            kept="what is on the cluster.",
            remedy=f"kubectl --context {context} get nodes",
        ) from problem


def _dynamic(api: client.ApiClient, context: str) -> dynamic.DynamicClient:
    folder().mkdir(parents=True, exist_ok=True)
    return services.dynamic_client(api, discovery_of(context))


def _refuse(api: client.ApiClient) -> bool:
    """Whether this would be the first installation. Raises ClusterError where there may be none; changes nothing."""
    client.VersionApi(api).get_code(_request_timeout=ANSWER_SECONDS)
    if missing := _missing_rights(api):
        raise ClusterError(
            f"This user may not: {'; '.join(missing)}.",
            kept="nothing was changed.",
            remedy="a context whose user may, such as a cluster's administrator",
        )
    return not _namespaces(api)


def _missing_rights(api: client.ApiClient) -> list[str]:
    """In words, what of the rights that are needed the user lacks."""
    ask = client.AuthorizationV1Api(api).create_self_subject_access_review

    def may(group: str, resource: str, verb: str, namespace: str | None) -> bool:
        plain, _, sub = resource.partition("/")
        attributes = client.V1ResourceAttributes(
            group=group, resource=plain, subresource=sub or None, verb=verb, namespace=namespace
        )
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        return bool(ask(client.V1SelfSubjectAccessReview(spec=spec)).status.allowed)

    missing: dict[tuple[str | None, tuple[str, ...]], list[str]] = {}
    for namespace in (None, *services.NAMESPACES):
        for group, resource, verbs in NAMESPACE_RIGHTS if namespace else CLUSTER_RIGHTS:
            if lacks := tuple(verb for verb in verbs if not may(group, resource, verb, namespace)):
                missing.setdefault((namespace, lacks), []).append(resource)
    return [
        f"{', '.join(verbs)} {', '.join(resources)}" + (f" in {namespace}" if namespace else "")
        for (namespace, verbs), resources in missing.items()
    ]


def _namespaces(api: client.ApiClient) -> list[str]:
    """The platform's namespaces that are there. Raises ClusterError where one is not of `install`'s making."""
    core = client.CoreV1Api(api)
    found = []
    for name in services.NAMESPACES:
        for space in core.list_namespace(field_selector=f"metadata.name={name}").items:
            made_by = (space.metadata.labels or {}).get(PLATFORM)
            if made_by == "kind":
                what, remedy = "belongs to `bench cluster up`", "--target kind measures there"
            elif made_by != "k8s":
                what, remedy = "exists and is not ours", "another cluster; its owner knows who needs it"
            elif space.metadata.deletion_timestamp:
                what, remedy = "is being deleted", "wait, then the same command again"
            else:
                found.append(name)
                continue
            raise ClusterError(
                f"The namespace {name} {what}.", kept="everything; nothing was touched.", remedy=remedy
            )
    return found


def _storage_class(api: client.ApiClient, wanted: str) -> str:
    """The StorageClass to use: `wanted`, or the cluster's default. Raises ClusterError where there is none."""
    classes = client.StorageV1Api(api).list_storage_class().items
    names = [each.metadata.name for each in classes]
    usual = [
        each.metadata.name
        for each in classes
        if (each.metadata.annotations or {}).get(DEFAULT_CLASS) == "true"
    ]
    if wanted in names or (not wanted and usual):
        return wanted or usual[0]
    raise ClusterError(
        f"The cluster has no StorageClass {wanted!r}."
        if wanted
        else "The cluster has no default StorageClass.",
        kept="nothing was changed.",
        remedy=f"--storage-class, one of: {', '.join(names)}"
        if names
        else "a storage provisioner on the cluster",
    )


def _kind_nodes(api: client.ApiClient) -> dict[str, str]:
    """Nodes that pods may go to → their containers' ids. Raises ClusterError where they are no containers here."""
    docker = engine_client()
    found: dict[str, str] = {}
    for node in client.CoreV1Api(api).list_node().items:
        if any(taint.effect in ("NoSchedule", "NoExecute") for taint in node.spec.taints or ()):
            continue
        name = node.metadata.name
        found[name] = (docker and kind_cluster.container(docker, name)) or ""
    if found and all(found.values()):
        return found
    strangers = ", ".join(name for name, container in found.items() if not container) or "(there is none)"
    raise ClusterError(
        f"--load copies images into the nodes of a kind cluster in this Docker engine; not one of its: {strangers}.",
        kept="nothing was changed.",
        remedy="--registry HOST/PREFIX, a registry that you can push to and the nodes can pull from",
    )


def _loaded(stages: Stages, docker: Docker, key: str, tag: str, nodes: dict[str, str]) -> str:
    references = {
        kind_cluster.load(stages, docker, key, tag, pins.REPOSITORIES[key], container, name)
        for name, container in nodes.items()
    }
    if len(references) != 1:
        raise ClusterError(
            f"The nodes have {key} by different digests.", remedy="bench cluster install, again"
        )
    return references.pop()


def _deploy(
    stages: Stages,
    api: client.ApiClient,
    context: str,
    references: dict[str, str],
    storage_class: str,
    is_new: bool,
) -> None:
    """Apply the platform and wait for it; where a first installation fails, take it away again."""
    objects = services.render(references, services.credentials(api), storage_class=storage_class)
    cluster = _dynamic(api, context)
    name = f"platform-{quote(context, safe='')}"
    try:
        stages.run(
            name, {}, lambda log: services.apply(cluster, objects, READY_SECONDS, log), lambda _: False
        )
    except (ClusterError, ApiException) as problem:
        if not is_new:
            raise
        stages.note(name, "it failed; taking away what was installed")
        stages.run("remove", {}, lambda log: {"summary": str(len(_removed(cluster, log)))}, lambda _: False)
        what = (
            problem.what if isinstance(problem, ClusterError) else f"The API server refused: {problem.body}"
        )
        raise ClusterError(
            what,
            kept="nothing on the cluster: what was installed was taken away again. The images are kept.",
            remedy=f"see to what the lines above say, then `bench cluster {stages.verb}` again",
        ) from problem


def _removed(cluster: dynamic.DynamicClient, log: Log) -> list[str]:
    """Delete what is ours: the namespaces, then what is outside of them; returns when all is gone, with its names.

    A resource type of which others have objects by now stays.
    """
    removed = _delete(cluster, "v1", "Namespace", log)
    for version, kind in OUTSIDE:
        spared = _in_use if kind == "CustomResourceDefinition" else None
        removed += _delete(cluster, version, kind, log, spared)
    return removed


def _delete(
    cluster: dynamic.DynamicClient,
    version: str,
    kind: str,
    log: Log,
    spared: Callable[[dynamic.DynamicClient, dict[str, Any]], bool] | None = None,
) -> list[str]:
    try:
        resource = cluster.resources.get(api_version=version, kind=kind)
    except ResourceNotFoundError:
        return []
    ours = []
    for item in resource.get().to_dict()["items"]:
        if not is_ours(item):
            continue
        name = item["metadata"]["name"]
        if spared is not None and spared(cluster, item):
            log.note(f"{kind} {name} stays: others use it")
            continue
        log.note(f"delete {kind} {name}")
        resource.delete(name=name)
        ours.append(name)
    end = time.monotonic() + GONE_SECONDS
    for name in ours:
        while _is_there(resource, name):
            if time.monotonic() > end:
                raise ClusterError(
                    f"{kind} {name} does not go away.",
                    kept="what was not removed before it.",
                    remedy=f"kubectl get {kind.lower()} {name} -o yaml says what it waits for",
                )
            time.sleep(0.5)
    return [f"{kind} {name}" for name in ours]


def _is_there(resource: Any, name: str) -> bool:
    try:
        resource.get(name=name)
    except NotFoundError:
        return False
    return True


def _in_use(cluster: dynamic.DynamicClient, definition: dict[str, Any]) -> bool:
    """Whether there are objects of a resource type: ours went with our namespaces."""
    spec = definition["spec"]
    listed = client.CustomObjectsApi(cluster.client).list_cluster_custom_object(
        spec["group"], spec["versions"][0]["name"], spec["names"]["plural"], limit=1
    )
    return bool(listed["items"])
