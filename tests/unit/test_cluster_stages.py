"""Stages run when their content changes and not otherwise, whatever killed the run before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import lifecycle
from cluster.errors import ClusterError
from cluster.stages import CommandFailed, Log, Progress, Stages, digest_files, lanes
from cluster.state import Paths, exclusive, remove_tree, scratch, sweep, write_atomic


@pytest.fixture
def where(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "cluster")


def counted(stages: Stages, inputs: dict[str, object], runs: list[str], output: Path) -> dict[str, str]:
    def build(log: Log) -> dict[str, str]:
        runs.append("run")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("made")
        return {"path": str(output)}

    return stages.run("sample", inputs, build, lambda out: Path(out["path"]).is_file())


def test_a_stage_runs_again_only_when_its_inputs_change(where: Paths) -> None:
    runs: list[str] = []
    output = where.bin / "program"
    for inputs in ({"pin": "1"}, {"pin": "1"}, {"pin": "2"}, {"pin": "2"}):
        assert counted(Stages(where), dict(inputs), runs, output) == {"path": str(output)}
    assert len(runs) == 2


def test_a_stamp_is_not_trusted_when_the_output_is_gone(where: Paths) -> None:
    runs: list[str] = []
    output = where.bin / "program"
    counted(Stages(where), {"pin": "1"}, runs, output)
    output.unlink()
    counted(Stages(where), {"pin": "1"}, runs, output)
    assert len(runs) == 2


def test_a_damaged_stamp_is_no_stamp(where: Paths) -> None:
    runs: list[str] = []
    output = where.bin / "program"
    counted(Stages(where), {"pin": "1"}, runs, output)
    (where.stages / "sample.json").write_text('{"key": ')
    counted(Stages(where), {"pin": "1"}, runs, output)
    assert len(runs) == 2


def test_the_digest_follows_names_modes_and_contents_but_not_times(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    file = source / "a.py"
    file.write_text("x = 1\n")
    before = digest_files(tmp_path, [source])
    os.utime(file, (0, 0))
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert digest_files(tmp_path, [source]) == before
    file.chmod(0o755)
    executable = digest_files(tmp_path, [source])
    file.write_text("x = 2\n")
    changed = digest_files(tmp_path, [source])
    file.rename(source / "b.py")
    assert len({before, executable, changed, digest_files(tmp_path, [source])}) == 4


def test_a_failed_stage_shows_the_end_of_its_log_and_leaves_no_stamp(where: Paths) -> None:
    events: list[Progress] = []

    def build(log: Log) -> dict[str, str]:
        log.run(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 7"])
        return {}

    with pytest.raises(ClusterError) as raised:
        Stages(where, events.append).run("broken", {}, build)
    text = str(raised.value)
    assert "exit code 7" in text and "line 40" in text and "line 27" in text and "line 20" not in text
    assert text.splitlines()[-1].startswith("next: ")
    assert not (where.stages / "broken.json").exists()
    assert [event.state for event in events] == ["start", "failed"]


def test_each_run_of_a_stage_is_timed(where: Paths) -> None:
    runs: list[str] = []
    for _ in range(2):
        counted(Stages(where), {}, runs, where.bin / "program")
    records = [json.loads(line) for line in where.timings.read_text().splitlines()]
    assert [(record["stage"], record["cached"]) for record in records] == [
        ("sample", False),
        ("sample", True),
    ]


def test_a_run_killed_midway_leaves_a_state_that_goes_on(where: Paths) -> None:
    script = """
import sys, time
from pathlib import Path
from cluster.stages import Stages
from cluster.state import Paths, exclusive, scratch
where = Paths(Path(sys.argv[1]))
with exclusive(where, "up"), scratch(where, "half") as folder:
    (folder / "partial").write_text("half")
    def build(log):
        print("started", flush=True)
        time.sleep(60)
        return {}
    Stages(where).run("long", {"pin": "1"}, build)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(where.root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGKILL)
    assert list(where.work.iterdir())
    with exclusive(where, "up"):
        sweep(where)
        assert not list(where.work.iterdir())
        assert Stages(where).run("long", {"pin": "1"}, lambda log: {"again": "yes"}) == {"again": "yes"}


def test_two_runs_at_once_do_not_collide(where: Paths) -> None:
    with (
        exclusive(where, "up"),
        pytest.raises(ClusterError, match="holds its lock"),
        exclusive(where, "down"),
    ):
        pytest.fail("both held the lock")
    with exclusive(where, "up"):
        pass


def test_up_waits_as_long_as_it_is_told_for_one_that_makes_images(
    where: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "paths", lambda: where)
    monkeypatch.setattr(lifecycle, "_up", lambda *_: "the cluster")
    ending = threading.Event()

    def makes_images() -> None:
        with exclusive(where, "load"):
            ending.wait(120)

    with ThreadPoolExecutor() as pool:
        other = pool.submit(makes_images)
        while not (where.lock.exists() and where.lock.read_text()):
            time.sleep(0.01)
        try:
            with pytest.raises(ClusterError, match="holds its lock"):
                lifecycle.up()
            waiting = pool.submit(lifecycle.up, patience=120.0)
            time.sleep(0.3)
            assert not waiting.done()
        finally:
            ending.set()
        other.result()
        assert waiting.result() == "the cluster"


def test_a_failing_lane_ends_the_commands_of_the_other(where: Paths) -> None:
    stages = Stages(where)
    started = threading.Event()

    def slow(log: Log) -> dict[str, str]:
        started.set()
        log.run(["sleep", "60"])
        return {}

    def fails(log: Log) -> dict[str, str]:
        started.wait(60)
        deadline = time.monotonic() + 60
        while not stages._running and time.monotonic() < deadline:
            time.sleep(0.01)
        raise CommandFailed("the reason")

    def lane(name: str, build: Callable[[Log], dict[str, str]]) -> Callable[[], None]:
        def run() -> None:
            stages.run(name, {}, build)

        return run

    with pytest.raises(ClusterError, match="the reason"):
        lanes(stages, lane("slow", slow), lane("fails", fails))
    assert not stages._running, "the other lane's program is ended, not waited for"


def test_a_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(target, "new \ud800")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_read_only_trees_can_be_deleted(where: Paths) -> None:
    with scratch(where, "module") as folder:
        inner = folder / "source" / "package"
        inner.mkdir(parents=True)
        (inner / "file").write_text("x")
        inner.chmod(0o555)
        (folder / "source").chmod(0o555)
        (folder / "link").symlink_to("/")
    assert not folder.exists()
    outside = where.root / "other"
    outside.mkdir()
    remove_tree(outside)
    assert not outside.exists()
