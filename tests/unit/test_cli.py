"""The `bench` command as a user meets it: bad input, interruption, two at once. Real processes, the no-op adapter."""

import errno
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.errors import run_cli
from bench.results.store import Store

BENCH = [sys.executable, "-m", "bench"]
NOOP = ["run", "-o", "noop", "--target", "local"]


def bench(*words: str, check: int | None = None) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*BENCH, *words], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert check is None or done.returncode == check, done.stderr
    return done


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["run", "-o", "argoo", "--target", "local"],
            "one of: airflow, argo, calls, dagster, kfp, noop, pods, prefect, processes",
        ),
        (["run", "-o", "noop", "--target", "moon"], "one of: local, kind, k8s"),
        ([*NOOP, "-w", "pipelin"], "one of: pipeline, chain, fanout, sweep"),
        ([*NOOP, "-c", "tunned"], "one of: default"),
        ([*NOOP, "--set", "k"], "--set takes KEY=VALUE"),
        ([*NOOP, "--set", "kk=3"], "--set takes: dataset_uri"),
        ([*NOOP, "--set", "k=many"], "k:"),
        ([*NOOP, "--variant", "tape"], "one of: folder"),
        ([*NOOP, "--n", "0"], "--n"),
        (["run", "-o", ",", "--target", "local"], "no orchestrator is named"),
        ([*NOOP, "--observer", "off"], "nothing is left to measure"),
        ([*NOOP, "--deadline", "inf"], "--deadline takes a number, not inf"),
        ([*NOOP, "--jitter", "inf"], "--jitter takes a number, not inf"),
        ([*NOOP, "--steps", "10"], "--steps is of a chain or a fan-out, not of: pipeline"),
        ([*NOOP, "--lineage", "--fault", "sigkill"], "lineage is asked after a pipeline"),
        ([*NOOP, "--lineage", "-w", "chain"], "lineage is asked after a pipeline"),
    ],
)
def test_bad_input(words: list[str], says: str, tmp_path: Path) -> None:
    done = bench(*words, "--results", str(tmp_path / "results"), check=2)
    assert says in done.stderr
    assert not (tmp_path / "results").exists(), "nothing may be written for a request that cannot be"


def test_json_on_stdout_progress_on_stderr(tmp_path: Path) -> None:
    done = bench(*NOOP, "--n", "2", "--json", "--results", str(tmp_path), check=0)
    rows = json.loads(done.stdout)
    assert [row["status"] for row in rows] == ["succeeded", "succeeded"]
    assert "plan" in done.stderr


def test_unsupported_is_a_row_and_an_error(tmp_path: Path) -> None:
    words = ["run", "-o", "argo", "--target", "local", "--n", "1", "--no-controls"]
    done = bench(*words, "--results", str(tmp_path), check=1)
    assert "Kubernetes controller" in done.stdout + done.stderr
    assert {record.status for record in Store(tmp_path).records()} == {"unsupported"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_goes_on(sent: signal.Signals, tmp_path: Path) -> None:
    words = [*NOOP, "--n", "3", "--set", "sleep_seconds=1", "--results", str(tmp_path)]
    process = subprocess.Popen([*BENCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("1/3"):
            process.send_signal(sent)
            break
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "the same command goes on" in rest
    done = bench(*words, check=0)
    assert "goes on with the" in done.stdout
    records = Store(tmp_path).records()
    assert sorted(r.sample.index for r in records if r.status == "succeeded") == [0, 1, 2]
    assert len({r.sample.plan_id for r in records}) == 1


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    with Store.locked(tmp_path):
        done = bench(*NOOP, "--n", "1", "--results", str(tmp_path), check=1)
    assert "another run is writing" in done.stderr
    assert str(os.getpid()) in done.stderr


def test_a_results_folder_that_cannot_be_written() -> None:
    done = bench(*NOOP, "--n", "1", "--results", "/proc/results", check=1)
    assert "error:" in done.stderr and "next:" in done.stderr


def test_a_results_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for words in (NOOP, ["report"], ["choose"]):
        assert "is no folder" in bench(*words, "--results", str(file), check=2).stderr


def test_an_error_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a[/b]"
    assert f"results in {folder}" in bench(*NOOP, "--n", "1", "--results", str(folder), check=0).stdout


def test_a_terminal_that_cannot_show_a_sign_ends_no_measurement(tmp_path: Path) -> None:
    words = [*BENCH, *NOOP, "--n", "1", "--results", str(tmp_path)]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=ascii_only)
    assert done.returncode == 0, done.stderr


def test_a_report_in_the_place_of_its_own_results_waits_for_no_run_to_be_lost(tmp_path: Path) -> None:
    bench(*NOOP, "--n", "1", "--results", str(tmp_path), check=0)
    words = ["report", "--results", str(tmp_path), "--out"]
    with Store.locked(tmp_path):
        assert "another run is writing" in bench(*words, str(tmp_path), check=1).stderr
        bench(*words, str(tmp_path / "elsewhere"), check=0)
    bench(*words, str(tmp_path), check=0)
    assert len(Store(tmp_path).records()) == 1


def test_report_without_results(tmp_path: Path) -> None:
    done = bench("report", "--results", str(tmp_path), check=1)
    assert "bench run" in done.stderr


def test_version_is_that_of_the_package() -> None:
    assert bench("--version", check=0).stdout.split()[-1] == version("orchestrator-bench")


def test_help_has_examples() -> None:
    text = bench("run", "--help", check=0).stdout
    assert "bench run --orchestrator argo" in text


def test_a_command_without_a_cluster_does_not_wait_for_kubernetes_client() -> None:
    asked = "import sys, bench.cli, bench.report.build; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], timeout=60).returncode == 0


def test_two_commands_do_not_measure_on_one_cluster(tmp_path: Path) -> None:
    environment = {**os.environ, "BENCH_HOME": str(tmp_path / "home")}
    holder = "import sys; from adapters.locks import *; from adapters.base import Target\n"
    holder += "with measuring(Target.KIND): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first = subprocess.Popen([sys.executable, "-c", holder], env=environment, text=True, **pipes)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    words = [*BENCH, "run", "-o", "noop", "--target", "kind", "--results", str(tmp_path / "results")]
    refused = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and f"(process {first.pid})" in refused.stderr
    assert Store(tmp_path / "results").records() == []
    planned = subprocess.run([*words, "--plan"], env=environment, capture_output=True, timeout=60)
    assert planned.returncode == 0, "a plan that is only printed measures nothing"
    first.kill()
    first.communicate()
    here = subprocess.run(
        [*words[:-3], "local", *words[-2:]], env=environment, capture_output=True, timeout=60
    )
    assert here.returncode == 0


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The write that failed does not say where; the program knows where it writes."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    sizes = {tmp_path: 0, Path.cwd(): 1 << 30}
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=sizes[place]))

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SystemExit) as ended:
        run_cli(full)
    assert ended.value.code == 1
    assert f"No space left on device ({tmp_path})" in capsys.readouterr().err
