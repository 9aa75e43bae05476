"""What the configuration `assets` of Prefect must leave in the server's events, on any target."""

from adapters.prefect.lineage import MATERIALIZED, known
from adapters.prefect.variants import KEYS
from tests.conformance.suite import Bench, Deployed, did_its_work, fault


class PrefectAssets(Deployed):
    """Steps that are materializations of assets; what they share with other steps is asked by the suite."""

    adapter = "prefect"
    configuration = "assets"

    def test_each_asset_has_its_event(self, bench: Bench) -> None:
        ran = bench.run("pipeline", fault=fault("train", "exception", 1))
        did_its_work(ran, "prefect", self.target)
        found = known(bench.driver, ran.handle)
        events = bench.runtime.api().events([MATERIALIZED], [f"prefect.flow-run.{ran.handle.native_id}"])
        assert [each["resource"]["prefect.resource.id"] for each in events] == list(KEYS.values())
        for step, event in zip(KEYS, events, strict=True):
            said = {name: bench.scene.told(str(value)) for name, value in event["payload"].items()}
            assert said.items() >= ran.outputs(step).items(), (said, ran.outputs(step))
        model, metrics = events[2], events[3]
        assert model["payload"]["model_sha256"] == ran.outputs("promote")["served_sha256"]
        assert model["payload"]["parameters"]["k"] == 5
        assert {
            each["prefect.resource.id"]
            for each in metrics["related"]
            if each["prefect.resource.role"] == "asset"
        } == {KEYS["preprocess"], KEYS["train"]}
        assert model["payload"]["model_sha256"] in bench.driver.logs(ran.handle, "train")
        failed, trained = (each for each in found.attempts if each.step == "train")
        assert (failed.succeeded, failed.outputs) == (False, {})
        assert bench.scene.told(trained.inputs["train_uri"]) == ran.outputs("preprocess")["train_uri"]
