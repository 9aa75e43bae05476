"""Dagster's servers on Kubernetes: each run a Job, each step a Job of its own or a process of the run's."""

import json
import time
import tomllib
from collections.abc import Mapping
from typing import Any

import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from adapters import podspec
from adapters.base import BenchError, Component, Configuration
from adapters.dagster.api import HEALTH, Answer, Api
from adapters.dagster.names import LOCATION, STEPS_AS, member_of
from adapters.dagster.placed import NOTHING, PLACED_FILE, Placed
from adapters.dagster.runtime import (
    CODE,
    DAEMON,
    DATABASE,
    DEFINITIONS,
    DIALECT,
    DOCS,
    EXECUTORS,
    POSTGRES,
    PROCESSES,
    ROLES,
    SERVERS,
    WEB,
    WITH_METADATA,
    wrong_with,
)
from adapters.installation import Installation, digest_of, render
from adapters.kube import Document, epoch_seconds, explained
from adapters.targets import PIPELINE_NAMESPACE, PLATFORM_DATABASE, ClusterTarget
from cluster.state import PROJECT

PACKAGE = "adapters.dagster"
NAMESPACE = "dagster"
SERVICE_ACCOUNT = "pipeline-dagster"
SECRET, INSTANCE, PLACED = "dagster-postgresql", "dagster-instance", "dagster-placed"
HOME = "/opt/dagster/dagster_home"
"""Where the vendor's chart has it."""
COORDINATORS = f"{DOCS}/deployment/execution/run-coordinators.md"
CONFIGURATIONS = (
    Configuration(name="default", knob="run_coordinator", value="QueuedRunCoordinator (shipped)"),
    Configuration(name="tuned", knob="run_coordinator", value="DefaultRunCoordinator", source=COORDINATORS),
    Configuration(name="run-pod", task="process", knob="executor", value="multiprocess", source=EXECUTORS),
    WITH_METADATA,
)
COORDINATOR: Answer = {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"}
WEB_PORT = 3000
COMMANDS: Mapping[str, Answer] = {
    WEB: {
        "args": ["dagster-webserver", "-h", "0.0.0.0", "-p", str(WEB_PORT)],
        "port": WEB_PORT,
    },
    DAEMON: {"args": ["dagster-daemon", "run"], "port": None},
}
WORKSPACE = ["-w", "/dagster-workspace/workspace.yaml"]
OURS = "app.kubernetes.io/name=dagster"
"""A label that dagster-k8s gives every Job and pod of a run."""
NATIVE_RUN, NATIVE_STEP, NATIVE_JOB = "dagster/run-id", "dagster/op", "job-name"
START_SECONDS = 120.0
GONE_SECONDS = 120.0


def steps_of_run(configuration: str) -> str:
    """What a step is, as the definitions are told by an environment variable."""
    return "processes" if configuration == "run-pod" else "pods"


def instance(configuration: str, image: str) -> Answer:
    """`dagster.yaml`: the chart's settings, and what every pod of a run has in common."""
    settings: Answer = {
        "telemetry": {"enabled": False},
        "storage": POSTGRES,
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "run_launcher": {
            "module": "dagster_k8s",
            "class": "K8sRunLauncher",
            "config": {
                "job_namespace": PIPELINE_NAMESPACE,
                "service_account_name": SERVICE_ACCOUNT,
                "instance_config_map": INSTANCE,
                "image_pull_policy": "IfNotPresent",
                "env_secrets": [SECRET],
                "run_k8s_config": pod_config(configuration, image),
            },
        },
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 300, "poll_interval_seconds": 120},
    }
    if configuration == "tuned":
        settings["run_coordinator"] = COORDINATOR
    return settings


def pod_config(configuration: str, image: str) -> Answer:
    """What the pods of runs and steps have in common with everybody's."""
    steps_as = {"name": STEPS_AS, "value": steps_of_run(configuration)}
    return {
        "container_config": {"name": "main", **podspec.container(image.rsplit("@", 1)[-1], [steps_as])},
        "pod_spec_config": {
            "securityContext": podspec.POD_SECURITY,
            "enableServiceLinks": False,
            "volumes": podspec.volumes(),
        },
    }


def labelled(run_id: str) -> Answer:
    """The part of a pod's configuration that says which run it is of."""
    return {"pod_template_spec_metadata": {"labels": {podspec.RUN_LABEL: run_id}}}


def servers(configuration: str, image: str, url: str) -> list[Document]:
    """The namespace's objects."""
    settings = instance(configuration, image)
    return render(
        PACKAGE,
        "servers.yaml",
        image=image,
        database_url=url,
        instance=yaml.safe_dump(settings, sort_keys=False),
        config_sha256=digest_of(settings, url),
        location=LOCATION,
        definitions=DEFINITIONS,
        home=HOME,
        steps_as=STEPS_AS,
        steps=steps_of_run(configuration),
        placed_file=PLACED_FILE,
        servers={name: {**parts, "args": parts["args"] + WORKSPACE} for name, parts in COMMANDS.items()},
        pod_security=podspec.POD_SECURITY,
        container_security=podspec.CONTAINER_SECURITY,
    )


def pipeline_objects(url: str) -> list[Document]:
    """Rights, identity and database address in the pipelines' namespace."""
    return render(PACKAGE, "pipeline.yaml", namespace=PIPELINE_NAMESPACE, database_url=url)


def placed_map(placed: Placed) -> Document:
    """The ConfigMap with what the code location has beside its fixed jobs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": PLACED, "namespace": NAMESPACE},
        "data": {"placed.json": json.dumps(placed)},
    }


class ClusterRuntime:
    """The three servers in a namespace of their own; runs in the pipelines'."""

    def __init__(self, where: ClusterTarget) -> None:
        self.where, self.kube = where, where.kube
        self.kit = Installation(where, NAMESPACE)
        self.api = Api(lambda: self.kit.url(WEB, WEB_PORT))
        self._batch = client.BatchV1Api(where.kube.api)

    def deploy(self, configuration: str) -> None:
        """Install or change to `configuration`; only what it changes is started anew.

        Raises `BenchError` for an unknown configuration, or where a server does not become ready.
        """
        known = [each.name for each in CONFIGURATIONS]
        if configuration not in known:
            raise BenchError(f"dagster has no configuration '{configuration}'", f"one of: {', '.join(known)}")
        self.where.ensure("dagster")
        self.kit.open()
        url = f"{DIALECT}://{self.kit.database(DATABASE)}"
        self.kube.apply([placed_map(self.placed()), *pipeline_objects(url)])
        self.kube.apply(servers(configuration, self.where.image("dagster"), url))
        self.scale(True)

    def undeploy(self) -> None:
        """End servers and runs; remove the namespace, the database and what is in the pipelines' namespace."""
        if self.kit.exists():
            self.kit.scale(False)
        self._remove(OURS)
        self.kit.close(pipeline_objects(""))
        self.kit.drop_database(DATABASE)

    def scale(self, on: bool) -> None:
        """Start or stop the servers; pods of runs under way go on. Returns when the servers are at work."""
        if not self.deployed():
            if on:
                raise BenchError("dagster is not deployed", "bench run --orchestrator dagster --target kind")
            return
        self.kit.scale(on)
        end = time.monotonic() + START_SECONDS
        while on and (wrong := self.health()):
            if time.monotonic() > end:
                raise BenchError(f"dagster did not come up: {wrong}", "bench cluster status")
            time.sleep(0.5)

    def health(self) -> str:
        """Empty when the servers are ready, the definitions loaded and the daemon at work."""
        if not self.deployed():
            return "dagster is not deployed"
        if wrong := self.kit.health(SERVERS):
            return wrong
        try:
            answer = self.api.ask_all(HEALTH, location=LOCATION)
        except BenchError as error:
            return error.message
        return wrong_with(answer, self._started(DAEMON))

    def _started(self, app: str) -> float:
        with explained(f"looking at {app}"):
            found = self.kube.listed(
                self.kube.core.list_namespaced_pod, namespace=NAMESPACE, label_selector=f"app={app}"
            )["items"]
        return max((epoch_seconds(pod["status"].get("startTime")) or 0.0 for pod in found), default=0.0)

    def components(self) -> tuple[Component, ...]:
        """The three servers, and the platform's database."""
        own = (
            Component(name=name, namespace=NAMESPACE, selector=f"app={name}", role=role)
            for name, role in ROLES.items()
        )
        return (*own, PLATFORM_DATABASE)

    def versions(self) -> Mapping[str, str]:
        """Of Dagster and its libraries, as locked for the image."""
        packages = tomllib.loads((PROJECT / "uv.lock").read_text(encoding="utf-8"))["package"]
        wanted = ("dagster", "dagster-k8s", "dagster-postgres")
        return {each["name"]: each["version"] for each in packages if each["name"] in wanted}

    def deployed(self) -> bool:
        """See `Site.deployed`."""
        return self.kit.exists() and set(SERVERS) <= set(self.kit.deployments())

    def placed(self) -> Placed:
        """See `Site.placed`."""
        with explained("reading what the code location has"):
            try:
                found = self.kube.core.read_namespaced_config_map(PLACED, NAMESPACE)
            except ApiException as error:
                if error.status != 404:
                    raise
                return NOTHING
        placed: Placed = json.loads(found.data["placed.json"])
        return placed

    def place(self, wanted: Placed) -> None:
        """See `Site.place`. A pod that changes has its files renewed at once, not at the next minute."""
        self.kube.apply([placed_map(wanted)])
        note = {"metadata": {"annotations": {"bench.local/placed": str(time.time_ns())}}}
        with explained("renewing the code location's files"):
            for pod in self._pods(f"app={CODE}", NAMESPACE):
                self.kube.core.patch_namespaced_pod(pod.metadata.name, NAMESPACE, note)

    def execution(self, configuration: str, run_id: str) -> Answer:
        """See `Site.execution`. A step's pod needs no token for the Kubernetes API."""
        if steps_of_run(configuration) == "processes":
            return PROCESSES
        own = {"pod_spec_config": {"automountServiceAccountToken": False}}
        return {"step_k8s_config": labelled(run_id) | own}

    def tags(self, run_id: str) -> dict[str, str]:
        """See `Site.tags`: the label of the run's pod, which needs a token where it makes the steps' Jobs."""
        return {"dagster-k8s/config": json.dumps(labelled(run_id))}

    def pods(self, native_id: str) -> Mapping[str, str]:
        """See `Site.pods`."""
        with explained("listing the pods of a run"):
            found = self._pods(f"{NATIVE_RUN}={native_id}")
        return {pod.metadata.labels[NATIVE_JOB]: pod.metadata.name for pod in found}

    def printed(self, native_id: str, step: str) -> str:
        """What the step's pods printed, as long as they exist; without pods of its own, what the run's did."""
        with explained(f"reading the logs of {step}"):
            pods = sorted(
                self._pods(f"{NATIVE_RUN}={native_id}"), key=lambda pod: pod.metadata.creation_timestamp
            )
            own = [pod for pod in pods if _is_of(pod, step)]
            return "".join(
                str(self.kube.core.read_namespaced_pod_log(pod.metadata.name, PIPELINE_NAMESPACE))
                for pod in own or pods
            )

    def end(self, native_id: str) -> None:
        """See `Site.end`."""
        self._remove(f"{NATIVE_RUN}={native_id}")

    def _remove(self, selector: str) -> None:
        """Remove Jobs and pods until none is left: a run's pod may make more of them until it is gone."""
        end = time.monotonic() + GONE_SECONDS
        while time.monotonic() < end:
            with explained("removing pods of runs"):
                jobs = self._batch.list_namespaced_job(PIPELINE_NAMESPACE, label_selector=selector).items
                pods = self._pods(selector)
                if not jobs and not pods:
                    return
                self._batch.delete_collection_namespaced_job(
                    PIPELINE_NAMESPACE, label_selector=selector, propagation_policy="Background"
                )
                self.kube.core.delete_collection_namespaced_pod(PIPELINE_NAMESPACE, label_selector=selector)
            time.sleep(1)
        raise BenchError("pods of runs do not go away", "bench cluster status")

    def _pods(self, selector: str, namespace: str = PIPELINE_NAMESPACE) -> list[Any]:
        found: list[Any] = self.kube.core.list_namespaced_pod(namespace, label_selector=selector).items
        return found


def _is_of(pod: Any, step: str) -> bool:
    member = member_of(pod.metadata.labels.get(NATIVE_STEP, ""))
    return member is not None and member.step == step
