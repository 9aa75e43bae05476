"""The configuration: defaults, overrides, and refusals that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import PipelineConfig, load_config
from core.errors import BadInput


def test_every_field_has_a_default() -> None:
    config = load_config("{}")
    assert config == PipelineConfig()
    assert (config.seed, config.n_books, config.k, config.min_score_gate) == (42, 200, 5, 0.05)


def test_json_text_and_a_file_say_the_same(tmp_path: Path) -> None:
    text = '{"seed": 7, "fault": {"step": "train", "kind": "exit137"}}'
    path = tmp_path / "config.json"
    path.write_text(text)
    assert load_config(text) == load_config(str(path))


def test_overrides_win_and_texts_stay_texts() -> None:
    config = load_config('{"seed": 1}', ["seed=9", "dataset_uri=123", "train_seconds=0.5"])
    assert (config.seed, config.dataset_uri, config.train_seconds) == (9, "123", 0.5)


@pytest.mark.parametrize(
    ("source", "overrides", "named"),
    [
        ('{"seeds": 1}', [], "seeds"),
        ('{"k": 0}', [], "k:"),
        ("[1]", [], "not a JSON object"),
        ("{", [], "not JSON"),
        ("/no/such/file.json", [], "No such file"),
        ("{}", ["seed"], "KEY=VALUE"),
        ('{"fault": {"step": "train", "kind": "kill-between-writes"}}', [], "two writes"),
        ('{"fault": {"step": "trian", "kind": "hang"}}', [], "fault.step"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(source: str, overrides: list[str], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        load_config(source, overrides)


def test_it_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PipelineConfig().seed = 1  # type: ignore[misc]
