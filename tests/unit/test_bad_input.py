"""Bad input: results that were cut, edited, mixed or doubled are said, never counted and never changed."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.base import BenchError
from bench.cli import app
from bench.results.records import ClientClock, RunRecord, canonical
from bench.results.store import FILE, LOCK, PUBLISHED, Store
from tests.unit.made_records import SECOND, made, scenario

OF = scenario("argo", "chain", 3)


@dataclass(frozen=True)
class Reported:
    """What `bench report` did."""

    code: int
    said: str
    out: Path

    @property
    def text(self) -> str:
        return (self.out / "report.md").read_text(encoding="utf-8")

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        return found

    @property
    def row(self) -> dict[str, Any]:
        (table,) = self.content["tables"]
        row: dict[str, Any] = next(row for row in table["rows"] if row["orchestrator"] == "argo")
        return row

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}


def report(folder: Path, out: Path | None = None) -> Reported:
    """The report of a folder, whose files it leaves as they are."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = out or folder.parent / f"{folder.name}-report"
    done = CliRunner().invoke(app, ["report", "--results", str(folder), "--out", str(out)])
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK}
    assert after == before
    if isinstance(done.exception, BenchError):
        raise done.exception
    return Reported(done.exit_code, done.stderr, out)


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    """Five good rows of one scenario, sealed."""
    store = Store(tmp_path / "good")
    for number in range(5):
        store.append(made(OF, number))
    return store.path.read_bytes().splitlines(keepends=True)


def holding(folder: Path, lines: list[bytes]) -> Path:
    folder.mkdir()
    (folder / FILE).write_bytes(b"".join(lines))
    return folder


def edited(line: bytes, **client: int) -> bytes:
    """The row with other times, and its old seal."""
    body = json.loads(line)
    body["client"].update(client)
    return canonical(body) + b"\n"


def resealed(line: bytes, **client: int) -> bytes:
    """The row with other times, and a seal that fits them."""
    record = RunRecord.model_validate_json(edited(line, **client))
    return canonical(record.sealed().model_dump(mode="json")) + b"\n"


def submitted(line: bytes) -> int:
    return ClientClock.model_validate(json.loads(line)["client"]).submit_ns


def test_good_results_have_no_problems(tmp_path: Path, lines: list[bytes]) -> None:
    done = report(holding(tmp_path / "results", lines))
    assert (done.code, done.said, done.row["n"]) == (0, "", 5)
    assert "Problems with these results" not in done.text and done.content["problems"] == []


@pytest.mark.parametrize("change", [lambda line: line, lambda line: resealed(line, accepted_ns=1 << 61)])
def test_a_run_id_that_comes_twice_counts_once(tmp_path: Path, lines: list[bytes], change: Any) -> None:
    good = report(tmp_path / "good")
    done = report(holding(tmp_path / "results", [*lines, change(lines[1])]))
    name = json.loads(lines[1])["run_id"]
    assert done.code == 4
    assert (done.row["n"], done.row["makespan"]) == (5, good.row["makespan"])
    assert f"line 6 ({name}): same run id as line 2; left out" in done.said
    assert done.text.index("## Problems with these results") < done.text.index("## Read this first")
    assert done.content["problems"] == [
        {
            "line": 6,
            "run_id": name,
            "message": "same run id as line 2",
            "costs": "row",
            "outcome": "left out",
        }
    ]


def test_a_row_that_was_edited_is_left_out(tmp_path: Path, lines: list[bytes]) -> None:
    done = report(
        holding(tmp_path / "results", [edited(lines[0], makespan_monotonic_ns=99 * SECOND), *lines[1:]])
    )
    assert (done.code, done.row["n"]) == (4, 4)
    assert "its sha256 is not that of its content" in done.said and "its sha256 is not that" in done.text


@pytest.mark.parametrize("field", ["makespan_monotonic_ns", "first_terminal_ns", "accepted_ns"])
def test_a_row_whose_clock_goes_backwards_is_no_sample_and_is_listed(
    tmp_path: Path, lines: list[bytes], field: str
) -> None:
    value = -5 * SECOND + (0 if field == "makespan_monotonic_ns" else submitted(lines[0]))
    done = report(holding(tmp_path / "results", [resealed(lines[0], **{field: value}), *lines[1:]]))
    assert (done.code, done.row["n"], done.row["ended"], done.row["failed"]) == (4, 4, 4, 0)
    assert "clocks go backwards" in done.said and "; no sample" in done.said
    (entry,) = done.content["contradictions"]
    assert (entry["run_id"], entry["measured"]) == (json.loads(lines[0])["run_id"], False)
    assert done.content["ended"]["backwards"] == 1 and "1 with clocks that go backwards" in done.text
    assert done.content["failures"] == []


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, lines: list[bytes]) -> None:
    done = report(holding(tmp_path / "results", [*lines[:4], lines[4][:-40]]))
    assert (done.code, done.row["n"]) == (4, 4)
    assert "line 5: torn: it ends within a record; left out" in done.said
    assert "torn: it ends within a record" in done.text


def test_a_last_line_without_its_newline_is_a_row(tmp_path: Path, lines: list[bytes]) -> None:
    done = report(holding(tmp_path / "results", [*lines[:4], lines[4][:-1]]))
    assert (done.code, done.row["n"]) == (0, 5)
    assert "no newline at its end; counts all the same" in done.said
    assert done.files == report(tmp_path / "good").files


def test_rows_of_another_version_are_left_out(tmp_path: Path, lines: list[bytes]) -> None:
    newer = lines[0].replace(b'"schema_version":1', b'"schema_version":2')
    done = report(holding(tmp_path / "results", [newer, *lines[1:]]))
    assert (done.code, done.row["n"]) == (4, 4)


def test_the_report_of_bad_results_is_the_same_anywhere(tmp_path: Path, lines: list[bytes]) -> None:
    folder = holding(tmp_path / "results", [*lines, lines[0], b"{}\n", lines[1][:9]])
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert report(folder).files == report(tmp_path / "elsewhere").files


def test_the_raw_rows_never_take_the_place_of_rows_that_are_left_out(
    tmp_path: Path, lines: list[bytes]
) -> None:
    folder = holding(tmp_path / "results", [*lines, lines[0]])
    with pytest.raises(BenchError, match="1 lines be lost"):
        report(folder, folder)
    good = holding(tmp_path / "whole", lines)
    assert CliRunner().invoke(app, ["report", "--results", str(good), "--out", str(good)]).exit_code == 0


def test_results_of_which_nothing_can_be_used_are_an_error(tmp_path: Path, lines: list[bytes]) -> None:
    with pytest.raises(BenchError, match="none of the 1 lines"):
        report(holding(tmp_path / "results", [lines[0][:50]]))


def test_a_comparison_says_what_it_leaves_out(tmp_path: Path, lines: list[bytes]) -> None:
    folder = holding(tmp_path / "results", [*lines, edited(lines[0], makespan_monotonic_ns=1)])
    for words in ((), ("--json",)):
        done = CliRunner().invoke(app, ["compare", str(tmp_path / "good"), str(folder), *words])
        assert done.exit_code == 4
        assert f"warning: {folder / FILE}, line 6" in done.stderr
    assert json.loads(done.stdout)["compared"][0]["found"]["n"] == [5, 5]


def test_the_published_results_have_no_problems() -> None:
    done = CliRunner().invoke(app, ["results", "verify", "--results", str(PUBLISHED)])
    assert done.exit_code == 0, done.stdout
