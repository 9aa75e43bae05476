"""What the terminal shows, read as plain text."""

import re
from itertools import pairwise

import pytest
from rich.console import Console, RenderableType

from adapters.workloads import Member
from bench.report import numbers, tables, timeline
from bench.results.records import RunRecord
from tests.unit.made_records import SECOND, MadeRun, made, scenario


def plain(what: RenderableType, width: int = 160) -> str:
    console = Console(width=width, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(what)
    return console.export_text()


def bars(text: str) -> dict[str, str]:
    """The drawn part of each row, by the step's name."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*([a-z]+(?:\[\d+\])?(?: #\d+)?) ([ ·░▒█x]+) +\S+(?: s)?\s*$", line)
        if match:
            found[match[1]] = match[2]
    return found


def test_every_step_has_a_row_and_every_kind_its_character() -> None:
    text = plain(timeline.timeline(made(), 100))
    rows = bars(text)
    assert list(rows) == ["ingest", "preprocess", "train", "eval", "register", "promote", "monitor"]
    assert all("·" in row and "░" in row and "▒" in row and "█" in row for row in rows.values())
    assert "· wait   ░ start-up   ▒ imports   █ user" in text
    assert "terminal state at" in text


def test_rows_are_to_scale_and_follow_one_another() -> None:
    run = MadeRun(scenario("argo", "chain", 2))
    run.ledger, run.pods, run.attempts = [], [], []
    one = run.add(Member("probe", 0), run.accepted + SECOND, user=10)
    two = run.add(Member("probe", 1), one["user_end_ns"] + SECOND, user=40)
    last = two["user_end_ns"]
    scale = (last - two["user_start_ns"]) / (one["user_end_ns"] - one["user_start_ns"])
    run.last_look, run.first_terminal = last, last + 1000
    run.makespan = run.first_terminal - run.submit
    rows = bars(plain(timeline.timeline(run.record(), 120)))
    assert rows["probe[1]"].count("█") == pytest.approx(scale * rows["probe[0]"].count("█"), rel=0.1)
    assert rows["probe[1]"].index("·") >= rows["probe[0]"].rindex("█")


def test_a_column_shows_what_takes_up_most_of_it() -> None:
    stretches = [timeline._Stretch(timeline.USER, 0.0, 0.9), timeline._Stretch(timeline.WAIT, 0.9, 2.0)]
    assert timeline._bar(stretches, 2, 0.0, 2.0).plain == "█·"
    assert timeline._bar(stretches[::-1], 2, 0.0, 2.0).plain == "█·"
    short = [timeline._Stretch(timeline.WAIT, 0.0, 1.99), timeline._Stretch(timeline.USER, 1.99, 2.0)]
    assert timeline._bar(short, 2, 0.0, 2.0).plain == "·█"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_asked_for(width: int) -> None:
    for workload, steps in (("pipeline", 7), ("fanout", 50)):
        text = plain(timeline.timeline(made(scenario(workload=workload, steps=steps)), width), 400)
        rows = [line for line in text.splitlines() if re.search(r"[░▒█]", line) and "user time" not in line]
        assert len(rows) == steps
        assert max(map(len, rows)) <= max(width, 45)


def test_each_attempt_has_a_row_and_one_that_did_not_finish_is_marked() -> None:
    run = MadeRun(scenario("argo", "chain", 1))
    run.ledger, run.pods, run.attempts = [], [], []
    lost = run.add(Member("probe", 0), run.accepted, 1, event="failed", user_end_ns=None)
    end = run.add(Member("probe", 0), lost["wall_ns"] + SECOND, 2)["user_end_ns"]
    run.first_terminal = run.last_look = end
    text = plain(timeline.timeline(run.record(), 100))
    rows = bars(text)
    assert list(rows) == ["probe[0] #1", "probe[0] #2"]
    assert "x" in rows["probe[0] #1"]
    assert "x" not in rows["probe[0] #2"]
    assert "x did not finish" in text


def test_the_axis_counts_seconds() -> None:
    text = plain(timeline.timeline(made(), 100)).splitlines()
    numbers = [float(n) for n in text[1].replace(" s", "").split()]
    assert numbers[0] == 0
    assert len({round(b - a, 6) for a, b in pairwise(numbers)}) == 1
    assert text[2].count("┬") == len(numbers)


@pytest.mark.parametrize(
    "record", [made(scenario("noop")), made(client=None, status="failed", reason="no answer")]
)
def test_a_run_without_steps_or_clocks_is_said_to_be_one(record: RunRecord) -> None:
    text = plain(timeline.timeline(record, 100))
    assert "no steps" in text or "no answer" in text


def test_the_summary_has_a_table_for_each_kind_of_step_and_sets_rows_against_the_floor() -> None:
    records = [
        made(scenario(name, "chain", 3), number, handoff=handoff)
        for number in range(6)
        for name, handoff in (("argo", 9.0), ("pods", 0.3), ("noop", 0))
    ]
    text = plain(tables.summary(records), 100)
    assert "kind, one pod per step: chain-3" in text
    assert "kind, no steps: chain-3" in text
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if "argo" in line)
    assert re.search(r"argo +6 +\d\S* s +\d\S* s +\d\S* s +\d\.\d\d +0 +0", lines[at])
    assert lines[at + 1].count("[") == 4
    assert lines[at + 1].lstrip().startswith("97%")
    assert next(line for line in lines if "pods" in line).count("floor") == 1


def test_the_summary_counts_failed_void_and_unsupported_runs() -> None:
    of = scenario("argo", "chain", 3)
    records = [
        made(of, 0),
        made(of, 1, status="failed"),
        made(of, 2, status="timeout"),
        made(of, 3, status="void"),
        made(scenario("kfp", "sweep", 4), 0, status="unsupported", reason="no such thing", client=None),
    ]
    text = plain(tables.summary(records))
    assert re.search(r"argo +1 .* 2 +1 *$", text, re.MULTILINE)
    assert "unsupported: no such thing" in text
    assert "no runs are stored" in plain(tables.summary([]))


def test_a_breakdown_shows_bounds_errors_and_the_residual() -> None:
    run = MadeRun(scenario("argo", "chain", 1))
    run.makespan += 5 * SECOND
    text = plain(tables.breakdown_table([run.record()]))
    assert "kubernetes→ledger" in text
    assert "error of the record: residual: the parts add up to" in text
    assert "resolution explains ±" in text
    assert "overhead" not in text, "a single step's window has none"
    assert "overhead" in plain(tables.breakdown_table([made(scenario("argo", "chain", 2))]))


def test_the_breakdown_of_several_runs_is_of_medians_with_shares() -> None:
    text = plain(
        tables.breakdown_table([made(scenario("argo", "chain", 3), i, handoff=20.0) for i in range(3)])
    )
    assert "n=3" in text
    assert re.search(r"handoff │ +\S+ s │ +\d\d% │", text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0421, "0.042 s"), (-0.5, "-0.500 s"), (9.529, "9.53 s"), (70.94, "70.9 s"), (134.4, "134 s")],
)
def test_seconds_have_three_figures(value: float, text: str) -> None:
    assert numbers.seconds(value) == text
