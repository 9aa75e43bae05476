"""The node image: Debian, systemd, containerd, the compiled Kubernetes, and the control plane's images inside."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from cluster import pins
from cluster.engine import Docker
from cluster.images import image_stage
from cluster.stages import CommandFailed, Log, Outputs, Stages, digest_text
from cluster.state import DATA

NODE = DATA / "node"
IMPORTER = "bench-node-import"


def render(template: Path, **values: object) -> str:
    """A template of this package with its values; a value left out is an error."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(template.read_text()).render(**values)


def build(
    stages: Stages,
    docker: Docker,
    *,
    debian: str,
    kubernetes: Path,
    ociwrap: Path,
    wrapper: bool,
    control_plane: dict[str, str],
) -> str:
    """The tag of a node image that kind can start; `control_plane` maps kubeadm's names to local tags."""
    bare = image_stage(
        stages,
        docker,
        "node-bare",
        repository="bench.local/node-bare",
        dockerfile=NODE / "Dockerfile",
        files={
            "files": NODE / "files",
            **{program: kubernetes / program for program in ("kubelet", "kubeadm", "kubectl")},
            "ociwrap": ociwrap,
        },
        texts={
            "files/etc/containerd/config.toml": render(
                NODE / "containerd.toml",
                pause=pins.CONTROL_PLANE_IMAGES["pause"],
                wrapper=wrapper,
            )
        },
        arguments={"BASE": debian, "KUBERNETES_VERSION": pins.KUBERNETES},
    )
    inputs = {"bare": bare, "images": control_plane}
    tag = f"bench.local/node:{digest_text(repr(inputs))[:16]}"

    def fill(log: Log) -> Outputs:
        _check_names(log, kubernetes / "kubeadm", set(control_plane))
        _import(log, docker, bare, control_plane, tag)
        size = docker.image_bytes(tag)
        return {"tag": tag, "id": str(docker.image_id(tag)), "summary": f"{size / 1e6:.0f} MB"}

    outputs = stages.run(
        "image-node", inputs, fill, lambda out: docker.image_id(out.get("tag", "")) == out.get("id")
    )
    return outputs["tag"]


def _check_names(log: Log, kubeadm: Path, made: set[str]) -> None:
    """An image under another name than kubeadm's shows only as a cluster that never starts: look before."""
    wanted = log.output([kubeadm, "config", "images", "list", "--kubernetes-version", pins.KUBERNETES])
    if missing := set(wanted.split()) - made:
        raise CommandFailed(
            f"kubeadm asks for {', '.join(sorted(missing))}, which cluster/pins.py does not name"
        )


def _import(log: Log, docker: Docker, bare: str, images: dict[str, str], tag: str) -> None:
    program, env = docker.program, docker.env()
    # A killed run leaves its container behind.
    docker.ask("rm", "--force", "--volumes", IMPORTER)
    for reference, local in images.items():
        log.run([program, "tag", local, reference], env=env)
    log.run(
        [
            program,
            "run",
            "--detach",
            "--privileged",
            "--name",
            IMPORTER,
            "--entrypoint",
            "sleep",
            bare,
            "1800",
        ],
        env=env,
    )
    try:
        log.run([program, "exec", "--detach", IMPORTER, "containerd"], env=env)
        ctr = [str(program), "exec", "--interactive", IMPORTER, "ctr", "--namespace=k8s.io"]
        _wait_for_containerd(ctr, env)
        pipe(
            log,
            docker,
            [str(program), "save", *images],
            # Not unpacked: the node's /var is another file system, and unpacking belongs there.
            [*ctr, "images", "import", "--no-unpack", "-"],
        )
        # Unlocked database, nothing half written: stop the daemon before the file system is taken.
        log.run([program, "exec", IMPORTER, "pkill", "-TERM", "-x", "containerd"], env=env)
        log.run(
            [program, "exec", IMPORTER, "sh", "-c", "while pgrep -x containerd; do sleep 0.1; done"], env=env
        )
        log.run(
            [
                program,
                "commit",
                "--change",
                'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]',
                "--change",
                "CMD []",
                IMPORTER,
                tag,
            ],
            env=env,
        )
    finally:
        docker.ask("rm", "--force", "--volumes", IMPORTER)


def _wait_for_containerd(ctr: list[str], env: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run([*ctr, "version"], capture_output=True, env=env, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.2)
    raise CommandFailed("containerd did not answer in the import container")


def pipe(log: Log, docker: Docker, source: list[str], sink: list[str]) -> None:
    """Run `source | sink`, both checked: a pipe that only looks at its last command hides half of the failures."""
    log.note(f"$ {' '.join(source)} |")
    env = docker.env()
    first = log.stage.spawn(
        source, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log.stream, env=env
    )
    try:
        log.run(sink, env=env, stdin=first.stdout)
    finally:
        if first.stdout is not None:
            first.stdout.close()
        code = first.wait()
        log.stage.forget(first)
    if code:
        raise CommandFailed(f"`{' '.join(source[1:3])}` ended with exit code {code}")
