"""Prefect 3 on Kubernetes: a server, and a worker that makes a Job for each flow run."""

import time
from collections.abc import Mapping
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from adapters import podspec
from adapters.base import BenchError, Component, Configuration, RunRequest
from adapters.installation import Installation, digest_of, render
from adapters.kube import Document, Gone, explained
from adapters.prefect.api import NotFound, PrefectApi
from adapters.prefect.runtime import ASSETS, KNOB, NAME, POOL, SERVER, SETTINGS, WORKER, worker_health
from adapters.prefect.variants import STORE, environment
from adapters.targets import PIPELINE_NAMESPACE, PLATFORM_DATABASE, ClusterTarget

PACKAGE = "adapters.prefect"
VERSIONS = {"prefect": "3.8.8", "prefect_kubernetes": "0.8.0"}
"""As locked; a unit test holds them against the lock file."""
PORT = 4200
API_URL = f"http://{SERVER}.{NAME}:{PORT}/api"
AUTH_USER = "bench"
SERVICE_ACCOUNT = "pipeline-prefect"
RESULTS = "s3://artifacts/runs/prefect-results"
"""Where the steps of `pods` leave their results for the flow run that waits for them."""
MANAGED = "app.kubernetes.io/managed-by=prefect"
"""A label that the worker gives every Job and pod of a flow run."""
QUERY = Configuration(name="tuned", task="call", knob=KNOB, value="0.5", source=f"{SETTINGS}#query_seconds")
RUN_DEPLOYMENT = "https://docs.prefect.io/v3/how-to-guides/deployments/run-deployments"
CONFIGURATIONS = (
    Configuration(name="default", task="call", knob=KNOB, value="10 (shipped)"),
    QUERY,
    Configuration(
        name="pods",
        task="pod",
        knob="a step is",
        value="a flow run of its own (run_deployment)",
        source=RUN_DEPLOYMENT,
    ),
    QUERY.model_copy(update={"name": "pods-tuned", "task": "pod"}),
    ASSETS,
)
WORKER_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "tuned": {KNOB: "0.5"},
    "pods": {},
    "pods-tuned": {KNOB: "0.5"},
    ASSETS.name: {},
}
READY_SECONDS = 120.0
GONE_SECONDS = 120.0
PATIENCE_SECONDS = 30.0


def job_template(image: str) -> Document:
    """The work pool's base job template: the shipped one, its pod as everybody's is."""
    home = {"name": "PREFECT_HOME", "value": "/tmp/prefect"}
    container = {
        "name": "prefect-job",
        "image": image,
        "args": "{{ command }}",
        **podspec.container(image.rsplit("@", 1)[-1], [home]),
    }
    pod = {
        "parallelism": 1,
        "completions": 1,
        "restartPolicy": "Never",
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": podspec.POD_SECURITY,
        "containers": [container],
        "volumes": podspec.volumes(),
    }
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "labels": "{{ labels }}",
            "namespace": PIPELINE_NAMESPACE,
            "generateName": "{{ name }}-",
        },
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }
    text = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    mapping = {"type": "object", "additionalProperties": True, "default": {}}
    return {
        "job_configuration": {
            "name": "{{ name }}",
            "command": "{{ command }}",
            "labels": "{{ labels }}",
            "env": "{{ env }}",
            "namespace": PIPELINE_NAMESPACE,
            "job_manifest": manifest,
        },
        "variables": {
            "type": "object",
            "properties": {"name": text, "command": text, "labels": mapping, "env": mapping},
        },
    }


def server_objects(image: str, database_url: str, auth: str) -> list[Document]:
    """The server and what it needs."""
    return render(
        PACKAGE,
        "server.yaml",
        image=image,
        database_url=database_url,
        auth=auth,
        config_sha256=digest_of(database_url, auth),
        **_security(),
    )


def worker_objects(image: str, configuration: str, auth: str) -> list[Document]:
    """The worker as a configuration has it."""
    return render(
        PACKAGE,
        "worker.yaml",
        image=image,
        pool=POOL,
        api_url=API_URL,
        namespace=PIPELINE_NAMESPACE,
        settings=WORKER_SETTINGS[configuration],
        config_sha256=digest_of(auth),
        **_security(),
    )


def registration(image: str) -> list[Document]:
    """The Job that registers the deployments, named after what it registers."""
    values = {"image": image, "pool": POOL, "api_url": API_URL, "results": RESULTS, **_security()}
    return render(PACKAGE, "register.yaml", job=f"register-{digest_of(values)[:10]}", **values)


def pipeline_objects(auth: str) -> list[Document]:
    """Rights, identity and password in the pipelines' namespace."""
    return render(
        PACKAGE,
        "pipeline.yaml",
        namespace=PIPELINE_NAMESPACE,
        service_account=SERVICE_ACCOUNT,
        auth=auth,
    )


def _security() -> dict[str, Any]:
    return {"pod_security": podspec.POD_SECURITY, "container_security": podspec.CONTAINER_SECURITY}


class ClusterRuntime:
    """Server and worker in a namespace of their own; flow runs in the pipelines'."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where, self.kube = where, where.kube
        self.kit = Installation(where, NAME)
        self._batch = client.BatchV1Api(where.kube.api)
        self._api: PrefectApi | None = None

    def deploy(self, configuration: str) -> None:
        """Install or change to `configuration`; only what it changes is started anew.

        Raises `BenchError` for an unknown configuration, or where something does not become ready.
        """
        if configuration not in WORKER_SETTINGS:
            known = ", ".join(WORKER_SETTINGS)
            raise BenchError(f"prefect has no configuration '{configuration}'", f"one of: {known}")
        self.where.ensure(NAME)
        self.kit.open()
        image, auth = self.where.image(NAME), self._auth()
        database_url = f"postgresql+asyncpg://{self.kit.database(NAME)}"
        self.kube.apply([*pipeline_objects(auth), *server_objects(image, database_url, auth)])
        self.kit.scale(True, SERVER)
        self._pool(image)
        self._register(image)
        self.kube.apply(worker_objects(image, configuration, auth))
        self.kit.scale(True, WORKER)
        self._works()

    def _auth(self) -> str:
        return f"{AUTH_USER}:{self.kit.secret('api')}"

    def _pool(self, image: str) -> None:
        """Make the work pool, or give it the template of this image."""
        template = job_template(image)
        try:
            if self.api().get(f"/work_pools/{POOL}")["base_job_template"] != template:
                self.api().patch(f"/work_pools/{POOL}", {"base_job_template": template})
        except NotFound:
            self.api().post(
                "/work_pools/", {"name": POOL, "type": "kubernetes", "base_job_template": template}
            )

    def _register(self, image: str) -> None:
        """Have the deployments of this image registered. Raises `BenchError` where that fails."""
        documents = registration(image)
        name = documents[0]["metadata"]["name"]
        self.kube.apply(documents)
        listing = self._batch.list_namespaced_job
        with explained("registering the Prefect deployments"):
            try:
                for _, job in self.kube.follow(listing, name, READY_SECONDS, namespace=NAME):
                    status = job.get("status", {})
                    if status.get("succeeded"):
                        return
                    if any(each["type"] == "Failed" for each in status.get("conditions", [])):
                        break
            except Gone:
                pass
        said = self._last_words(f"job-name={name}")
        self.kube.remove(documents)
        raise BenchError("the Prefect deployments could not be registered", "bench cluster status", said)

    def _last_words(self, selector: str) -> str:
        """The last lines of the log of the pods that a selector finds."""
        lines = []
        for pod in self.kube.core.list_namespaced_pod(NAME, label_selector=selector).items:
            try:
                log = self.kube.core.read_namespaced_pod_log(pod.metadata.name, NAME, tail_lines=15)
            except ApiException:
                log = "(no log)"
            lines.append(f"{pod.metadata.name}: {pod.status.phase}\n{log}")
        return "\n".join(lines)

    def _works(self) -> None:
        """Wait until the running worker asks for work. Raises `BenchError` where it does not."""
        since = self._worker_since()
        end = time.monotonic() + READY_SECONDS
        while wrong := worker_health(self.api(), since):
            if time.monotonic() > end:
                raise BenchError(wrong, "bench cluster status", self._last_words(f"app={WORKER}"))
            time.sleep(0.5)

    def _worker_since(self) -> float:
        """When the worker's pod was started."""
        with explained("looking at the worker"):
            pods = self.kube.core.list_namespaced_pod(NAME, label_selector=f"app={WORKER}").items
        return max((pod.metadata.creation_timestamp.timestamp() for pod in pods), default=0.0)

    def undeploy(self) -> None:
        """End servers and runs; remove the namespace, the database and what is in the pipelines' namespace."""
        if self.kit.exists():
            self.kit.scale(False)
        self._api = None
        self._remove(MANAGED)
        self.kit.close(pipeline_objects(""))
        self.kit.drop_database(NAME)

    def scale(self, on: bool) -> None:
        """Start the server, then the worker; or stop both. The data stays."""
        if not on:
            self.kit.scale(False)
            return
        self.wake()
        self.kit.scale(True, WORKER)
        self._works()

    def health(self) -> str:
        """Empty when the server is ready and the worker asks for work."""
        return self.kit.health((SERVER, WORKER)) or worker_health(self.api(), self._worker_since())

    def components(self) -> tuple[Component, ...]:
        """The two servers, and the platform's database."""
        roles = {SERVER: "server", WORKER: "worker"}
        own = (
            Component(name=name, namespace=NAME, selector=f"app={name}", role=role)
            for name, role in roles.items()
        )
        return (*own, PLATFORM_DATABASE)

    def versions(self) -> Mapping[str, str]:
        """Those locked; the settings are part of the scenario."""
        return VERSIONS

    def api(self) -> PrefectApi:
        """See `Site.api`; a server that starts anew is waited for."""
        url = f"{self.kit.url(SERVER, PORT)}/api"
        if self._api is None or self._api.url != url:
            self._api = PrefectApi(url, self._auth(), PATIENCE_SECONDS)
        return self._api

    def is_installed(self) -> bool:
        """See `Site.is_installed`."""
        return self.kit.exists() and SERVER in self.kit.deployments()

    def wake(self) -> None:
        """See `Site.wake`."""
        if self.kit.health((SERVER,)):
            self.kit.scale(True, SERVER)

    def deployment(self, configuration: str) -> str:
        """See `Site.deployment`."""
        return "apart" if configuration.startswith("pods") else "bench"

    def job_variables(self, request: RunRequest) -> Document:
        """The label by which the run's pods are found, and what a variant of the run needs."""
        variables: Document = {"labels": {podspec.RUN_LABEL: request.run_id}}
        if env := environment(request):
            variables["env"] = env | (STORE if request.approval else {})
        return variables

    def cancels(self) -> bool:
        """The process that runs a flow does so itself, in its pod."""
        return True

    def is_left(self, run_id: str, native_id: str) -> bool:
        """Whether a pod of the run has not come to its end."""
        return any(pod.status.phase in ("Pending", "Running") for pod in self._pods(_of(run_id)))

    def end(self, run_id: str, native_id: str) -> None:
        """Delete the run's Jobs, and with them their pods."""
        self._remove(_of(run_id))

    def _pods(self, selector: str) -> list[Any]:
        with explained("looking for pods of runs"):
            found = self.kube.core.list_namespaced_pod(PIPELINE_NAMESPACE, label_selector=selector).items
        return list(found)

    def _remove(self, selector: str) -> None:
        """Delete Jobs and pods of runs; returns when they are gone. Raises `BenchError` where they stay."""
        end = time.monotonic() + GONE_SECONDS
        with explained("removing Jobs of runs"):
            self._batch.delete_collection_namespaced_job(
                PIPELINE_NAMESPACE,
                label_selector=selector,
                propagation_policy="Background",
                grace_period_seconds=0,
            )
            self.kube.core.delete_collection_namespaced_pod(
                PIPELINE_NAMESPACE, label_selector=selector, grace_period_seconds=0
            )
        while left := self._pods(selector):
            if time.monotonic() > end:
                names = ", ".join(pod.metadata.name for pod in left)
                raise BenchError(f"pods that do not go away: {names}", "bench cluster status")
            time.sleep(0.2)


def _of(run_id: str) -> str:
    return f"{MANAGED},{podspec.RUN_LABEL}={run_id}"
