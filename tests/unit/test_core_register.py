"""Registering a model that lies where only the steps can read it."""

from pathlib import Path

from core import artifacts
from core.entry import run_step
from core.registry import open_registry
from core.settings import Settings


def _settings(folder: Path, root: str) -> Settings:
    return Settings(
        ledger_uri=(folder / "ledger.jsonl").as_uri(),
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        serving_uri="http://127.0.0.1:1",
        artifact_root=root,
        token="",
        pod_name="",
        pod_uid="",
        node="",
        image_digest="",
    )


def test_a_model_on_a_volume_is_registered_from_the_artifact_store(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"a model")
    settings = _settings(tmp_path, "memory://artifacts/runs")
    done = run_step(
        "register",
        run_id="r1",
        config={},
        inputs={"model": str(tmp_path / "model.joblib"), "score": "0.5", "passed": "true"},
        output_dir=str(tmp_path / "out"),
        settings=settings,
    )
    version = open_registry("mlflow", settings.tracking_uri).get("recommender", done.outputs["model_version"])
    assert version.uri == "memory://artifacts/runs/r1/register/model.joblib"
    assert artifacts.read(version.uri, sha256=version.sha256) == b"a model"


def test_a_model_in_the_artifact_store_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"a model")
    settings = _settings(tmp_path, str(tmp_path / "artifacts"))
    done = run_step(
        "register",
        run_id="r1",
        config={},
        inputs={"model": str(tmp_path / "model.joblib"), "score": "0.5", "passed": "true"},
        settings=settings,
    )
    version = open_registry("mlflow", settings.tracking_uri).get("recommender", done.outputs["model_version"])
    assert version.uri == (tmp_path / "model.joblib").as_uri()
