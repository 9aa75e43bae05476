"""Shared fixtures."""

import pytest

import cluster


@pytest.fixture(scope="session")
def cluster_is_up() -> cluster.ClusterInfo:
    """The real cluster, started if need be: cached stages make that a matter of seconds when it is up."""
    return cluster.up()
