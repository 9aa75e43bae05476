"""What `bench doctor` says of machines that lack something: what, and what to type next."""

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from bench.commands import doctor
from bench.commands.doctor import GIB, Check, Verdict
from cluster.pins import NODE_NAME


@dataclass(frozen=True)
class Engine:
    """A Docker client with ready answers."""

    answers: dict[str, str]
    program: str = "docker"

    def ask(self, *arguments: str, **_: Any) -> str | None:
        return self.answers.get(arguments[0])


def with_engine(monkeypatch: pytest.MonkeyPatch, found: Engine | None) -> None:
    monkeypatch.setattr("bench.commands.doctor.engine.client", lambda: found)


def test_other_containers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, Engine({"ps": f"{NODE_NAME}\nblog-db\n"}))
    check = doctor._neighbours()
    assert check.verdict == "warn"
    assert check.detail.startswith("blog-db:")
    assert check.remedy.startswith("docker stop blog-db")


@pytest.mark.parametrize("found", [None, Engine({}), Engine({"ps": f"{NODE_NAME}\n"})])
def test_no_other_containers(monkeypatch: pytest.MonkeyPatch, found: Engine | None) -> None:
    with_engine(monkeypatch, found)
    assert doctor._neighbours().verdict == "ok"


def test_a_missing_engine_is_a_failure_only_for_those_who_may_not_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_engine(monkeypatch, None)
    for root, verdict in ((True, "warn"), (False, "fail")):
        monkeypatch.setattr("bench.commands.doctor.host.is_root", lambda answer=root: answer)
        check = doctor._docker()
        assert check.verdict == verdict
        assert "docker.io" in check.remedy


def test_what_stops_the_cluster_stops_no_run_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_engine(monkeypatch, None)
    monkeypatch.setattr("bench.commands.doctor.host.is_root", lambda: False)
    assert doctor._root().verdict == "warn" and "--target local" in doctor._root().remedy
    doctor._show([doctor._root(), doctor._docker()])
    shown = capsys.readouterr().out
    assert "--target local: nothing stands in its way" in shown
    assert "--target kind: cannot work: docker" in shown


def test_a_withheld_capability_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.commands.doctor.host.grants_sys_resource", lambda: False)
    assert doctor._capability().verdict == "warn"
    monkeypatch.setattr("bench.commands.doctor.host.grants_sys_resource", lambda: True)
    assert doctor._capability().verdict == "ok"


def test_a_small_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=4 * GIB, available=GIB)
    monkeypatch.setattr("bench.commands.doctor.psutil.virtual_memory", lambda: memory)
    assert doctor._memory().verdict == "warn"
    monkeypatch.setattr("bench.commands.doctor.shutil.disk_usage", lambda _: SimpleNamespace(free=GIB))
    assert doctor._disk().verdict == "warn"


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: Verdict, code: int
) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [Check("disk", verdict, "9 GiB [free]", "buy one")])
    with pytest.raises(typer.Exit) as end:
        doctor.doctor(json=True)
    assert end.value.exit_code == code
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == verdict
    with pytest.raises(typer.Exit):
        doctor.doctor(json=False)
    assert "9 GiB [free]" in capsys.readouterr().out
