"""Airflow on Kubernetes: the vendor's four servers, and KubernetesExecutor, which makes a pod for each task."""

import json
import os
import socket
import time
import tomllib
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from adapters import podspec
from adapters.airflow.api import UNFINISHED, AirflowApi, Json, run_path
from adapters.airflow.dags import DAGS, dag_text, run_of
from adapters.airflow.documents import (
    DAG_FILES,
    NAMESPACE,
    PORT,
    SERVERS,
    configuration_documents,
    migrate_documents,
    pipeline_documents,
    server_documents,
    store_documents,
)
from adapters.airflow.openlineage import OPENLINEAGE, TRANSPORT, environment_of, transport
from adapters.airflow.runtime import (
    API,
    DATABASE,
    PROCESSOR,
    ROLES,
    SCHEDULER,
    START_SECONDS,
    USER,
    look_for_files,
    not_parsed,
    not_reported,
    not_stale,
    remove_abandoned,
)
from adapters.base import BenchError, Component, TargetUnreachable
from adapters.forward import Forward
from adapters.installation import Installation, digest_of
from adapters.kube import explained
from adapters.podspec import RUN_LABEL
from adapters.targets import PIPELINE_NAMESPACE, PLATFORM_DATABASE, SYSTEM_NAMESPACE, ClusterTarget
from cluster.state import PROJECT

MINE = ("kubernetes_executor=True", "kubernetes_pod_operator=True")
"""The vendor's labels of each pod that the executor made, or a KubernetesPodOperator."""
EVENTS = "artifacts/runs/airflow-openlineage"
"""Bucket and folder of the OpenLineage events."""
STORE_PORT = 7070
STORE_OPTIONS = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
"""S3-compatible stores vary in checksums."""
COMMAND = "bench.local/command"
"""An annotation of the namespace: the command that has removed what earlier ones had left."""
END_SECONDS = 60.0


def locked(package: str) -> str:
    """The version of a package in the project's lock file."""
    known = tomllib.loads((PROJECT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return next((str(each["version"]) for each in known if each["name"] == package), "unknown")


class ClusterAirflow:
    """The servers in a namespace of their own; task pods in the pipelines'; see `adapters.base.Runtime`."""

    tasks_are_pods = True

    def __init__(self, where: ClusterTarget, settings: Mapping[str, Mapping[str, str]]) -> None:
        """`settings`: what each configuration changes in the scheduler's environment."""
        self.where, self.kube = where, where.kube
        self.installation = Installation(where, NAMESPACE)
        self._settings = settings
        self._api: AirflowApi | None = None

    # Runtime

    def deploy(self, configuration: str) -> None:
        """Install, or change to `configuration`: then only the scheduler is another pod.

        `openlineage` has an image of its own: then all are.

        Raises `BenchError` for an unknown configuration, or where a server does not become healthy.
        """
        if configuration not in self._settings:
            known = ", ".join(self._settings)
            raise BenchError(f"airflow has no configuration '{configuration}'", f"one of: {known}")
        name = environment_of(configuration)
        self.where.ensure(name)
        image = self.where.image(name)
        self.installation.open()
        password = self.installation.secret("airflow-password")
        lineage: dict[str, str] = {}
        if configuration == OPENLINEAGE:
            lineage = transport(f"s3://{EVENTS}/event", config_kwargs=STORE_OPTIONS)
            self.kube.apply(store_documents(self._store()))
        documents = configuration_documents(
            image, self.where.image("step"), self._secrets(), password, lineage
        )
        self.kube.apply(documents)
        self.kube.apply(pipeline_documents())
        self._migrate(image)
        self.kube.apply(server_documents(image, self._settings[configuration], digest_of(documents), lineage))
        self.scale(True)
        self._remove_abandoned()

    def undeploy(self) -> None:
        """Remove the servers, the pods of runs, the database and what is in the pipelines' namespace."""
        if self.installation.exists():
            self.scale(False)
        for label in MINE:
            self._remove_pods(label)
        self.installation.drop_database(DATABASE)
        self.installation.close(pipeline_documents())
        self._api = None

    def scale(self, on: bool) -> None:
        """Start or stop the servers; returns when they are healthy and know the DAGs, or gone."""
        self.installation.scale(on)
        if on:
            self._wait_until(self.health)
            since = self._started().get(PROCESSOR, 0.0)
            self._wait_until(lambda: "".join(not_parsed(self.api, dag_id, since) for dag_id in DAGS))

    def health(self) -> str:
        """Empty when all servers are ready and have reported to the database since they were started."""
        if wrong := self.installation.health(SERVERS):
            return wrong
        try:
            return not_reported(self.api.get("/monitor/health"), self._started())
        except TargetUnreachable as error:
            return error.message

    def components(self) -> tuple[Component, ...]:
        """The four servers, and the platform's database."""
        own = (
            Component(name=name, namespace=NAMESPACE, selector=f"app={name}", role=role)
            for name, role in ROLES.items()
        )
        return (*own, PLATFORM_DATABASE)

    def versions(self) -> Mapping[str, str]:
        """Versions as locked; the knob is part of the scenario."""
        return {
            "airflow": locked("apache-airflow"),
            "airflow_executor": "KubernetesExecutor",
            "airflow_kubernetes_provider": locked("apache-airflow-providers-cncf-kubernetes"),
            "airflow_database": "postgresql",
        }

    # What the driver needs

    @property
    def api(self) -> AirflowApi:
        """A connection to the API server, through the Kubernetes API."""
        if self._api is None:
            url = self.installation.url(API, PORT)
            self._api = AirflowApi(url, USER, self.installation.secret("airflow-password"))
        return self._api

    def deployed(self) -> bool:
        """Whether there are servers that may know of runs."""
        return self.installation.exists() and API in self.installation.deployments()

    @contextmanager
    def answering(self) -> Iterator[AirflowApi]:
        """The API; where its server does not run, it is started for as long as the block lasts."""
        if not self.installation.health([API]):
            yield self.api
            return
        self.installation.scale(True, API)
        try:
            yield self.api
        finally:
            self.installation.scale(False, API)

    def add_dag(self, dag_id: str, call: str) -> None:
        """Make sure that Airflow has the DAG that `call` gives.

        The DAG processor looks for new files every 5 minutes as shipped; asking it to parse one that it knows
        makes it look at once. Raises `BenchError` where the DAG does not appear.
        """
        if not not_parsed(self.api, dag_id, 0):
            return
        self._change_file(f"{dag_id}.py", dag_text(call))

        def parsed() -> str:
            look_for_files(self.api)
            return not_parsed(self.api, dag_id, 0)

        self._wait_until(parsed)

    def remove_dag(self, dag_id: str) -> bool:
        """Remove a DAG's file and what Airflow has of it; False where there is nothing.

        Raises `BenchError` where the DAG processor does not notice that the file is gone.
        """
        if not self._change_file(f"{dag_id}.py", None) and not self.api.find("GET", f"/dags/{dag_id}"):
            return False

        def gone() -> str:
            look_for_files(self.api)
            return not_stale(self.api, dag_id)

        if not self.installation.health([PROCESSOR]):  # it would bring the DAG back
            self._wait_until(gone)
        self.api.find("DELETE", f"/dags/{dag_id}")
        return True

    def remove_run(self, dag_id: str, dag_run_id: str) -> None:
        """Mark a run as failed, end its pods, delete it. Raises `BenchError` where a pod does not end."""
        path = run_path(dag_id, dag_run_id)
        if self.api.get(path)["state"] in UNFINISHED:
            self.api.find("PATCH", path, json={"state": "failed"})
        label = f"{RUN_LABEL}={run_of(dag_id, dag_run_id)}"
        self._remove_pods(label)
        self.api.find("DELETE", path)
        self._remove_pods(label)  # the scheduler may have been about to make one

    def log(self, dag_id: str, dag_run_id: str, task: Json, attempt: int) -> list[str]:
        """What an attempt's pod printed, as long as it is kept."""
        labels = {
            RUN_LABEL: run_of(dag_id, dag_run_id),
            "task_id": task["task_id"],
            "try_number": str(attempt),
        }
        if task["map_index"] >= 0:
            labels["map_index"] = str(task["map_index"])
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        lines: list[str] = []
        with explained(f"reading the logs of {task['task_id']}"):
            for pod in self._pods(PIPELINE_NAMESPACE, selector):
                text = self.kube.core.read_namespaced_pod_log(
                    pod.metadata.name, PIPELINE_NAMESPACE, container="base", _preload_content=False
                )
                lines += [event_of(line) for line in text.data.decode(errors="replace").splitlines()]
        return lines

    def lineage_events(self) -> list[bytes]:
        """The OpenLineage events in the object store, each as JSON; none where the provider is not switched on."""
        with explained("looking at Airflow's scheduler"):
            server = self.kube.apps.read_namespaced_deployment(SCHEDULER, NAMESPACE)
        (container,) = server.spec.template.spec.containers
        if TRANSPORT not in {each.name for each in container.env or []}:
            return []
        access, forward = self._store(), Forward(self.kube, SYSTEM_NAMESPACE, "s3", STORE_PORT)
        try:
            store = fsspec.filesystem(
                "s3",
                key=access["AWS_ACCESS_KEY_ID"],
                secret=access["AWS_SECRET_ACCESS_KEY"],
                endpoint_url=forward.url,
                client_kwargs={"region_name": access["AWS_REGION"]},
                config_kwargs={**STORE_OPTIONS, "proxies": {}},
                use_listings_cache=False,
                skip_instance_cache=True,
            )
            return list(store.cat(store.ls(EVENTS, detail=False)).values())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TargetUnreachable(
                f"the object store does not answer: {error}", "bench cluster status"
            ) from error
        finally:
            forward.close()

    # Parts

    def _store(self) -> dict[str, str]:
        """Address and keys of the object store, as steps have them."""
        with explained("reading the object store's keys"):
            known = self.kube.core.read_namespaced_config_map(podspec.ENV_CONFIG, PIPELINE_NAMESPACE).data
            keys = self.kube.core.read_namespaced_secret(podspec.ENV_SECRET, PIPELINE_NAMESPACE).data
        access = {**known, **{name: b64decode(text).decode() for name, text in keys.items()}}
        return {name: text for name, text in access.items() if name.startswith("AWS_")}

    def _secrets(self) -> dict[str, str]:
        secret = self.installation.secret
        database = self.installation.database(DATABASE)
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
            "AIRFLOW__CORE__FERNET_KEY": fernet_key(secret("airflow-fernet")),
            "AIRFLOW__API__SECRET_KEY": secret("airflow-api"),
            "AIRFLOW__API_AUTH__JWT_SECRET": secret("airflow-jwt"),
        }

    def _migrate(self, image: str) -> None:
        """Have the database of this version; done once. Raises `BenchError` with the job's log where it fails."""
        name = f"airflow-migrate-{locked('apache-airflow').replace('.', '-')}"
        jobs = client.BatchV1Api(self.kube.api)
        with explained("making Airflow's database"):
            found = jobs.list_namespaced_job(NAMESPACE, field_selector=f"metadata.name={name}").items
            if found and found[0].status.succeeded:
                return
            documents = migrate_documents(image, name)
            self.kube.remove(documents)
            self.kube.apply(documents)
            end = time.monotonic() + START_SECONDS
            while time.monotonic() < end:
                status = jobs.read_namespaced_job(name, NAMESPACE).status
                if status.succeeded:
                    return
                if status.failed:
                    break
                time.sleep(0.5)
        raise BenchError(
            "airflow's database could not be made",
            "bench cluster status",
            self._last_lines("airflow-migrate"),
        )

    def _pods(self, namespace: str, selector: str) -> list[Any]:
        found: list[Any] = self.kube.core.list_namespaced_pod(namespace, label_selector=selector).items
        return found

    def _last_lines(self, app: str) -> str:
        lines = []
        for pod in self._pods(NAMESPACE, f"app={app}"):
            try:
                lines.append(
                    self.kube.core.read_namespaced_pod_log(pod.metadata.name, NAMESPACE, tail_lines=20)
                )
            except ApiException as error:
                lines.append(f"{pod.metadata.name}: {pod.status.phase}, no log: {error.reason}")
        return "\n".join(str(line) for line in lines)

    def _started(self) -> dict[str, float]:
        """When each server's container was started."""
        with explained("looking at Airflow's servers"):
            pods = self._pods(NAMESPACE, f"app in ({','.join(SERVERS)})")
        return {
            pod.metadata.labels["app"]: status.state.running.started_at.timestamp()
            for pod in pods
            for status in pod.status.container_statuses or []
            if status.state.running
        }

    def _wait_until(self, wrong: Callable[[], str]) -> None:
        """Wait until nothing is wrong. Raises `BenchError` with what still is."""
        end = time.monotonic() + START_SECONDS
        while said := wrong():
            if time.monotonic() > end:
                kept = "\n".join(self._last_lines(name) for name in SERVERS)
                raise BenchError(f"airflow: {said} after {START_SECONDS:.0f} s", "bench cluster status", kept)
            time.sleep(0.5)

    def _change_file(self, name: str, text: str | None) -> bool:
        """Put a file into the DAGs' folder, or take it out (None); False where it is so already."""
        with explained(f"changing the DAG file {name}"):
            known = self.kube.core.read_namespaced_config_map(DAG_FILES, NAMESPACE).data or {}
            if known.get(name) == text:
                return False
            for namespace in (PIPELINE_NAMESPACE, NAMESPACE):
                self.kube.core.patch_namespaced_config_map(DAG_FILES, namespace, {"data": {name: text}})
            self._sync_files()
        return True

    def _sync_files(self) -> None:
        """Have the kubelet bring a changed ConfigMap to the DAG processor now: any change of its pod does."""
        touched = {"metadata": {"annotations": {"bench.local/touched": str(time.time_ns())}}}
        for pod in self._pods(NAMESPACE, f"app={PROCESSOR}"):
            self.kube.core.patch_namespaced_pod(pod.metadata.name, NAMESPACE, touched)

    def _remove_pods(self, selector: str) -> None:
        """Remove task pods; returns when they are gone. Raises `BenchError` where one stays."""
        end = time.monotonic() + END_SECONDS
        with explained("removing task pods"):
            while pods := self._pods(PIPELINE_NAMESPACE, selector):
                if time.monotonic() > end:
                    names = ", ".join(pod.metadata.name for pod in pods)
                    raise BenchError(f"pods that do not go away: {names}", "bench cluster status")
                for pod in pods:
                    if pod.metadata.deletion_timestamp is None:
                        self._delete_pod(pod.metadata.name)
                time.sleep(0.3)

    def _delete_pod(self, name: str) -> None:
        try:
            self.kube.core.delete_namespaced_pod(name, PIPELINE_NAMESPACE, grace_period_seconds=1)
        except ApiException as error:
            if error.status != 404:
                raise

    def _remove_abandoned(self) -> None:
        """Once for each command; see `remove_abandoned`."""
        command = f"{socket.gethostname()}-{os.getpid()}"
        with explained("reading the namespace of Airflow"):
            noted = self.kube.core.read_namespace(NAMESPACE).metadata.annotations or {}
        if noted.get(COMMAND) == command:
            return
        remove_abandoned(self)
        with explained("noting who deployed Airflow"):
            self.kube.core.patch_namespace(NAMESPACE, {"metadata": {"annotations": {COMMAND: command}}})


def fernet_key(word: str) -> str:
    """A key of 32 bytes, made of a word of 32 hexadecimal digits."""
    return urlsafe_b64encode(word.encode()).decode()


def event_of(line: str) -> str:
    """The event of a line that a task pod printed (JSON), or the line."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line
