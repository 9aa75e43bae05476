"""What Airflow's installation on Kubernetes is made of: pods of tasks, settings, servers."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from adapters import podspec
from adapters.airflow.dags import DAGS, dag_text
from adapters.airflow.runtime import API, PROCESSOR, ROLES, SCHEDULER, TRIGGERER, USER
from adapters.installation import render
from adapters.kube import Document
from adapters.targets import PIPELINE_NAMESPACE

PACKAGE = "adapters.airflow"
NAMESPACE = "airflow"
PORT = 8080
EXECUTION_API = f"http://{API}.{NAMESPACE}:{PORT}/execution/"
SERVICE_ACCOUNT = "pipeline-airflow"
DAG_FILES = "airflow-dags"
"""The ConfigMap with a file for each DAG, in both namespaces."""
LAUNCHER_ACCOUNT = "pipeline-airflow-launcher"
LAUNCHER_TEMPLATE = "launcher_pod.yaml"
"""The pod template of tasks that start a step's pod."""
POLICY = "airflow_local_settings.py"
STORE_SECRET = "airflow-store"
SERVERS: Mapping[str, Mapping[str, Any]] = {
    API: {
        # The simple auth manager opens its file for writing.
        "args": ["sh", "-c", "cp /login/passwords.json /tmp && exec airflow api-server"],
        "kubernetes": True,
        "mounts": ["login"],
        "port": PORT,
    },
    SCHEDULER: {"args": ["airflow", "scheduler"], "kubernetes": True, "mounts": ["settings"]},
    PROCESSOR: {"args": ["airflow", "dag-processor"], "mounts": ["dags"]},
    TRIGGERER: {"args": ["airflow", "triggerer"]},
}


def task_pod(image: str, lineage: Mapping[str, str] | None = None) -> Document:
    """The executor's pod template: a step's pod, with the DAGs' files. `lineage` says where events go, if anywhere."""
    names = {
        "AIRFLOW__CORE__DAGS_FOLDER": "/dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": EXECUTION_API,
        **(lineage or {}),
    }
    told = ({"name": name, "value": value} for name, value in names.items())
    container = {"name": "base", "image": image, **podspec.container(image.rsplit("@", 1)[1], told)}
    container["volumeMounts"].append({"name": "dags", "mountPath": "/dags", "readOnly": True})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "placeholder"},
        "spec": {
            "serviceAccountName": SERVICE_ACCOUNT,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "securityContext": podspec.POD_SECURITY,
            "containers": [container],
            "volumes": [*podspec.volumes(), {"name": "dags", "configMap": {"name": DAG_FILES}}],
        },
    }


def launcher_pod(image: str, step_image: str) -> Document:
    """The executor's pod template for tasks that start a step's pod: may do that, and knows the step's image.

    It has no use for what a step knows. The step's image is the sidecar's too: the cluster has it, and it has a shell.
    """
    pod = task_pod(image)
    pod["spec"] |= {"serviceAccountName": LAUNCHER_ACCOUNT, "automountServiceAccountToken": True}
    (container,) = pod["spec"]["containers"]
    connection = {"conn_type": "kubernetes", "extra": {"xcom_sidecar_container_image": step_image}}
    container["env"] += [
        {"name": "AIRFLOW_VAR_STEP_IMAGE", "value": step_image},
        {"name": "AIRFLOW_CONN_KUBERNETES_DEFAULT", "value": json.dumps(connection)},
    ]
    container["envFrom"] = []
    return pod


def dag_files() -> dict[str, str]:
    """The DAGs' folder as a ConfigMap; the folders that Kubernetes' links lead to are not looked into."""
    return {".airflowignore": "..*\n", **{f"{dag_id}.py": dag_text(call) for dag_id, call in DAGS.items()}}


def pipeline_documents() -> list[Document]:
    """What is made in the pipelines' namespace."""
    values = {"namespace": NAMESPACE, "pipelines": PIPELINE_NAMESPACE, "dags": json.dumps(dag_files())}
    return render(PACKAGE, "pipeline.yaml", **values)


def configuration_documents(
    image: str,
    step_image: str,
    secrets: Mapping[str, str],
    password: str,
    lineage: Mapping[str, str] | None = None,
) -> list[Document]:
    """Settings and secrets of the servers, and their Service."""
    policy = files(PACKAGE).joinpath("deploy", POLICY).read_text(encoding="utf-8")
    templates = {
        "pod_template.yaml": task_pod(image, lineage),
        LAUNCHER_TEMPLATE: launcher_pod(image, step_image),
    }
    settings = {
        POLICY: policy,
        **{name: yaml.safe_dump(pod, sort_keys=False) for name, pod in templates.items()},
    }
    return render(
        PACKAGE,
        "configuration.yaml",
        namespace=NAMESPACE,
        pipelines=PIPELINE_NAMESPACE,
        execution_api=EXECUTION_API,
        user=USER,
        secrets=json.dumps(secrets),
        login=json.dumps({"passwords.json": json.dumps({USER: password})}),
        settings=json.dumps(settings),
        dags=json.dumps(dag_files()),
    )


def migrate_documents(image: str, name: str) -> list[Document]:
    """The job that makes the database's tables."""
    return render(
        PACKAGE,
        "migrate.yaml",
        namespace=NAMESPACE,
        job=name,
        image=image,
        pod_security=json.dumps(podspec.POD_SECURITY),
        security=json.dumps(podspec.CONTAINER_SECURITY),
    )


def store_documents(access: Mapping[str, str]) -> list[Document]:
    """The object store's address and keys, for servers that write events to it."""
    identity = {"name": STORE_SECRET, "namespace": NAMESPACE}
    return [{"apiVersion": "v1", "kind": "Secret", "metadata": identity, "stringData": dict(access)}]


def server_documents(
    image: str, settings: Mapping[str, str], config_sha256: str, lineage: Mapping[str, str] | None = None
) -> list[Document]:
    """The servers' Deployments; `settings` are the scheduler's, `lineage` says all of them where events go."""
    environments = {SCHEDULER: {"PYTHONPATH": "/settings", **settings}}
    servers = [
        {
            "name": name,
            "role": ROLES[name],
            "env": json.dumps(
                [
                    {"name": key, "value": value}
                    for key, value in {**environments.get(name, {}), **(lineage or {})}.items()
                ]
            ),
            **{"kubernetes": False, "mounts": [], "port": None},
            **more,
            "args": json.dumps(more["args"]),
        }
        for name, more in SERVERS.items()
    ]
    sources = {
        "login": {"name": "login", "secret": {"secretName": "airflow-login"}},
        "settings": {"name": "settings", "configMap": {"name": "airflow-settings"}},
        "dags": {"name": "dags", "configMap": {"name": DAG_FILES}},
    }
    return render(
        PACKAGE,
        "servers.yaml",
        namespace=NAMESPACE,
        image=image,
        servers=servers,
        store=STORE_SECRET if lineage else "",
        config_sha256=config_sha256,
        mount_sources={name: json.dumps(source) for name, source in sources.items()},
        pod_security=json.dumps(podspec.POD_SECURITY),
        security=json.dumps(podspec.CONTAINER_SECURITY),
    )
