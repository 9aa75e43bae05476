"""Dagster on this machine."""

from collections import Counter
from typing import ClassVar

import pytest

from adapters.base import BenchError, Gap, Status, Target
from adapters.dagster.adapter import DagsterDriver
from adapters.dagster.runtime import RUN_RETRIES
from adapters.workloads import PIPELINE
from core.data import load
from tests.conformance.dagster_metadata import DagsterMetadata
from tests.conformance.suite import Bench, Deployed, LocalConformance, did_its_work, fault

NO_APPROVAL = Gap(
    "approval_waits",
    "never",
    "a run does not wait for a person: in 1.13.27 nothing writes the one status of a waiting run, SUSPENDED "
    "(https://github.com/dagster-io/dagster/blob/1.13.27/python_modules/dagster/dagster/_core/storage/dagster_run.py"
    "#L73-L77), and it is asked for since 2022 (https://github.com/dagster-io/dagster/issues/8067)",
)

DAYS = ("2025-01-30", "2025-01-31")


class TestDagsterLocal(LocalConformance):
    adapter: ClassVar[str] = "dagster"
    gaps: ClassVar[tuple[Gap, ...]] = (NO_APPROVAL,)


class Backfills(Deployed):
    """What only Dagster of the five is asked: partitions, and the runs that a backfill makes of them."""

    adapter: ClassVar[str] = "dagster"

    def test_a_backfill_is_a_run_of_each_partition(self, bench: Bench) -> None:
        """Each with its own ledger and its own day's ratings; Dagster's own word for the backfill is read."""
        assert isinstance(bench.driver, DagsterDriver)
        request = bench.request("pipeline", k=7)
        backfill = bench.driver.backfill(request, DAYS, 300)
        assert [handle.run_id for handle in backfill.runs] == [f"{request.run_id}-{day}" for day in DAYS]
        for handle in backfill.runs:
            bench.known(request.model_copy(update={"run_id": handle.run_id}))
        ran = [bench.finish(handle) for handle in backfill.runs]
        for day, each in zip(DAYS, ran, strict=True):
            assert each.outcome.status is Status.SUCCEEDED, each.outcome.reason
            starts = each.events("start")
            assert [event["step"] for event in starts] == [*PIPELINE[:5]]
            assert [attempt.step for attempt in each.timeline.attempts] == [*PIPELINE[:5]]
            seed = int(day.replace("-", ""))
            assert {(e["data"]["config"]["seed"], e["data"]["config"]["k"]) for e in starts} == {(seed, 7)}
            dataset = load("bookstore://generated", seed=seed, n_books=200)
            assert each.outputs("ingest")["dataset_sha256"] == dataset.sha256
        assert len({each.outputs("train")["model_sha256"] for each in ran}) == len(DAYS)
        assert len({each.outputs("register")["model_version"] for each in ran}) == len(DAYS)
        assert bench.scene.ledger(request.run_id) == []
        assert bench.driver.backfilled(backfill, 120) == "COMPLETED_SUCCESS"

    def test_a_backfill_is_cancelled(self, bench: Bench) -> None:
        assert isinstance(bench.driver, DagsterDriver)
        request = bench.request("pipeline", train_seconds=600)
        backfill = bench.driver.backfill(request, DAYS, 300)
        assert bench.driver.cancel(request.run_id)
        assert not bench.driver.cancel(request.run_id)
        assert bench.driver.backfilled(backfill, 120) == "CANCELED"
        ledgers = [bench.scene.ledger(handle.run_id) for handle in backfill.runs]
        assert "train" not in {e["step"] for ledger in ledgers for e in ledger if e["event"] == "finish"}

    def test_a_day_that_there_is_not_is_refused(self, bench: Bench) -> None:
        assert isinstance(bench.driver, DagsterDriver)
        with pytest.raises(BenchError, match="2024-12-31"):
            bench.driver.backfill(bench.request("pipeline"), ["2024-12-31"], 60)


class TestDagsterRunRetries(Deployed):
    """The configuration whose steps die with their run; what it shares with the others is asked above."""

    adapter: ClassVar[str] = "dagster"
    target: ClassVar[Target] = Target.LOCAL
    configuration: ClassVar[str] = RUN_RETRIES

    def test_a_killed_run_is_run_again_from_where_it_was(self, bench: Bench) -> None:
        ran = bench.run("pipeline", fault=fault("register", "exit137", 1))
        did_its_work(ran, "dagster", Target.LOCAL)
        assert Counter(e["step"] for e in ran.events("start")) == Counter([*PIPELINE, "register"])
        assert bench.driver.cancel(ran.handle.run_id)
        assert not bench.driver.cancel(ran.handle.run_id)

    def test_a_step_that_raises_is_left_to_its_own_retries(self, bench: Bench) -> None:
        ran = bench.run("chain", steps=1, fault=fault("probe", "exception", 1, 2, 3))
        assert ran.outcome.status is Status.FAILED
        assert [e["attempt"] for e in ran.events("start")] == [1, 2, 3]

    def test_as_shipped_a_killed_run_stays_failed(self, bench: Bench) -> None:
        request = bench.request("chain", steps=1, fault=fault("probe", "exit137", 1))
        handle = bench.start(bench.known(request.model_copy(update={"retries_as_shipped": True})))
        ran = bench.finish(handle)
        assert ran.outcome.status is Status.FAILED
        assert [e["attempt"] for e in ran.events("start")] == [1]


class TestDagsterMetadataLocal(DagsterMetadata):
    target: ClassVar[Target] = Target.LOCAL


class TestDagsterBackfill(Backfills):
    target: ClassVar[Target] = Target.LOCAL
