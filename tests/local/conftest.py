"""Commands on servers of their own."""

from pathlib import Path

import pytest

from tests.conftest import wait_for_the_cluster


@pytest.fixture(scope="session", autouse=True)
def cpu(request: pytest.FixtureRequest, shared: Path) -> None:
    """Not while the cluster is made."""
    wait_for_the_cluster(request.session, shared)
