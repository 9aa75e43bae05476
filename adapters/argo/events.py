"""Argo Events v1.9: a webhook that a data event comes to, and a Sensor for each run that waits for one."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes import client
from kubernetes.client.exceptions import ApiException

import cluster
from adapters.base import BenchError, Target, Unsupported
from adapters.installation import Installation, render
from adapters.kube import Document, Gone, explained
from adapters.podspec import CONTAINER_SECURITY, POD_SECURITY, RUN_LABEL
from adapters.targets import PIPELINE_NAMESPACE, ClusterTarget

PACKAGE = "adapters.argo"
NAMESPACE = "argo-events"
BUS_HOST = f"nats.{NAMESPACE}.svc"
SOURCE, EVENT = "data", "arrived"
DEPENDENCY, TRIGGER = "arrived", "run"
IMAGES = ("argo_events", "nats")
RESOURCES = {"requests": {"cpu": "25m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
KINDS = ("sensors", "eventsources", "eventbus")
"""In the order in which they have to go."""
READY_SECONDS = 120


class Events:
    """Argo Events in a namespace of its own: there from the first `listen` on, running while a run waits."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where = where
        self.kube = where.kube
        self.installation = Installation(where, NAMESPACE, "argo")

    def listen(self, workflow: Document) -> None:
        """Have a Sensor create this Workflow once its event comes; returns when an event would not be missed.

        Raises `Unsupported` where Argo Events cannot be had, `BenchError` where it does not come up.
        """
        self._open()
        self.kube.apply([sensor(workflow)])
        self._subscribed(workflow["metadata"]["name"])

    def publish(self, workflow: Document) -> tuple[int, int]:
        """Send the run's event; returns the wall clock just before it left and just after it was taken, in ns.

        Raises `BenchError` where it is refused.
        """
        headers = {"Authorization": f"Bearer {self.installation.secret('webhook')}"}
        try:
            with httpx.Client(base_url=self.url, headers=headers, timeout=30) as connection:
                connection.get("/health")  # the way through the API server is open before the clock starts
                submit_ns = time.time_ns()
                answer = connection.post(f"/{EVENT}", json=event_of(workflow))
                accepted_ns = time.time_ns()
        except httpx.HTTPError as error:
            raise BenchError(f"the webhook does not answer: {error}", "bench cluster status") from error
        if answer.status_code != 200:
            raise BenchError(
                f"the webhook refused the event: {answer.text} (HTTP {answer.status_code})",
                "bench cluster status",
            )
        return submit_ns, accepted_ns

    @property
    def url(self) -> str:
        """An address on loopback that leads to the webhook."""
        return self.installation.url("webhook", 12000)

    def forget(self, run_id: str) -> bool:
        """Remove the run's Sensor; False where there is none. Where it was the last, everything stops."""
        if not self._dropped("sensors", run_id):
            return False
        if not self._names("sensors"):
            self.stop()
        return True

    def stop(self) -> None:
        """Stop what runs of it; the next `listen` starts it again."""
        if self._is_ours():
            self.installation.scale(False)

    def remove(self) -> None:
        """Take away everything that `listen` made."""
        if self._is_ours():
            for plural in KINDS:
                for name in self._names(plural):
                    self._dropped(plural, name)
            self.installation.close(render(PACKAGE, "events-rights.yaml", namespace=PIPELINE_NAMESPACE))
        self.kube.remove(self._not_foreign(render(PACKAGE, "events-crds.yaml")))

    def _is_ours(self) -> bool:
        try:
            return self.installation.exists()
        except Unsupported:
            return False

    def _not_foreign(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            try:
                self.kube.refuse_foreign(document)
            except Unsupported:
                continue
            yield document

    def _open(self) -> None:
        """Have it installed and running."""
        self.installation.exists()  # or somebody else's: before anything is made
        self._have_images()
        self.kube.apply(render(PACKAGE, "events-crds.yaml"))
        self.installation.open()
        self._have_certificate()
        self.kube.apply(
            [
                *render(PACKAGE, "events-rights.yaml", namespace=PIPELINE_NAMESPACE),
                *render(PACKAGE, "events.yaml", **self._values()),
            ]
        )
        self._deployed()
        self.installation.scale(True, "nats")
        self.installation.scale(True)
        self._answers()

    def _values(self) -> dict[str, Any]:
        return {
            "argo_events": self.where.image("argo_events"),
            "nats": self.where.image("nats"),
            "bus_host": BUS_HOST,
            "bus_password": self.installation.secret("bus"),
            "token": self.installation.secret("webhook"),
            "pod_security": POD_SECURITY,
            "container_security": CONTAINER_SECURITY,
            "resources": RESOURCES,
        }

    def _have_images(self) -> None:
        missing = [key for key in IMAGES if key not in self.where.images]
        if self.where.target is Target.K8S:
            if missing:
                raise Unsupported(
                    "no images of Argo Events are on this cluster, and `bench cluster install` brings none",
                    "--target kind, where they are made",
                )
            return
        if missing:
            logging.getLogger(__name__).warning(
                "getting the images of Argo Events: minutes where they have to be compiled, once"
            )
        try:
            self.where.images.update(cluster.ensure_event_images().images)
        except cluster.ClusterError as wrong:
            raise BenchError(wrong.what, wrong.remedy, wrong.kept) from wrong

    def _have_certificate(self) -> None:
        """The bus speaks TLS only, as Argo Events' clients want it; each installation has a certificate of its own."""
        core = self.kube.core
        with explained("looking for the certificate of the bus"):
            if core.list_namespaced_secret(NAMESPACE, field_selector="metadata.name=bus-tls").items:
                return
            made, key = certificate(BUS_HOST)
            secret = client.V1Secret(
                metadata=client.V1ObjectMeta(name="bus-tls"),
                type="kubernetes.io/tls",
                string_data={"tls.crt": made, "tls.key": key},
            )
            core.create_namespaced_secret(NAMESPACE, secret)

    def _deployed(self) -> None:
        """Wait until the controller has made the webhook's Deployment."""
        with explained("waiting for the webhook"):
            for _, found in self.kube.follow(
                self.kube.custom.list_namespaced_custom_object,
                SOURCE,
                READY_SECONDS,
                **_where("eventsources"),
            ):
                conditions = found.get("status", {}).get("conditions") or []
                if any(each["type"] == "Deployed" and each["status"] == "True" for each in conditions):
                    return
        raise BenchError(
            f"Argo Events did not deploy its webhook within {READY_SECONDS} s", "bench cluster status"
        )

    def _answers(self) -> None:
        """Wait until the webhook is connected to the bus: it opens its port after that."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not yet
            time.sleep(0.5)
        raise BenchError(f"the webhook did not answer within {READY_SECONDS} s", "bench cluster status")

    def _subscribed(self, run_id: str) -> None:
        """Wait until the bus keeps events for the run's Sensor: before that they would pass it by."""
        wanted = consumer_of(run_id)
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if wanted in consumers(
                self.kube.service_get(NAMESPACE, "http:nats:8222", "jsz", {"consumers": "true"})
            ):
                return
            time.sleep(0.5)
        raise BenchError(
            f"the Sensor of {run_id} did not subscribe within {READY_SECONDS} s", "bench cluster status"
        )

    def _names(self, plural: str) -> list[str]:
        with explained(f"listing {plural}"):
            try:
                found = self.kube.listed(self.kube.custom.list_namespaced_custom_object, **_where(plural))
            except ApiException as error:
                if error.status == 404:
                    return []
                raise
        return [each["metadata"]["name"] for each in found["items"]]

    def _dropped(self, plural: str, name: str) -> bool:
        """Whether the object was there; returns when it is gone with its pods, whether the controller runs or not."""
        custom = self.kube.custom
        with explained(f"removing {name} from {plural}"):
            try:
                custom.delete_namespaced_custom_object(
                    **_where(plural), name=name, propagation_policy="Foreground"
                )
                # The controller's own finalizer does nothing that is needed here, and it may be stopped.
                kept = {"metadata": {"finalizers": ["foregroundDeletion"]}}
                custom.patch_namespaced_custom_object(**_where(plural), name=name, body=kept)
            except ApiException as error:
                if error.status == 404:
                    return False
                raise
            try:
                for _ in self.kube.follow(custom.list_namespaced_custom_object, name, 120, **_where(plural)):
                    continue
            except Gone:
                return True
        raise BenchError(f"{name} of {plural} did not go away within 120 s", "bench cluster status")


def _where(plural: str) -> dict[str, str]:
    return {"group": "argoproj.io", "version": "v1alpha1", "namespace": NAMESPACE, "plural": plural}


def event_of(workflow: Document) -> Document:
    """What an event says: which run it is for, and its parameters."""
    return {
        "run_id": workflow["metadata"]["name"],
        "parameters": workflow["spec"]["arguments"]["parameters"],
    }


def sensor(workflow: Document) -> Document:
    """A Sensor that creates the Workflow with the name, the label and the parameters that its event brings."""
    run_id = workflow["metadata"]["name"]
    spec = {key: value for key, value in workflow["spec"].items() if key != "arguments"}
    resource = {**workflow, "metadata": {"namespace": workflow["metadata"]["namespace"]}, "spec": spec}

    label = RUN_LABEL.replace(".", "\\.")

    def taken(key: str, into: str, **how: Any) -> Document:
        return {"src": {"dependencyName": DEPENDENCY, "dataKey": f"body.{key}", **how}, "dest": into}

    return {
        "apiVersion": workflow["apiVersion"],
        "kind": "Sensor",
        "metadata": {"name": run_id, "namespace": NAMESPACE, "labels": {RUN_LABEL: run_id}},
        "spec": {
            "template": {
                "serviceAccountName": "trigger",
                "securityContext": POD_SECURITY,
                "container": {
                    "resources": RESOURCES,
                    "securityContext": CONTAINER_SECURITY,
                },
            },
            "dependencies": [
                {
                    "name": DEPENDENCY,
                    "eventSourceName": SOURCE,
                    "eventName": EVENT,
                    # The value is a regular expression that may match anywhere.
                    "filters": {
                        "data": [{"path": "body.run_id", "type": "string", "value": [f"^{run_id}$"]}]
                    },
                }
            ],
            "triggers": [
                {
                    "template": {
                        "name": TRIGGER,
                        "k8s": {
                            "operation": "create",
                            "source": {"resource": resource},
                            "parameters": [
                                taken("run_id", "metadata.name"),
                                taken("run_id", f"metadata.labels.{label}"),
                                taken("parameters", "spec.arguments.parameters", useRawData=True),
                            ],
                        },
                    }
                }
            ],
        },
    }


def consumer_of(run_id: str) -> str:
    """What a Sensor's subscription is called on the bus: 32-bit FNV-1a over Sensor, trigger and dependency.

    Source: https://github.com/argoproj/argo-events/blob/v1.9.6/pkg/eventbus/jetstream/sensor/sensor_jetstream.go#L419
    """
    total = 0x811C9DC5
    for byte in f"{run_id}-{TRIGGER}-{DEPENDENCY}".encode():
        total = (total ^ byte) * 0x01000193 % 2**32
    return f"group-{total}"


def consumers(jsz: str) -> set[str]:
    """The names of all subscriptions that a NATS server's `jsz` page lists."""
    return {
        consumer["name"]
        for account in json.loads(jsz).get("account_details") or ()
        for stream in account.get("stream_detail") or ()
        for consumer in stream.get("consumer_detail") or ()
    }


def certificate(host: str) -> tuple[str, str]:
    """A self-signed certificate of a host for ten years, as Argo Events makes them, and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
