"""Promotion: two writes, killed in between; real registry file, real serving process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from core import artifacts, promotion, recommender
from core.entry import run_step
from core.errors import BenchError
from core.promotion import Serving
from core.registry import TAG_INTENT, MlflowRegistry, ModelVersion, Registration
from core.train import Checkpoints, train
from tests.unit.conftest import TOKEN, Home, Server, outputs_of, wait_for
from tests.unit.test_core_recommender import prepared

Serve = Callable[..., Server]
KILL = {"fault": {"step": "promote", "kind": "kill-between-writes"}}
NAME = "recommender"


@dataclass(frozen=True)
class Shop:
    """A registry with version 1 promoted, and a service."""

    home: Home
    registry: MlflowRegistry

    def register(self, run_id: str, *, seed: int) -> ModelVersion:
        """Train a small model and register it as run `run_id`."""
        model, _ = train(prepared(seed, 24), k=3, seed=seed, checkpoints=Checkpoints("/nonexistent", ""))
        path = self.home.path / f"{run_id}.joblib"
        content = recommender.to_joblib(model)
        path.write_bytes(content)
        return self.registry.register(
            Registration(
                NAME, path.as_uri(), artifacts.sha256_of(content), run_id, None, "token", {"seed": str(seed)},
                {"score": 0.5}, {"bench.passed": "true", "bench.score": "0.5"},
            )
        )  # fmt: skip

    def served(self, server: Server) -> str:
        """The version served, or nothing."""
        return str(server.get("/model").json().get("version", ""))

    def champion(self) -> str:
        """The version the alias names."""
        champion = self.registry.champion(NAME)
        return champion.version if champion else ""

    def promote(
        self,
        server: Server,
        run_id: str,
        config: Mapping[str, object] | None = None,
        step: str = "promote",
        **inputs: str,
    ) -> tuple[int, str]:
        """Run the step: as a process if it may be killed, else in this one. Returns exit code and error."""
        if config and "fault" in config:
            call = (step, "--run-id", run_id, "--config", json.dumps(config))
            done = self.home.step(*call, BENCH_SERVING_URI=server.url)
            return done.returncode, done.stderr
        settings = replace(self.home.settings, serving_uri=server.url)
        try:
            run_step(step, run_id=run_id, config=config or {}, inputs=inputs, settings=settings)
        except BenchError as error:
            return error.exit_code, str(error)
        return 0, ""


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: the migration takes seconds."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowRegistry(f"sqlite:///{path}")
    return path


@pytest.fixture
def shop(home: Home, empty_registry: Path) -> Shop:
    (home.path / "mlflow.db").write_bytes(empty_registry.read_bytes())
    return Shop(home, MlflowRegistry(home.env["MLFLOW_TRACKING_URI"]))


@pytest.fixture
def server(serve: Serve, shop: Shop) -> Server:
    return ready(serve("core.serving"))


def ready(server: Server) -> Server:
    """Once it has looked at the registry."""
    wait_for(lambda: server.get("/healthz").status_code == 200, "serving to be ready")
    return server


def test_before_any_promotion_it_serves_nothing_and_says_so(server: Server) -> None:
    answer = server.get("/model")
    assert answer.status_code == 404
    assert "error" in answer.json()
    assert server.get("/recommend?item=a").status_code == 404


def test_a_promotion_is_served_and_on_record(shop: Shop, server: Server) -> None:
    version = shop.register("r1", seed=1)
    assert shop.promote(server, "r1") == (0, "")
    body = server.get("/model").json()
    assert (body["version"], body["sha256"], body["run_id"]) == ("1", version.sha256, "r1")
    tags = shop.registry.get(NAME, "1").tags
    assert shop.champion() == "1"
    assert tags["bench.promoted"] == "true"
    assert tags["bench.promoted_by"] == "promote of run r1"
    assert tags["bench.evidence_score"] == "0.5"
    assert tags["bench.promoted_at"] > "2020"
    assert TAG_INTENT not in tags
    names = [event["data"]["effect"] for event in shop.home.events("effect")]
    assert names == ["registry.intent", "serving.swap", "registry.champion"]


def test_a_failed_gate_changes_nothing_and_is_no_error(shop: Shop, server: Server) -> None:
    shop.register("r1", seed=1)
    done = shop.home.step(
        "promote", "--run-id", "r1", "--input", "passed=false", BENCH_SERVING_URI=server.url
    )
    assert outputs_of(done) == {"promoted": "false", "served_sha256": ""}
    assert shop.champion() == ""


def test_naive_killed_between_its_writes_leaves_registry_and_serving_in_disagreement(
    shop: Shop, serve: Serve
) -> None:
    server = ready(serve("core.serving", "--reconcile-seconds", "0.1"))
    shop.register("r1", seed=1)
    assert shop.promote(server, "r1", {"promote_order": "naive"}) == (0, "")
    shop.register("r2", seed=2)
    code, _ = shop.promote(server, "r2", {"promote_order": "naive", **KILL})
    assert code == -9
    assert (shop.champion(), shop.served(server)) == ("2", "1")
    monitor = Serving(server.url, TOKEN).served()
    assert monitor.version == "1", "nothing brings naive together again by itself"


def test_safe_killed_between_its_writes_is_healed_by_a_retry(shop: Shop, server: Server) -> None:
    shop.register("r1", seed=1)
    assert shop.promote(server, "r1") == (0, "")
    shop.register("r2", seed=2)
    assert shop.promote(server, "r2", KILL)[0] == -9
    assert (shop.champion(), shop.served(server)) == ("1", "1"), "half done, yet both agree"
    assert TAG_INTENT in shop.registry.get(NAME, "2").tags
    assert shop.promote(server, "r2", KILL)[0] == 0  # attempt 2: the fault is for attempt 1
    assert (shop.champion(), shop.served(server)) == ("2", "2")
    tags = shop.registry.get(NAME, "2").tags
    assert TAG_INTENT not in tags
    assert tags["bench.previous_version"] == "1"


def test_safe_killed_between_its_writes_is_healed_by_serving_alone(shop: Shop, serve: Serve) -> None:
    server = ready(serve("core.serving", "--reconcile-seconds", "0.1"))
    shop.register("r1", seed=1)
    assert shop.promote(server, "r1", KILL)[0] == -9
    wait_for(lambda: shop.champion() == "1", "the reconcile loop")
    assert shop.served(server) == "1"
    wait_for(lambda: TAG_INTENT not in shop.registry.get(NAME, "1").tags, "the intent to be cleared")
    assert shop.registry.get(NAME, "1").tags["bench.promoted_by"] == "promote of run r1"


def test_a_restarted_service_loads_the_champion_with_a_higher_generation(shop: Shop, serve: Serve) -> None:
    first = ready(serve("core.serving"))
    shop.register("r1", seed=1)
    shop.promote(first, "r1")
    before = first.get("/model").json()
    first.process.kill()
    first.process.wait()
    after = ready(serve("core.serving")).get("/model").json()
    assert after["sha256"] == before["sha256"]
    assert after["generation"] >= before["generation"]


def test_repeating_a_finished_promotion_has_no_second_effect(shop: Shop, server: Server) -> None:
    shop.register("r1", seed=1)
    shop.promote(server, "r1")
    generation = server.get("/model").json()["generation"]
    effects = len(shop.home.events("effect"))
    assert shop.promote(server, "r1") == (0, "")
    assert server.get("/model").json()["generation"] == generation
    assert len(shop.home.events("effect")) == effects


def test_a_late_retry_does_not_undo_a_newer_promotion(shop: Shop, server: Server) -> None:
    shop.register("r1", seed=1)
    assert shop.promote(server, "r1", KILL)[0] == -9
    shop.register("r2", seed=2)
    assert shop.promote(server, "r2") == (0, "")
    assert shop.promote(server, "r1") == (0, "")
    assert (shop.champion(), shop.served(server)) == ("2", "2")
    assert TAG_INTENT not in shop.registry.get(NAME, "1").tags


def test_rollback_goes_to_the_previous_version_and_is_recorded(shop: Shop, server: Server) -> None:
    for number in (1, 2):
        shop.register(f"r{number}", seed=number)
        assert shop.promote(server, f"r{number}") == (0, "")
    code, errors = shop.promote(server, "undo", None, "rollback")
    assert code == 0, errors
    assert (shop.champion(), shop.served(server)) == ("1", "1")
    tags = shop.registry.get(NAME, "1").tags
    assert (tags["bench.promoted_as"], tags["bench.previous_version"]) == ("rollback", "2")
    assert tags["bench.promoted_by"] == "rollback of run undo"
    outputs = [
        event["data"]["outputs"] for event in shop.home.events("finish") if event["step"] == "rollback"
    ]
    assert outputs[0]["model_version"] == "1"


def test_rollback_killed_between_its_writes_is_finished_by_its_retry(shop: Shop, server: Server) -> None:
    for number in (1, 2):
        shop.register(f"r{number}", seed=number)
        assert shop.promote(server, f"r{number}") == (0, "")
    config = {"fault": {"step": "rollback", "kind": "kill-between-writes"}}
    assert shop.promote(server, "undo", config, "rollback")[0] == -9
    assert shop.promote(server, "undo", config, "rollback") == (0, "")
    assert (shop.champion(), shop.served(server)) == ("1", "1")


def test_rollback_finished_by_serving_is_not_repeated_by_its_retry(shop: Shop, serve: Serve) -> None:
    server = ready(serve("core.serving", "--reconcile-seconds", "0.1"))
    for number in (1, 2):
        shop.register(f"r{number}", seed=number)
        assert shop.promote(server, f"r{number}") == (0, "")
    config = {"fault": {"step": "rollback", "kind": "kill-between-writes"}}
    assert shop.promote(server, "undo", config, "rollback")[0] == -9
    wait_for(lambda: shop.champion() == "1", "the reconcile loop")
    wait_for(lambda: TAG_INTENT not in shop.registry.get(NAME, "1").tags, "the intent to be cleared")
    assert shop.promote(server, "undo", None, "rollback") == (0, "")
    assert (shop.champion(), shop.served(server)) == ("1", "1")


def test_rollback_to_a_version_never_promoted_is_refused(shop: Shop, server: Server) -> None:
    shop.register("r1", seed=1)
    shop.promote(server, "r1")
    shop.register("r2", seed=2)
    code, errors = shop.promote(server, "undo", None, "rollback", model_version="2")
    assert code == 1
    assert "never promoted" in errors
    assert shop.served(server) == "1"


def test_swaps_at_once_let_exactly_one_through(shop: Shop, server: Server) -> None:
    versions = [shop.register(f"r{number}", seed=number) for number in range(1, 5)]
    generation = Serving(server.url, TOKEN).served().generation

    def swap(version: ModelVersion) -> bool:
        return Serving(server.url, TOKEN).swap(version, generation=generation, key=version.version)

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(swap, versions))
    assert won.count(True) == 1
    assert shop.served(server) == versions[won.index(True)].version


def test_an_idempotency_key_gets_the_first_answer(shop: Shop, server: Server) -> None:
    version = shop.register("r1", seed=1)
    client = Serving(server.url, TOKEN)
    generation = client.served().generation
    assert client.swap(version, generation=generation, key="once")
    assert client.swap(version, generation=generation, key="once"), "a retry whose first answer was lost"
    assert client.served().generation == generation + 1


def test_serving_refuses_strangers_and_wrong_digests(shop: Shop, server: Server) -> None:
    version = shop.register("r1", seed=1)
    with pytest.raises(promotion.ServingError, match="401"):
        Serving(server.url, "wrong").swap(version, generation=0, key="k")
    client = Serving(server.url, TOKEN)
    forged = replace(version, sha256="0" * 64)
    with pytest.raises(promotion.ServingError, match="was promised"):
        client.swap(forged, generation=client.served().generation, key="k")
    body = {"name": NAME, "version": "1", "uri": version.uri, "sha256": version.sha256, "run_id": "r1"}
    headers = {"X-Bench-Token": TOKEN}
    blind = httpx.put(f"{server.url}/model", json=body, headers=headers, trust_env=False)
    assert blind.status_code == 428
    assert server.get("/model").status_code == 404


def test_it_recommends_from_the_model_served(shop: Shop, server: Server) -> None:
    shop.register("r1", seed=1)
    shop.promote(server, "r1")
    answer = server.get("/recommend?item=book-000001&n=2").json()
    assert len(answer["items"]) == 2
    assert answer["items"][0]["cosine"] >= answer["items"][1]["cosine"] > 0
    assert server.get("/recommend?item=nobody").status_code == 404
    assert server.get("/recommend?item=book-000001&n=x").status_code == 400


def test_registering_again_finds_the_own_version(shop: Shop) -> None:
    first = shop.register("r1", seed=1)
    assert shop.register("r1", seed=1).version == first.version
    assert shop.register("r2", seed=1).version != first.version


def test_an_unreachable_service_is_named_and_the_intent_stays(shop: Shop) -> None:
    shop.register("r1", seed=1)
    done = shop.home.step("promote", "--run-id", "r1")
    assert done.returncode == 1
    assert "http://127.0.0.1:9 is unreachable" in done.stderr
    assert "Traceback" not in done.stderr
    assert TAG_INTENT in shop.registry.get(NAME, "1").tags
