"""Where things are, from the environment; defaults keep everything under one state folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Addresses of ledger, registry, serving and artifact store, and who this process is."""

    ledger_uri: str
    tracking_uri: str
    serving_uri: str
    artifact_root: str
    token: str = field(repr=False)
    pod_name: str
    pod_uid: str
    node: str
    image_digest: str

    @classmethod
    def from_environment(cls) -> Settings:
        """As the variables say; without them, files under $BENCH_HOME (default `.bench`)."""
        home = Path(os.environ.get("BENCH_HOME", ".bench")).absolute()
        return cls(
            ledger_uri=os.environ.get("BENCH_LEDGER_URI") or (home / "ledger.jsonl").as_uri(),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
            serving_uri=os.environ.get("BENCH_SERVING_URI") or "http://127.0.0.1:8080",
            artifact_root=os.environ.get("BENCH_ARTIFACT_ROOT") or str(home / "artifacts"),
            token=os.environ.get("BENCH_TOKEN", ""),
            pod_name=os.environ.get("POD_NAME", ""),
            pod_uid=os.environ.get("POD_UID", ""),
            node=os.environ.get("NODE_NAME", ""),
            image_digest=os.environ.get("IMAGE_DIGEST", ""),
        )
