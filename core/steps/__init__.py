"""One module per step, each with `run(context) -> outputs`; imported only when that step runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from core.context import StepContext

StepFunction = Callable[[StepContext], dict[str, str]]


def load_step(name: str) -> StepFunction:
    """The function of a step, with everything it needs imported."""
    module = importlib.import_module(f"core.steps.{'evaluate' if name == 'eval' else name}")
    return cast(StepFunction, module.run)


def boolean(*, value: bool) -> str:
    """`true` or `false`, as orchestrators compare text."""
    return "true" if value else "false"
