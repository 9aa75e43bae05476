"""`bench run --target local` as a user types it: real servers, nothing left behind, nothing touched elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.local.processes import MARK
from tests.unit.conftest import wait_for

ROOT = Path(__file__).parents[2]
CHAIN = ["--workload", "chain", "--steps", "3", "--n", "1", "--jitter", "0", "--no-controls", "-c", "default"]


class User:
    """Someone with a home, a temporary folder and a state folder of their own."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.elsewhere = root / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BENCH_")},
            "HOME": str(self.elsewhere),
            "TMPDIR": str(self.elsewhere),
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
            "BENCH_HOME": str(self.state),
        }

    def bench(self, *words: str, **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "bench", *words],
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        process = self.bench(*words)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def processes(self) -> list[str]:
        """Whatever of this user's local servers runs."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARK) == str(self.state / "local")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    someone = User(tmp_path_factory.mktemp("user"))
    yield someone
    assert someone.processes() == []


@pytest.mark.parametrize("orchestrator", ["airflow", "dagster", "kfp", "prefect"])
def test_a_run_leaves_nothing_running_and_nothing_elsewhere(user: User, orchestrator: str) -> None:
    before = _status()
    done = user.run("run", "-o", orchestrator, "--target", "local", "--json", *CHAIN)
    assert done.returncode == 0, done.stderr
    first, record = json.loads(done.stdout)
    assert first["scenario"]["warm_up"] and first["cold"] and not record["cold"]
    assert [(each["status"], each["breakdown"]["errors"]) for each in (first, record)] == [
        ("succeeded", [])
    ] * 2
    assert [a["index"] for a in record["timeline"]["attempts"]] == [0, 1, 2]
    assert user.processes() == []
    assert [str(path) for path in user.elsewhere.rglob("*")] == []
    assert _status() == before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_cut_short_leaves_nothing_running_and_goes_on(user: User, end: signal.Signals) -> None:
    words = [
        "run",
        "-o",
        "prefect",
        "--target",
        "local",
        "--no-warm-up",
        *CHAIN,
        "--set",
        "sleep_seconds=2",
        "--seed",
        str(end),
    ]
    process = user.bench(*words, start_new_session=True)
    journal = user.state / "results" / "journal.jsonl"
    known = journal.read_text().count("\n") if journal.exists() else 0
    wait_for(lambda: journal.exists() and journal.read_text().count("\n") > known, "a run under way", 300)
    time.sleep(1)
    process.send_signal(end)
    _, errors = process.communicate(timeout=120)
    if end is not signal.SIGKILL:
        assert process.returncode == 130, errors
    wait_for(lambda: user.processes() == [], "the end of every server", 60)
    again = user.run(*words, "--json")
    assert again.returncode == 0, again.stderr
    records = json.loads(again.stdout)
    assert [record["status"] for record in records if record["status"] != "void"] == ["succeeded"]


def test_a_second_command_on_the_same_servers_is_refused(user: User) -> None:
    first = user.bench("run", "-o", "calls", "--target", "local", *CHAIN, "--set", "sleep_seconds=5")
    lock = user.state / "local" / "lock"
    wait_for(lambda: lock.exists() and lock.read_text().strip() == str(first.pid), "the first one's lock", 60)
    second = user.run(
        "run", "-o", "calls", "--target", "local", *CHAIN, "--results", str(user.state / "other")
    )
    assert second.returncode == 1
    assert f"process {first.pid}" in second.stderr and "BENCH_HOME" in second.stderr
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 0, out + errors


def _status() -> str:
    """What git thinks of the project."""
    words = ["git", "status", "--porcelain"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
