"""The kind cluster itself: create, repair, delete, and load images into its node by digest."""

from __future__ import annotations

import json
import time
from pathlib import Path

from cluster import host, pins
from cluster.engine import Docker
from cluster.errors import ClusterError
from cluster.node_image import NODE, render
from cluster.stages import CommandFailed, Log, Outputs, Stages
from cluster.state import Origin, Paths, scratch, write_atomic
from cluster.transfer import write_missing

READY_SECONDS = 120
# Nothing answers there (a documentation address), so names outside the cluster fail fast instead of looping.
NO_RESOLVER = "192.0.2.53"
DATA_FOLDERS = ("postgres", "s3", "ledger", "shared")


def create(
    stages: Stages, docker: Docker, kind: Path, image: str, *, origin: Origin, wrapper: Path | None
) -> str:
    """A running cluster from `image`; returns the node's container id.

    A cluster that is up from the same image and configuration is kept, a stopped one is started. One that was
    made from something else is deleted first, and the user is told.
    """
    where = stages.where
    refuse_foreign(docker, where)
    config = render(
        NODE / "kind.yaml",
        name=pins.CLUSTER_NAME,
        image=image,
        origin=origin,
        wrapper=str(wrapper) if wrapper else "",
        resolver=str(_resolver_file(where)),
        containerd_dropin=str(NODE / "files/etc/systemd/system/containerd.service.d/10-bench.conf"),
    )
    inputs = {
        "config": config,
        "image": docker.image_id(image),
        "cni": (NODE / "cni.json").read_text(),
        "kind": pins.KIND,
    }

    def make(log: Log) -> Outputs:
        _create(log, stages, docker, kind, config, origin)
        return {"node": str(_node_id(docker)), "summary": image}

    def still_there(outputs: Outputs) -> bool:
        node = _node_id(docker)
        if node is None or node != outputs.get("node") or not where.kubeconfig.is_file():
            return False
        if not _node_runs(docker):
            stages.note("cluster", "the node was stopped; starting it")
            docker.ask("start", pins.NODE_NAME)
        if answers(docker, READY_SECONDS):
            return True
        stages.note("cluster", "the node does not answer any more; making a new one (its data is lost)")
        return False

    return stages.run("cluster", inputs, make, still_there)["node"]


def _create(log: Log, stages: Stages, docker: Docker, kind: Path, config: str, origin: Origin) -> None:
    where, env = stages.where, docker.env()
    if _node_id(docker) is not None:
        stages.note("cluster", "deleting the cluster made from another image or configuration, with its data")
        delete(log, docker, kind, where)
    path = where.root / "kind.yaml"
    write_atomic(path, config)
    # kind writes the kubeconfig last; until it is renamed there is no cluster to reach.
    fresh = where.root / "kubeconfig.new"
    fresh.unlink(missing_ok=True)
    wait = "0s" if origin == "build" else f"{READY_SECONDS}s"
    try:
        log.run(
            [kind, "create", "cluster", "--config", path, "--kubeconfig", fresh, "--wait", wait, "-v", "1"],
            env=env,
            timeout=600,
        )
    except CommandFailed:
        _dump_node(log, docker)
        delete(log, docker, kind, where)
        raise
    if origin == "build":
        _write_cni(log, docker)
    if not answers(docker, READY_SECONDS):
        _dump_node(log, docker)
        raise CommandFailed(f"the node was not Ready after {READY_SECONDS} s")
    # kind keeps a lock file and a folder-wide mode of its own; only the result is ours.
    fresh.chmod(0o600)
    fresh.replace(where.kubeconfig)


def data_folders(stages: Stages, docker: Docker, node: str) -> None:
    """The folders behind the `local` volumes; a stage of its own, so that a new one reaches a cluster that is up."""

    def make(log: Log) -> Outputs:
        folders = [f"/var/local/bench/{name}" for name in DATA_FOLDERS]
        log.run([docker.program, "exec", pins.NODE_NAME, "mkdir", "-p", *folders], env=docker.env())
        return {}

    stages.run("data-folders", {"folders": DATA_FOLDERS, "node": node}, make)


def _write_cni(log: Log, docker: Docker) -> None:
    """Give the node the pod network: one point-to-point link a pod, addresses from the node's own range.

    `ptp` and not `bridge`: routed traffic passes iptables on every host, bridged traffic only where the
    br_netfilter module is loaded, and without it a pod cannot reach a service that runs on its own node.
    """
    deadline = time.monotonic() + 60
    cidr = None
    while not cidr and time.monotonic() < deadline:
        cidr = kubectl(docker, "get", "node", pins.NODE_NAME, "-o", "jsonpath={.spec.podCIDR}")
        if not cidr:
            time.sleep(0.3)
    if not cidr:
        raise CommandFailed("the node got no pod address range within 60 s")
    conflist = render(NODE / "cni.json", pod_cidr=cidr)
    json.loads(conflist)
    log.run(
        [
            docker.program,
            "exec",
            "--interactive",
            pins.NODE_NAME,
            "sh",
            "-c",
            "cat > /etc/cni/net.d/.new && mv /etc/cni/net.d/.new /etc/cni/net.d/10-bench.conflist",
        ],
        env=docker.env(),
        stdin=conflist.encode(),
    )


def kubectl(docker: Docker, *arguments: str) -> str | None:
    """A kubectl query inside the node: there in both modes, and of the right version."""
    return docker.ask(
        "exec", pins.NODE_NAME, "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", *arguments, timeout=60
    )


def answers(docker: Docker, seconds: float) -> bool:
    """Whether the API server says within `seconds` that the node is Ready."""
    deadline = time.monotonic() + seconds
    while True:
        left = max(1, int(deadline - time.monotonic()))
        wait = min(left, 20)
        done = kubectl(
            docker, "wait", "--for=condition=Ready", f"--timeout={wait}s", f"node/{pins.NODE_NAME}"
        )
        if done is not None:
            return True
        if time.monotonic() >= deadline or not _node_runs(docker):
            return False
        time.sleep(0.5)


def delete(log: Log, docker: Docker, kind: Path, where: Paths) -> None:
    """Delete the cluster; fine when there is none."""
    where.info.unlink(missing_ok=True)
    where.kubeconfig.unlink(missing_ok=True)
    (where.stages / "cluster.json").unlink(missing_ok=True)
    throwaway = where.root / "kubeconfig.delete"
    log.run(
        [kind, "delete", "cluster", "--name", pins.CLUSTER_NAME, "--kubeconfig", throwaway],
        env=docker.env(),
        timeout=180,
    )
    throwaway.unlink(missing_ok=True)


def load(
    stages: Stages,
    docker: Docker,
    key: str,
    tag: str,
    repository: str,
    node: str,
    name: str = pins.NODE_NAME,
) -> str:
    """Copy a local image into the node `name`; returns `repository@sha256:…`, the name containerd has it under.

    Layers that the node has already are not copied again.
    """
    ctr = [str(docker.program), "exec", "--interactive", name, "ctr", "--namespace=k8s.io"]

    def copy(log: Log) -> Outputs:
        alias = f"{repository}:{tag.rsplit(':', 1)[1]}"
        if alias != tag:
            log.run([docker.program, "tag", tag, alias], env=docker.env())
        with scratch(stages.where, f"load-{key}") as folder:
            saved, archive = folder / "saved.tar", folder / "missing.tar"
            log.run([docker.program, "save", "--output", saved, alias], env=docker.env())
            held = set(log.output([*ctr, "content", "ls", "--quiet"], env=docker.env()).split())
            copied = write_missing(saved, alias, held, archive)
            with archive.open("rb") as stream:
                log.run(
                    [*ctr, "images", "import", "--base-name", repository, "--digests", "-"],
                    env=docker.env(),
                    stdin=stream,
                )
        digest = ""
        for line in log.output([*ctr, "images", "ls", f"name=={alias}"], env=docker.env()).splitlines()[1:]:
            digest = line.split()[2]
        if not digest.startswith("sha256:"):
            raise CommandFailed(f"the node does not list {alias} after the import")
        summary = f"{digest[:19]}, {copied / 1e6:.0f} MB copied"
        return {"reference": f"{repository}@{digest}", "summary": summary}

    def present(outputs: Outputs) -> bool:
        return in_node(docker, outputs.get("reference", ""), name)

    inputs = {"image": docker.image_id(tag), "repository": repository, "node": node}
    stage = f"load-{key.replace('_', '-')}" + ("" if name == pins.NODE_NAME else f"-{name}")
    return stages.run(stage, inputs, copy, present)["reference"]


def in_node(docker: Docker, reference: str, name: str = pins.NODE_NAME) -> bool:
    """Whether the node's containerd has an image under exactly this name."""
    listed = docker.ask("exec", name, "ctr", "--namespace=k8s.io", "images", "ls", "-q", f"name=={reference}")
    return bool(listed)


def container(docker: Docker, node: str) -> str | None:
    """The id of the container that is a kind cluster's node of this name; None where the engine runs none."""
    label = '{{if index .Config.Labels "io.x-k8s.kind.cluster"}}{{.Id}}{{end}}'
    return docker.ask("inspect", "--format", label, node) or None


def _node_id(docker: Docker) -> str | None:
    return docker.ask("inspect", "--format", "{{.Id}}", pins.NODE_NAME)


def _node_runs(docker: Docker) -> bool:
    return docker.ask("inspect", "--format", "{{.State.Running}}", pins.NODE_NAME) == "true"


def node_state(docker: Docker) -> str:
    """running, exited, … or absent."""
    return docker.ask("inspect", "--format", "{{.State.Status}}", pins.NODE_NAME) or "absent"


def _dump_node(log: Log, docker: Docker) -> None:
    """The node's own logs into the stage log, before the node is deleted."""
    for command in (
        ["logs", "--tail", "30", pins.NODE_NAME],
        ["exec", pins.NODE_NAME, "journalctl", "--no-pager", "-n", "40", "-u", "containerd"],
        ["exec", pins.NODE_NAME, "journalctl", "--no-pager", "-n", "60", "-u", "kubelet"],
        ["exec", pins.NODE_NAME, "crictl", "ps", "-a"],
    ):
        text = docker.ask(*command)
        log.note(f"docker {' '.join(command)}\n{text or '(nothing)'}")


def _resolver_file(where: Paths) -> Path:
    """The resolver file for pods: the host's servers where they are reachable from another network namespace."""
    servers = (
        host.nameservers() or host.nameservers(Path("/run/systemd/resolve/resolv.conf")) or [NO_RESOLVER]
    )
    lines = [f"nameserver {address}" for address in servers[:3]] + ["options timeout:2 attempts:1"]
    path = where.root / "pod-resolv.conf"
    text = "\n".join(lines) + "\n"
    if not path.is_file() or path.read_text() != text:
        write_atomic(path, text)
    return path


def refuse_foreign(docker: Docker, where: Paths) -> None:
    """ClusterError when the cluster of this name was made from another state folder: it is not ours to delete.

    One whose state folder is gone is nobody's, and is deleted. The node mounts a file of the state folder that
    made it, which tells them apart even after a killed `up`.
    """
    sources = docker.ask("inspect", "--format", "{{range .Mounts}}{{println .Source}}{{end}}", pins.NODE_NAME)
    resolvers = [Path(line) for line in (sources or "").splitlines() if line.endswith("/pod-resolv.conf")]
    if resolvers and resolvers[0].parent != where.root:
        if not resolvers[0].is_file():
            # Nobody can bring it up again: what it was started with is gone.
            docker.ask("rm", "--force", "--volumes", pins.NODE_NAME)
            return
        owner = resolvers[0].parent.parent
        raise ClusterError(
            f"A cluster named {pins.CLUSTER_NAME} is there already, made from the state folder {owner}.",
            kept="that cluster and its data.",
            remedy=f"BENCH_HOME={owner} bench cluster down, if you no longer need it.",
        )


def require_node(docker: Docker) -> str:
    """The node's container id; ClusterError when no cluster runs."""
    node = _node_id(docker)
    if node is None or not _node_runs(docker):
        raise ClusterError("No cluster runs.", remedy="`bench cluster up`")
    return node
