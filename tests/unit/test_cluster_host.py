"""What the host withholds is noticed, and its certificates never end up in an image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from cluster import engine, host, images, kind_cluster, lifecycle, pins, state
from cluster.engine import Docker
from cluster.errors import ClusterError
from cluster.gobuild import ARGO, ARGO_EVENTS, COREDNS, ETCD, KIND, KUBERNETES, NATS, VERSITYGW
from cluster.stages import CommandFailed, Stages
from cluster.state import DATA, ClusterInfo, Paths

DOCKER = Docker(Path("/usr/bin/docker"))


@pytest.mark.parametrize(
    ("bounding", "granted"),
    [("000001fffeffffff", False), ("000001ffffffffff", True), ("0000000001000000", True)],
)
def test_the_missing_capability_is_read_from_the_bounding_set(
    tmp_path: Path, bounding: str, granted: bool
) -> None:
    status = tmp_path / "status"
    status.write_text(f"CapEff:\t0000000000000000\nCapBnd:\t{bounding}\n")
    assert host.grants_sys_resource(status) is granted


def test_hosts_without_proc_are_not_suspected(tmp_path: Path) -> None:
    assert host.grants_sys_resource(tmp_path / "absent") is True


def test_the_certificate_bundle_is_the_first_that_exists(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("certificate")
    environment = {"SSL_CERT_FILE": str(tmp_path / "absent"), "REQUESTS_CA_BUNDLE": str(bundle)}
    assert host.ca_bundle(environment) == bundle
    assert host.ca_bundle({}) is None


def test_the_bundle_is_a_secret_and_never_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    command = images.build_command(DOCKER, Path("Dockerfile"), tmp_path, "tag:1", {"BASE": "debian"}, "")
    assert command[command.index("--secret") + 1] == f"id=ca,src={bundle}"
    assert not any(str(bundle) in part for part in command if not part.startswith("id=ca"))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert "--secret" not in images.build_command(DOCKER, Path("Dockerfile"), tmp_path, "tag:1", {}, "")


def test_no_dockerfile_copies_the_secret() -> None:
    files = [path.read_text() for path in DATA.rglob("Dockerfile")]
    lines = [line.strip() for text in files for line in text.splitlines()]
    used = [line for line in lines if "/run/secrets/ca" in line]
    assert used, "some image is built from the network"
    assert all(line.startswith("if [ -s /run/secrets/ca ]; then export") for line in used)
    copied = [line for line in lines if line.startswith(("COPY", "ADD"))]
    assert copied and not any(word in line for line in copied for word in ("secrets", "bundle"))


def test_pods_get_no_resolver_they_cannot_reach(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.53\nnameserver 10.1.2.3\nnameserver ::1\nsearch example.org\n")
    assert host.nameservers(resolver) == ["10.1.2.3"]
    assert host.nameservers(tmp_path / "absent") == []


def test_pins_agree_with_the_go_modules() -> None:
    wanted = [
        (KIND, f"sigs.k8s.io/kind {pins.KIND}"),
        (KUBERNETES, f"k8s.io/kubernetes {pins.KUBERNETES}"),
        (ETCD, f"go.etcd.io/etcd/server/v3 {pins.ETCD}"),
        (COREDNS, f"github.com/coredns/coredns {pins.COREDNS}"),
        (ARGO, f"github.com/argoproj/argo-workflows/v3 {pins.ARGO}"),
        (ARGO_EVENTS, f"github.com/argoproj/argo-events {pins.ARGO_EVENTS}"),
        (NATS, f"github.com/nats-io/nats-server/v2 {pins.NATS}"),
        (VERSITYGW, f"github.com/versity/versitygw {pins.VERSITYGW}"),
    ]
    for family, line in wanted:
        assert line in (family.folder / "go.mod").read_text(), family.name


def test_an_error_says_what_happened_what_is_kept_and_what_to_type() -> None:
    error = ClusterError("It broke.", kept="the images.", remedy="bench cluster up")
    assert str(error).splitlines() == ["It broke.", "kept: the images.", "next: bench cluster up"]
    assert str(ClusterError("It broke.")) == "It broke."


def test_info_survives_a_round_trip(tmp_path: Path) -> None:
    info = ClusterInfo(
        name="bench",
        kubeconfig=tmp_path / "kubeconfig",
        kubernetes_version=pins.KUBERNETES,
        kind_version=pins.KIND,
        origin="build",
        oci_wrapper=True,
        images={"step": "bench.local/step@sha256:0"},
    )
    assert ClusterInfo.from_json(info.to_json()) == info


def test_asking_for_a_cluster_that_is_not_there_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    with pytest.raises(ClusterError, match="no cluster") as raised:
        lifecycle.info()
    assert raised.value.remedy == "`bench cluster up`"
    state.paths().root.mkdir()
    state.paths().info.write_text("{}")
    with pytest.raises(ClusterError, match="cannot be read"):
        lifecycle.info()


def test_a_process_id_that_somebody_else_has_now_is_not_our_engine(tmp_path: Path) -> None:
    where = Paths(tmp_path)
    engine.pid_file(where).write_text(json.dumps({"pid": os.getpid()}))
    assert engine.owned_pid(where) is None
    assert engine.stop(where) is False


def test_a_cluster_of_another_state_folder_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Paths(tmp_path / "mine" / "cluster"), Paths(tmp_path / "other" / "cluster")
    asked: list[str] = []

    def ask(self: Docker, *arguments: str, timeout: float = 30) -> str:
        asked.append(arguments[0])
        return f"/var/lib/docker/volumes/x/_data\n{other.root}/pod-resolv.conf\n"

    monkeypatch.setattr(Docker, "ask", ask)
    other.root.mkdir(parents=True)
    (other.root / "pod-resolv.conf").touch()
    kind_cluster.refuse_foreign(DOCKER, other)
    with pytest.raises(ClusterError, match="made from the state folder"):
        kind_cluster.refuse_foreign(DOCKER, mine)
    assert "rm" not in asked
    (other.root / "pod-resolv.conf").unlink()  # its state folder is gone: nobody can bring it up again
    kind_cluster.refuse_foreign(DOCKER, mine)
    assert asked[-1] == "rm"


def test_image_names_are_written_as_containerd_writes_them() -> None:
    assert lifecycle._qualified("tool") == "docker.io/library/tool"
    assert lifecycle._qualified("team/tool") == "docker.io/team/tool"
    assert lifecycle._qualified("bench.local/tool") == "bench.local/tool"
    assert lifecycle._qualified("localhost/tool") == "localhost/tool"


def test_a_missing_package_without_root_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "is_root", lambda: False)
    monkeypatch.setattr(host, "find_program", lambda name: None)
    with pytest.raises(ClusterError) as raised:
        host.ensure_packages(None, {"dockerd": "docker.io", "debootstrap": "debootstrap"})  # type: ignore[arg-type]
    assert raised.value.remedy == "sudo apt-get install --no-install-recommends -y debootstrap docker.io"


def test_another_apt_at_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """apt waits for a lock on packages when told to, and never for the one on its lists."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    asked: list[list[str]] = []

    def run(command: list[str], **more: object) -> None:
        asked.append(command)
        if len(asked) < 3:
            raise CommandFailed("`apt-get` ended with exit code 100")

    host.apt_install(run, ["chromium"])
    assert [command[1] for command in asked[:-1]] == ["update"] * 3
    assert asked[-1][1:3] == ["-o", "DPkg::Lock::Timeout=900"]

    def refuse(command: list[str], **more: object) -> None:
        raise CommandFailed("no network")

    with pytest.raises(CommandFailed):
        host.apt_install(refuse, ["chromium"])


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
@pytest.mark.slow
def test_the_wrapper_relaxes_a_real_specification_and_becomes_the_runtime(tmp_path: Path) -> None:
    program = tmp_path / "ociwrap"
    subprocess.run(
        ["go", "build", "-trimpath", "-o", str(program), "."],
        cwd=DATA / "ociwrap",
        check=True,
        env=os.environ | {"CGO_ENABLED": "0"},
    )
    runtime = tmp_path / "runtime"
    runtime.write_text('#!/bin/sh\necho "$@"\n')
    runtime.chmod(0o755)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    process = {
        "args": ["/sbin/init"],
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1}],
        "oomScoreAdj": -999,
    }
    (bundle / "config.json").write_text(json.dumps({"process": process, "hostname": "x"}))
    (tmp_path / "process").write_text(json.dumps(process))
    env = os.environ | {"OCIWRAP_RUNTIME": str(runtime)}
    command = ["--root", "/run/x", "create", "--bundle", str(bundle), "id"]
    done = subprocess.run([program, *command], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == command, "every argument reaches the runtime unchanged"
    subprocess.run([program, "exec", "--process", str(tmp_path / "process"), "id"], env=env, check=True)
    relaxed = {"args": ["/sbin/init"], "capabilities": {"bounding": ["CAP_CHOWN"]}, "oomScoreAdj": 0}
    assert json.loads((bundle / "config.json").read_text()) == {"process": relaxed, "hostname": "x"}
    assert json.loads((tmp_path / "process").read_text()) == relaxed


def test_a_new_client_without_its_build_plugin_gets_what_apt_has_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 13 and Ubuntu 24.04 keep it in packages of their own, Debian 12 has none."""
    installed: list[str] = ["docker.io"]
    client = Docker(Path("/usr/bin/docker"))

    def found() -> Docker | None:
        return client if "docker-buildx" in installed else None

    found.cache_clear = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr(engine, "client", found)
    monkeypatch.setattr(engine, "server_version", lambda docker: "26")
    monkeypatch.setattr(host, "is_root", lambda: True)
    monkeypatch.setattr(host, "may_install", lambda: True)
    monkeypatch.setattr(host, "find_program", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(images, "DEBIAN_KEYRING", tmp_path)
    monkeypatch.setattr(host, "offered", lambda packages: [p for p in packages if p == "docker-buildx"])
    monkeypatch.setattr(host, "apt_install", lambda run, packages: installed.extend(packages))
    stages = Stages(Paths(tmp_path / "state"), lambda progress: None)
    lifecycle._host_packages(stages, "pull")
    assert installed == ["docker.io", "docker-buildx"]


def test_where_images_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As was said; else as for the cluster that is there, which would be deleted otherwise; else by trying."""
    stages = Stages(Paths(tmp_path / "state"), lambda progress: None)
    answers: list[bool] = []
    monkeypatch.setattr(lifecycle, "registry_answers", lambda docker: answers.append(True) or True)
    docker = Docker(Path("/usr/bin/docker"))

    def none() -> NoReturn:
        raise ClusterError("There is no cluster.")

    monkeypatch.setattr(lifecycle, "info", none)
    assert lifecycle._origin(stages, docker, "build") == "build" and not answers
    monkeypatch.setenv("BENCH_IMAGES", "build")
    assert lifecycle._origin(stages, docker, "auto") == "build" and not answers
    assert lifecycle._origin(stages, docker, "pull") == "pull", "what is typed goes before"
    monkeypatch.setenv("BENCH_IMAGES", "bulid")
    with pytest.raises(ClusterError, match="BENCH_IMAGES is 'bulid'"):
        lifecycle._origin(stages, docker, "auto")
    monkeypatch.delenv("BENCH_IMAGES")
    monkeypatch.setattr(lifecycle, "info", lambda: SimpleNamespace(origin="build"))
    assert lifecycle._origin(stages, docker, "auto") == "build" and not answers
    monkeypatch.setattr(lifecycle, "info", none)
    assert lifecycle._origin(stages, docker, "auto") == "pull" and answers == [True]
