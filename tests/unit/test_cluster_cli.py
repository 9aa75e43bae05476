"""`bench cluster` from the command line: what it accepts, says and exits with, without any Docker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner, Result

import cluster
from bench.commands import cluster as cluster_cli
from cluster import engine, pins
from cluster.state import ClusterInfo

INFO = ClusterInfo(
    "bench", Path("kubeconfig"), "v1", "v0", "build", False, {"step": "bench.local/step@sha256:0"}
)


def bench_cluster(*arguments: str) -> Result:
    return CliRunner().invoke(cluster_cli.app, list(arguments))


def words(result: Result) -> str:
    """The output without the frames and line breaks of a terminal."""
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What `up` is called with; nothing is made."""
    calls: list[tuple[str, ...]] = []

    def up(images: str, report: cluster.Report, *, orchestrators: Iterable[str]) -> ClusterInfo:
        calls.append((images, *orchestrators))
        return INFO

    monkeypatch.setattr(cluster, "up", up)
    return calls


@pytest.fixture
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "client", lambda: None)


def test_help_names_the_commands_and_the_exit_codes() -> None:
    result = bench_cluster("--help")
    assert result.exit_code == 0
    for word in ("up", "down", "status", "load", "Exit codes"):
        assert word in result.output


def test_help_of_up_names_the_orchestrators_and_an_example() -> None:
    result = bench_cluster("up", "--help")
    assert result.exit_code == 0
    assert "bench cluster up --with airflow,prefect" in words(result)
    assert all(name in result.output for name in pins.ORCHESTRATORS)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ()),
        (["--with", "prefect"], ("prefect",)),
        (["--with", "airflow, dagster"], ("airflow", "dagster")),
        (["--with", "argo,prefect"], ("prefect",)),
        (["--with", "airflow", "--with", "prefect,airflow"], ("airflow", "prefect")),
        (["--with", "all"], pins.ORCHESTRATORS),
    ],
)
def test_up_makes_the_images_that_are_asked_for(
    asked: list[tuple[str, ...]], arguments: list[str], wanted: tuple[str, ...]
) -> None:
    result = bench_cluster("up", *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert asked == [("auto", *wanted)]
    assert json.loads(result.stdout)["images"] == INFO.images


@pytest.mark.parametrize("arguments", [["--with", "airflow,luigi"], ["--images", "guess"]])
def test_an_unknown_name_is_refused_with_the_known_ones(
    asked: list[tuple[str, ...]], arguments: list[str]
) -> None:
    result = bench_cluster("up", *arguments)
    assert result.exit_code == 2
    known = [*pins.ORCHESTRATORS, "all"] if "--with" in arguments else ["auto", "pull", "build"]
    assert ", ".join(known) in words(result)
    assert "airflow'" not in words(result), "only the unknown name is blamed"
    assert not asked


def test_names_are_completed_one_after_another() -> None:
    assert cluster_cli._complete_with("air") == [*pins.ORCHESTRATORS, "all"]
    assert cluster_cli._complete_with("airflow,") == [
        "airflow,prefect",
        "airflow,dagster",
        "airflow,kfp",
        "airflow,all",
    ]


def test_a_failure_is_told_on_standard_error_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def up(*_: object, **__: object) -> NoReturn:
        raise cluster.ClusterError("It broke.", kept="the images.", remedy="bench cluster up")

    monkeypatch.setattr(cluster, "up", up)
    result = bench_cluster("up")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "It broke." in result.stderr and "next: bench cluster up" in result.stderr


def test_an_interrupted_up_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def up(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "up", up)
    result = bench_cluster("up")
    assert result.exit_code == 130
    assert "goes on from here" in result.stderr


@pytest.mark.usefixtures("nothing_there")
def test_status_exits_with_one_where_nothing_is_up() -> None:
    result = bench_cluster("status")
    assert result.exit_code == 1
    assert "does not answer" in result.output and "not up: `bench cluster up`" in result.output
    record = json.loads(bench_cluster("status", "--json").stdout)
    assert (record["up"], record["engine"], record["node"], record["info"]) == (False, None, "absent", None)


@pytest.mark.usefixtures("nothing_there")
def test_down_where_nothing_is_there_is_fine() -> None:
    for arguments in ([], ["--engine"]):
        result = bench_cluster("down", *arguments)
        assert result.exit_code == 0, result.output
        assert "The cluster is down." in result.output


@pytest.mark.usefixtures("nothing_there")
def test_load_without_a_cluster_says_how_to_get_one() -> None:
    result = bench_cluster("load", "my/image:1")
    assert result.exit_code == 1
    assert "There is no cluster." in result.stderr and "bench cluster up" in result.stderr
