"""What the adapters' installations on Kubernetes have in common: a namespace, secrets, a database, servers to scale."""

import hashlib
import json
import secrets
import time
from base64 import b64decode
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import jinja2
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from adapters.base import BenchError, Unsupported
from adapters.forward import Forward
from adapters.kube import Document, Kube, explained, read_documents
from adapters.targets import SYSTEM_NAMESPACE, ClusterTarget

READY_SECONDS = 300.0
GENERATED = "generated"
"""The Secret with an installation's own random words."""
OWNER = "bench.local/orchestrator"
"""A label of the namespaces that are ours."""
KEEPS_DATA = "bench.local/keeps-data"
"""A label of the Deployments that would lose what they know with their pod."""


def render(package: str, name: str, **values: Any) -> list[Document]:
    """A manifest of a package's `deploy` folder with its values filled in."""
    text = files(package).joinpath("deploy", name).read_text(encoding="utf-8")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(text)
    return read_documents(template.render(**values))


class Installation:
    """An orchestrator's servers: Deployments with a label `app` of their own name, in a namespace of their own."""

    def __init__(self, where: ClusterTarget, namespace: str, orchestrator: str = "") -> None:
        """`orchestrator` is the adapter's name, where the namespace has another."""
        self.where, self.namespace = where, namespace
        self.orchestrator = orchestrator or namespace
        self.kube = where.kube
        self._forwards: dict[tuple[str, int], Forward] = {}

    def open(self) -> None:
        """Make the namespace, under Pod Security `restricted`. Raises `Unsupported` where it is not ours."""
        self.exists()
        self.kube.apply([self._namespace()])

    def _namespace(self) -> Document:
        labels = {"pod-security.kubernetes.io/enforce": "restricted", OWNER: self.orchestrator}
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": labels},
        }

    def exists(self) -> bool:
        """Whether the namespace is there. Raises `Unsupported` where one of that name is not ours."""
        with explained(f"looking for the namespace {self.namespace}"):
            found = self.kube.core.list_namespace(field_selector=f"metadata.name={self.namespace}").items
        if found and (found[0].metadata.labels or {}).get(OWNER) != self.orchestrator:
            raise Unsupported(
                f"the namespace {self.namespace} exists and is not ours; nothing in it was touched",
                f"kubectl delete namespace {self.namespace}, if nobody needs it",
            )
        return bool(found)

    def close(self, outside: Iterable[Document]) -> None:
        """Remove what was applied `outside` the namespace, then the namespace with all that is in it."""
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()
        self.kube.remove(outside)
        if self.exists():
            self.kube.remove([self._namespace()])

    def secret(self, name: str) -> str:
        """A random word of 32 hexadecimal digits, made at its first use, kept in the namespace."""
        with explained(f"reading the secrets of {self.namespace}"):
            try:
                known = self.kube.core.read_namespaced_secret(GENERATED, self.namespace).data or {}
            except ApiException as error:
                if error.status != 404:
                    raise
                known = {}
                self.kube.core.create_namespaced_secret(
                    self.namespace, client.V1Secret(metadata=client.V1ObjectMeta(name=GENERATED))
                )
            if name not in known:
                word = secrets.token_hex(16)
                self.kube.core.patch_namespaced_secret(
                    GENERATED, self.namespace, {"stringData": {name: word}}
                )
                return word
        return b64decode(known[name]).decode()

    def database(self, name: str) -> str:
        """`USER:PASSWORD@HOST:PORT/NAME` of a database and its owner of that name, made where they are not there."""
        password = self.secret(f"database-{name}")
        self._sql(
            f"SELECT 'CREATE ROLE {name} LOGIN' WHERE NOT EXISTS "
            f"(SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec",
            f"ALTER ROLE {name} PASSWORD '{password}';",
            f"SELECT 'CREATE DATABASE {name} OWNER {name}' WHERE NOT EXISTS "
            f"(SELECT FROM pg_database WHERE datname = '{name}') \\gexec",
        )
        return f"{name}:{password}@postgres.{SYSTEM_NAMESPACE}:5432/{name}"

    def drop_database(self, name: str) -> None:
        """Remove a database and its owner, if they are there."""
        self._sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE);", f"DROP ROLE IF EXISTS {name};")

    def databases(self) -> set[str]:
        """The names of the platform's databases."""
        return set(self._sql("SELECT datname FROM pg_database;").split())

    def _sql(self, *lines: str) -> str:
        """Feed psql in the platform's PostgreSQL pod. Raises `BenchError` with what it said where it fails."""
        command = ["psql", "-U", "mlflow", "-d", "postgres", "-AtqX", "-v", "ON_ERROR_STOP=1"]
        with explained("asking PostgreSQL"):
            pods = self.kube.core.list_namespaced_pod(
                SYSTEM_NAMESPACE, label_selector="app=postgres", field_selector="status.phase=Running"
            ).items
            if not pods:
                raise BenchError("the platform's PostgreSQL does not run", "bench cluster up")
            talk = self.kube.talk(SYSTEM_NAMESPACE, pods[0].metadata.name, command)
            try:
                talk.write_stdin("\n".join([*lines, "\\q\n"]))
                talk.run_forever(timeout=60)
                said, wrong = talk.read_stdout(timeout=1), talk.read_stderr(timeout=1)
                code = talk.returncode
            except (
                TypeError,
                KeyError,
                ValueError,
            ):  # the client's own, where the pod went before it could end
                said, wrong, code = "", "the connection to its pod broke", None
            finally:
                talk.close()
        if code != 0:
            raise BenchError(
                f"PostgreSQL refused: {wrong.strip() or 'no answer within 60 s'}", "bench cluster status"
            )
        return str(said)

    def deployments(self) -> list[str]:
        """The names of the servers' Deployments."""
        with explained(f"listing the servers of {self.namespace}"):
            found = self.kube.apps.list_namespaced_deployment(self.namespace).items
        return [each.metadata.name for each in found]

    def scale(self, on: bool, *names: str) -> None:
        """Start or stop the servers (all of them, or those named); returns when they are ready, or gone.

        Raises `BenchError` with the pods' states and last log lines where they do not become ready, and where the
        namespace is not ours.
        """
        self.exists()
        wanted = names or self.deployments()
        for name in wanted:
            with explained(f"scaling {self.namespace}/{name}"):
                self.kube.apps.patch_namespaced_deployment_scale(
                    name, self.namespace, {"spec": {"replicas": 1 if on else 0}}
                )
        for name in wanted:
            self.kube.rolled_out(self.namespace, name, READY_SECONDS)
        if not on:
            _pods_gone(self.kube, self.namespace, wanted)

    def health(self, names: Iterable[str]) -> str:
        """Empty when all these servers are ready, otherwise what is wrong."""
        with explained(f"looking at the servers of {self.namespace}"):
            found = {
                each.metadata.name: each.status.ready_replicas
                for each in self.kube.apps.list_namespaced_deployment(self.namespace).items
            }
        for name in names:
            if name not in found:
                return f"{self.namespace}/{name} is not installed"
            if not found[name]:
                return f"{self.namespace}/{name} is not ready"
        return ""

    def url(self, app: str, port: int) -> str:
        """An address on loopback that leads to a server's port."""
        key = app, port
        if key not in self._forwards:
            self._forwards[key] = Forward(self.kube, self.namespace, app, port)
        return self._forwards[key].url


def quiet(kube: Kube, but: str) -> None:
    """Stop the servers of every orchestrator except `but`, whichever command left them running.

    One that would lose its data (`KEEPS_DATA`) goes on.

    Raises `BenchError` where they do not end.
    """
    with explained("looking for servers of other orchestrators"):
        spaces = kube.core.list_namespace(label_selector=f"{OWNER},{OWNER}!={but}").items
        left = [
            (space.metadata.name, each.metadata.name)
            for space in spaces
            for each in kube.apps.list_namespaced_deployment(
                space.metadata.name, label_selector=f"!{KEEPS_DATA}"
            ).items
            if each.spec.replicas
        ]
        for namespace, name in left:
            kube.apps.patch_namespaced_deployment_scale(name, namespace, {"spec": {"replicas": 0}})
    for namespace, name in left:
        kube.rolled_out(namespace, name, READY_SECONDS)
        _pods_gone(kube, namespace, [name])


def _pods_gone(kube: Kube, namespace: str, apps: Iterable[str]) -> None:
    """Wait until no pod of these servers is left: one that is being ended still takes CPU."""
    selector = f"app in ({','.join(apps)})"
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        with explained("waiting for servers to end"):
            if not kube.core.list_namespaced_pod(namespace, label_selector=selector).items:
                return
        time.sleep(0.5)
    raise BenchError(f"the servers of {namespace} do not end", "bench cluster status")


def digest_of(*parts: Any) -> str:
    """A digest for a pod template's annotation: other settings are another pod."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
