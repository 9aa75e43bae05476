"""Shared fixtures."""

import pytest

import cluster


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the one cluster run one after another, beside the others (`pytest -n 2 --dist loadgroup`)."""
    for item in items:
        if item.get_closest_marker("kind"):
            item.add_marker(pytest.mark.xdist_group("kind"))


@pytest.fixture(scope="session")
def cluster_is_up() -> cluster.ClusterInfo:
    """The real cluster, started if need be: cached stages make that a matter of seconds when it is up."""
    return cluster.up()
