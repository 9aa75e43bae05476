"""The `step` command: what it prints, writes, records and ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import faults
from core.config import STEPS
from core.entry import run_step
from core.errors import BadInput
from core.steps.probe import fibonacci
from core.steps.select import choose
from tests.unit.conftest import Home, outputs_of, wait_for


def test_probe_prints_its_value_last_and_records_both_ends(home: Home) -> None:
    done = home.step("probe", "--run-id", "r", "--set", "fibo=12", "--index", "3")
    assert outputs_of(done) == {"value": "144"}
    start, finish = home.events()
    assert [start["event"], finish["event"]] == ["start", "finish"]
    assert (start["index"], start["attempt"], start["seq"]) == (3, 1, 1)
    times = [finish[name] for name in ("process_start_ns", "imports_done_ns", "user_start_ns", "user_end_ns")]
    assert times == sorted(times)
    assert finish["attempt_token"] == start["attempt_token"]
    assert finish["image_digest"].startswith("sha256:")


def test_probe_loads_nothing_heavy(home: Home) -> None:
    code = (
        "import sys; from core.entry import main; main(['probe', '--run-id', 'r']);"
        "heavy = {'sklearn', 'scipy', 'numpy', 'polars', 'mlflow', 'openlineage', 'fsspec', 'httpx'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=home.env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("n", "value"), [(0, 0), (1, 1), (2, 1), (20, 6765)])
def test_fibonacci(n: int, value: int) -> None:
    assert fibonacci(n) == value


def test_the_data_steps_by_hand(home: Home) -> None:
    """ingest → preprocess → train → eval, each fed with the URIs that the one before put out."""
    options = {"run_id": "r", "config": {"n_books": 40}, "settings": home.settings}
    ingest = run_step("ingest", **options)  # type: ignore[arg-type]
    assert ingest.outputs["ratings_uri"] == (home.path / "artifacts/r/ingest/1/ratings.parquet").as_uri()
    pre = run_step("preprocess", inputs=ingest.outputs, **options)  # type: ignore[arg-type]
    train = run_step("train", inputs=pre.outputs, **options)  # type: ignore[arg-type]
    scored = run_step("eval", inputs={**pre.outputs, **train.outputs}, **options)  # type: ignore[arg-type]
    assert scored.outputs["passed"] == "true"
    assert 0 < float(scored.outputs["score"]) <= 1
    metrics = json.loads((home.path / "artifacts/r/eval/1/metrics.json").read_text())
    assert metrics["dataset"]["sha256"] == ingest.outputs["dataset_sha256"]
    assert metrics["parents"]["model"]["sha256"] == train.outputs["model_sha256"]
    strict = {**options, "config": {"n_books": 40, "min_score_gate": 1.0}}
    failed = run_step("eval", inputs={**pre.outputs, **train.outputs}, **strict)  # type: ignore[arg-type]
    assert failed.outputs["passed"] == "false"


def test_output_dir_publish_uri_and_results(home: Home, tmp_path: Path) -> None:
    done = home.step(
        "ingest", "--run-id", "r", "--set", "n_books=20", "--output-dir", str(tmp_path / "out"),
        "--publish-uri", "s3://artifacts/runs/r/ingest", "--results-dir", str(tmp_path / "results"),
    )  # fmt: skip
    outputs = outputs_of(done)
    assert outputs["ratings_uri"] == "s3://artifacts/runs/r/ingest/ratings.parquet"
    assert (tmp_path / "out/ratings.parquet").is_file()
    written = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert written == outputs


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "--run-id", "r"), "--input train"),
        (("train", "--run-id", "r", "--input", "train=/none.npz"), "/none.npz"),
        (("train", "--run-id", "r", "--input", "train"), "NAME=VALUE"),
        (("ingest", "--run-id", "a/b"), "run id"),
        (("probe", "--run-id", "r", "--set", "fibo=99"), "fibo"),
        (("select", "--run-id", "r", "--input", "candidates=[]"), "candidates"),
        (("nonsense", "--run-id", "r"), "nonsense"),
    ],
)
def test_bad_input_ends_with_2_one_message_and_no_traceback(
    home: Home, arguments: tuple[str, ...], named: str
) -> None:
    done = home.step(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_ratings_file_is_refused_by_the_command(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("user_id,item_id,rating\nu,a,1\nu,b,many\n")
    done = home.step("ingest", "--run-id", "r", "--set", f"dataset_uri={path}")
    assert done.returncode == 2
    assert "row 3, column rating: 'many'" in done.stderr
    assert done.stderr.count("\n") == 1
    failed = home.events("failed")[0]
    assert "row 3" in failed["data"]["error"]


def test_an_input_with_another_digest_than_promised_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_bytes(b"something else")
    done = home.step(
        "train",
        "--run-id",
        "r",
        "--input",
        f"train={tmp_path}/train.npz",
        "--input",
        f"train_sha256={'0' * 64}",
    )
    assert done.returncode == 1
    assert "was promised" in done.stderr


def test_an_unreachable_ledger_ends_with_1_before_anything_is_done(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "out"
    read_only = home.step(
        "ingest", "--run-id", "r", "--output-dir", str(out), BENCH_LEDGER_URI="file:///proc/l"
    )
    assert read_only.returncode == 1
    assert "ledger file:///proc/l" in read_only.stderr
    assert not out.exists()


def test_an_unreachable_registry_is_named(home: Home, tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"model")
    done = home.step(
        "register", "--run-id", "r", "--input", f"model={tmp_path}/model.joblib",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert done.returncode == 1
    assert "registry http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", STEPS)
def test_help_has_an_example_for_every_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from core.entry import main

    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"step {name} --run-id r1" in capsys.readouterr().out


# --- faults ------------------------------------------------------------------------------------------


def fault(kind: str, attempts: str = "[1]") -> str:
    return f'{{"fault": {{"step": "probe", "kind": "{kind}", "on_attempts": {attempts}}}}}'


@pytest.mark.parametrize(("kind", "code"), [("exception", 1), ("exit1", 1), ("exit137", 137)])
def test_a_fault_strikes_on_the_attempts_named_as_the_ledger_counts(home: Home, kind: str, code: int) -> None:
    call = ("probe", "--run-id", "r", "--config", fault(kind, "[1, 2]"))
    assert [home.step(*call).returncode for _ in range(3)] == [code, code, 0]
    assert [event["attempt"] for event in home.events("start")] == [1, 2, 3]
    assert [event["attempt"] for event in home.events("finish")] == [3]
    assert len(home.events("failed")) == (0 if kind == "exit137" else 2)


def test_hang_ends_by_sigterm_and_says_so(home: Home) -> None:
    process = home.spawn("probe", "--run-id", "r", "--config", fault("hang"))
    wait_for(lambda: home.events("start"), "the start event")
    assert process.stderr is not None
    assert "fault injected" in process.stderr.readline()
    process.terminate()
    assert process.wait(30) == 143
    assert home.events("failed")[0]["data"]["error"] == "SIGTERM"


def test_ignore_sigterm_needs_sigkill(home: Home) -> None:
    process = home.spawn("probe", "--run-id", "r", "--config", fault("ignore-sigterm"))
    assert process.stderr is not None
    assert "fault injected" in process.stderr.readline()
    status = Path(f"/proc/{process.pid}/status")
    wait_for(lambda: _ignores(status.read_text(), signal.SIGTERM), "SIGTERM to be ignored")
    process.terminate()
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert home.events("failed") == []


def _ignores(status: str, number: int) -> bool:
    line = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_oom_is_refused_where_nothing_limits_memory(home: Home) -> None:
    if faults.memory_limit_bytes() is not None:
        pytest.skip("this process runs under a memory limit: the fault would be real")
    done = home.step("probe", "--run-id", "r", "--config", fault("oom"))
    assert done.returncode == 2
    assert "memory limit" in done.stderr


@pytest.fixture
def small_cgroup() -> Iterator[tuple[Path, Path]]:
    """A memory cgroup of 256 MiB (v1 or v2), and its file that counts OOM kills."""
    top = Path("/sys/fs/cgroup")
    old = (top / "memory/memory.limit_in_bytes").exists()
    group = top / ("memory" if old else "") / f"bench-test-{os.getpid()}"
    if not old and not (top / "cgroup.controllers").exists():
        pytest.skip("no memory controller here")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(256 << 20))
        yield group, group / ("memory.oom_control" if old else "memory.events")
    except OSError as error:
        pytest.skip(f"no memory limit can be set here: {error}")
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the cgroup to empty")
        group.rmdir()


def test_oom_is_a_real_one_where_memory_is_limited(home: Home, small_cgroup: tuple[Path, Path]) -> None:
    group, counters = small_cgroup
    inside = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    call = [sys.executable, "-m", "core.entry", "probe", "--run-id", "r", "--config", fault("oom")]
    done = subprocess.run(["sh", "-c", inside, "sh", *call], env=home.env, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    kills = dict(line.split() for line in counters.read_text().splitlines())
    assert int(kills["oom_kill"]) == 1
    started, struck = home.events()
    assert (started["event"], struck["event"], struck["data"]["effect"]) == ("start", "effect", "fault")


# --- select ------------------------------------------------------------------------------------------


def test_select_takes_the_best_score() -> None:
    assert (
        choose('[{"index": 0, "score": 0.1}, {"index": 1, "score": "0.9"}, "{\\"score\\": 0.3}"]')["index"]
        == "1"
    )


def test_ties_go_to_the_lowest_index_in_whatever_order_they_come() -> None:
    candidates = [{"index": number, "score": 0.5, "model_sha256": f"{number}"} for number in (10, 2, 7)]
    assert choose(json.dumps(candidates))["index"] == "2"
    assert choose(json.dumps(candidates[::-1]))["index"] == "2"


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"score": "nan"}]', '[{"index": 1}]', '["{"]'])
def test_unusable_candidates_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="candidates"):
        choose(text)
