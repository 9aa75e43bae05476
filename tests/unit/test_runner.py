"""Carrying out a plan where an orchestrator cannot be deployed: said, recorded, the others go on."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pytest

from adapters.base import (
    BenchError,
    Component,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Target,
    TargetUnreachable,
    Unsupported,
)
from adapters.locks import StateBusy
from adapters.noop import NoopAdapter, NoopDriver
from adapters.runtimes import NothingToInstall
from bench.analysis.cells import cells
from bench.measure import plan as planning
from bench.measure.observe import EmptyScene, Gauge
from bench.measure.plan import Limits
from bench.measure.resources import Look, Reading
from bench.measure.runner import Progress, Runner
from bench.results.records import Pressure, RunRecord, Scenario, Verification
from bench.results.store import Store


class Broken(NothingToInstall):
    def deploy(self, configuration: str) -> None:
        raise BenchError(
            "its server was not ready within 300 s", "bench cluster status", "pod-1: no such table"
        )


class Taken(NothingToInstall):
    def deploy(self, configuration: str) -> None:
        raise StateBusy("another bench command uses the local servers", "wait for it to end")


class Silent(NothingToInstall):
    def deploy(self, configuration: str) -> None:
        raise TargetUnreachable("its server does not answer", "bench cluster status")


class BrokenAdapter(NoopAdapter):
    name = "broken"
    installed: type[NothingToInstall] = Broken

    def runtime(self, target: Target) -> NothingToInstall:
        return self.installed()


class TakenAdapter(BrokenAdapter):
    installed = Taken


class SilentAdapter(BrokenAdapter):
    installed = Silent


class SettledAdapter(BrokenAdapter):
    installed = NothingToInstall


class ServerRuntime(NothingToInstall):
    def components(self) -> tuple[Component, ...]:
        return (Component(name="server", namespace="", selector="server", role="server"),)


class ServerAdapter(BrokenAdapter):
    installed = ServerRuntime

    def configurations(self, target: Target) -> tuple[Configuration, ...]:
        return tuple(Configuration(name=name, task="nothing") for name in ("default", "other"))


class LateDriver(NoopDriver):
    """Can be deployed, and learns only from the request that it cannot run it."""

    def submit(self, request: RunRequest) -> RunHandle:
        raise Unsupported("no events here", "--trigger api")


class LateAdapter(SettledAdapter):
    def driver(self, target: Target) -> NoopDriver:
        return LateDriver()


class ShyDriver(NoopDriver):
    """Fails the first run after its deployment."""

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        outcome = super().wait(handle, deadline_seconds)
        return outcome.model_copy(update={"status": Status.FAILED}) if "-1-0-" in handle.run_id else outcome


class ShyAdapter(SettledAdapter):
    def driver(self, target: Target) -> NoopDriver:
        return ShyDriver()


def scenario(orchestrator: str) -> Scenario:
    return Scenario(
        orchestrator=orchestrator, target="local", workload="chain", configuration="default", steps=1
    )


def test_what_cannot_be_deployed_is_recorded_once_and_the_others_go_on(tmp_path: Path) -> None:
    told: list[Progress] = []
    plan = planning.make([scenario("broken"), scenario("noop")], n=2, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL, tell=told.append)
        runner._adapters["broken"] = BrokenAdapter()
        records = list(runner.run(plan))
        missing = list(planning.missing(plan, store))
    void = [record for record in records if record.status == "void"]
    assert [record.reason for record in void] == ["failed to deploy: its server was not ready within 300 s"]
    assert sum(record.status == "succeeded" for record in records) == 2
    assert {plan.scenarios[slot.scenario].orchestrator for slot in missing} == {"broken"}
    assert len(missing) == 2, "the next command tries again"
    message = next(each.message for each in told if each.event == "void")
    assert "pod-1: no such table" in message and "next: bench cluster status" in message


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these made-up orchestrators say of a run is not held against a ledger, which they have not."""
    monkeypatch.setattr("bench.measure.runner.verify", lambda *_: Verification(ok=True))


@pytest.mark.usefixtures("believed")
def test_a_deployment_brings_a_warm_up_that_is_stored_and_no_sample(tmp_path: Path) -> None:
    """Also when the command begins again: what it deploys anew is warmed up anew."""
    asked = [scenario("settled"), scenario("settled").model_copy(update={"steps": 3}), scenario("noop")]
    first = planning.warm_ups(asked[:2])
    plan = planning.make([*asked, *first], n=2, seed=1)
    assert len(plan.slots) == 6
    told: list[Progress] = []

    def carry_out(most: int) -> list[RunRecord]:
        with Store.locked(tmp_path) as store:
            runner = Runner(store, Target.LOCAL, tell=told.append)
            runner._adapters["settled"] = SettledAdapter()
            return list(islice(runner.run(plan), most))

    planning.save(tmp_path, plan)
    records = [*carry_out(4), *carry_out(99)]
    with Store.locked(tmp_path) as store:
        assert store.records() == records
        assert not list(planning.missing(plan, store))
    ups = [record for record in records if record.scenario.warm_up]
    assert [record.scenario.key for record in ups] == ["local/settled/chain-1/default/warm-up"] * len(ups)
    assert [record.sample.index for record in ups] == list(range(len(ups))), "none stands for another"
    assert all(record.cold for record in ups)
    samples = [
        record for record in records if record.scenario.orchestrator == "settled" and record not in ups
    ]
    assert len(samples) == 4 and not any(record.cold for record in samples)
    # A switch from noop and back is a deployment, and so is a new command.
    assert [event.event for event in told].count("warmed up") == len(ups) >= 2
    before = {records.index(record) + 1 for record in ups}
    assert all(records[place].scenario.orchestrator == "settled" for place in before)
    found = cells(records)
    assert [cell.key.first for cell in found if not cell.key.undisturbed] == [True]


def test_what_turns_out_to_be_impossible_is_said_once_and_the_plan_is_carried_out(tmp_path: Path) -> None:
    plan = planning.make([scenario("late"), scenario("noop")], n=3, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["late"] = LateAdapter()
        records = list(runner.run(plan))
        assert not list(planning.missing(plan, store)), "nothing is left for the next command"
    assert not planning.left_behind(tmp_path)
    (gap,) = (record for record in records if record.scenario.orchestrator == "late")
    assert (gap.status, gap.reason) == ("unsupported", "no events here (remedy: --trigger api)")
    assert [record.status for record in records if record is not gap] == ["succeeded"] * 3


@pytest.mark.usefixtures("believed")
def test_a_warm_up_that_fails_warms_nothing_and_one_waits_as_the_sample_after_it(tmp_path: Path) -> None:
    asked = [scenario("shy").model_copy(update={"steps": 3})]
    plan = planning.make([*asked, *planning.warm_ups(asked)], 1, seed=1, limits=Limits(jitter_seconds=0.01))
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["shy"] = ShyAdapter()
        up, sample = runner.run(plan)
    assert up.scenario.warm_up
    assert up.client and sample.client and up.client.jitter_seconds == sample.client.jitter_seconds > 0
    assert (up.status, up.cold, sample.status, sample.cold) == ("failed", True, "succeeded", True)


@pytest.mark.parametrize(("pods", "cold"), [(("a", "a"), False), (("a", "b"), True), (("", "b"), True)])
def test_what_an_earlier_command_left_running_is_no_switch(
    tmp_path: Path, pods: tuple[str, str], cold: bool
) -> None:
    """Before the deployment and after it: the same server has run before, another one has not.

    A switch within the command is one, though its servers stay.
    """
    seen = iter(pods)

    class Seen(EmptyScene):
        def look(self, components: Iterable[Component]) -> Look:
            pod = next(seen, pods[-1])
            return Look(0.0, {"server": Reading(0.0, {pod: 1.0}, 1)} if pod else {})

    other = scenario("server").model_copy(update={"configuration": "other"})
    plan = planning.make([scenario("server"), other], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["server"] = ServerAdapter()
        runner._scenes["empty"] = Seen()
        first, second = runner.run(plan)
    assert (first.cold, second.cold) == (cold, True)


def test_where_the_target_cannot_be_used_the_command_ends_and_stores_nothing(tmp_path: Path) -> None:
    plan = planning.make([scenario("broken"), scenario("noop")], n=2, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters["broken"] = TakenAdapter()
        with pytest.raises(StateBusy):
            list(runner.run(plan))
        assert [record for record in store.records() if record.status == "void"] == []


def test_without_the_observer_nothing_is_watched_and_nothing_looked_at(tmp_path: Path) -> None:
    class Seen(EmptyScene):
        def watch(self, run_id: str) -> NoReturn:
            raise AssertionError("watched")

        look = watch  # type: ignore[assignment]

    unwatched = scenario("noop").model_copy(update={"observer": "off"})
    plan = planning.make([unwatched], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._scenes["empty"] = Seen()
        (record,) = runner.run(plan)
    assert record.status == "succeeded" and record.breakdown is None and record.resources is None
    assert record.scenario.key.endswith("/observer=off")
    with pytest.raises(AssertionError, match="watched"):
        run_watched(tmp_path / "watched", Seen())


def run_watched(folder: Path, scene: EmptyScene) -> None:
    plan = planning.make([scenario("noop")], n=1, seed=1)
    with Store.locked(folder) as store:
        planning.save(folder, plan)
        runner = Runner(store, Target.LOCAL)
        runner._scenes["empty"] = scene
        list(runner.run(plan))


@pytest.mark.parametrize(("busy", "wanted"), [(1, ["void", "succeeded"]), (9, ["void"] * 3)])
def test_a_run_on_a_machine_that_others_use_is_void_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: int, wanted: list[str]
) -> None:
    steals = iter([0.3] * busy + [0.1] * 9)
    monkeypatch.setattr(Gauge, "since", lambda self, before: Pressure(steal=next(steals)))
    plan = planning.make([scenario("noop")], n=1, seed=1)
    told: list[Progress] = []
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        records = list(Runner(store, Target.LOCAL, max_steal=0.2, tell=told.append).run(plan))
        missing = list(planning.missing(plan, store))
    assert [record.status for record in records] == wanted
    assert records[0].reason == "30.0% of CPU time was taken by others; the limit is 20.0%"
    assert [record.sample.number for record in records] == list(range(1, len(wanted) + 1))
    assert bool(missing) == ("succeeded" not in wanted), "the next command tries again"
    assert [event.event for event in told if event.record] == [
        "recorded" if status == "succeeded" else "void" for status in wanted
    ]


class BlindDriver(NoopDriver):
    """Whose runs cannot be followed."""

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        raise BenchError("its schedule never fired", "bench doctor")


class BlindAdapter(SettledAdapter):
    def driver(self, target: Target) -> NoopDriver:
        return BlindDriver()


def test_what_cannot_be_observed_is_void_and_the_others_go_on(tmp_path: Path) -> None:
    plan = planning.make([scenario("blind"), scenario("noop")], n=4, seed=1)
    told: list[Progress] = []
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL, tell=told.append)
        runner._adapters["blind"] = BlindAdapter()
        list(runner.run(plan))
        stored = store.records()
        missing = list(planning.missing(plan, store))
    assert sum(record.status == "succeeded" for record in stored) == 4
    void = [record for record in stored if record.status == "void"]
    assert len(void) == 2, "given up after the second: the next command tries again"
    assert void[0].reason == "the harness could not observe it: its schedule never fired"
    assert len(missing) == 4 and not planning.left_behind(tmp_path)
    assert any("next: bench doctor" in each.message for each in told if each.event == "void")


@pytest.mark.parametrize("target_answers", [True, False])
@pytest.mark.parametrize("under", ["blind", "silent"], ids=["during a run", "when it is deployed"])
def test_an_orchestrator_s_server_that_does_not_answer_is_not_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target_answers: bool, under: str
) -> None:
    """One that is slow to answer ends no plan of five; a target that is gone does."""

    def silent(*_: object) -> NoReturn:
        raise TargetUnreachable("timed out", "bench doctor")

    monkeypatch.setattr(BlindDriver, "wait", silent)
    if not target_answers:
        monkeypatch.setattr(EmptyScene, "ledger", silent)
    plan = planning.make([scenario(under)], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL)
        runner._adapters |= {"blind": BlindAdapter(), "silent": SilentAdapter()}
        if target_answers:
            list(runner.run(plan))
        else:
            with pytest.raises(TargetUnreachable):
                list(runner.run(plan))
    assert [record.status for record in Store(tmp_path).records()] == ["void"] * target_answers
    begun = under == "blind" and not target_answers
    assert bool(planning.left_behind(tmp_path)) == begun, "the next command ends it"


@pytest.mark.usefixtures("believed")
def test_kept_runs_that_do_not_count_are_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(NoopDriver, "cancel", lambda self, run_id: bool(ended.append(run_id)))  # type: ignore[func-returns-value]
    monkeypatch.setattr(
        Runner, "_noise", lambda self, record: "too busy" if record.sample.number == 1 else ""
    )
    plan = planning.make([scenario("noop")], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        records = list(Runner(store, Target.LOCAL, keep=True).run(plan))
    assert [record.status for record in records] == ["void", "succeeded"]
    assert ended == [records[0].run_id]


def test_a_plan_belongs_to_the_cluster_it_was_made_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = scenario("noop").model_copy(update={"target": "k8s"})
    plan = planning.make([of], n=1, seed=1, context="east")
    assert plan.request_sha256 != planning.request_digest([of], 1, 1, context="west")
    assert planning.request_digest([of], 1, 1) == planning.request_digest([of], 1, 1, context="")
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        started = planning.Started(
            plan_id=plan.plan_id, slot=plan.slots[0], number=1, run_id=plan.run_id(plan.slots[0], 1)
        )
        planning.note_start(tmp_path, started)
        assert Runner(store, Target.K8S, context="west").clean() == []
    assert planning.left_behind(tmp_path) == [started], "who measures there again ends it"


def test_files_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    plan = planning.make([scenario("noop")], n=1, seed=1)
    planning.save(tmp_path, plan)
    (tmp_path / planning.PLANS / "bad.json").write_bytes(b"\xff\xfe{")
    (tmp_path / planning.JOURNAL).write_bytes(b"\xff\n")
    assert list(planning.stored(tmp_path)) == [plan]
    assert planning.load(tmp_path, "bad") is None and planning.left_behind(tmp_path) == []
