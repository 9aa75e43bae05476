"""What the README and the stored report say is what the stored rows say."""

import filecmp
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from adapters.argo import adapter as argo
from adapters.base import BenchError
from adapters.kfp import cluster as kfp
from bench.report import capabilities, harness, readme
from bench.report.build import build
from bench.results.records import Outline
from bench.results.store import Reading, Store

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
LOCKED = {"apache-airflow": "Airflow", "prefect": "Prefect", "dagster": "Dagster", "kfp": "local SDK"}
"""Packages, and how the README calls them before their version."""


def test_the_table_is_that_of_the_stored_rows(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    readme.write(copy, Store(RESULTS).records(), RESULTS, tmp_path / "docs" / "results")
    assert copy.read_text() == (ROOT / "README.md").read_text()
    assert ": a pod |" in copy.read_text()


def test_the_stored_report_is_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    store = Store(RESULTS)
    assert store.verify() == []
    own, verdicts = harness.load(RESULTS), capabilities.load(RESULTS)
    for path in build(store.records(), tmp_path / "whole", own=own, verdicts=verdicts):
        assert filecmp.cmp(path, RESULTS / path.name, shallow=False), path.name
    outlines = Reading(RESULTS, Outline)
    for path in build(outlines.records, tmp_path / "outlines", outlines.lines, own, verdicts):
        assert filecmp.cmp(path, RESULTS / path.name, shallow=False), path.name


def test_the_times_of_each_command_and_state_are_how_far_they_lie_apart(tmp_path: Path) -> None:
    row = {"command": "./quickstart", "caches": "warm", "note": "", "cores": 2}
    old, new = {**row, "recorded_at": "2026-01-02T00:00:00Z"}, {**row, "recorded_at": "2026-01-03T00:00:00Z"}
    rows = [{**new, "seconds": 301.2, "note": "quiet"}, {**old, "seconds": 899.9}]
    rows += [{**old, "caches": "cold", "seconds": 777}]
    (tmp_path / readme.COMMANDS).write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert readme.times(tmp_path).splitlines() == [
        "- `./quickstart`, warm: 5:01 to 15:00 min on 2 cores (2 runs, the last 2026-01-03)",
        "- `./quickstart`, cold: 12:57 min on 2 cores (one run, the last 2026-01-02)",
    ]


def test_a_file_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(BenchError, match="no marks"):
        readme.write(tmp_path / "README.md", [], tmp_path, tmp_path)


def test_where_it_stands_names_the_versions_that_are_pinned() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {name: {p["version"] for p in packages if p["name"] == name} for name in LOCKED}
    text = (ROOT / "README.md").read_text()
    for name, title in LOCKED.items():
        (said,) = re.findall(rf"^\|.*{title} ([0-9.]+) \|", text, re.MULTILINE)
        assert said in locked[name], f"{title} is locked as {locked[name]}"
    assert f"| Argo Workflows {argo.VERSION_PIN.removeprefix('v')} |" in text
    assert f"| Kubeflow Pipelines: backend {kfp.VERSION}," in text


def test_setup_installs_the_uv_of_the_lock_by_its_hashes() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (locked,) = [package for package in packages if package["name"] == "uv"]
    wanted = (ROOT / "requirements-uv.txt").read_text()
    assert re.findall(r"^uv==(\S+)", wanted, re.MULTILINE) == [locked["version"]]
    linux = {wheel["hash"] for wheel in locked["wheels"] if "linux" in wheel["url"]}
    assert set(re.findall(r"--hash=(\S+)", wanted)) == linux


@pytest.mark.parametrize(
    ("script", "does"),
    [("setup", "sync"), ("quickstart", "bench report"), ("check", "pytest"), (".ci/run", "./check")],
)
def test_the_scripts_of_the_first_screen_can_be_run(script: str, does: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111 and does in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)
