"""What every step's pod has in common, whoever makes it: equal pods are what makes times comparable."""

from collections.abc import Iterable, Mapping
from typing import Any

ENV_CONFIG = "pipeline-env"
ENV_SECRET = "pipeline-secrets"

RUN_LABEL = "bench.local/run-id"
STEP_LABEL = "bench.local/step"

POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
RESOURCES: dict[str, Any] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"cpu": "2", "memory": "2Gi"},
}
SCRATCH = {"tmp": "/tmp", "out": "/out", "results": "/results"}
"""Empty folders of the pod: all that a step can write to."""


def env(image_digest: str) -> list[dict[str, Any]]:
    """Who the pod is, for its ledger rows."""

    def field(path: str) -> dict[str, Any]:
        return {"fieldRef": {"fieldPath": path}}

    return [
        {"name": "POD_UID", "valueFrom": field("metadata.uid")},
        {"name": "POD_NAME", "valueFrom": field("metadata.name")},
        {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
        {"name": "NODE_NAME", "valueFrom": field("spec.nodeName")},
        {"name": "IMAGE_DIGEST", "value": image_digest},
    ]


def env_from() -> list[dict[str, Any]]:
    """Addresses (ConfigMap) and credentials (Secret) of the services a step talks to."""
    return [{"configMapRef": {"name": ENV_CONFIG}}, {"secretRef": {"name": ENV_SECRET}}]


def volumes() -> list[dict[str, Any]]:
    """The scratch folders."""
    return [{"name": name, "emptyDir": {}} for name in SCRATCH]


def mounts() -> list[dict[str, str]]:
    """Where the scratch folders are."""
    return [{"name": name, "mountPath": path} for name, path in SCRATCH.items()]


def container(image_digest: str, env_more: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What every step's container has in common; whoever makes it adds a name, and an image if it is the one to say.

    `env_more` comes after what `env` gives.
    """
    return {
        "imagePullPolicy": "IfNotPresent",
        "env": [*env(image_digest), *env_more],
        "envFrom": env_from(),
        "resources": RESOURCES,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts(),
    }


def is_restricted(pod: dict[str, Any]) -> bool:
    """Whether a pod's spec meets the parts of Pod Security `restricted` that a step can break."""
    spec = pod["spec"]
    pod_security = spec.get("securityContext") or {}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        security = container.get("securityContext") or {}
        seccomp = security.get("seccompProfile") or pod_security.get("seccompProfile") or {}
        if (
            security.get("allowPrivilegeEscalation") is not False
            or security.get("privileged")
            or (security.get("capabilities") or {}).get("drop") != ["ALL"]
            or not (security.get("runAsNonRoot") or pod_security.get("runAsNonRoot"))
            or seccomp.get("type") != "RuntimeDefault"
        ):
            return False
    return not any("hostPath" in volume for volume in spec.get("volumes", []))


def has_read_only_root(pod: dict[str, Any]) -> bool:
    """Whether every container of a pod has a read-only root (which `restricted` does not ask for)."""
    spec = pod["spec"]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    return all((c.get("securityContext") or {}).get("readOnlyRootFilesystem") is True for c in containers)
