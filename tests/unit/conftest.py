"""A state folder of its own for every test, and real processes on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.settings import Settings

TOKEN = "unit-test-token"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Home:
    """Where one test keeps everything: ledger, registry, artifacts."""

    path: Path
    env: dict[str, str]

    def step(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `step …` to its end as its own process."""
        return subprocess.run(
            [sys.executable, "-m", "core.entry", *arguments],
            env={**self.env, **env},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def spawn(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start `step …` and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "core.entry", *arguments],
            env={**self.env, **env},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the ledger file holds."""
        ledger = self.path / "ledger.jsonl"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if kind is None or event["event"] == kind]

    @property
    def settings(self) -> Settings:
        """The same places, for calls in this process."""
        return Settings(
            ledger_uri=(self.path / "ledger.jsonl").as_uri(),
            tracking_uri=self.env["MLFLOW_TRACKING_URI"],
            serving_uri=self.env.get("BENCH_SERVING_URI", "http://127.0.0.1:9"),
            artifact_root=str(self.path / "artifacts"),
            token=TOKEN,
            pod_name="",
            pod_uid="",
            node="",
            image_digest="sha256:" + "1" * 64,
        )


def outputs_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The outputs in the last line of a step that must have succeeded."""
    assert done.returncode == 0, done.stderr
    outputs: dict[str, str] = json.loads(done.stdout.splitlines()[-1])["outputs"]
    return outputs


@pytest.fixture
def home(tmp_path: Path) -> Home:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_", "AWS_", "POD_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    env |= {
        "BENCH_HOME": str(tmp_path),
        "BENCH_TOKEN": TOKEN,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "BENCH_SERVING_URI": "http://127.0.0.1:9",  # the discard port: nobody answers
        "IMAGE_DIGEST": "sha256:" + "1" * 64,
    }
    return Home(tmp_path, env)


@dataclass
class Server:
    """A service in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> httpx.Response:
        """GET without a token."""
        return httpx.get(self.url + path, timeout=10, trust_env=False)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true answer of `condition`; fails the test if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


@pytest.fixture
def serve(home: Home) -> Iterator[Callable[..., Server]]:
    """Starts `python -m MODULE --port 0 …` and returns once it listens; ends it with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(module: str, *arguments: str, **env: str) -> Server:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--port", "0", *arguments],
            env={**home.env, **env},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening on " in line, f"{module} said {line!r}"
        return Server(line.split("listening on ")[1].strip(), process)

    yield start
    for process in started:
        process.kill()
        process.communicate()
