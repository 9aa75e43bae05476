"""Shared fixtures, and how the tests are spread over processes (`pytest -n 5`)."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import cluster
from adapters.base import BenchError, Target
from adapters.targets import connect
from cluster.state import LOCK_PATIENCE

# What is measured here is thrown away: a run counts on a machine shared with others, however busy they are.
os.environ["BENCH_MAX_STEAL"] = "99%"

# They need a cluster that nobody but the user has: `make k8s-target` names it.
collect_ignore = [] if os.environ.get("BENCH_CONTEXT") else ["k8s"]


CLUSTER, BESIDE = "the cluster", "the cluster, beside others"
LOCAL, USERS = "the local servers", "local servers of users of their own"
ALONE = "alone.over"
"""The file, in the folder that all processes share, which says that the tests with `alone` are over."""


def place_of(nodeid: str) -> str:
    """What a test uses, of which there is one; a test that uses none has its own name here.

    Suites of orchestrators that do not get in each other's way run side by side. Argo's and Kubeflow Pipelines'
    controllers would: both take up the same resources.
    """
    file = nodeid.partition("::")[0]
    if file.startswith("tests/conformance/") and file.endswith("_local.py"):
        return LOCAL
    if file.startswith("tests/local/"):
        return USERS
    if file.startswith("tests/kind/") or file.endswith(("test_argo_kind.py", "test_kfp_kind.py")):
        return CLUSTER
    return BESIDE if file.startswith("tests/conformance/") else nodeid


class ByPlace(LoadScopeScheduling):
    """Tests of one place run one after another in one process."""

    def _split_scope(self, nodeid: str) -> str:
        return place_of(nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-conformance", metavar="DIR", type=Path, help="store the suite's verdicts in DIR/conformance"
    )
    parser.addoption(
        "--whole-conformance", action="store_true", help="ask every adapter everything, also on kind"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the cluster for themselves come first there: the local suites fill the time that they wait."""
    items.sort(key=lambda item: not needs_all(item))


def needs_all(item: pytest.Item) -> bool:
    """The test waits for nobody on the cluster, and all others there wait for it."""
    return isinstance(item, pytest.Function) and "alone" in item.fixturenames


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test on the cluster that fails shows what was there at that moment."""
    report = yield
    if report.failed and item.get_closest_marker("kind"):
        report.sections.append(("the cluster", _pods_now()))
    return report


def _pods_now() -> str:
    """Every pod with its phase, restarts, and why its containers ended last; or why that cannot be told."""
    try:
        pods = connect(Target.KIND).kube.core.list_pod_for_all_namespaces().items
    except BenchError as error:
        return error.message
    return "\n".join(_state(pod) for pod in pods)


def _state(pod: Any) -> str:
    containers = pod.status.container_statuses or []
    ended = [each.last_state.terminated for each in containers if each.last_state.terminated]
    return " ".join(
        (
            f"{pod.metadata.namespace}/{pod.metadata.name} {pod.status.phase}",
            f"ready {sum(each.ready for each in containers)}/{len(containers)}",
            f"restarts {sum(each.restart_count for each in containers)}",
            *(f"{each.reason} ({each.exit_code}) at {each.finished_at}" for each in ended),
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPlace:
    """Used whenever tests run in several processes."""
    return ByPlace(config, log)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def cluster_is_up(shared: Path) -> cluster.ClusterInfo:
    """The real cluster, started if need be: cached stages make that a matter of seconds when it is up.

    Another process of this test run may be making an orchestrator's images just then: this one waits.
    """
    with one_at_a_time(shared / "cluster-up"):
        return cluster.up(patience=LOCK_PATIENCE)


def after_the_cluster(request: pytest.FixtureRequest) -> None:
    """Local suites begin when the cluster is made, if it is: making it takes all of the CPU, its first tests little.

    Where it cannot be made, the tests on it say so.
    """
    if any(item.get_closest_marker("kind") for item in request.session.items):
        with suppress(cluster.ClusterError):
            request.getfixturevalue("cluster_is_up")


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Held by one process of this test run."""
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
