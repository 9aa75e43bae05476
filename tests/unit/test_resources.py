"""What an orchestrator uses is taken from two looks, and only of what was there at both."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from adapters.base import Component, Target, TargetUnusable
from adapters.kube import Kube
from adapters.local.processes import Servers
from adapters.noop import NoopAdapter
from adapters.runtimes import NothingToInstall
from bench.measure import plan as planning
from bench.measure import resources
from bench.measure.observe import FEWEST_TICKS, EmptyScene, Gauge
from bench.measure.resources import (
    Look,
    Reading,
    between,
    counted,
    of_cluster,
    of_servers,
    pods_usage,
    watched,
)
from bench.measure.runner import Runner
from bench.results.records import Scenario
from bench.results.store import Store

SERVER = Component(name="server", namespace="", selector="server", role="scheduler")

METRICS = """\
# HELP apiserver_request_total Counter of apiserver requests
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",verb="GET",resource="pods"} 40
apiserver_request_total{code="201",verb="POST",resource="pods"} 7
apiserver_request_total{code="200",verb="PATCH",resource="pods"} 3
apiserver_request_total_other{verb="POST"} 1000
"""


def test_requests_are_counted_with_those_that_write_apart() -> None:
    assert counted(METRICS) == (50, 10)


def test_of_processes_only_those_that_were_there_at_both_looks_count() -> None:
    before = Look(100.0, {"server": Reading(100.0, {"a": 1.0, "gone": 5.0}, 10)}, 40, 4)
    after = Look(160.0, {"server": Reading(160.0, {"a": 2.5, "step": 9.0}, 20)}, 70, 9)
    window = between(before, after, [SERVER])
    (part,) = window.parts
    assert (part.cpu_seconds, part.seconds, part.memory_bytes) == (1.5, 60.0, 20)
    assert (window.seconds, window.api_requests, window.api_writes) == (60.0, 30, 5)


def test_a_counter_that_was_not_renewed_says_nothing() -> None:
    look = Look(100.0, {"server": Reading(95.0, {"a": 1.0}, 10)})
    assert between(look, Look(101.0, look.parts), [SERVER]).parts == ()


def test_a_counter_that_is_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "LOOK_SECONDS", 0.0)
    first = {"server": Reading(95.0, {"a": 1.0}, 10)}
    renewed = {"server": Reading(120.0, {"a": 2.0}, 10)}
    looks = iter(
        [
            Look(100.0, {}, 1, 0),
            Look(101.0, first, 2, 0),
            Look(116.0, first, 3, 0),
            Look(120.0, renewed, 4, 0),
        ]
    )
    window = watched(lambda: next(looks), [SERVER], 0.0)
    (part,) = window.parts
    assert (part.cpu_seconds, part.seconds, window.seconds) == (1.0, 25.0, 19.0)


def test_what_cannot_be_read_is_not_waited_for() -> None:
    looks = iter([Look(100.0), Look(115.0)])
    assert watched(lambda: next(looks), [SERVER], 0.0).parts == ()


def test_pods_are_found_by_their_uid_in_the_kubelets_summaries() -> None:
    def pod(uid: str, nanoseconds: int) -> dict[str, object]:
        cpu = {"time": "2026-09-21T12:00:00Z", "usageCoreNanoSeconds": nanoseconds}
        return {"podRef": {"uid": uid}, "cpu": cpu, "memory": {"workingSetBytes": 5}}

    summaries = [{"pods": [pod("a", 10**9), pod("other", 10**9)]}, {"pods": [pod("b", 2 * 10**9)]}]
    reading = pods_usage(summaries, {"a", "b"})
    assert reading is not None
    assert (reading.cpu, reading.memory) == ({"a": 1.0, "b": 2.0}, 10)
    assert pods_usage(summaries, {"c"}) is None


def test_what_the_cluster_refuses_is_left_out_and_is_not_zero() -> None:
    class Refusing:
        def get(self, path: str, query: object, what: str) -> str:
            raise TargetUnusable(f"not allowed: {what}")

    found = of_cluster(cast(Kube, Refusing()), [SERVER])
    assert (found.parts, found.requests, found.writes) == ({}, None, None)


def test_a_refusal_of_the_api_server_is_an_error() -> None:
    class Answer:
        status, reason = 403, "Forbidden"

        def read(self) -> bytes:
            return b'{"message": "metrics is forbidden"}'

    class Api:
        def param_serialize(self, *words: object, **more: object) -> tuple[()]:
            return ()

        def call_api(self, *words: object, **more: object) -> Answer:
            return Answer()

    kube = Kube.__new__(Kube)
    kube.api = Api()
    with pytest.raises(TargetUnusable, match="not allowed: reading: metrics is forbidden"):
        kube.get("/metrics", {}, "reading")


def test_a_real_servers_processes_are_read(tmp_path: Path) -> None:
    servers = Servers(tmp_path, tmp_path / "servers.jsonl", tmp_path / "logs")
    # More than is asked for: the kernel counts whole ticks, and cuts user and system time each.
    work = (
        "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\ntime.sleep(60)"
    )
    servers.start("server", [sys.executable, "-c", work], dict(os.environ), tmp_path)
    try:
        before = Look(0.0, {"server": Reading(0.0, {}, 0)})
        end = time.monotonic() + 30
        while time.monotonic() < end:
            after = of_servers(servers, [SERVER])
            if sum(after.parts["server"].cpu.values()) >= 0.3:
                break
        assert sum(after.parts["server"].cpu.values()) >= 0.3
        assert after.parts["server"].memory > 1_000_000
        assert between(before, after, [SERVER]).parts[0].cpu_seconds == 0, "nothing was there at both looks"
    finally:
        servers.close()
    assert of_servers(servers, [SERVER]).parts == {}


class Watched(NothingToInstall):
    def components(self) -> tuple[Component, ...]:
        return (SERVER,)


class WatchedAdapter(NoopAdapter):
    name = "watched"

    def runtime(self, target: Target) -> NothingToInstall:
        return Watched()


class Counting(EmptyScene):
    """Each look finds one more second of CPU, ten seconds later."""

    def __init__(self) -> None:
        self.looks = 0

    def look(self, components: Iterable[Component]) -> Look:
        self.looks += 1
        at = 10.0 * self.looks
        return Look(at, {one.name: Reading(at, {"p": float(self.looks)}, 7) for one in components})


@pytest.mark.parametrize("idle_seconds", [0.0, 0.01])
def test_a_record_has_what_was_used_under_the_run_and_idle_where_asked(
    tmp_path: Path, idle_seconds: float
) -> None:
    wanted = Scenario(
        orchestrator="watched", target="local", workload="chain", configuration="default", steps=1
    )
    plan = planning.make([wanted], n=1, seed=1)
    with Store.locked(tmp_path) as store:
        planning.save(tmp_path, plan)
        runner = Runner(store, Target.LOCAL, idle_seconds=idle_seconds)
        runner._adapters["watched"] = WatchedAdapter()
        runner._scenes["empty"] = Counting()
        (record,) = runner.run(plan)
    assert record.resources is not None and record.resources.run is not None
    assert [(p.cpu_seconds, p.seconds) for p in record.resources.run.parts] == [(1.0, 10.0)]
    assert (record.resources.idle is not None) == (idle_seconds > 0)


@pytest.mark.parametrize(
    ("ticks", "steal"), [(1, None), (FEWEST_TICKS - 1, None), (FEWEST_TICKS, 1 / FEWEST_TICKS)]
)
def test_a_tick_of_a_run_that_has_hardly_any_is_no_share_of_stolen_time(
    ticks: int, steal: float | None
) -> None:
    before = Gauge(at=0.0, stalls={}, steal=0.0, jiffies=0.0, load=0.0)
    after = Gauge(at=0.001, stalls={}, steal=1.0, jiffies=float(ticks), load=0.0)
    assert after.since(before).steal == steal
