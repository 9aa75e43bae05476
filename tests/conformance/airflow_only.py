"""What is asked of Airflow alone, on each of its targets."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from adapters.airflow.adapter import native
from adapters.airflow.dags import run_of
from adapters.airflow.lineage import known
from adapters.airflow.openlineage import OPENLINEAGE, events_of
from adapters.base import BenchError, RunHandle, Status
from adapters.lineage import QUESTIONS
from bench.lineage import questions
from core.codedigest import code_digest
from tests.conformance.suite import Bench, Deployed, did_its_work, fault
from tests.unit.test_core_lineage import validate

PROVIDER = "apache-airflow-providers-openlineage"


class Backfill(Deployed):
    """Runs of past days, which Airflow's scheduler makes of one request."""

    adapter = "airflow"
    configuration = "tuned"
    DAG = "daily"

    def test_two_past_days_are_a_run_each(self, bench: Bench) -> None:
        airflow: Any = bench.runtime
        now = datetime.now(UTC)
        hour = (now.hour + 12) % 24  # half a day off: a tick just past is run as soon as the DAG is there
        airflow.add_dag(self.DAG, f"probe_chain(1, dag_id='{self.DAG}', schedule='0 {hour} * * *')")
        last = datetime.combine(now, time(hour), UTC) - timedelta(days=2)
        days = [last - timedelta(days=1), last]
        try:
            self.backfill(bench, airflow, days)
        finally:
            for run in airflow.api.get(f"/dags/{self.DAG}/dagRuns")["dag_runs"]:
                airflow.remove_run(self.DAG, run["dag_run_id"])
            assert airflow.remove_dag(self.DAG)

    def backfill(self, bench: Bench, airflow: Any, days: list[datetime]) -> None:
        first, last = (day.isoformat() for day in days)
        request = {"dag_id": self.DAG, "from_date": first, "to_date": last, "dag_run_conf": {"fibo": 12}}
        with pytest.raises(BenchError, match="422"):  # it has no schedule
            airflow.api.find("POST", "/backfills", json={**request, "dag_id": "recommender"})
        airflow.api.find("POST", "/backfills", json=request)
        runs = airflow.api.get(f"/dags/{self.DAG}/dagRuns", order_by="logical_date")["dag_runs"]
        assert {run["run_type"] for run in runs} == {"backfill"}
        assert [datetime.fromisoformat(run["logical_date"]) for run in runs] == days
        for run in runs:
            ours = run_of(self.DAG, run["dag_run_id"])
            native_id = f"{self.DAG}/{run['dag_run_id']}"
            handle = RunHandle(run_id=ours, native_id=native_id, submit_ns=0, accepted_ns=0)
            plain = bench.request("chain", steps=1, fibo=12)
            bench.known(plain.model_copy(update={"run_id": ours}))
            ran = bench.finish(handle)
            did_its_work(ran, "airflow", self.target)
            assert ran.outputs("probe")["value"] == "144"


class OpenLineage(Deployed):
    """The configuration in which Airflow's own provider emits OpenLineage events."""

    adapter = "airflow"
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
        truth = questions.truth(ran.ledger, ran.handle, code_digest())
        forget = bench.scene.forget
        answers = questions.asked(
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
