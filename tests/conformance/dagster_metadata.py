"""What the configuration `metadata` of Dagster must leave in its event log, on any target."""

from adapters.base import Status
from adapters.dagster.lineage import known
from adapters.dagster.names import METADATA
from tests.conformance.suite import Bench, Deployed, did_its_work, fault


class DagsterMetadata(Deployed):
    """Assets that say what their steps left; what they share with other assets is asked by the suite."""

    adapter = "dagster"
    configuration = METADATA

    def test_each_materialization_says_what_its_step_left(self, bench: Bench) -> None:
        ran = bench.run("pipeline", fault=fault("train", "exception", 1))
        did_its_work(ran, "dagster", self.target)
        found = known(bench.driver, ran.handle)
        done = {each.step: each for each in found.attempts if each.succeeded}
        for step, each in done.items():
            told = {name: bench.scene.told(text) for name, text in each.outputs.items()}
            left = {name: text for name, text in ran.outputs(step).items() if text}
            assert told.items() >= left.items(), (step, told, left)
        assert done["promote"].outputs["served_sha256"] == ran.outputs("train")["model_sha256"]
        assert found.parameters["k"] == "5"
        failed, trained = (each for each in found.attempts if each.step == "train")
        assert (failed.succeeded, failed.outputs) == (False, {})
        assert bench.scene.told(trained.inputs["train_uri"]) == ran.outputs("preprocess")["train_uri"]
        assert (
            done["promote"].inputs.items()
            >= {
                "model_version": ran.outputs("register")["model_version"],
                "passed": "true",
            }.items()
        )

    def test_another_configuration_has_none(self, bench: Bench) -> None:
        request = bench.request("pipeline").model_copy(update={"configuration": "default"})
        ran = bench.finish(bench.start(bench.known(request)))
        assert ran.outcome.status is Status.SUCCEEDED, ran.outcome.reason
        said = {name for each in known(bench.driver, ran.handle).attempts for name in each.outputs}
        assert said == {"passed", "score"}
