"""Argo Events: what its manifests may do, what a Sensor makes of an event, and who is subscribed."""

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.argo.adapter import ArgoDriver
from adapters.argo.events import (
    NAMESPACE,
    PACKAGE,
    RESOURCES,
    Events,
    certificate,
    consumer_of,
    consumers,
    event_of,
    sensor,
)
from adapters.base import RunRequest, Target, Unsupported
from adapters.installation import Installation, render
from adapters.podspec import CONTAINER_SECURITY, POD_SECURITY, has_read_only_root, is_restricted
from adapters.targets import ClusterTarget

VALUES = {
    "argo_events": "bench.local/argo-events@sha256:0",
    "nats": "bench.local/nats@sha256:0",
    "bus_host": "nats.argo-events.svc",
    "bus_password": "0e1",
    "token": "secret-token",
    "pod_security": POD_SECURITY,
    "container_security": CONTAINER_SECURITY,
    "resources": RESOURCES,
}
MANIFESTS = render(PACKAGE, "events.yaml", **VALUES)
RIGHTS = render(PACKAGE, "events-rights.yaml", namespace="bookstore-ml")


def workflow() -> dict[str, Any]:
    request = RunRequest(run_id="r1", workload="chain", configuration="default", parameters={"fibo": 13})
    return ArgoDriver.__new__(ArgoDriver).workflow(request)


def pods() -> list[dict[str, Any]]:
    """The pods of the Deployments, and those that the controller makes of EventSource and Sensor."""
    found = [each["spec"]["template"] for each in MANIFESTS if each["kind"] == "Deployment"]
    for each in (*MANIFESTS, sensor(workflow())):
        if each["kind"] in ("EventSource", "Sensor"):
            template = each["spec"]["template"]
            containers = [template["container"]]
            found.append({"spec": {**template, "containers": containers}})
    return found


def test_every_pod_is_restricted_with_a_read_only_root() -> None:
    assert len(pods()) == 4
    for pod in pods():
        assert is_restricted(pod), pod
        assert has_read_only_root(pod), pod


def test_all_of_it_is_in_its_own_namespace_and_none_of_its_rights_are_cluster_wide() -> None:
    assert {each["metadata"]["namespace"] for each in MANIFESTS} == {NAMESPACE}
    assert {each["kind"] for each in (*MANIFESTS, *RIGHTS)}.isdisjoint({"ClusterRole", "ClusterRoleBinding"})


def test_a_sensor_may_create_runs_and_nothing_else() -> None:
    (role,) = [each for each in RIGHTS if each["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create"]}]
    (binding,) = [each for each in RIGHTS if each["kind"] == "RoleBinding"]
    (subject,) = binding["subjects"]
    made = sensor(workflow())
    assert subject["name"] == made["spec"]["template"]["serviceAccountName"]
    accounts = {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "ServiceAccount"}
    assert subject["name"] in accounts


def test_the_webhook_wants_its_token() -> None:
    (source,) = [each for each in MANIFESTS if each["kind"] == "EventSource"]
    (hook,) = source["spec"]["webhook"].values()
    secrets = {each["metadata"]["name"]: each["stringData"] for each in MANIFESTS if each["kind"] == "Secret"}
    assert secrets[hook["authSecret"]["name"]][hook["authSecret"]["key"]] == "secret-token"


def test_a_sensor_makes_a_run_of_what_the_event_says() -> None:
    found = sensor(workflow())
    (dependency,) = found["spec"]["dependencies"]
    assert dependency["filters"]["data"][0]["value"] == ["^r1$"]
    template = found["spec"]["triggers"][0]["template"]["k8s"]
    resource = template["source"]["resource"]
    # What the event brings is nowhere else.
    assert resource["metadata"] == {"namespace": "bookstore-ml"}
    assert "arguments" not in resource["spec"]
    assert resource["spec"]["workflowTemplateRef"] == {"name": "chain-7"}
    assert {each["src"]["dataKey"]: each["dest"] for each in template["parameters"][1:]} == {
        "body.run_id": "metadata.labels.bench\\.local/run-id",
        "body.parameters": "spec.arguments.parameters",
    }
    assert event_of(workflow()) == {"run_id": "r1", "parameters": [{"name": "fibo", "value": "13"}]}


def test_the_name_of_a_subscription_is_the_hash_that_the_sensor_takes() -> None:
    # FNV-1a, 32 bit, of "conf-1-run-arrived", by Go's hash/fnv.
    assert consumer_of("conf-1") == "group-680955633"


def test_subscriptions_are_read_from_every_stream() -> None:
    page = """{"account_details": [{"name": "$G", "stream_detail": [
        {"name": "default", "consumer_detail": [{"name": "group-1"}, {"name": "group-2"}]}, {"name": "KV_r1"}]}]}"""
    assert consumers(page) == {"group-1", "group-2"}
    assert consumers('{"streams": 0}') == set()


def test_a_certificate_is_of_its_host_and_goes_with_its_key(tmp_path: Path) -> None:
    made, key = certificate("nats.argo-events.svc")
    (tmp_path / "crt").write_text(made)
    (tmp_path / "key").write_text(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    trusting = ssl.create_default_context(cadata=made)
    shake(trusting, server, "nats.argo-events.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(trusting, server, "elsewhere")


def shake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """A TLS handshake in memory. Raises what the client makes of the server's certificate."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(back, there, server_hostname=host)
    far = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_where_no_image_can_be_had_it_says_so_and_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Installation, "exists", lambda self: False)
    kube = SimpleNamespace()  # anything asked of it is an AttributeError
    events = Events(ClusterTarget(Target.K8S, kube, {}, {}))  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="no images of Argo Events"):
        events.listen(workflow())
