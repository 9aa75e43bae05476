"""The table of capabilities: every test of the suite, every gap with its reason, nothing out of date."""

from pathlib import Path

import pytest

from adapters.base import BenchError
from bench.report import capabilities
from bench.report.capabilities import CAPABILITIES, Conformance, Verdict
from bench.results.records import Environment
from tests.conformance.suite import MUST_PASS
from tests.conformance.suite import Conformance as Suite

ROOT = Path(__file__).parents[2]


def made(**verdicts: Verdict) -> Conformance:
    everything = {name: Verdict(outcome="yes") for name in CAPABILITIES}
    return Conformance(
        adapter="argo",
        target="kind",
        configuration="tuned",
        adapter_sha256=capabilities.adapter_sha256("argo", "kind"),
        recorded_at="2026-01-01T00:00:00Z",
        environment=Environment(blocking={}),
        verdicts={**everything, **verdicts},
    )


def test_the_table_asks_what_the_suite_asks() -> None:
    assert set(CAPABILITIES) == {
        name.removeprefix("test_") for name in dir(Suite) if name.startswith("test_")
    }


def test_what_must_pass_is_asked() -> None:
    assert set(CAPABILITIES) > MUST_PASS


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    capabilities.save(tmp_path, made())
    assert capabilities.load(tmp_path) == [made()]


def test_a_gap_is_shown_with_its_reason() -> None:
    text = capabilities.table([made(cancel=Verdict(outcome="notyet", reason="see issue"))])
    assert "| a run can be ended, and is gone (`cancel`) | not yet [1] |" in text
    assert text.endswith("1. argo, kind, a run can be ended, and is gone: see issue")


def test_what_was_found_is_said_in_the_table() -> None:
    text = capabilities.table([made(schedule_overlaps=Verdict(outcome="yes", reason="starts beside it"))])
    assert (
        "| a scheduled run that is due while the last one is at work (`schedule_overlaps`) | starts beside it |"
        in text
    )
    assert "[1]" not in text


def test_a_single_question_asked_again_keeps_the_other_answers() -> None:
    failed, again = Verdict(outcome="failed"), Verdict(outcome="yes")
    stored = made(fanout=failed)
    new = made().model_copy(update={"verdicts": {"fanout": again}})
    assert capabilities.joined([stored], new).verdicts == {**stored.verdicts, "fanout": again}
    other = stored.model_copy(update={"adapter_sha256": "0"})
    assert capabilities.joined([other], new) == new


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (made().model_copy(update={"adapter_sha256": "0"}), "adapters/argo has changed"),
        (made(cancel=Verdict(outcome="failed")), "cancel failed"),
        (made().model_copy(update={"verdicts": {}}), "no verdict on approval_waits, caches_are_off, cancel"),
    ],
)
def test_what_no_longer_holds_is_named(found: Conformance, problem: str) -> None:
    assert any(problem in line for line in capabilities.stale([found]))
    assert capabilities.stale([made()]) == []


def test_a_changed_adapter_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapters" / "x").mkdir(parents=True)
    monkeypatch.setattr(capabilities, "ROOT", tmp_path)
    before = capabilities.adapter_sha256("x", "kind")
    (tmp_path / "adapters" / "x" / "README.md").write_text("words")
    (tmp_path / "adapters" / "x" / "local.py").write_text("code of the other target")
    assert capabilities.adapter_sha256("x", "kind") == before
    assert capabilities.adapter_sha256("x", "local") != before
    (tmp_path / "adapters" / "x" / "adapter.py").write_text("code")
    assert capabilities.adapter_sha256("x", "kind") != before


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(BenchError, match="no marks"):
        capabilities.write(tmp_path / "page.md", [made()])


def test_what_is_published_still_holds() -> None:
    found = capabilities.load(ROOT / "docs" / "results")
    assert capabilities.stale(found) == []
    page = ROOT / "docs" / "capabilities.md"
    assert capabilities.renewed(page, found) == page.read_text()
