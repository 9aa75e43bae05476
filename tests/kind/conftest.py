"""`bench run` stops every orchestrator but its own: tests that start it wait until no suite uses another."""

import time
from pathlib import Path

import pytest

from tests.conftest import BESIDE, place_of

PATIENCE_SECONDS = 1800.0


@pytest.fixture(scope="session")
def alone(request: pytest.FixtureRequest, shared: Path) -> None:
    """Returns when all suites that run beside are over."""
    classes = {
        item.cls.__name__
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.cls and place_of(item.nodeid) == BESIDE
    }
    end = time.monotonic() + PATIENCE_SECONDS
    while left := [name for name in classes if not (shared / f"{name}.over").exists()]:
        if time.monotonic() > end:
            pytest.fail(f"{', '.join(left)} did not end")
        time.sleep(1)
