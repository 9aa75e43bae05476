"""Commands on servers of their own."""

import pytest

from tests.conftest import after_the_cluster


@pytest.fixture(scope="session", autouse=True)
def cpu(request: pytest.FixtureRequest) -> None:
    """Not while the cluster is made."""
    after_the_cluster(request)
