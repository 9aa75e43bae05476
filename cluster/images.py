"""Container images: a Debian base from the package archive, and ours on top of it or of public base images."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster import host, pins
from cluster.engine import Docker
from cluster.errors import ClusterError
from cluster.stages import Log, Outputs, Stages, digest_files, digest_text
from cluster.state import DATA, PROJECT, scratch

DOCKER = DATA / "docker"


def image_stage(
    stages: Stages,
    docker: Docker,
    name: str,
    *,
    repository: str,
    dockerfile: Path,
    files: dict[str, Path] | None = None,
    texts: dict[str, str] | None = None,
    arguments: dict[str, str] | None = None,
    target: str = "",
) -> str:
    """Build one image when its Dockerfile, context or arguments changed; returns its tag `repository:key`.

    `files` maps names in the build context to files or folders; `texts` to contents. The tag holds the key of
    the content, so a tag never changes its meaning.
    """
    files = files or {}
    texts = texts or {}
    arguments = arguments or {}
    inputs = {
        "dockerfile": dockerfile.read_text(),
        "files": {to: digest_files(source.parent, [source]) for to, source in sorted(files.items())},
        "texts": {to: digest_text(text) for to, text in sorted(texts.items())},
        "arguments": dict(sorted(arguments.items())),
        "target": target,
    }
    tag = f"{repository}:{digest_text(repr(sorted(inputs.items())))[:16]}"

    def make(log: Log) -> Outputs:
        with scratch(stages.where, name) as context:
            _fill(context, files, texts)
            log.run(build_command(docker, dockerfile, context, tag, arguments, target), env=docker.env())
        size = docker.image_bytes(tag)
        return {"tag": tag, "id": str(docker.image_id(tag)), "summary": f"{size / 1e6:.0f} MB"}

    outputs = stages.run(
        f"image-{name}", inputs, make, lambda out: docker.image_id(out.get("tag", "")) == out.get("id")
    )
    return outputs["tag"]


def build_command(
    docker: Docker,
    dockerfile: Path,
    context: Path,
    tag: str,
    arguments: dict[str, str],
    target: str,
) -> list[str]:
    """The `docker build` command line; the host's certificate bundle, where it names one, goes as a secret.

    The secret is mounted for the length of one RUN and is no part of a layer or of the cache key.
    """
    command = [str(docker.program), "build", "--network=host", "--progress=plain"]
    bundle = host.ca_bundle()
    if bundle is not None:
        command += ["--secret", f"id=ca,src={bundle}"]
    for key, value in sorted(arguments.items()):
        command += ["--build-arg", f"{key}={value}"]
    if target:
        command += ["--target", target]
    return [*command, "--tag", tag, "--file", str(dockerfile), str(context)]


def _fill(context: Path, files: dict[str, Path], texts: dict[str, str]) -> None:
    for to, source in files.items():
        destination = context / to
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            # A hard link saves copying programs of a hundred megabytes into every context.
            try:
                destination.hardlink_to(source)
            except OSError:
                shutil.copy2(source, destination)
    for to, text in texts.items():
        (context / to).parent.mkdir(parents=True, exist_ok=True)
        (context / to).write_text(text)


DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Of Debian's package `debian-archive-keyring`, which Ubuntu need not have: without it debootstrap would only warn."""


def debian_base(stages: Stages, docker: Docker) -> str:
    """A minimal Debian as an image, straight from the package archive; returns its tag."""
    inputs = {"suite": pins.DEBIAN_SUITE, "mirror": pins.DEBIAN_MIRROR, "recipe": 1}
    tag = f"bench.local/debian:{digest_text(repr(sorted(inputs.items())))[:16]}"

    def make(log: Log) -> Outputs:
        if not host.is_root():
            raise ClusterError(
                "Building the base image needs root: debootstrap unpacks a Debian system with its owners.",
                kept="everything built so far.",
                remedy=f"sudo {sys.executable} -m bench cluster up; or, where a registry answers, "
                "bench cluster up --images pull",
            )
        with scratch(stages.where, "debian") as folder:
            root = folder / "root"
            log.run(
                [
                    str(host.find_program("debootstrap")),
                    "--variant=minbase",
                    "--force-check-gpg",
                    f"--keyring={DEBIAN_KEYRING}",
                    f"--include={','.join(('ca-certificates', 'netbase', 'tzdata'))}",
                    pins.DEBIAN_SUITE,
                    root,
                    pins.DEBIAN_MIRROR,
                ],
                timeout=1200,
            )
            _slim(root)
            archive = folder / "root.tar"
            log.run(["tar", "--numeric-owner", "--sort=name", "-C", root, "-cf", archive, "."])
            log.run([docker.program, "import", archive, tag], env=docker.env())
        size = docker.image_bytes(tag)
        return {"tag": tag, "id": str(docker.image_id(tag)), "summary": f"{size / 1e6:.0f} MB"}

    outputs = stages.run(
        "image-debian", inputs, make, lambda out: docker.image_id(out.get("tag", "")) == out.get("id")
    )
    return outputs["tag"]


def _slim(root: Path) -> None:
    """Drop what no container reads, and keep apt from bringing it back."""
    for folder in (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
        "var/lib/apt/lists",
    ):
        for entry in (root / folder).glob("*"):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(
        "".join(f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "man", "locale", "info"))
    )
    # A resolver file of the build host has no business in an image; Docker mounts its own over it.
    (root / "etc/resolv.conf").unlink(missing_ok=True)


def python_base(stages: Stages, docker: Docker, debian: str) -> str:
    """Debian's Python 3.11 on the base image."""
    return image_stage(
        stages,
        docker,
        "python",
        repository="bench.local/python",
        dockerfile=DOCKER / "python" / "Dockerfile",
        arguments={"BASE": debian},
    )


def requirements(stages: Stages, extra: str = "") -> str:
    """The locked requirements, with hashes, of the project's base set or of one extra."""
    uv = host.find_program("uv")
    if uv is None:
        raise ClusterError("uv is neither on the path nor in the environment.", remedy="./setup")
    name = f"requirements-{extra or 'base'}"
    options = ["--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    if extra:
        options += ["--extra", extra]
    inputs = {
        "project": digest_files(PROJECT, [PROJECT / "pyproject.toml", PROJECT / "uv.lock"]),
        "options": options,
    }

    def export(log: Log) -> Outputs:
        command = [uv, "export", *options]
        return {"text": log.output([*command, "--project", PROJECT]) + "\n"}

    return stages.run(name, inputs, export)["text"]


def environment(stages: Stages, docker: Docker, python: str, base: str, extra: str = "") -> str:
    """A locked set of packages on `base`: the base set on the plain Python, an extra on top of the base set."""
    name = f"environment-{extra or 'base'}"
    return image_stage(
        stages,
        docker,
        name,
        repository=f"bench.local/{name}",
        dockerfile=DOCKER / "environment" / "Dockerfile",
        files={"slim.sh": DOCKER / "environment" / "slim.sh"},
        texts={"requirements.txt": requirements(stages, extra)},
        arguments={"BASE": base, "PYTHON": python, "UV": pins.UV},
    )


def apps(stages: Stages, docker: Docker, python: str, keys: Iterable[str]) -> dict[str, str]:
    """Images that hold a locked environment (`step`, `mlflow`, an orchestrator's), by key.

    All have the base set in one and the same layer, so its numeric stack is the same bytes in each.
    """
    base = environment(stages, docker, python, python)
    tags = {}
    for key in keys:
        app = pins.VARIANTS.get(key, key)
        extra = pins.EXTRAS[app]
        locked = environment(stages, docker, python, base, extra) if extra else base
        if key != app:
            locked = environment(stages, docker, python, locked, key)
        tags[key] = _app(stages, docker, locked, app, key)
    return tags


def _app(stages: Stages, docker: Docker, locked: str, app: str, key: str) -> str:
    code = {f"code/{path.relative_to(PROJECT)}": path for path in code_of(app)}
    return image_stage(
        stages,
        docker,
        key,
        repository=pins.REPOSITORIES[key],
        dockerfile=DOCKER / "app" / "Dockerfile",
        files=code | {"step": DOCKER / "app" / "step"} if code else {},
        arguments={"BASE": locked, "INIT": pins.INIT_PROGRAMS.get(app, "")},
        target=app,
    )


HARNESS_SIDE = {"adapter", "api", "cluster", "local", "openlineage", "records", "runtime", "triggers"}
"""Modules of an adapter that only the harness imports: a change of them is no reason for another image."""


def code_of(key: str) -> list[Path]:
    """The project's own files in an app's image: what runs in a pod, without drivers' manifests and documents."""
    if key == "mlflow":
        return []
    adapters = PROJECT / "adapters"
    if key == "step":  # beside the steps, who walks through them where there is no orchestrator
        return [
            PROJECT / "core",
            *(adapters / f"{name}.py" for name in ("__init__", "base", "walk", "workloads")),
        ]
    shared = [adapters / f"{name}.py" for name in ("__init__", "base", "cron", "podspec", "workloads")]
    own = [path for path in sorted((adapters / key).glob("*.py")) if path.stem not in HARNESS_SIDE]
    return [PROJECT / "core", *shared, *own]


def postgres(stages: Stages, docker: Docker, debian: str) -> str:
    """Debian's PostgreSQL with an entry point that understands the public image's variables."""
    return image_stage(
        stages,
        docker,
        "postgres",
        repository=pins.REPOSITORIES["postgres"],
        dockerfile=DOCKER / "postgres" / "Dockerfile",
        files={"entrypoint.sh": DOCKER / "postgres" / "entrypoint.sh"},
        arguments={"BASE": debian},
    )


def s3(stages: Stages, docker: Docker, debian: str, programs: Path) -> str:
    """The S3 store: versitygw over a POSIX folder."""
    return image_stage(
        stages,
        docker,
        "s3",
        repository=pins.REPOSITORIES["s3"],
        dockerfile=DOCKER / "s3" / "Dockerfile",
        files={"versitygw": programs / "versitygw"},
        arguments={"BASE": debian},
    )


def argo(stages: Stages, docker: Docker, debian: str, programs: Path) -> dict[str, str]:
    """Argo's controller and executor."""
    tags = {}
    for key, program in (("argo_controller", "workflow-controller"), ("argo_executor", "argoexec")):
        tags[key] = image_stage(
            stages,
            docker,
            key.replace("_", "-"),
            repository=pins.REPOSITORIES[key],
            dockerfile=DOCKER / "argo" / "Dockerfile",
            files={program: programs / program},
            arguments={"BASE": debian},
            target=program,
        )
    return tags


def events(stages: Stages, docker: Docker, debian: str, argo_events: Path, nats: Path) -> dict[str, str]:
    """Argo Events, one program for all of its parts, and the server of its bus."""
    programs = {"argo_events": argo_events / "argo-events", "nats": nats / "nats-server"}
    return {
        key: image_stage(
            stages,
            docker,
            key.replace("_", "-"),
            repository=pins.REPOSITORIES[key],
            dockerfile=DOCKER / "events" / "Dockerfile",
            files={program.name: program},
            arguments={"BASE": debian},
            target=program.name,
        )
        for key, program in programs.items()
    }


def control_plane(
    stages: Stages, docker: Docker, debian: str, program: Callable[[str], Path]
) -> dict[str, str]:
    """The images kubeadm asks for, under exactly the names it asks for; returns name → image id."""
    dockerfile = DOCKER / "controlplane" / "Dockerfile"
    ids = {}
    for name, reference in pins.CONTROL_PLANE_IMAGES.items():
        tag = image_stage(
            stages,
            docker,
            name,
            repository=f"bench.local/{name}",
            dockerfile=dockerfile,
            files={name: program(name)},
            arguments={"BASE": debian},
            target=name,
        )
        ids[reference] = tag
    return ids


def pulled(stages: Stages, docker: Docker, name: str, reference: str) -> str:
    """Pull a public image; returns its tag. What the node runs is named by the digest that came with it."""

    def pull(log: Log) -> Outputs:
        log.run([docker.program, "pull", reference], env=docker.env(), timeout=1800)
        repository = reference.rsplit(":", 1)[0]
        return {"tag": reference, "digest": _matching(repo_digests(docker, log, reference), repository)}

    outputs = stages.run(
        f"pull-{name}",
        {"reference": reference},
        pull,
        lambda out: docker.image_id(out.get("tag", "")) is not None,
    )
    return outputs["tag"]


def pushed(stages: Stages, docker: Docker, key: str, tag: str, registry: str) -> str:
    """Push a local image to `registry` (HOST/PREFIX); returns its reference there by digest.

    Never remembered: what the registry has already is not sent again, and it may have lost what it had.
    """
    repository = f"{registry}/{pins.REPOSITORIES[key].rsplit('/', 1)[1]}"
    target = f"{repository}:{tag.rsplit(':', 1)[1]}"

    def push(log: Log) -> Outputs:
        log.run([docker.program, "tag", tag, target], env=docker.env())
        log.run([docker.program, "push", target], env=docker.env(), timeout=1800)
        return {"reference": _matching(repo_digests(docker, log, target), repository), "summary": target}

    name = f"push-{key.replace('_', '-')}"
    return stages.run(name, {"target": target}, push, lambda _: False)["reference"]


def repo_digests(docker: Docker, log: Log, name: str) -> list[str]:
    """The references by digest that a local image has in registries."""
    template = "{{range .RepoDigests}}{{println .}}{{end}}"
    command = [str(docker.program), "image", "inspect", "--format", template, name]
    return log.output(command, env=docker.env()).splitlines()


def _matching(digests: Iterable[str], repository: str) -> str:
    """The digest of `repository`; Docker leaves out the host and namespace that are its defaults."""
    short = repository.removeprefix("docker.io/").removeprefix("library/")
    for digest in digests:
        if digest.split("@")[0] in (repository, short):
            return digest
    raise ClusterError(f"The registry gave no digest for {repository}.", remedy="pull it by hand and look.")


def prune(docker: Docker, keep: Iterable[str]) -> int:
    """Delete images this package made under other tags than those to `keep`; returns how many.

    Every change of core/ leaves an image behind, every change of the node more than a gigabyte. Images that
    others put under `bench.local/` are not touched.
    """
    kept = set(keep)
    repositories = {tag.rsplit(":", 1)[0] for tag in kept if tag.startswith("bench.local/")}
    listed = docker.ask("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "bench.local/*") or ""
    stale = [tag for tag in listed.split() if tag.rsplit(":", 1)[0] in repositories and tag not in kept]
    # Without --force: an image that a container uses stays.
    return sum(docker.ask("image", "rm", tag) is not None for tag in stale)
