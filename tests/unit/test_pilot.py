"""A wanted precision becomes a number of samples, from a pilot that is in no result."""

import math
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.analysis.statistics import median, median_estimate
from bench.cli import app
from bench.errors import BadInput
from bench.measure import pilot
from bench.measure import plan as planning
from bench.results.store import Store


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.1", 0.1), ("12.5%", 0.125)])
def test_a_precision_is_a_share(text: str, value: float) -> None:
    assert pilot.share("--precision", text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "0%", "-1%", "nan", "much", "100%"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--precision takes a share"):
        pilot.share("--precision", text)


def test_as_many_samples_as_it_says_give_about_that_precision() -> None:
    """By simulation: the interval's half width over the median, averaged, is near what was asked for."""
    source = random.Random(5)
    n = pilot.needed([source.gauss(60, 6) for _ in range(2000)], 0.05)
    widths = []
    for _ in range(200):
        found = median_estimate([source.gauss(60, 6) for _ in range(n)])
        assert found.interval is not None
        widths.append((found.interval.high - found.interval.low) / 2 / found.value)
    assert 0.035 < median(widths) < 0.07


def test_the_scenario_that_varies_most_decides_and_too_many_are_refused() -> None:
    found = {"steady": [10.0, 10.1, 10.0], "wild": [10.0, 14.0, 18.0], "once": [1.0]}
    n, key = pilot.samples_for(found, 0.2)
    assert key == "wild"
    assert n == math.ceil((1.959964 * math.sqrt(math.pi / 2) * 4 / (0.2 * 14)) ** 2)
    with pytest.raises(BadInput, match="more than 200"):
        pilot.samples_for(found, 0.01)
    with pytest.raises(BadInput, match="two good runs"):
        pilot.samples_for({"once": [1.0]}, 0.05)


def ran(results: Path, *more: str) -> str:
    words = ["run", "-o", "noop", "--target", "local", "-w", "chain", "--steps", "1", "--no-controls"]
    answer = CliRunner().invoke(app, [*words, "--results", str(results), *more])
    return f"{answer.exit_code} {answer.output} {answer.exception}"


def test_pilot_runs_are_apart_and_a_used_up_pilot_is_run_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pilot, "by_scenario", lambda records: {"noop": [10.0, 10.5, 11.0]})
    results = tmp_path / "results"
    assert ran(results, "--precision", "10%").startswith("0 ")
    apart = Store(results / pilot.FOLDER).records()
    assert len(apart) == pilot.RUNS
    first = Store(results).records()
    assert len(first) == pilot.needed([10.0, 10.5, 11.0], 0.1)
    assert not {record.sample.plan_id for record in apart} & {record.sample.plan_id for record in first}
    (plan,) = planning.stored(results)
    assert plan.pilot == apart[0].sample.plan_id

    plan_file = next((results / planning.PLANS).glob("*.json"))
    (results / "runs.jsonl").write_text(
        "".join((results / "runs.jsonl").read_text().splitlines(keepends=True)[:-1])
    )
    assert "goes on with the 1 that are missing" in ran(results, "--precision", "10%"), (
        "the pilot's answer holds"
    )
    assert len(Store(results / pilot.FOLDER).records()) == pilot.RUNS
    assert plan_file.exists()

    assert ran(results, "--precision", "10%").startswith("0 ")
    assert len(Store(results / pilot.FOLDER).records()) == 2 * pilot.RUNS, "a new question, a new pilot"


def test_what_a_pilot_said_holds_until_its_plan_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the pilot itself turns out to lack a run: another n would be another plan, and samples twice."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pilot, "by_scenario", lambda records: {"noop": [10.0, 10.5, 11.0]})
    results = tmp_path / "results"
    assert ran(results, "--precision", "10%").startswith("0 ")
    (plan,) = planning.stored(results)
    for folder in (results, results / pilot.FOLDER):
        lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
        (folder / "runs.jsonl").write_text("".join(lines[:-1]))
    monkeypatch.setattr(pilot, "by_scenario", lambda records: {"noop": [10.0, 15.0, 21.0]})
    assert "goes on with the 1 that are missing" in ran(results, "--precision", "10%")
    assert [each.plan_id for each in planning.stored(results)] == [plan.plan_id]


def test_another_precision_is_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pilot, "by_scenario", lambda records: {"noop": [10.0, 10.5, 11.0]})
    results = tmp_path / "results"
    assert ran(results, "--precision", "10%").startswith("0 ")
    stored = (results / "runs.jsonl").read_text().splitlines(keepends=True)
    (results / "runs.jsonl").write_text("".join(stored[:-1]))
    assert "goes on with" not in ran(results, "--precision", "5%")
    wanted = sorted(pilot.needed([10.0, 10.5, 11.0], share) for share in (0.1, 0.05))
    assert sorted(plan.n for plan in planning.stored(results)) == wanted and wanted[0] < wanted[1]


def test_the_plan_is_not_known_before_the_pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    assert "before the pilot has run" in ran(tmp_path / "results", "--precision", "10%", "--plan")
    assert Store(tmp_path / "results" / pilot.FOLDER).records() == []
