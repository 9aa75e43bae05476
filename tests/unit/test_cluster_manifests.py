"""Every pod of the platform is locked down, by digest, and wired as the project's names say."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cluster import pins, services
from cluster.node_image import NODE, render
from cluster.services import Credentials, deployment_state

DIGEST = "sha256:" + "0" * 64
IMAGES = {key: f"{repository}@{DIGEST}" for key, repository in pins.REPOSITORIES.items()}
CREDENTIALS = Credentials(postgres="pgpass", s3_key="KEY", s3_secret="s3secret", token="tok")


def objects() -> list[dict[str, Any]]:
    return services.render(IMAGES, CREDENTIALS, "bench-control-plane")


def deployments() -> list[dict[str, Any]]:
    return [item for item in objects() if item["kind"] == "Deployment"]


@pytest.mark.parametrize("deployment", deployments(), ids=lambda item: item["metadata"]["name"])
def test_pods_meet_the_restricted_standard_with_a_read_only_root(deployment: dict[str, Any]) -> None:
    spec = deployment["spec"]["template"]["spec"]
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] != "default"
    for container in spec.get("initContainers", []) + spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].endswith(f"@{DIGEST}"), "images are named by digest"
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}


@pytest.mark.parametrize("deployment", deployments(), ids=lambda item: item["metadata"]["name"])
def test_readiness_is_probed(deployment: dict[str, Any]) -> None:
    assert "readinessProbe" in deployment["spec"]["template"]["spec"]["containers"][0]


def test_no_secret_stands_anywhere_but_in_the_secrets() -> None:
    for item in objects():
        text = yaml.safe_dump(item)
        for secret in (CREDENTIALS.postgres, CREDENTIALS.s3_secret):
            assert (secret in text) == (item["kind"] == "Secret" and secret in str(item["stringData"]))


def test_credentials_do_not_show_in_a_traceback_and_need_no_quoting() -> None:
    fresh = Credentials.fresh()
    assert fresh.token not in repr(fresh) and fresh.postgres not in f"{fresh}"
    assert all(value.isalnum() for value in (fresh.postgres, fresh.s3_key, fresh.s3_secret, fresh.token))
    assert fresh != Credentials.fresh()


def test_namespaces_enforce_the_restricted_standard() -> None:
    namespaces = {
        item["metadata"]["name"]: item["metadata"]["labels"]
        for item in objects()
        if item["kind"] == "Namespace"
    }
    assert set(namespaces) == {"bookstore-ml", "bench-system"}
    for labels in namespaces.values():
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_steps_find_every_service_under_its_agreed_name() -> None:
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in objects()}
    env = by_name["ConfigMap", "pipeline-env"]["data"]
    assert env["BENCH_LEDGER_URI"] == "http://ledger.bench-system:8080"
    assert env["AWS_ENDPOINT_URL"] == "http://s3.bench-system:7070"
    assert set(by_name["Secret", "pipeline-secrets"]["stringData"]) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "BENCH_TOKEN",
    }
    ports = {
        name: item["spec"]["ports"][0]["port"] for (kind, name), item in by_name.items() if kind == "Service"
    }
    assert ports == {"postgres": 5432, "mlflow": 5000, "s3": 7070, "ledger": 8080, "recommender": 8080}
    pods = by_name["ServiceAccount", "pipeline-pods"]
    assert pods["automountServiceAccountToken"] is False


def test_every_claim_is_bound_to_a_volume_made_for_it() -> None:
    volumes = {
        item["spec"]["claimRef"]["name"]: item for item in objects() if item["kind"] == "PersistentVolume"
    }
    claims = {item["metadata"]["name"] for item in objects() if item["kind"] == "PersistentVolumeClaim"}
    assert set(volumes) == claims == {"postgres", "s3", "ledger", "pipeline-shared"}


class Fake:
    """A deployment as the client gives it, as far as the rule looks."""

    def __init__(self, generation: int, **status: int) -> None:
        class Bag:
            def __init__(self, **values: Any) -> None:
                self.__dict__.update(values)

        counts = dict.fromkeys(("observed_generation", "updated_replicas", "replicas", "available_replicas"))
        self.metadata = Bag(generation=generation)
        self.spec = Bag(replicas=1)
        self.status = Bag(**(counts | status))


@pytest.mark.parametrize(
    ("deployment", "state"),
    [
        (
            Fake(2, observed_generation=1, updated_replicas=1, replicas=1, available_replicas=1),
            "not looked at yet",
        ),
        (Fake(1, observed_generation=1), "0 of 1 pods made"),
        (
            Fake(1, observed_generation=1, updated_replicas=1, replicas=2, available_replicas=1),
            "old pods still going",
        ),
        (Fake(1, observed_generation=1, updated_replicas=1, replicas=1), "0 of 1 pods ready"),
        (Fake(1, observed_generation=1, updated_replicas=1, replicas=1, available_replicas=1), "ready"),
    ],
)
def test_ready_means_the_new_pods_and_only_they(deployment: Fake, state: str) -> None:
    assert deployment_state(deployment) == state


@pytest.mark.parametrize("origin", ["build", "pull"])
@pytest.mark.parametrize("wrapper", ["", "/state/ociwrap"])
def test_the_kind_configuration_is_valid_in_every_mode(origin: str, wrapper: str) -> None:
    text = render(
        NODE / "kind.yaml",
        name="bench",
        image="node:1",
        origin=origin,
        wrapper=wrapper,
        resolver="/state/resolv.conf",
        containerd_dropin="/state/dropin.conf",
    )
    config = yaml.safe_load(text)
    assert config["networking"]["disableDefaultCNI"] is (origin == "build")
    assert config.get("featureGates", {}) == ({"KubeletInUserNamespace": True} if wrapper else {})
    assert ("containerdConfigPatches" in config) == (origin == "pull" and bool(wrapper))


def test_the_wrapper_is_named_to_containerd_only_where_it_is_needed() -> None:
    for wrapper in (True, False):
        text = render(NODE / "containerd.toml", pause="registry.k8s.io/pause:3.10.1", wrapper=wrapper)
        assert ("BinaryName" in text) is wrapper
        assert f"restrict_oom_score_adj = {str(wrapper).lower()}" in text
