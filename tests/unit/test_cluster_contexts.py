"""A cluster of somebody else's: what is put there asks for nothing of kind's, and a refusal has changed nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError
from typer.testing import CliRunner

from adapters.base import BenchError, Target, TargetUnreachable, Unsupported
from adapters.kube import Kube
from adapters.targets import ClusterTarget, connect
from bench.commands import cluster as cluster_cli
from bench.commands.run import Options, choose_target, scenarios
from bench.errors import BadInput
from bench.measure.runner import Runner
from bench.results.store import Store
from cluster import contexts, engine, installations, lifecycle, pins, services
from cluster.contexts import DEFAULT_CLASS, PLATFORM, Installed
from cluster.errors import ClusterError
from cluster.ownership import is_ours
from cluster.services import Credentials
from cluster.stages import CommandFailed

ROOT = Path(__file__).parents[2]
IMAGES = {key: f"{repository}@sha256:{'0' * 64}" for key, repository in pins.REPOSITORIES.items()}
CREDENTIALS = Credentials(postgres="pgpass", s3_key="KEY", s3_secret="s3secret", token="tok")
BOUND_TO_KIND = (
    "hostPath",
    "NodePort",
    "nodePort",
    "nodeAffinity",
    "nodeSelector",
    "hostNetwork",
    "hostPort",
)

VERSION = (
    *("major", "minor", "gitVersion", "gitCommit", "gitTreeState"),
    *("buildDate", "goVersion", "compiler", "platform"),
)


@dataclass
class Api:
    """As much of a Kubernetes API server as is looked at before anything is installed."""

    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    """By name, their labels."""
    classes: dict[str, bool] = field(default_factory=lambda: {"fast": True, "slow": False})
    """By name, whether it is the default."""
    forbidden: set[str] = field(default_factory=set)
    nodes: tuple[str, ...] = ("a", "b")
    written: list[str] = field(default_factory=list)
    """Requests that would change something."""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a request is answered with."""
        if path.endswith("/selfsubjectaccessreviews"):
            wanted = body["spec"]["resourceAttributes"]
            return {"spec": body["spec"], "status": {"allowed": wanted["resource"] not in self.forbidden}}
        if method != "GET":
            self.written.append(f"{method} {path}")
        if path == "/version/":
            return dict.fromkeys(VERSION, "x")
        if path.startswith("/api/v1/namespaces"):
            name = path.rsplit("%3D", 1)[1]
            labels = self.namespaces.get(name)
            return {"items": [] if labels is None else [{"metadata": {"name": name, "labels": labels}}]}
        if path.endswith("/storageclasses"):
            return {
                "items": [
                    {
                        "metadata": {"name": name, "annotations": {DEFAULT_CLASS: str(usual).lower()}},
                        "provisioner": "p",
                    }
                    for name, usual in self.classes.items()
                ]
            }
        if path == "/api/v1/nodes":
            return {"items": [{"metadata": {"name": name}, "spec": {}} for name in self.nodes]}
        raise AssertionError(f"{method} {path}")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A cluster that the context `theirs` of the usual kubeconfig leads to."""
    given = Api()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            text = json.dumps(given.answer(self.command, self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _reply

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(config(f"http://127.0.0.1:{server.server_port}"))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BENCH_CONTEXT", raising=False)
    monkeypatch.setattr(engine, "client", lambda: None)
    monkeypatch.setattr(contexts, "engine_client", lambda: None)
    yield given
    server.shutdown()
    server.server_close()


def config(server: str) -> str:
    """A kubeconfig with two contexts."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "theirs",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [
                {"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("theirs", "another")
            ],
        }
    )


def remember(context: str) -> Installed:
    """Note an installation, as `install` does at its end."""
    found = Installed(context, "kubeconfig", "fast", {"step": IMAGES["step"]})
    file = installations.file_of(context)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found.__dict__))
    return found


def test_the_platform_asks_a_cluster_for_a_storage_class_and_nothing_of_kinds() -> None:
    objects = services.render(IMAGES, CREDENTIALS, storage_class="fast")
    kinds = {item["kind"] for item in objects}
    assert not kinds & {"PersistentVolume", "StorageClass"}
    claims = {i["metadata"]["name"]: i["spec"] for i in objects if i["kind"] == "PersistentVolumeClaim"}
    assert set(claims) == {"postgres", "s3", "ledger"}, "no volume that steps share"
    for claim in claims.values():
        assert claim["storageClassName"] == "fast" and "volumeName" not in claim
    text = yaml.safe_dump_all(objects)
    assert [word for word in (*BOUND_TO_KIND, "nodeName", ":6443") if word in text] == []
    labels = {i["metadata"]["name"]: i["metadata"]["labels"] for i in objects if i["kind"] == "Namespace"}
    assert {name: each[PLATFORM] for name, each in labels.items()} == dict.fromkeys(
        services.NAMESPACES, "k8s"
    )
    assert all(each["pod-security.kubernetes.io/enforce"] == "restricted" for each in labels.values())


def test_the_same_deployments_run_on_kind_and_elsewhere() -> None:
    def deployments(objects: list[dict[str, Any]]) -> dict[str, Any]:
        return {i["metadata"]["name"]: i["spec"]["template"] for i in objects if i["kind"] == "Deployment"}

    here = deployments(services.render(IMAGES, CREDENTIALS, "bench-control-plane"))
    there = deployments(services.render(IMAGES, CREDENTIALS, storage_class="fast"))
    hosts = here["mlflow"]["spec"]["containers"][0]["args"].pop()
    assert hosts == there["mlflow"]["spec"]["containers"][0]["args"].pop() + ",bench-control-plane:6443"
    assert here == there


@pytest.mark.parametrize("name", ["argo", "prefect"])
def test_an_orchestrator_for_k8s_has_no_manifest_bound_to_kind(name: str) -> None:
    for path in sorted((ROOT / "adapters" / name / "deploy").glob("*.yaml")):
        if path.name == "crds.yaml":
            continue  # schemas name every field that there is
        text = path.read_text()
        assert [word for word in BOUND_TO_KIND if word in text] == [], path


def refused(**options: Any) -> ClusterError:
    with pytest.raises(ClusterError) as raised:
        contexts.install("theirs", **({"registry": "registry.example/bench"} | options))
    assert "nothing was" in raised.value.kept
    assert raised.value.remedy
    assert not list(installations.folder().glob("*.json"))
    return raised.value


@pytest.fixture
def no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test where images would be made: a refusal comes before."""
    monkeypatch.setattr(lifecycle, "platform_images", lambda *_: pytest.fail("it went on"))


@pytest.mark.usefixtures("no_image")
def test_a_namespace_of_others_is_refused_before_anything_is_written(api: Api) -> None:
    api.namespaces = {"bookstore-ml": {"team": "books"}}
    assert "bookstore-ml exists and is not ours" in refused().what
    with pytest.raises(ClusterError, match="not ours"):
        contexts.uninstall("theirs")
    api.namespaces = {"bench-system": {PLATFORM: "kind"}}
    assert "--target kind" in refused().remedy
    assert api.written == []


@pytest.mark.usefixtures("no_image")
def test_missing_rights_are_named_before_anything_is_written(api: Api) -> None:
    api.forbidden = {"customresourcedefinitions", "secrets"}
    what = refused().what
    assert "create, patch, delete customresourcedefinitions" in what
    assert "get, create, patch, delete secrets in bench-system" in what and "secrets in bookstore-ml" in what
    assert "deployments" not in what
    assert api.written == []


@pytest.mark.usefixtures("no_image")
def test_a_storage_class_must_be_there(api: Api) -> None:
    assert refused(storage_class="none").remedy == "--storage-class, one of: fast, slow"
    api.classes = {"slow": False}
    assert "no default StorageClass" in refused().what
    api.classes = {}
    assert "provisioner" in refused().remedy
    assert api.written == []


@pytest.mark.usefixtures("no_image")
def test_images_are_copied_only_into_nodes_of_a_kind_cluster_here(api: Api) -> None:
    wrong = refused(registry="")
    assert "a, b" in wrong.what and "--registry HOST/PREFIX" in wrong.remedy
    assert api.written == []


@pytest.mark.usefixtures("no_image", "api")
def test_a_wrong_context_is_told_which_there_are() -> None:
    with pytest.raises(ClusterError, match="no context 'mine'") as raised:
        contexts.install("mine")
    assert raised.value.remedy == "--context, one of: another, theirs"
    with pytest.raises(ClusterError, match="cannot be used"):
        contexts.install("theirs", kubeconfig="/nowhere/kubeconfig")


@pytest.mark.usefixtures("no_image", "api")
def test_a_cluster_that_does_not_answer_is_said_to_be_so(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.write_text(config("http://127.0.0.1:9"))
    with pytest.raises(ClusterError, match="does not answer") as raised:
        contexts.install("theirs", kubeconfig=str(dead))
    assert "kubectl --context theirs" in raised.value.remedy


def test_a_first_installation_that_fails_is_taken_away_and_a_later_one_is_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(lifecycle, "platform_images", lambda *_: (None, {"step": "step:1"}))
    monkeypatch.setattr(contexts.images, "pushed", lambda *_: IMAGES["step"])
    monkeypatch.setattr(services, "render", lambda *_, **__: [])
    monkeypatch.setattr(services, "credentials", lambda _: CREDENTIALS)
    monkeypatch.setattr(contexts, "_dynamic", lambda *_: None)
    monkeypatch.setattr(contexts, "_removed", lambda *_: removed.append("all") or removed)

    def apply(*_: object) -> None:
        raise CommandFailed("not ready: mlflow; mlflow-1: ErrImagePull (no such host)")

    monkeypatch.setattr(services, "apply", apply)
    with pytest.raises(ClusterError, match="ErrImagePull") as raised:
        contexts.install("theirs", registry="registry.example/bench")
    assert "taken away again" in raised.value.kept and removed == ["all"]
    api.namespaces = {name: {PLATFORM: "k8s"} for name in services.NAMESPACES}
    with pytest.raises(ClusterError, match="ErrImagePull"):
        contexts.install("theirs", registry="registry.example/bench")
    assert removed == ["all"]
    monkeypatch.setattr(services, "apply", lambda *_: {})
    found = contexts.install("theirs", registry="registry.example/bench")
    assert (found.storage_class, found.images) == ("fast", {"step": IMAGES["step"]})
    assert contexts.installed() == contexts.installed("theirs") == found


@pytest.mark.usefixtures("api")
def test_which_cluster_is_meant() -> None:
    with pytest.raises(TargetUnreachable, match="Nothing is installed") as missing:
        connect(Target.K8S)
    assert "bench cluster install --context NAME" in missing.value.remedy
    first = remember("arn:aws:eks:eu:1:cluster/one")
    assert contexts.installed() == first
    remember("two")
    with pytest.raises(ClusterError, match="More than one") as raised:
        contexts.installed()
    assert "arn:aws:eks:eu:1:cluster/one, two" in raised.value.remedy
    assert choose_target(None, "two") == (Target.K8S, "context two")
    assert contexts.installed().context == "two", "for the rest of the process"
    with pytest.raises(BadInput, match="'three'; it is on: arn"):
        choose_target(Target.K8S, "three")
    with pytest.raises(BadInput, match="of no use to the target kind"):
        choose_target(Target.KIND, "two")


def test_a_shared_volume_is_refused_with_the_reason(tmp_path: Path) -> None:
    options = Options(("noop",), tmp_path, variant="volume", controls=False)
    with pytest.raises(BadInput, match="does not reach a second node"):
        scenarios(options, Target.K8S)
    assert scenarios(options, Target.KIND)[0].variant == "volume"


def test_an_orchestrator_that_is_not_wired_for_k8s_says_so(tmp_path: Path) -> None:
    with Store.locked(tmp_path) as store:
        runner = Runner(store, Target.K8S)
        for name in ("airflow", "dagster", "kfp"):
            with pytest.raises(Unsupported, match="not wired for k8s"):
                runner._runtime(name)


def test_an_image_that_was_not_installed_is_asked_for() -> None:
    where = ClusterTarget(Target.K8S, None, {"prefect": IMAGES["prefect"]}, {})  # type: ignore[arg-type]
    where.ensure("prefect")
    with pytest.raises(BenchError, match="no image of airflow") as raised:
        where.ensure("airflow")
    assert "bench cluster install --with airflow" in raised.value.remedy


def test_what_we_applied_is_ours_and_what_others_did_is_not_touched() -> None:
    ours = {"metadata": {"managedFields": [{"manager": "kubectl"}, {"manager": "orchestrator-bench"}]}}
    theirs: dict[str, Any] = {"metadata": {"managedFields": [{"manager": "helm"}]}}
    assert is_ours(ours) and not is_ours(theirs) and not is_ours({"metadata": {}})
    applied: list[str] = []

    class Resource:
        def __init__(self, found: dict[str, Any]) -> None:
            self.found = found

        def get(self, name: str) -> Any:
            return self

        def to_dict(self) -> dict[str, Any]:
            return self.found

        def server_side_apply(self, body: dict[str, Any], **_: object) -> None:
            applied.append(body["metadata"]["name"])

    there = {"argo": theirs, "prefect": ours}
    kube = Kube.__new__(Kube)
    kube._resource = lambda document: Resource(there[document["metadata"]["name"]])  # type: ignore[method-assign]
    documents = [{"kind": "Namespace", "metadata": {"name": name}} for name in ("prefect", "argo")]
    with pytest.raises(Unsupported, match="Namespace argo exists and is not ours"):
        kube.apply(documents)
    assert applied == [], "nothing is half applied"
    kube.apply(documents[:1])
    assert applied == ["prefect"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--context", "c"], "one of the two"),
        (["--context", "c", "--load", "--registry", "r/b"], "one of the two"),
        (["--context", "c", "--load", "--with", "airflow"], "not wired for k8s yet: airflow"),
        (["--load"], "--context"),
    ],
)
def test_bad_options_of_install_are_refused(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(cluster_cli.app, ["install", *arguments])
    assert result.exit_code == 2 and said in " ".join(result.output.replace("│", " ").split())


@pytest.mark.usefixtures("api")
def test_all_stands_for_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def install(context: str, **options: Any) -> Installed:
        asked.append(options)
        return Installed(context, "kubeconfig", "fast", {})

    monkeypatch.setattr(contexts, "install", install)
    arguments = ["install", "--context", "c", "--registry", "host/bench/", "--with", "all"]
    assert CliRunner().invoke(cluster_cli.app, arguments).exit_code == 0
    assert asked[0]["orchestrators"] == ("prefect",) and asked[0]["registry"] == "host/bench"


class Shelf:
    """The objects of one kind, as the dynamic client gives them."""

    def __init__(self, managers: dict[str, str]) -> None:
        self.managers = managers

    def get(self, name: str = "") -> Any:
        """All of them, or one."""
        if name:
            raise NotFoundError(ApiException(status=404))
        items = [
            {"metadata": {"name": name, "managedFields": [{"manager": manager}]}}
            for name, manager in self.managers.items()
        ]
        return SimpleNamespace(to_dict=lambda: {"items": items})

    def delete(self, name: str) -> None:
        """Take one away."""
        del self.managers[name]


def test_what_is_taken_away_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shelves = {
        "Namespace": Shelf(
            {"bench-system": "bench-cluster", "prefect": "orchestrator-bench", "shop": "helm"}
        ),
        "ClusterRole": Shelf({"argo": "orchestrator-bench", "admin": "kube-apiserver"}),
        "CustomResourceDefinition": Shelf(
            {"workflows": "orchestrator-bench", "cronworkflows": "orchestrator-bench"}
        ),
    }

    class Resources:
        def get(self, api_version: str, kind: str) -> Shelf:
            if kind not in shelves:
                raise ResourceNotFoundError(kind)
            return shelves[kind]

    monkeypatch.setattr(contexts, "_in_use", lambda _, crd: crd["metadata"]["name"] == "workflows")
    notes: list[str] = []
    removed = contexts._removed(
        SimpleNamespace(resources=Resources()),
        SimpleNamespace(note=notes.append),  # type: ignore[arg-type]
    )
    assert removed == [
        "Namespace bench-system",
        "Namespace prefect",
        "ClusterRole argo",
        "CustomResourceDefinition cronworkflows",
    ]
    assert {kind: list(shelf.managers) for kind, shelf in shelves.items()} == {
        "Namespace": ["shop"],
        "ClusterRole": ["admin"],
        "CustomResourceDefinition": ["workflows"],
    }
    assert "CustomResourceDefinition workflows stays: others use it" in notes


def test_a_pod_that_no_node_takes_is_told_in_the_schedulers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def pod(name: str, **condition: str) -> SimpleNamespace:
        conditions = [SimpleNamespace(type="PodScheduled", **condition)]
        return SimpleNamespace(
            metadata=SimpleNamespace(name=name), status=SimpleNamespace(conditions=conditions)
        )

    pods = [
        pod("a", status="True", reason="", message=""),
        pod("b", status="False", reason="Unschedulable", message="no volume to bind"),
    ]
    core = SimpleNamespace(list_namespaced_pod=lambda _: SimpleNamespace(items=pods))
    monkeypatch.setattr(services.client, "CoreV1Api", lambda _: core)
    assert list(services._unscheduled(None, "bench-system")) == ["b: Unschedulable (no volume to bind)"]
