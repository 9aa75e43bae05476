"""Every version the cluster is made of, in one place; the Go modules' own pins are in cluster/go/*/go.mod."""

from __future__ import annotations

import os

CLUSTER_NAME = os.environ.get("BENCH_CLUSTER", "bench")
"""One cluster of a name per Docker engine; BENCH_CLUSTER and BENCH_HOME together make a second one."""
NODE_NAME = f"{CLUSTER_NAME}-control-plane"

KUBERNETES = "v1.34.4"
KIND = "v0.33.0"
ETCD = "v3.6.5"
COREDNS = "v1.12.1"
PAUSE = "3.10.1"
ARGO = "v3.7.3"
ARGO_EVENTS = "v1.9.6"
NATS = "v2.10.10"
"""What the controller of that Argo Events names as its newest."""
VERSITYGW = "v1.8.0"
UV = "0.13.9"
GO_MINIMUM = (1, 25)
DEBIAN_SUITE = "bookworm"
DEBIAN_MIRROR = "http://deb.debian.org/debian"

# What `kubeadm config images list --kubernetes-version v1.34.4` prints, and what the build makes them from.
CONTROL_PLANE_IMAGES = {
    "kube-apiserver": f"registry.k8s.io/kube-apiserver:{KUBERNETES}",
    "kube-controller-manager": f"registry.k8s.io/kube-controller-manager:{KUBERNETES}",
    "kube-scheduler": f"registry.k8s.io/kube-scheduler:{KUBERNETES}",
    "kube-proxy": f"registry.k8s.io/kube-proxy:{KUBERNETES}",
    "coredns": f"registry.k8s.io/coredns/coredns:{COREDNS}",
    "pause": f"registry.k8s.io/pause:{PAUSE}",
    "etcd": f"registry.k8s.io/etcd:{ETCD.removeprefix('v')}-0",
}

# Public images of pull mode. The probe is the smallest image there is a use for.
PULL_PROBE = f"registry.k8s.io/pause:{PAUSE}"
PULL_PROBE_SECONDS = 20
PUBLIC_NODE = f"docker.io/kindest/node:{KUBERNETES}"
PUBLIC_PYTHON = "docker.io/library/python:3.11-slim-bookworm"
PUBLIC_IMAGES = {
    "postgres": "docker.io/library/postgres:16-bookworm",
    "s3": f"docker.io/versity/versitygw:{VERSITYGW}",
    "argo_controller": f"quay.io/argoproj/workflow-controller:{ARGO}",
    "argo_executor": f"quay.io/argoproj/argoexec:{ARGO}",
}

EVENT_IMAGES = {
    "argo_events": f"quay.io/argoproj/argo-events:{ARGO_EVENTS}",
    "nats": f"docker.io/library/nats:{NATS.removeprefix('v')}",
}
"""Public images of Argo Events and its bus, had on demand only: `ensure_event_images`."""

ORCHESTRATORS = ("airflow", "prefect", "dagster", "kfp")
"""Orchestrators with an image of their own, made on demand: `up --with`, `ensure_images`."""
EXTRAS = {"step": "", "mlflow": "mlflow-server"} | {name: name for name in ORCHESTRATORS}
"""Which set of the lock an image holds; the empty one is the base set."""
VARIANTS = {"airflow-openlineage": "airflow"}
"""Images that one configuration needs, made on demand: the same as the orchestrator's, with the set of the lock of that
name on top of its set."""
INIT_PROGRAMS = {"airflow": "dumb-init", "prefect": "tini"}
"""Debian packages: what the vendors' own images start with."""

# Names of the images by key of ClusterInfo.images.
REPOSITORIES = {
    "step": "bench.local/step",
    "mlflow": "bench.local/mlflow",
    "postgres": "bench.local/postgres",
    "s3": "bench.local/s3",
    "argo_controller": "bench.local/argo-workflow-controller",
    "argo_executor": "bench.local/argoexec",
    "argo_events": "bench.local/argo-events",
    "nats": "bench.local/nats",
} | {name: f"bench.local/{name}" for name in (*ORCHESTRATORS, *VARIANTS)}
