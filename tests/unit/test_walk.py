"""Runs without an orchestrator, in one process or a process for each step: the program that is in the step's image."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.base import BenchError, RunRequest
from adapters.kube import Document
from adapters.pods import OnePodDriver
from adapters.walk import WAYS, Job, _told, attempts_in, outputs_in, words
from adapters.workloads import Member


def carried_out(way: str, home: Path, request: RunRequest) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "adapters.walk", way, request.model_dump_json()],
        env={**os.environ, "BENCH_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def request(workload: str, steps: int, **parameters: str | int | float) -> RunRequest:
    return RunRequest(
        run_id="r1", workload=workload, configuration="default", parameters=parameters, steps=steps
    )


@pytest.mark.parametrize("way", WAYS)
def test_each_step_is_told_with_its_times(way: str, tmp_path: Path) -> None:
    done = carried_out(way, tmp_path, request("chain", 3, fibo=5))
    assert done.returncode == 0, done.stderr
    attempts = attempts_in(done.stdout)
    assert [(each.step, each.index) for each in attempts] == [("probe", 0), ("probe", 1), ("probe", 2)]
    times = [time for each in attempts for time in (each.started, each.finished)]
    assert times == sorted(times, key=lambda time: time or 0), "one after another"


def processes_of(home: Path) -> int:
    """When a process began is known to the microsecond, and none is begun within a millisecond of another."""
    rows = [json.loads(line) for path in home.rglob("*.jsonl") for line in path.read_text().splitlines()]
    begun = sorted(row["process_start_ns"] for row in rows if row.get("event") == "start")
    return 1 + sum(later - earlier > 1_000_000 for earlier, later in pairwise(begun))


def test_what_a_step_is(tmp_path: Path) -> None:
    """By the ledger: calls share a process, and processes do not."""
    for way, expected in (("calls", 1), ("processes", 3)):
        assert carried_out(way, tmp_path / way, request("chain", 3)).returncode == 0
        assert processes_of(tmp_path / way) == expected


@pytest.mark.parametrize("way", WAYS)
def test_members_of_a_phase_are_told_a_line_each(way: str, tmp_path: Path) -> None:
    done = carried_out(way, tmp_path, request("fanout", 8, sleep_seconds="0.1"))
    assert done.returncode == 0, done.stderr
    assert sorted(each.index or 0 for each in attempts_in(done.stdout)) == list(range(8))


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_fails_ends_the_run(way: str, tmp_path: Path) -> None:
    done = carried_out(
        way, tmp_path, request("chain", 2, fault=json.dumps({"kind": "exception", "step": "probe"}))
    )
    assert done.returncode != 0 and "injected fault: exception" in done.stderr.splitlines()[-1]
    assert attempts_in(done.stdout) == []


def test_a_line_that_is_not_whole_says_nothing(tmp_path: Path) -> None:
    printed = carried_out("calls", tmp_path, request("chain", 2)).stdout
    assert len(attempts_in(printed[:-20])) == 1


def test_what_another_step_prints_meanwhile_is_not_in_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    """A print writes its text first and its line's end then; the one of another thread may come in between."""
    print("eval: score 0.61", end="")
    _told(Job(Member("train", 2), {}, {}), 1.0, {})
    print()
    assert [(each.step, each.index) for each in attempts_in(capsys.readouterr().out)] == [("train", 2)]


def test_what_a_step_is_given() -> None:
    job = Job(Member("eval", 2), {"k": "5"}, {"model_uri": "s3://a/b"})
    assert words("r1", job) == [
        *("eval", "--run-id", "r1", "--index", "2", "--set", "k=5", "--input", "model_uri=s3://a/b"),
    ]


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"step": "eval"}', '{"outputs": 3}'])
def test_a_last_line_that_is_not_outputs_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="its last line is not its outputs"):
        outputs_in(text)
    assert outputs_in(text + '\n{"outputs": {"k": 1}}') == {"k": "1"}


class Pod(OnePodDriver):
    """One that has failed and printed something; no cluster."""

    def __init__(self, printed: str) -> None:
        core = SimpleNamespace(
            create_namespaced_pod=lambda *_: None, read_namespaced_pod_log=lambda *_: printed
        )
        where: Any = SimpleNamespace(
            kube=SimpleNamespace(core=core), image=lambda _: "step", step_digest="sha256:0"
        )
        super().__init__(where, "calls")

    def _ended(self, run_id: str, wanted: set[str], end: float) -> Iterator[Document]:
        yield {"status": {"phase": "Failed"}}


def test_an_image_that_is_too_old_is_no_failure_of_the_floor() -> None:
    """What Python says of `-m nosuch.walk`, of `adapters`."""
    missing = subprocess.run(
        [sys.executable, "-m", "nosuch.walk"], capture_output=True, text=True, check=False
    )
    driver = Pod(missing.stderr.replace("nosuch", "adapters"))
    with pytest.raises(BenchError, match="an older bench"):
        driver.wait(driver.submit(request("chain", 1)), 1.0)
    driver = Pod("InjectedFault: injected fault: exception")
    assert driver.wait(driver.submit(request("chain", 1)), 1.0).reason.endswith("injected fault: exception")
