"""The pipeline's parameters: one frozen object, the same under every orchestrator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import BadInput

GENERATED = "bookstore://generated"
StepName = Literal[
    "ingest",
    "preprocess",
    "train",
    "eval",
    "register",
    "promote",
    "monitor",
    "rollback",
    "select",
    "probe",
    "outcome",
]
STEPS: tuple[str, ...] = get_args(StepName)
FaultKind = Literal[
    "exception", "exit1", "exit137", "sigkill", "oom", "hang", "ignore-sigterm", "kill-between-writes"
]


class Fault(BaseModel):
    """A failure to cause on purpose, in one step, on the attempts named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: StepName
    kind: FaultKind
    on_attempts: tuple[int, ...] = (1,)
    """Attempts (1-based, as the ledger counts them) on which it happens."""

    @model_validator(mode="after")
    def _two_writes(self) -> Fault:
        if self.kind == "kill-between-writes" and self.step not in ("promote", "rollback"):
            raise ValueError("kill-between-writes needs a step with two writes: promote or rollback")
        return self


class PipelineConfig(BaseModel):
    """Parameters of one run. Every field has a default; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_uri: str = GENERATED
    """`bookstore://generated`, or any fsspec URI of a .csv or .parquet ratings file."""
    seed: int = Field(default=42, ge=0, le=2**63 - 1)
    """Drives the generator and the train/held-out split."""
    n_books: int = Field(default=200, ge=2, le=1_000_000)
    """Items the generator makes."""
    k: int = Field(default=5, ge=1, le=1000)
    """Neighbours kept per item, and the length of the list that eval scores."""
    min_score_gate: float = Field(default=0.05, ge=0.0, le=1.0)
    """eval passes when `score` is at least this."""
    train_seconds: float = Field(default=0.0, ge=0.0, le=86_400.0)
    """train works at least this long (seconds)."""
    model_name: str = Field(default="recommender", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    promote_order: Literal["safe", "naive"] = "safe"
    registry: Literal["mlflow", "configmap-proxy"] = "mlflow"
    """configmap-proxy is the labelled stand-in for a registry: one ConfigMap."""
    drift_threshold: float = Field(default=0.25, ge=0.0)
    """Population stability index above which monitor says `drifted`."""
    fibo: int = Field(default=10, ge=0, le=45)
    """probe computes this Fibonacci number recursively."""
    sleep_seconds: float = Field(default=0.0, ge=0.0, le=86_400.0)
    """probe sleeps this long instead, if above 0 (seconds)."""
    fault: Fault | None = None


def load_config(source: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration given as JSON text or as the path of a JSON file, with `KEY=VALUE` overrides.

    A VALUE is read as JSON if it is JSON, as text otherwise.

    Raises:
        BadInput: naming the field, the value and what was expected.
    """
    fields = _json_object(source)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise BadInput(f"--set {override!r} is not KEY=VALUE", next_step="--set seed=7")
        fields[key] = _json_or_text(value)
        if key in ("dataset_uri", "model_name"):
            fields[key] = value
    return make_config(fields)


def make_config(fields: Mapping[str, object]) -> PipelineConfig:
    """The configuration with these fields.

    Raises:
        BadInput: naming the field, the value and what was expected.
    """
    try:
        return PipelineConfig.model_validate(dict(fields))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'config'}: {item['msg']} (got {item['input']!r})"
            for item in error.errors()
        )
        raise BadInput(f"configuration: {problems}", next_step="step --help lists the fields") from error


def _json_object(source: str) -> dict[str, object]:
    text = source.strip()
    where = "--config"
    if text and not text.startswith(("{", "[")):
        where = f"--config {source}"
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise BadInput(
                f"{where}: {reason}", next_step="give JSON text or the path of a JSON file"
            ) from error
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise BadInput(f"{where}: not JSON: {error}", next_step="""--config '{"seed": 42}'""") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{where}: not a JSON object", next_step="""--config '{"seed": 42}'""")
    return fields


def _json_or_text(value: str) -> object:
    try:
        parsed: object = json.loads(value)
    except ValueError:
        return value
    return parsed
