"""`bench run` stops every orchestrator but its own: tests that start it wait until no suite uses another."""

from pathlib import Path

import pytest

from tests.conftest import BESIDE, place_of
from tests.unit.conftest import wait_for

PATIENCE_SECONDS = 1800.0


@pytest.fixture(scope="session")
def alone(request: pytest.FixtureRequest, shared: Path) -> None:
    """Returns when all suites that run beside are over."""
    classes = {
        item.cls.__name__
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.cls and place_of(item.nodeid) == BESIDE
    }
    over = [shared / f"{name}.over" for name in classes]
    wait_for(lambda: all(path.exists() for path in over), "the suites that run beside", PATIENCE_SECONDS)
