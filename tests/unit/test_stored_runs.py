"""Every published run: its breakdown is what its clocks give, its parts add up, and what cannot be is marked."""

from pathlib import Path

import pytest

from bench.analysis.breakdown import breakdown
from bench.results.records import RunRecord
from bench.results.store import PUBLISHED, Store

CLOCK_SECONDS = 0.001
"""The wall clock against the monotonic one, over a run."""


@pytest.fixture(scope="module")
def broken_down() -> list[RunRecord]:
    found = [r for r in Store(Path(PUBLISHED)).records() if r.breakdown is not None and r.client is not None]
    assert found
    return found


def test_what_is_stored_is_what_the_clocks_of_the_record_give(broken_down: list[RunRecord]) -> None:
    other = [
        r.run_id
        for r in broken_down
        if r.client and breakdown(r.scenario, r.client, r.timeline, r.pods, r.ledger, r.task) != r.breakdown
    ]
    assert other == []


def test_parts_add_up_to_the_makespan_by_the_wall_clock(broken_down: list[RunRecord]) -> None:
    for record in broken_down:
        assert record.breakdown and record.client
        if record.breakdown.parts:
            whole = (record.client.first_terminal_ns - record.client.submit_ns) / 1e9
            off = abs(sum(part.seconds for part in record.breakdown.parts) - whole)
            assert off < CLOCK_SECONDS, f"{record.run_id}: {off:.6f} s"


def test_a_part_that_no_clock_explains_marks_its_record(broken_down: list[RunRecord]) -> None:
    for record in broken_down:
        assert record.breakdown
        for part in record.breakdown.parts:
            assert part.low <= part.high, record.run_id
            # The pod of a scheduled run may be made before the run is due.
            if part.high < 0 and not (record.scenario.trigger == "schedule" and part.name == "queue"):
                assert any(error.startswith(f"{part.name}") for error in record.clock_errors), record.run_id
