"""What is asked of Airflow alone, on each of its targets."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from adapters.airflow.adapter import native
from adapters.airflow.lineage import known
from adapters.airflow.openlineage import OPENLINEAGE, events_of
from adapters.base import Status, Target
from adapters.lineage import QUESTIONS
from bench import lineage
from core.codedigest import code_digest
from tests.conformance.suite import Bench, fault
from tests.unit.test_core_lineage import validate

PROVIDER = "apache-airflow-providers-openlineage"


class Deployed:
    """One deployment for the tests of a class."""

    target: ClassVar[Target]
    configuration: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls) -> Iterator[Bench]:
        bench = Bench("airflow", cls.target, cls.configuration)
        bench.runtime.deploy(cls.configuration)
        yield bench
        if cls.target is Target.LOCAL:
            bench.runtime.undeploy()
        else:
            bench.runtime.scale(False)


class OpenLineage(Deployed):
    """The configuration in which Airflow's own provider emits OpenLineage events."""

    configuration = OPENLINEAGE

    def test_a_run_can_be_told_from_its_events(self, bench: Bench) -> None:
        """All thirteen questions but for the code; the events are valid, and name one producer: Airflow."""
        ran = bench.run("pipeline", fault=fault("train", "exception", 1))
        assert ran.outcome.status is Status.SUCCEEDED, ran.outcome.reason
        driver: Any = bench.driver
        found = known(driver, ran.handle)
        assert [each["job"]["name"] for each in found.openlineage if each["eventType"] == "FAIL"] == [
            "recommender.train"
        ]
        for each in events_of(driver.airflow.lineage_events(), *native(ran.handle)):
            assert validate(each) >= 4
            facets = [*each["run"]["facets"].values(), *each["job"]["facets"].values()]
            assert {facet["_producer"] for facet in facets} == {each["producer"]}
            assert "/providers-openlineage/" in each["producer"]
        truth = lineage.truth(ran.ledger, ran.handle, code_digest())
        forget = bench.scene.forget
        answers = lineage.asked(
            lambda: known(driver, ran.handle), lambda: forget(ran.handle.run_id), bench.scene.told, truth
        )
        verdicts = {each.question: each.verdict for each in answers}
        assert verdicts == {each: "absent" if each == "code" else "answered" for each in QUESTIONS}

    def test_another_configuration_does_without_the_provider(self, bench: Bench) -> None:
        airflow: Any = bench.runtime

        def has_provider() -> bool:
            installed = airflow.api.all("/providers", "providers")
            return PROVIDER in {each["package_name"] for each in installed}

        assert has_provider()
        airflow.deploy("tuned")
        try:
            assert not has_provider()
            assert not airflow.lineage_events()
        finally:
            airflow.deploy(self.configuration)
