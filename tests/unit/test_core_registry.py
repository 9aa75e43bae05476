"""What MLflow's own store does not promise: writers that meet."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from core.errors import RegistryError
from core.registry import CHAMPION, MlflowRegistry, Registration

NAME = "books"
WRITERS, ROUNDS = 4, 12


@pytest.fixture
def registry(tmp_path: Path) -> MlflowRegistry:
    registry = MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db")
    registry.register(Registration(NAME, "file:///m", "0" * 64, "r1", None, "token", {}, {}, {}))
    return registry


def test_writers_of_the_same_promotion_do_not_fail_each_other(registry: MlflowRegistry) -> None:
    ready = Barrier(WRITERS)

    def write(_: int) -> None:
        for number in range(ROUNDS):
            ready.wait(30)
            registry.set_tags(NAME, "1", {f"finished-{number}": "yes"})
            registry.set_champion(NAME, "1")
            ready.wait(30)
            registry._client.delete_registered_model_alias(NAME, CHAMPION)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    assert {f"finished-{number}" for number in range(ROUNDS)} <= set(registry.get(NAME, "1").tags)


def test_a_conflict_that_stays_is_an_error_and_others_are_not_repeated(
    registry: MlflowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(tries: list[str], words: str) -> Callable[..., None]:
        def call(*_: str) -> None:
            tries.append(words)
            raise RuntimeError(words)

        return call

    for words, expected in (("(x) UNIQUE constraint failed: tags", 5), ("no such table: tags", 1)):
        tries: list[str] = []
        monkeypatch.setattr(registry._client, "set_model_version_tag", fails(tries, words))
        with pytest.raises(RegistryError, match=words.rsplit(":", 1)[0].replace("(x) ", "")):
            registry.set_tags(NAME, "1", {"a": "b"})
        assert len(tries) == expected
