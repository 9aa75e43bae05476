"""What is read from the log records of KFP's local runner."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters.kfp import journal

RED, GREEN, CYAN, PLAIN = "\x1b[91m", "\x1b[92m", "\x1b[96m", "\x1b[0m"


def executing(at: float, thread: int, component: str, index: int | None = None) -> list[dict[str, Any]]:
    """What the runner process writes when KFP starts an attempt."""
    name = component.removeprefix("comp-")
    return [
        {"thread": thread, "task": component, "index": index},
        {"thread": thread, "at": at, "said": f"Executing task {CYAN}'{name}'{PLAIN}"},
        {"thread": thread, "at": at, "said": "Streamed logs:\n"},
    ]


def finished(at: float, thread: int, component: str, status: str = "SUCCESS") -> list[dict[str, Any]]:
    """What KFP says when an attempt has ended."""
    name = component.removeprefix("comp-")
    said = f"Task {CYAN}'{name}'{PLAIN} finished with status {GREEN}{status}{PLAIN}"
    return [
        {"thread": thread, "at": at, "said": said},
        {"thread": thread, "at": at + 0.001, "said": f"Task '{name}' outputs:\n    Output: '55'"},
    ]


def retrying(at: float, thread: int, task: str, attempt: int) -> list[dict[str, Any]]:
    """What KFP says before the next attempt."""
    said = f"Task {task} failed (attempt {attempt}/3). Retrying in 0.0s..."
    return [{"thread": thread, "at": at, "said": said}]


def said(at: float, text: str) -> list[dict[str, Any]]:
    """Another record of the main thread."""
    return [{"thread": 1, "at": at, "said": text}]


def kept(folder: Path, *parts: Iterable[Mapping[str, Any]], torn: str = "") -> list[journal.Line]:
    """The journal as it is read back from a file."""
    text = "".join(json.dumps(line) + "\n" for part in parts for line in part)
    (folder / journal.JOURNAL).write_text(text + torn, encoding="utf-8")
    return journal.read(folder)


def test_attempts_are_numbered_as_kfp_says(tmp_path: Path) -> None:
    lines = kept(
        tmp_path,
        said(1.0, f"Running pipeline: {RED}'chain-2'{PLAIN}"),
        executing(2.0, 1, "comp-probe", 0),
        finished(3.0, 1, "comp-probe", "FAILURE"),
        retrying(3.5, 1, "probe", 1),
        executing(4.0, 1, "comp-probe", 0),
        finished(5.0, 1, "comp-probe"),
        executing(6.0, 1, "comp-probe-2", 1),
        finished(7.0, 1, "comp-probe-2"),
        said(8.0, f"Pipeline {RED}'chain-2'{PLAIN} finished with status {GREEN}SUCCESS{PLAIN}"),
    )
    found = journal.timeline_of("r1", lines)
    assert [(a.step, a.index, a.attempt, a.started, a.finished, a.status) for a in found.attempts] == [
        ("probe", 0, 1, 2.0, 3.0, "FAILURE"),
        ("probe", 0, 2, 4.0, 5.0, "SUCCESS"),
        ("probe", 1, 1, 6.0, 7.0, "SUCCESS"),
    ]
    assert (found.started, found.finished, found.native_status) == (1.0, 8.0, "SUCCESS")
    assert (journal.ending(lines), journal.why(lines)) == ("SUCCESS", "")


def test_iterations_are_told_apart_by_thread(tmp_path: Path) -> None:
    lines = kept(
        tmp_path,
        executing(1.0, 7, "comp-probe", 0),
        executing(1.1, 8, "comp-probe", 1),
        finished(2.0, 8, "comp-probe", "FAILURE"),
        retrying(2.1, 8, "probe", 1),
        finished(2.2, 7, "comp-probe"),
        executing(2.3, 7, "comp-probe", 2),
        executing(2.4, 8, "comp-probe", 1),
        finished(3.0, 8, "comp-probe"),
        finished(3.1, 7, "comp-probe"),
    )
    found = {(a.index, a.attempt): (a.started, a.finished) for a in journal.timeline_of("r1", lines).attempts}
    assert found == {(0, 1): (1.0, 2.2), (1, 1): (1.1, 2.0), (1, 2): (2.4, 3.0), (2, 1): (2.3, 3.1)}


def test_steps_of_a_gate_that_does_not_pass_are_skipped(tmp_path: Path) -> None:
    lines = kept(
        tmp_path,
        [{"thread": 1, "groups": {"condition-1": ["monitor", "promote", "register"]}}],
        executing(1.0, 1, "comp-evaluate"),
        finished(2.0, 1, "comp-evaluate"),
        said(2.1, "Skipping conditional task condition-1 (condition evaluated to False)"),
        said(2.2, "Pipeline 'recommender' finished with status SUCCESS"),
    )
    found = journal.timeline_of("r1", lines)
    assert [a.step for a in found.attempts] == ["eval"]
    assert found.skipped == ("monitor", "promote", "register")


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    lines = kept(tmp_path, executing(1.0, 1, "comp-probe", 0), torn='{"thread": 1, "at": 2.0, "sa')
    (attempt,) = journal.timeline_of("r1", lines).attempts
    assert (attempt.started, attempt.finished, attempt.status) == (1.0, None, "")
    assert journal.ending(lines) == ""


def test_a_failure_is_told_in_kfps_words(tmp_path: Path) -> None:
    words = f"Pipeline 'x' finished with status {RED}FAILURE{PLAIN}. Inner task failed: {CYAN}'train'{PLAIN}."
    lines = kept(tmp_path, said(1.0, words))
    assert journal.ending(lines) == "FAILURE"
    assert journal.why(lines) == "Pipeline 'x' finished with status FAILURE. Inner task failed: 'train'."


def test_no_journal_yet(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []


def test_logs_of_one_step() -> None:
    log = "\n".join(
        [
            f"17:00:00.000 - INFO - Executing task {CYAN}'ingest'{PLAIN}",
            '    {"step": "ingest", "outputs": {}}',
            f"17:00:01.000 - INFO - Task {CYAN}'ingest'{PLAIN} finished with status {GREEN}SUCCESS{PLAIN}",
            f"17:00:01.000 - INFO - Executing task {CYAN}'evaluate'{PLAIN}",
            '    {"step": "eval", "outputs": {"passed": "true"}}',
            f"17:00:02.000 - INFO - Task {CYAN}'evaluate'{PLAIN} finished with status {GREEN}SUCCESS{PLAIN}",
            "17:00:02.000 - INFO - something else",
        ]
    )
    assert journal.printed(log, "eval").splitlines()[1] == '{"step": "eval", "outputs": {"passed": "true"}}'
    assert "ingest" not in journal.printed(log, "eval") and "else" not in journal.printed(log, "eval")
    assert journal.printed(log, "train") == ""
