"""What starts a run, and how long until its first step is at work: by API, schedule and data event."""

import time
from pathlib import Path

import pytest

from adapters.base import BenchError, RunHandle, RunRequest, Target
from adapters.noop import NoopAdapter, NoopDriver
from bench.analysis import starts
from bench.analysis.cells import cells
from bench.commands.run import Options, scenarios
from bench.measure import plan as planning
from bench.measure import triggers
from bench.measure.runner import Runner
from bench.report.brief import failing
from bench.report.contents import contents
from bench.report.export import as_csv
from bench.results.records import RunRecord
from bench.results.store import Store
from tests.unit.made_records import MadeRun, scenario
from tests.unit.test_cli import bench


class Starts(NoopDriver):
    """Has schedules and events, and remembers what it was told."""

    told: list[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.told = []

    def schedule(self, request: RunRequest) -> None:
        self.told.append(("schedule", request.run_id))

    def scheduled(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        assert request.due is not None and time.time() >= request.due
        handle = self.submit(request)
        due = request.due * 10**9
        return handle.model_copy(update={"submit_ns": due, "accepted_ns": due})

    def listen(self, request: RunRequest) -> None:
        self.told.append(("listen", request.run_id))

    def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
        self.told.append(("publish", request.run_id))
        return self.submit(request)

    def cancel(self, run_id: str) -> bool:
        self.told.append(("cancel", run_id))
        return True


def carried_out(folder: Path, driver: NoopDriver, trigger: str) -> list[RunRecord]:
    class Adapter(NoopAdapter):
        name = "noop"

        def driver(self, target: Target) -> NoopDriver:
            return driver

    of = scenario("noop", "chain", 1, target="local", trigger=trigger)
    with Store.locked(folder) as store:
        plan = planning.make([of], 1, 1)
        planning.save(folder, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["noop"] = Adapter()
        return list(runner.run(plan))


def test_a_scheduled_run_counts_from_the_minute_it_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "next_minute", lambda firings: int(time.time()) + 2)
    driver = Starts()
    (record,) = carried_out(tmp_path, driver, "schedule")
    assert record.status == "succeeded" and record.client is not None
    due = int(record.run_id.rpartition("-")[2])
    assert record.client.submit_ns == due * 10**9
    assert record.breakdown is not None and not record.breakdown.errors
    assert driver.told == [("schedule", record.run_id), ("cancel", record.run_id)]


def test_an_event_is_listened_for_before_it_is_sent(tmp_path: Path) -> None:
    driver = Starts()
    (record,) = carried_out(tmp_path, driver, "event")
    assert record.status == "succeeded" and record.breakdown is not None and not record.breakdown.errors
    assert [what for what, _ in driver.told] == ["listen", "publish", "cancel"]


def test_an_event_of_which_no_run_comes_is_a_void_sample_and_the_listener_is_taken_away(
    tmp_path: Path,
) -> None:
    class Deaf(Starts):
        def publish(self, request: RunRequest, deadline_seconds: float) -> RunHandle:
            raise BenchError("no run has come of the event")

    driver = Deaf()
    assert carried_out(tmp_path, driver, "event") == []
    (record,) = Store(tmp_path).records()
    assert record.status == "void" and "no run has come" in record.reason
    assert driver.told[-1] == ("cancel", record.run_id)
    assert planning.left_behind(tmp_path) == []


def test_an_orchestrator_without_the_trigger_is_unsupported(tmp_path: Path) -> None:
    (record,) = carried_out(tmp_path, NoopDriver(), "schedule")
    assert record.status == "unsupported" and "schedule" in record.reason


@pytest.mark.parametrize(("now", "due"), [(15.0, 60), (15.5, 120), (14.9, 60), (74.0, 120)])
def test_a_minute_that_is_a_moment_too_near_is_passed_over(
    now: float, due: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers.time, "time", lambda: now)
    assert triggers.next_minute(45) == due


def test_all_firings_are_in_one_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers.time, "time", lambda: 58 * 60.0)
    assert triggers.next_minute(45) == 59 * 60
    assert triggers.next_minute(45, firings=2) == 60 * 60


def test_a_schedule_has_no_pause_of_ours_and_an_event_a_long_one() -> None:
    pauses = [planning.longest_pause(scenario(trigger=t), 10.0) for t in ("api", "schedule", "event")]
    assert pauses == [10.0, 0.0, planning.EVENT_JITTER_SECONDS]


def test_old_records_keep_their_stored_form_and_new_cells_stay_apart() -> None:
    body = scenario().model_dump()
    assert "trigger" not in body and "retries" not in body
    assert scenario(trigger="event").key.endswith("/trigger=event")
    assert scenario(retries="shipped", fault="exception").key.endswith("/fault=exception/retries=shipped")
    made = [MadeRun(scenario(trigger=t)).record() for t in ("api", "schedule", "event")]
    found = contents(made)
    assert sum(len(t["rows"]) for t in found["tables"]) == 1, (
        "the comparison is of runs that the harness starts"
    )
    assert as_csv(made).splitlines()[2].count("schedule") >= 1


def test_rows_set_the_ways_to_start_beside_each_other() -> None:
    records = [
        MadeRun(scenario("argo", "chain", 1, trigger=t), seed=seed).record(sample={"index": seed})
        for t in ("event", "api", "schedule")
        for seed in range(3)
    ]
    unrelated = MadeRun(scenario("argo", "chain", 2)).record()
    rows = starts.rows(cells([*records, unrelated]))
    assert [row["trigger"].partition(":")[0] for row in rows] == ["API", "schedule", "data event"]
    assert all(row["n"] == 3 for row in rows)
    run = MadeRun(scenario("argo", "chain", 1, trigger="api"))
    first = min(e["wall_ns"] for e in run.ledger if e["event"] == "start")
    assert starts.until_first_step(run.record()) == pytest.approx((first - run.submit) / 1e9)
    assert starts.rows(cells([unrelated])) == []


def test_retries_as_shipped_are_a_table_of_their_own() -> None:
    def struck(retries: str, status: str) -> RunRecord:
        run = MadeRun(scenario("argo", "chain", 1, fault="exception", retries=retries))
        effect = {**run.ledger[0], "event": "effect", "data": {"effect": "fault"}}
        return run.record(status=status, ledger=(run.ledger[0], effect, *run.ledger[1:]))

    found = contents([struck("equal", "succeeded"), struck("shipped", "failed")])
    assert [(t["retries"], t["rows"][0]["recovered"]) for t in found["retries"]] == [
        ("equal", 1),
        ("shipped", 0),
    ]
    text = failing(cells([struck("equal", "succeeded"), struck("shipped", "failed")]))
    assert "| argo | pod | equal | 1 of 1 |" in text and "| argo | pod | as shipped | 0 of 1 |" in text


def test_options_make_a_scenario_of_each_trigger_and_policy(tmp_path: Path) -> None:
    options = Options(
        orchestrators=("prefect",),
        results=tmp_path,
        workloads=("chain",),
        configurations=("default",),
        steps=(1,),
        triggers=("api", "event"),
    )
    found = scenarios(options, Target.LOCAL)
    own = [s for s in found if s.orchestrator == "prefect"]
    assert [s.trigger for s in own if not s.warm_up] == ["api", "event"]
    assert all(s.trigger == "api" for s in found if s.orchestrator != "prefect")


@pytest.mark.parametrize(
    "words",
    [
        ("--trigger", "cron"),
        ("--retries", "many"),
        ("--retries", "shipped"),
        ("--trigger", "event", "--fault", "all"),
        ("--trigger", "event", "--concurrent", "4"),
    ],
)
def test_bad_input_says_what_to_type(words: tuple[str, ...], tmp_path: Path) -> None:
    done = bench("run", "-o", "prefect", "--target", "local", "--results", str(tmp_path), *words)
    assert done.returncode == 2 and "next:" in done.stderr and "Traceback" not in done.stderr
