"""What a step is given: its configuration, its inputs, a place for its outputs, and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core import artifacts
from core.artifacts import Artifact
from core.config import PipelineConfig
from core.errors import BadInput
from core.settings import Settings

if TYPE_CHECKING:
    from core.registry import ModelVersion, Registry


@dataclass
class StepContext:
    """One attempt of one step.

    `announce(name, target, details)` puts a side effect into the ledger before it happens; `between_writes`
    is called between the two writes of promote and rollback (a fault may strike there). `read` and
    `written` collect, for the lineage record, what the step used and made; `metrics` what it measured.
    """

    run_id: str
    step: str
    index: int | None
    attempt: int
    attempt_token: str
    config: PipelineConfig
    inputs: Mapping[str, str]
    output_dir: str
    publish_uri: str
    settings: Settings
    announce: Callable[[str, str, Mapping[str, str]], None]
    between_writes: Callable[[], None]
    read: dict[str, Artifact] = field(default_factory=dict)
    written: dict[str, Artifact] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)

    def effect(self, name: str, target: str, **details: str) -> None:
        """Announce a side effect. Raises LedgerError: then it must not happen."""
        self.announce(name, target, details)

    def scalar(self, name: str, default: str | None = None) -> str:
        """A plain input. Raises BadInput if it was not given and has no default."""
        value = self.inputs.get(name, default)
        if value is None or (value == "" and default is None):
            raise BadInput(
                f"step {self.step} needs --input {name}=VALUE",
                next_step=f"step {self.step} --help shows an example",
            )
        return value

    def load(self, name: str) -> bytes:
        """The content of an artifact input: `name` or `name_uri`, checked against `name_sha256` if given.

        Raises:
            BadInput: if it was not given or does not exist.
            StoreError: if it cannot be read or has another digest.
        """
        place = self.inputs.get(name) or self.scalar(f"{name}_uri")
        content = artifacts.read(place, sha256=self.inputs.get(f"{name}_sha256"))
        durable = self.inputs.get(f"{name}_uri") or artifacts.as_uri(place)
        self.note(name, Artifact(durable, artifacts.sha256_of(content), len(content), place))
        return content

    def read_place(self, name: str) -> str:
        """Where an artifact input was read from, for messages."""
        return self.read[name].path

    def note(self, name: str, artifact: Artifact) -> None:
        """Count a file as read by this attempt."""
        self.read[name] = artifact

    def has(self, name: str) -> bool:
        """Whether an artifact input was given."""
        return bool(self.inputs.get(name) or self.inputs.get(f"{name}_uri"))

    def save(self, name: str, file_name: str, content: bytes) -> Artifact:
        """Write an output file. Raises StoreError."""
        place = artifacts.join(self.output_dir, file_name)
        artifacts.write(place, content)
        durable = artifacts.as_uri(artifacts.join(self.publish_uri or self.output_dir, file_name))
        made = Artifact(durable, artifacts.sha256_of(content), len(content), place)
        self.written[name] = made
        return made

    def reads_version(self, model: ModelVersion) -> None:
        """Count a registered version as read by this attempt."""
        uri = f"models:/{model.name}/{model.version}"
        self.note("model_version", Artifact(uri, model.sha256, 0, model.uri))

    def made(self, name: str, uri: str, sha256: str) -> None:
        """Count something that is no file (a registered version, what is served) as made by this attempt."""
        self.written[name] = Artifact(uri, sha256, 0, uri)

    @property
    def checkpoint_dir(self) -> str:
        """One place per run, step and index: attempts share it."""
        return artifacts.join(
            self.settings.artifact_root, self.run_id, step_folder(self.step, self.index), "checkpoints"
        )

    def registry(self) -> Registry:
        """The registry the configuration names. Raises RegistryError."""
        from core.registry import open_registry

        return open_registry(self.config.registry, self.settings.tracking_uri)


def step_folder(step: str, index: int | None) -> str:
    """`train`, or `train-3` for index 3."""
    return step if index is None else f"{step}-{index}"
