"""Turns on the cluster: some tests need it for themselves, and there is one service that shows what was promoted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.base import Target
from tests.conftest import ALONE, needs_all, one_at_a_time

_OVER = pytest.StashKey[Path]()


@pytest.fixture(scope="session", autouse=True)
def alone_is_over(request: pytest.FixtureRequest, shared: Path) -> None:
    """Where it is told that no test needs the cluster for itself any more."""
    request.config.stash[_OVER] = shared / ALONE


@pytest.fixture
def alone() -> None:
    """Nobody else uses the cluster: `bench run` stops every orchestrator but its own.

    Tests with this are the first on the cluster (see `tests/conftest.py`); the suites that run side by side wait.
    """


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if needs_all(item) and not (nextitem and needs_all(nextitem)):
        item.config.stash[_OVER].touch()


@pytest.fixture
def promoting(shared: Path) -> Iterator[None]:
    """Nobody else promotes meanwhile."""
    with one_at_a_time(shared / f"promotion-{Target.KIND}"):
        yield
