"""Shared fixtures, and how the tests are spread over processes (`pytest -n 2`)."""

import os
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import cluster

ON_THE_CLUSTER = ("tests/kind/", "tests/conformance/")
# They need a cluster that nobody but the user has: `make k8s-target` names it.
collect_ignore = [] if os.environ.get("BENCH_CONTEXT") else ["k8s"]


class OneCluster(LoadScopeScheduling):
    """Tests on the one cluster run one after another in one process, as do those on the one set of local servers."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.partition("::")[0].endswith("_local.py"):
            return "local"
        return "cluster" if nodeid.startswith(ON_THE_CLUSTER) else nodeid


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-conformance", metavar="DIR", type=Path, help="store the suite's verdicts in DIR/conformance"
    )
    parser.addoption(
        "--whole-conformance", action="store_true", help="ask every adapter everything, also on kind"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneCluster:
    """Used whenever tests run in several processes."""
    return OneCluster(config, log)


@pytest.fixture(scope="session")
def cluster_is_up() -> cluster.ClusterInfo:
    """The real cluster, started if need be: cached stages make that a matter of seconds when it is up."""
    return cluster.up()
