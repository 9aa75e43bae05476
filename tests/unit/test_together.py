"""Several runs at once as one sample: submitted together, each checked, told as one, counted apart."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.base import BenchError, RunHandle, RunRequest, Target
from adapters.noop import NoopAdapter, NoopDriver
from bench.analysis.cells import cells
from bench.commands.run import Options, scenarios
from bench.measure import plan as planning
from bench.measure.plan import Started
from bench.measure.runner import Runner
from bench.measure.together import as_one, members
from bench.report import brief
from bench.report.contents import contents
from bench.report.numbers import seconds
from bench.results.records import RunRecord, Scenario, Verification
from bench.results.store import Store
from tests.unit.made_records import MadeRun, scenario
from tests.unit.test_cli import bench


def several(count: int = 3, number: int = 0, **verified: Verification) -> RunRecord:
    of = scenario("argo", "chain", 1, concurrent=count)
    runs = [MadeRun(of, seed=number * 10 + each) for each in range(count)]
    records = [
        run.record(sample={"index": number}, verification=verified.get(f"of_{each}", Verification(ok=True)))
        for each, run in enumerate(runs)
    ]
    return as_one(f"sample-{number}", records, [run.submit for run in runs])


def test_a_run_alone_keeps_its_id_and_its_stored_form() -> None:
    request = RunRequest(run_id="b1-0-0-1", workload="chain", configuration="default")
    assert members(request, 1) == [request]
    assert [each.run_id for each in members(request, 2)] == ["b1-0-0-1-01", "b1-0-0-1-02"]
    assert (
        "concurrent" not in scenario().model_dump()
        and "together" not in MadeRun(scenario()).record().model_dump()
    )
    assert scenario(concurrent=4).key.endswith("/concurrent=4")


def test_as_one_spans_from_the_first_submission_to_the_last_end() -> None:
    record = several()
    runs = [MadeRun(record.scenario, seed=each) for each in range(3)]
    assert record.client is not None
    whole = max(run.first_terminal for run in runs) - min(run.submit for run in runs)
    assert record.client.makespan_monotonic_ns == whole
    assert [companion.run_id for companion in record.together] == [run.run_id for run in runs]
    assert len(record.ledger) == 6 and record.timeline is None
    assert record == RunRecord.model_validate_json(record.model_dump_json())


def test_one_wrong_run_makes_the_sample_wrong() -> None:
    wrong = several(of_1=Verification(ok=False, problems=("probe[0] did not finish",)))
    assert wrong.verification is not None and not wrong.verification.ok
    assert "probe[0] did not finish" in wrong.verification.problems[0]
    mixed = several(
        of_0=Verification(ok=True, model_sha256="a"), of_1=Verification(ok=True, model_sha256="b")
    )
    assert mixed.verification is not None and not mixed.verification.ok
    assert mixed.status == "failed" and "2 models from the same inputs" in mixed.reason
    lost = several(
        of_0=Verification(ok=False, problems=("train did not finish",)),
        of_1=Verification(ok=True, model_sha256="b"),
    )
    assert "models" not in lost.reason, "one that made none made no other"
    run = MadeRun(scenario("argo", "chain", 1, concurrent=2))
    late = as_one("s", [run.record(), run.record(status="timeout", reason="still Running")], [run.submit] * 2)
    assert late.status == "timeout" and "still Running" in late.reason


class Together(NoopDriver):
    """Is only satisfied where all are submitted at the same time."""

    meeting = threading.Barrier(3)

    def submit(self, request: RunRequest) -> RunHandle:
        self.meeting.wait(60)
        return super().submit(request)


class Refuses(NoopDriver):
    def submit(self, request: RunRequest) -> RunHandle:
        if request.run_id.endswith("-02"):
            raise BenchError("too many runs")
        return super().submit(request)


def carried_out(folder: Path, driver: type[NoopDriver], cancelled: list[str]) -> list[RunRecord]:
    class Watched(driver):  # type: ignore[misc, valid-type]
        """Knows the runs it was given alone, as a floor's does."""

        mine = ""

        def prepare(self, request: RunRequest) -> None:
            self.mine = request.run_id

        def cancel(self, run_id: str) -> bool:
            assert run_id == self.mine, "another driver's run"
            cancelled.append(run_id)
            return False

    class Adapter(NoopAdapter):
        def driver(self, target: Target) -> NoopDriver:
            made: NoopDriver = Watched()
            return made

    of = Scenario(
        orchestrator="noop", target="local", workload="chain", configuration="default", steps=1, concurrent=3
    )
    plan = planning.make([of], n=1, seed=1)
    with Store.locked(folder) as store:
        planning.save(folder, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["noop"] = Adapter()
        return list(runner.run(plan))


def test_all_are_submitted_at_the_same_time_and_ended_after(tmp_path: Path) -> None:
    cancelled: list[str] = []
    (record,) = carried_out(tmp_path, Together, cancelled)
    assert record.status == "succeeded" and len(record.together) == 3
    assert cancelled == [companion.run_id for companion in record.together]
    assert planning.left_behind(tmp_path) == []


def test_one_that_is_refused_ends_the_others_and_leaves_a_void_sample(tmp_path: Path) -> None:
    cancelled: list[str] = []
    assert carried_out(tmp_path, Refuses, cancelled) == []
    (record,) = Store(tmp_path).records()
    assert record.status == "void" and "too many runs" in record.reason
    assert len(cancelled) == 3


def test_what_a_killed_command_left_is_ended_run_by_run(tmp_path: Path) -> None:
    of = scenario("noop", "chain", 1, target="local", concurrent=2)
    plan = planning.make([of], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        name = plan.run_id(plan.slots[0], 1)
        started = Started(
            plan_id=plan.plan_id,
            slot=plan.slots[0],
            number=1,
            run_id=name,
            members=(f"{name}-01", f"{name}-02"),
        )
        planning.note_start(tmp_path, started)
        cancelled: list[str] = []
        runner = Runner(store, Target.LOCAL)
        for number, driver in enumerate(runner._some_drivers("noop", 2), 1):
            driver.cancel = lambda run_id, by=number: bool(cancelled.append(f"{run_id} by {by}"))  # type: ignore[method-assign, misc, func-returns-value]
        (record,) = runner.clean()
    assert record.status == "void"
    assert cancelled == [f"{started.members[0]} by 1", f"{started.members[1]} by 2"]


def test_the_report_sets_them_beside_one_alone_and_in_no_other_table() -> None:
    alone = [MadeRun(scenario("argo", "chain", 1), seed=90 + n).record(sample={"index": n}) for n in range(3)]
    content = contents([*alone, *(several(4, number) for number in range(3))])
    (row,) = content["concurrent"]
    assert (row["runs"], row["n"], row["alone"]["n"]) == (4, 3, 3)
    assert row["shortest"] <= row["middle"] <= row["longest"] <= row["together"]["value"]
    assert row["times_alone"] == row["together"]["value"] / row["alone"]["value"]
    assert row["per_minute"] == pytest.approx(240 / row["together"]["value"])
    assert [r["n"] for table in content["tables"] for r in table["rows"]] == [3]
    sample = alone[0].sample.model_copy(update={"plan_id": "another day"})
    elsewhere = [
        r.model_copy(update={"sample": sample.model_copy(update={"index": n})}) for n, r in enumerate(alone)
    ]
    (apart,) = contents([*elsewhere, *(several(4, number) for number in range(3))])["concurrent"]
    assert apart["alone"]["n"] == 3 and apart["times_alone"] is None, "another plan is of another day"


def test_samples_in_which_not_all_succeeded_are_rows_too_and_say_how_many_did() -> None:
    def lost(record: RunRecord, count: int) -> RunRecord:
        together = tuple(
            c.model_copy(update={"status": "timeout"}) if number < count else c
            for number, c in enumerate(record.together)
        )
        return record.model_copy(update={"status": "timeout", "together": together})

    alone = [MadeRun(scenario("argo", "chain", 1), seed=90 + n).record(sample={"index": n}) for n in range(3)]
    records = [*alone, several(4, 0), lost(several(16, 1), 16), lost(several(16, 2), 9)]
    four, sixteen = contents(records)["concurrent"]
    assert (four["n"], four["failed"], four["ended"]) == (1, 0, [])
    assert (sixteen["n"], sixteen["failed"], sixteen["ended"], sixteen["together"]) == (0, 2, [0, 7], None)
    whole = f"{seconds(four['together']['value'])} (n = 1)"
    first = f"{seconds(four['alone']['value'])} (n = 3)"
    row = f"| argo | pod | {first} | {whole} | 0 of 16 succeeded; 7 of 16 succeeded |"
    assert row in brief.at_once(cells(records))
    assert brief.at_once(cells(alone)) == ""


@pytest.mark.parametrize("words", [["0"], ["many"], ["1,65"], [""]])
def test_counts_that_cannot_be(words: list[str]) -> None:
    refused = bench("run", "-o", "noop", "--target", "local", "--concurrent", *words, check=2)
    assert "--concurrent takes whole numbers from 1 to 64" in refused.stderr


@pytest.mark.parametrize("words", ["0", "1,501", "ten", "1-10"])
def test_lengths_that_cannot_be(words: str) -> None:
    refused = bench("run", "-o", "noop", "--target", "local", "-w", "chain", "--steps", words, check=2)
    assert "--steps takes whole numbers from 1 to 500" in refused.stderr
    assert "--steps 1,10,40" in refused.stderr


def test_a_scenario_for_each_length_of_a_chain_and_width_of_a_fan_out(tmp_path: Path) -> None:
    asked = Options(("prefect",), tmp_path, workloads=("pipeline", "chain", "fanout"), steps=(1, 10))
    found = scenarios(replace(asked, warm_up=False, configurations=("default",)), Target.LOCAL)
    own = [f"{each.workload}-{each.steps}" for each in found if each.orchestrator == "prefect"]
    assert own == ["pipeline-7", "chain-1", "chain-10", "fanout-1", "fanout-10"]
    assert {each.steps for each in found if each.orchestrator == "calls"} == {1, 7, 10}, "floors too"


def test_scenarios_of_several_at_once(tmp_path: Path) -> None:
    asked = Options(("prefect",), tmp_path, workloads=("chain",), steps=(1,), concurrent=(1, 4))
    found = scenarios(asked, Target.LOCAL)
    assert {s.concurrent for s in found if s.orchestrator == "noop"} == {1}
    assert {s.concurrent for s in found if s.orchestrator == "prefect"} == {1, 4}
    with pytest.raises(BenchError, match="not several at once"):
        scenarios(Options(("prefect",), tmp_path, faults=("exception",), concurrent=(4,)), Target.LOCAL)
