"""Kubeflow Pipelines' backend on Kubernetes: the vendor's servers in their namespace, runs in the pipelines' own."""

import json
import time
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

import cluster
from adapters import podspec
from adapters.base import BenchError, Component, Configuration, Unsupported
from adapters.installation import Installation, render
from adapters.kfp.api import (
    API,
    NAMESPACE,
    RUN_ID_LABEL,
    RUN_NAME_ANNOTATION,
    SDK,
    STEP_IMAGE,
    USED_IMAGES,
    WORKFLOWS,
)
from adapters.kube import Document, Gone, explained
from adapters.targets import PIPELINE_NAMESPACE, ClusterTarget

PACKAGE = "adapters.kfp"
VERSION, ARGO_VERSION = "2.15.0", "v3.7.3"
VENDOR_IMAGES = (
    *(
        f"ghcr.io/kubeflow/kfp-{name}:{VERSION}"
        for name in ("api-server", "persistence-agent", "scheduled-workflow-controller", "driver", "launcher")
    ),
    "gcr.io/tfx-oss-public/ml_metadata_store_server:1.14.0",
    "docker.io/library/mysql:8.4",
)
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
DATABASE = "mysql"
CONTROLLER = "workflow-controller"
ROLES = {
    API: "api",
    "ml-pipeline-persistenceagent": "persistence agent",
    "ml-pipeline-scheduledworkflow": "scheduler",
    CONTROLLER: "controller",
    "metadata-grpc-deployment": "metadata store",
    DATABASE: "database",
}
SERVERS = tuple(name for name in ROLES if name != DATABASE)
"""What is stopped and started; the database goes on, as the platform's does for the others."""
RUN_NAME = f"{{{{workflow.annotations.{RUN_NAME_ANNOTATION}}}}}"
"""Argo's variable for a run's name."""
NO_METADATA_SERVICE = {"configMapRef": {"name": "metadata-grpc-configmap", "optional": True}}
"""What KFP itself puts first into an executor's environment; a patch replaces the whole list."""


def spec_patch(image: str) -> Document:
    """What KFP's documented patch adds to each compiled workflow: `restricted`, the step's pod, the run's label.

    Templates are named as KFP's compiler names them, and in its order: KFP reads the patched list into the old
    one, where a template at another place would mix with what was there. Steps have retries here, so their
    template is the one for retries.
    """
    executor = {
        "securityContext": podspec.CONTAINER_SECURITY,
        "resources": podspec.RESOURCES,
        "env": podspec.env(image.rsplit("@", 1)[1]),
        "envFrom": [NO_METADATA_SERVICE, *podspec.env_from()],
        "volumeMounts": podspec.mounts(),
    }
    driver = {
        "securityContext": podspec.CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    step = {
        "name": "retry-system-container-impl",
        "container": executor,
        "initContainers": [{"name": "kfp-launcher", "securityContext": podspec.CONTAINER_SECURITY}],
        "volumes": podspec.volumes(),
    }
    container_driver, group_driver = (
        {"name": name, "container": driver, "volumes": [{"name": "tmp", "emptyDir": {}}]}
        for name in ("system-container-driver", "system-dag-driver")
    )
    return {
        "securityContext": podspec.POD_SECURITY,
        "podMetadata": {"labels": {podspec.RUN_LABEL: RUN_NAME}},
        "templates": [container_driver, step, group_driver],
    }


def resource_types() -> list[Document]:
    """KFP's own; the workflow controller's are Argo's."""
    return render(PACKAGE, "crds.yaml")


def workflow_types() -> list[Document]:
    """The workflow controller's resource types: the same as the argo adapter's, whose controller has this version."""
    return render("adapters.argo", "crds.yaml")


def pipeline_documents() -> list[Document]:
    """What is made in the pipelines' namespace."""
    return render(PACKAGE, "pipelines.yaml", servers=NAMESPACE, pipelines=PIPELINE_NAMESPACE)


def server_documents(
    configuration: str, images: Mapping[str, str], secrets: Mapping[str, str]
) -> list[Document]:
    """What is made in the servers' namespace."""
    return render(
        PACKAGE,
        "servers.yaml",
        servers=NAMESPACE,
        pipelines=PIPELINE_NAMESPACE,
        images=images,
        requeue=REQUEUE[configuration],
        spec_patch=json.dumps(json.dumps(spec_patch(images[SDK]), sort_keys=True)),
        **secrets,
    )


class KfpClusterRuntime:
    """The backend of KFP 2.15 with the Argo controller it is shipped with."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where, self.kube = where, where.kube
        self.servers = Installation(where, NAMESPACE, "kfp")

    def deploy(self, configuration: str) -> None:
        """Install or change to `configuration`; returns when all servers are ready and the controller leads.

        Raises `Unsupported`, with nothing changed, where an image of the vendor's can be had nowhere;
        `BenchError` for an unknown configuration, or where a server does not become ready.
        """
        if configuration not in REQUEUE:
            raise BenchError(f"kfp has no configuration '{configuration}'", f"one of: {', '.join(REQUEUE)}")
        found = self._vendor_images()
        self.where.ensure(SDK)
        images = {short(name): image.reference for name, image in found.items()}
        images |= {name: self.where.image(name) for name in ("argo_controller", "argo_executor", SDK)}
        self.servers.open()
        self.kube.apply(
            [*workflow_types(), *resource_types(), *pipeline_documents(), used_images(found, images[SDK])]
        )
        documents = server_documents(configuration, images, self._secrets())
        # A server that starts before its database is there restarts at growing intervals.
        later = [each for each in documents if each["kind"] == "Deployment" and name_of(each) != DATABASE]
        self.kube.apply(each for each in documents if each not in later)
        self.servers.scale(True, DATABASE)
        self.kube.apply(later)
        self.scale(True)

    def _vendor_images(self) -> dict[str, cluster.VendorImage]:
        try:
            return cluster.vendor_images(VENDOR_IMAGES)
        except cluster.MissingImages as missing:
            raise Unsupported(missing.what, missing.remedy, missing.kept) from missing
        except cluster.ClusterError as wrong:
            raise BenchError(wrong.what, wrong.remedy, wrong.kept) from wrong

    def _secrets(self) -> dict[str, str]:
        with explained("reading the object store's keys"):
            data = self.kube.core.read_namespaced_secret(podspec.ENV_SECRET, PIPELINE_NAMESPACE).data
        keys = {"s3_key": "AWS_ACCESS_KEY_ID", "s3_secret": "AWS_SECRET_ACCESS_KEY"}
        known = {name: b64decode(data[key]).decode() for name, key in keys.items()}
        return known | {"mysql_password": self.servers.secret("mysql")}

    def undeploy(self) -> None:
        """Remove runs with their pods, the servers with their database, rights and resource types."""
        self._remove_runs()
        self.servers.close([*self._types_of_ours(), *pipeline_documents()])

    def _types_of_ours(self) -> list[Document]:
        """Argo's resource types are left where the argo adapter's controller uses them too."""
        with explained("looking for the namespace argo"):
            shared = self.kube.core.list_namespace(field_selector="metadata.name=argo").items
        return resource_types() if shared else [*workflow_types(), *resource_types()]

    def _remove_runs(self) -> None:
        with explained("removing runs"):
            try:
                self.kube.custom.delete_collection_namespaced_custom_object(
                    **WORKFLOWS, label_selector=RUN_ID_LABEL, propagation_policy="Foreground"
                )
            except ApiException as error:
                if error.status != 404:
                    raise
            end = time.monotonic() + 120
            while self.kube.core.list_namespaced_pod(PIPELINE_NAMESPACE, label_selector=RUN_ID_LABEL).items:
                if time.monotonic() > end:
                    raise BenchError("pods of runs do not go away", "bench cluster status")
                time.sleep(0.2)

    def scale(self, on: bool) -> None:
        """Start or stop the servers, except the database. Nothing is stopped where nothing is installed."""
        if not on and not self.servers.exists():
            return
        self.servers.scale(on, *SERVERS)
        if on:
            self._leads(60)

    def _leads(self, seconds: float) -> None:
        """Wait until the running controller holds the lease: a ready one works on nothing before that."""
        with explained("waiting for the workflow controller to lead"):
            pods = self.kube.core.list_namespaced_pod(NAMESPACE, label_selector=f"app={CONTROLLER}").items
            names = {pod.metadata.name for pod in pods}
            leases = client.CoordinationV1Api(self.kube.api).list_namespaced_lease
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                try:
                    for _, lease in self.kube.follow(leases, CONTROLLER, left, namespace=NAMESPACE):
                        if lease["spec"].get("holderIdentity") in names:
                            return
                except Gone:
                    time.sleep(0.2)
        raise BenchError(
            f"the workflow controller of kfp did not lead within {seconds:.0f} s", "bench doctor"
        )

    def health(self) -> str:
        """Empty when every server is ready."""
        return self.servers.health(ROLES)

    def components(self) -> tuple[Component, ...]:
        """The servers."""
        return tuple(
            Component(name=name, namespace=NAMESPACE, selector=f"app={name}", role=role)
            for name, role in ROLES.items()
        )

    def versions(self) -> Mapping[str, str]:
        """Of the backend, and which images it runs; one that stands in for the vendor's says what it is."""
        return {"kfp": VERSION, "argo_workflows": ARGO_VERSION, **self._used_images()}

    def _used_images(self) -> dict[str, str]:
        with explained("reading which images kfp runs"):
            try:
                data = self.kube.core.read_namespaced_config_map(USED_IMAGES, NAMESPACE).data
            except ApiException as error:
                if error.status == 404:
                    return {}
                raise
        return dict(data or {})


def short(name: str) -> str:
    """`kfp-driver` of `ghcr.io/kubeflow/kfp-driver:2.15.0`."""
    return name.rsplit("/", 1)[1].split(":")[0]


def name_of(document: Mapping[str, Any]) -> str:
    """A document's name."""
    return str(document["metadata"]["name"])


def used_images(found: Mapping[str, cluster.VendorImage], step: str) -> Document:
    """The ConfigMap that says what runs: name, digest and, for a stand-in, what it is; and the steps' image."""
    data = {
        f"image_{short(name)}": f"{name} {image.reference.rsplit('@', 1)[1]}"
        + (f" (stand-in: {image.stand_in})" if image.stand_in else "")
        for name, image in found.items()
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": USED_IMAGES, "namespace": NAMESPACE, "annotations": {STEP_IMAGE: step}},
        "data": data,
    }
