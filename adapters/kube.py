"""The Kubernetes API as the adapters use it: plain dicts, watches with a deadline, errors for people."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError
from kubernetes.stream import stream

from adapters.base import BenchError, TargetUnreachable, TargetUnusable, Unsupported
from cluster.ownership import ADAPTERS_MANAGER, is_ours

Document = dict[str, Any]


class Gone(Exception):
    """The watched object was deleted."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the client's exceptions into errors that say what to do."""
    try:
        yield
    except ApiException as error:
        raise explain(error, what) from error
    except (urllib3.exceptions.HTTPError, config.ConfigException, OSError) as error:
        raise TargetUnreachable(
            f"the cluster does not answer ({what}: {type(error).__name__})",
            "bench cluster status, then bench cluster up; of another cluster: bench cluster status --context NAME",
        ) from error


def explain(error: ApiException, what: str) -> BenchError:
    """An API error as one sentence and a remedy."""
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason or str(error)
    if error.status in (401, 403):
        return TargetUnusable(
            f"not allowed: {what}: {message}",
            "use a kubeconfig whose user may do this, or ask for the rights in docs/cluster.md",
        )
    return BenchError(f"{what}: {message} (HTTP {error.status})", "bench cluster status")


class Kube:
    """One connection to one cluster."""

    def __init__(self, kubeconfig: Path | None = None, context: str | None = None) -> None:
        """Connect with `kubeconfig` (default: the user's own) and `context` (default: its current one).

        Raises `TargetUnreachable` where the file cannot be used.
        """
        with explained("reading the kubeconfig"):
            self.api = config.new_client_from_config(
                config_file=str(kubeconfig) if kubeconfig else None, context=context
            )
        self.core = client.CoreV1Api(self.api)
        self.apps = client.AppsV1Api(self.api)
        self.custom = client.CustomObjectsApi(self.api)
        self._dynamic: dynamic.DynamicClient | None = None

    def version(self) -> str:
        """The API server's version, such as `v1.34.4`."""
        with explained("asking for the version"):
            return str(client.VersionApi(self.api).get_code(_request_timeout=5).git_version)

    def groups(self) -> list[Any]:
        """The API groups that the cluster serves."""
        with explained("listing the API groups"):
            return list(client.ApisApi(self.api).get_api_versions().groups)

    def _resource(self, document: Mapping[str, Any]) -> Any:
        if self._dynamic is None:
            self._dynamic = dynamic.DynamicClient(self.api)
        resources = self._dynamic.resources
        kind = {"api_version": document["apiVersion"], "kind": document["kind"]}
        try:
            return resources.get(**kind)
        except dynamic.exceptions.ResourceNotFoundError:
            resources.invalidate_cache()  # a CRD that was made a moment ago
            return resources.get(**kind)

    def apply(self, documents: Iterable[Document]) -> None:
        """Server-side apply, in the order given. CRDs are waited for.

        Raises `Unsupported`, before anything is applied, where one outside namespaces is there and somebody else's.
        """
        documents = list(documents)
        for document in documents:
            if "namespace" not in document["metadata"]:
                self.refuse_foreign(document)
        for document in documents:
            what = f"applying {document['kind']} {document['metadata']['name']}"
            with explained(what):
                self._resource(document).server_side_apply(
                    body=document, field_manager=ADAPTERS_MANAGER, force_conflicts=True
                )
                if document["kind"] == "CustomResourceDefinition":
                    self._established(document)

    def refuse_foreign(self, document: Document) -> None:
        """Raises `Unsupported` where the object that `document` names is there and none of us has applied it."""
        kind, name = document["kind"], document["metadata"]["name"]
        with explained(f"looking for {kind} {name}"):
            try:
                found = self._resource(document).get(name=name).to_dict()
            except (NotFoundError, dynamic.exceptions.ResourceNotFoundError):
                return
        if not is_ours(found):
            raise Unsupported(
                f"{kind} {name} exists and is not ours; nothing of it was touched",
                "another cluster; what is there belongs to somebody who may need it",
            )

    def _established(self, crd: Document) -> None:
        name = crd["metadata"]["name"]
        definitions = client.ApiextensionsV1Api(self.api).list_custom_resource_definition
        for _, found in self.follow(definitions, name, 30):
            conditions = found.get("status", {}).get("conditions") or []
            if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
                return
        raise BenchError(f"the resource type {name} was not established within 30 s", "bench cluster status")

    def remove(self, documents: Iterable[Document]) -> None:
        """Delete, in reverse order; what is not there is passed over. Returns when namespaces are gone."""
        for document in reversed(list(documents)):
            name = document["metadata"]["name"]
            namespace = document["metadata"].get("namespace")
            with explained(f"deleting {document['kind']} {name}"):
                try:
                    resource = self._resource(document)
                    resource.delete(name=name, namespace=namespace, propagation_policy="Foreground")
                except (NotFoundError, dynamic.exceptions.ResourceNotFoundError):
                    continue
                self._gone(resource, name, namespace, 120)

    @staticmethod
    def _gone(resource: Any, name: str, namespace: str | None, seconds: float) -> None:
        """Wait until it is not there any more. Raises `BenchError` where it still is after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = resource.get(name=name, namespace=namespace)
            except NotFoundError:
                return
            left = end - time.monotonic()
            if left <= 0:
                raise BenchError(
                    f"{name} is still there {seconds:.0f} s after it was deleted", "bench cluster status"
                )
            version = found.metadata.resourceVersion
            for event in resource.watch(
                name=name, namespace=namespace, resource_version=version, timeout=max(1, int(left))
            ):
                if event["type"] == "DELETED":
                    return

    def rolled_out(self, namespace: str, deployment: str, seconds: float) -> None:
        """Wait until a Deployment runs its newest template only.

        Raises `BenchError` with the pods' states and last log lines after `seconds`.
        """

        def ready(found: Document) -> bool:
            status, spec = found.get("status", {}), found["spec"]
            wanted = spec.get("replicas", 1)
            return bool(
                status.get("observedGeneration", 0) >= found["metadata"]["generation"]
                and status.get("updatedReplicas", 0) == wanted
                and status.get("replicas", 0) == wanted
                and status.get("readyReplicas", 0) == wanted
            )

        with explained(f"waiting for {namespace}/{deployment}"):
            for _, found in self.follow(
                self.apps.list_namespaced_deployment, deployment, seconds, namespace=namespace
            ):
                if ready(found):
                    return
        raise BenchError(
            f"{namespace}/{deployment} was not ready within {seconds:.0f} s",
            "bench cluster status",
            kept=self._why(namespace, deployment),
        )

    def _why(self, namespace: str, app: str) -> str:
        lines = []
        for pod in self.core.list_namespaced_pod(namespace, label_selector=f"app={app}").items:
            waiting = [
                (c.state.waiting.reason or "") + " " + (c.state.waiting.message or "")
                for c in pod.status.container_statuses or []
                if c.state.waiting
            ]
            lines.append(f"{pod.metadata.name}: {pod.status.phase} {' '.join(waiting)}".strip())
            try:
                tail = self.core.read_namespaced_pod_log(pod.metadata.name, namespace, tail_lines=10)
                lines.extend(f"  {line}" for line in str(tail).splitlines())
            except ApiException:
                lines.append("  (no log)")
        return "\n".join(lines)

    def follow(
        self, list_call: Callable[..., Any], name: str, seconds: float, /, **where: Any
    ) -> Iterator[tuple[str, Document]]:
        """Every state of one object, the present one first, until `seconds` have passed.

        Yields `(event type, object)`. A watch that the server ends is opened anew from a fresh list, so no
        state that lasts is missed. Raises `Gone` where the object is deleted or does not exist.
        """
        end = time.monotonic() + seconds
        selector = f"metadata.name={name}"
        while (left := end - time.monotonic()) > 0:
            listed = self.listed(list_call, field_selector=selector, **where)
            if not listed["items"]:
                raise Gone(name)
            yield "LISTED", listed["items"][0]
            left = end - time.monotonic()
            for kind, found in self.events(
                list_call,
                listed["metadata"]["resourceVersion"],
                max(1, int(left) + 1),
                field_selector=selector,
                **where,
            ):
                if kind == "DELETED":
                    raise Gone(name)
                yield kind, found
                if time.monotonic() > end:
                    return

    @staticmethod
    def listed(list_call: Callable[..., Any], /, **where: Any) -> Document:
        """A list call's answer as plain JSON."""
        answer = list_call(_preload_content=False, **where)
        body: Document = json.loads(answer.data)
        if answer.status >= 400:
            raise ApiException(http_resp=answer)
        return body

    @staticmethod
    def events(
        list_call: Callable[..., Any], since: str, seconds: int, /, **where: Any
    ) -> Iterator[tuple[str, Document]]:
        """A watch from resource version `since` on; ends with the server's time-out or when it loses its place."""
        try:
            for event in watch.Watch().stream(
                list_call,
                resource_version=since,
                timeout_seconds=seconds,
                _request_timeout=(30, seconds + 30),  # were it dropped without a word, it would never end
                deserialize=False,
                **where,
            ):
                yield event["type"], event["object"]
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
            return  # the server cut the stream: the caller lists again
        except KeyError as error:
            # An ERROR event: the client looks for the object as it would be if it were not left plain JSON.
            if error.args != ("raw_object",):
                raise
            return

    def talk(self, namespace: str, pod: str, command: list[str]) -> Any:
        """An open conversation with a command that is started in the pod (`kubernetes.stream.ws_client.WSClient`)."""
        # A client of its own: for as long as it lasts, the call replaces how its client sends requests.
        core = client.CoreV1Api(client.ApiClient(self.api.configuration))
        return stream(
            core.connect_get_namespaced_pod_exec,
            pod,
            namespace,
            command=command,
            stdin=True,
            stdout=True,
            stderr=True,
            _preload_content=False,
        )

    def service_get(self, namespace: str, service: str, path: str, query: Mapping[str, str]) -> str:
        """GET from a Service through the API server's proxy; `service` as in `http:ledger:8080`."""
        where = f"/api/v1/namespaces/{namespace}/services/{service}/proxy/{path}"
        return self.get(where, query, f"reading {service} in {namespace}")

    def get(self, path: str, query: Mapping[str, str], what: str) -> str:
        """GET any path of the API server, as text. Raises `BenchError` saying `what` where it refuses."""
        with explained(what):
            request = self.api.param_serialize(
                "GET", path, query_params=list(query.items()), auth_settings=["BearerToken"]
            )
            answer = self.api.call_api(*request, _request_timeout=30)
            body = answer.read()
            if not 200 <= answer.status < 300:
                raise ApiException(status=answer.status, reason=answer.reason, body=body)
        return str(body.decode())


def read_documents(text: str) -> list[Document]:
    """The YAML documents of a manifest, empty ones left out."""
    return [document for document in yaml.safe_load_all(text) if document]


def epoch_seconds(text: str | None) -> float | None:
    """A Kubernetes timestamp (RFC 3339, whole seconds) as seconds since the epoch; None stays None."""
    return datetime.fromisoformat(text).timestamp() if text else None
