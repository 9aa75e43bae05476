"""What tests on the cluster wait for, since suites of other orchestrators run beside them.

`bench run` stops every orchestrator but its own: tests that start it wait until no suite uses another. What a run
promotes is served by the one service that there is.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.base import Target
from tests.conftest import BESIDE, one_at_a_time, place_of
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


@pytest.fixture
def promoting(shared: Path) -> Iterator[None]:
    """Nobody else promotes meanwhile."""
    with one_at_a_time(shared / f"promotion-{Target.KIND}"):
        yield
