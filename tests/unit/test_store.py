"""The store keeps what it acknowledged, whatever happens to the process, the disk or the file."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import BenchError
from bench.analysis.cells import is_measured
from bench.results.records import Outline, RunRecord, canonical
from bench.results.store import Reading, Store, by_run_id, default_folder, verify
from tests.unit.made_records import EPOCH, SECOND, made, scenario, small


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def filled(folder: Path, count: int) -> Store:
    store = Store(folder)
    for index in range(count):
        store.append(small(f"run-{index}", index))
    return store


def test_an_appended_record_is_sealed_and_read_back_as_it_was(store: Store) -> None:
    sealed = store.append(made())
    assert sealed.sha256 == sealed.content_sha256()
    assert Store(store.folder).records() == [sealed]
    assert store.path.read_bytes().count(b"\n") == 1


def test_a_store_that_is_not_there_yet_is_empty_and_is_not_made(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").records() == []
    assert not (tmp_path / "none").exists()


def test_a_run_id_is_stored_once(store: Store) -> None:
    store.append(small("run-1", 0))
    with pytest.raises(BenchError, match="run-1 is already stored"):
        store.append(small("run-1", 1))
    assert len(Store(store.folder).records()) == 1


def test_a_sample_is_answered_once_but_a_void_one_is_repeated(store: Store) -> None:
    key = scenario("noop", "chain", 3).key
    store.append(small("run-1", 0, status="void", reason="pressure"))
    assert store.done("plan") == set()
    store.append(small("run-2", 0, status="failed"))
    assert store.done("plan") == {(key, 0)}
    assert store.tries("plan", key, 0) == 2
    assert store.tries("plan", key, 1) == 0
    assert store.done("another plan") == set()
    with pytest.raises(BenchError, match="already answered by run-2"):
        store.append(small("run-3", 0))


def test_two_stores_on_one_folder_see_each_others_records(store: Store) -> None:
    other = Store(store.folder)
    store.append(small("run-1", 0))
    with pytest.raises(BenchError, match="already answered"):
        other.append(small("run-2", 0))
    other.append(small("run-2", 1))
    store.append(small("run-3", 2))
    assert [r.run_id for r in store.records()] == ["run-1", "run-2", "run-3"]
    assert store.verify() == []


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return filled(tmp_path_factory.mktemp("three"), 3).path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_kill_at_any_byte_loses_nothing_acknowledged(
    three: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut = data.draw(st.integers(0, len(three)))
    folder = tmp_path_factory.mktemp("cut")
    (folder / "runs.jsonl").write_bytes(three[:cut])
    whole, left = three[:cut].count(b"\n"), three[:cut].rpartition(b"\n")[2]
    unended = left + b"\n" in three.splitlines(keepends=True)
    torn = [left] if left and not unended else []
    kept = [f"run-{i}" for i in range(whole + unended)]
    for found in (Store(folder).records(), Reading(folder).records):
        assert [r.run_id for r in found] == kept
    assert [(p.line, p.costs) for p in verify(folder)] == [(whole + 1, "row" if torn else "")] * bool(left)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"runs.jsonl": three[:cut]}
    with Store.locked(folder) as store:
        assert [r.run_id for r in store.records()] == kept
        assert [path.read_bytes() for path in folder.glob("runs.torn-*.jsonl")] == torn
        assert len(store.notices) == bool(left)
        store.append(small("again", 99))
        assert store.verify() == []
    with Store.locked(folder) as store:
        assert store.notices == []


def test_torn_lines_are_kept_apart_from_each_other(tmp_path: Path) -> None:
    for number in (1, 2):
        store = filled(tmp_path, 1) if number == 1 else Store(tmp_path)
        with store.path.open("ab") as file:
            file.write(b"torn %d" % number)
        with Store.locked(tmp_path):
            pass
    assert (tmp_path / "runs.torn-1.jsonl").read_bytes() == b"torn 1"
    assert (tmp_path / "runs.torn-2.jsonl").read_bytes() == b"torn 2"


def test_a_last_line_that_is_not_json_is_torn_even_with_a_newline(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    with store.path.open("ab") as file:
        file.write(b"\0\0\0\0\n")
    with Store.locked(tmp_path) as again:
        assert len(again.records()) == 2
        assert "torn by a crash" in again.notices[0]
    assert (tmp_path / "runs.torn-1.jsonl").read_bytes() == b"\0\0\0\0\n"


def test_damage_in_the_middle_is_an_error_that_says_what_to_type(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    lines = store.path.read_bytes().split(b"\n")
    lines[1] = lines[1][:-5]
    damaged = b"\n".join(lines)
    store.path.write_bytes(damaged)
    with pytest.raises(BenchError) as caught:
        Store(tmp_path)
    assert "line 2" in caught.value.message
    assert store.path.read_bytes() == damaged
    assert list(tmp_path.glob("runs.torn-*")) == []
    subprocess.run(caught.value.remedy.partition(": ")[2], shell=True, check=True)
    assert [r.run_id for r in Store(tmp_path).records()] == ["run-0", "run-2"]
    assert (tmp_path / "runs.damaged-2.jsonl").read_bytes().rstrip(b"\n") == lines[1]


def test_a_record_of_another_version_is_an_error_not_a_torn_line(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    body = {**json.loads(store.path.read_text()), "schema_version": 2}
    store.path.write_text(json.dumps(body) + "\n")
    with pytest.raises(BenchError, match=r"line 1 .* schema_version"):
        Store(tmp_path)


def test_an_intact_row_of_a_newer_version_is_not_to_be_cut_out(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    body = {**json.loads(store.path.read_bytes()), "schema_version": 2}
    del body["sha256"]
    store.path.write_bytes(canonical({**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n")
    with pytest.raises(BenchError, match=r"line 1 .* is no record of this version") as refused:
        Store(tmp_path)
    assert "sed" not in refused.value.remedy and "use the bench that wrote it" in refused.value.remedy


@settings(max_examples=150, deadline=None)
@given(position=st.integers(min_value=0), change=st.integers(1, 255))
def test_verify_finds_any_changed_byte(
    three: bytes, position: int, change: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    data = bytearray(three)
    data[position % len(data)] ^= change
    (folder / "runs.jsonl").write_bytes(data)
    assert verify(folder)


def test_verify_finds_bytes_that_change_no_value(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    store.path.write_bytes(store.path.read_bytes().replace(b'"cold":', b'"cold": '))
    assert [str(p) for p in store.verify()] == ["line 1 (run-0): its bytes are not as they were written"]


def test_verify_finds_doubled_samples_and_torn_tails(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    line = store.path.read_bytes()
    store.path.write_bytes(line + line + line[:10])
    found = [str(problem) for problem in store.verify()]
    assert found == [
        "line 2 (run-0): same run id as line 1",
        "line 3: torn: it ends within a record",
    ]


def test_a_second_run_on_the_folder_is_refused_by_the_pid_that_holds_it(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from bench.results.store import Store
with Store.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BenchError, match=f"process {holder.pid}"), Store.locked(tmp_path):
        pass
    # Reading is free all the while, and a killed holder leaves nothing to clean up.
    assert Store(tmp_path).records() == []
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Store.locked(tmp_path) as store:
        store.append(small("run-1"))


@pytest.mark.parametrize("wrote", [0, 40, None], ids=["nothing", "a part", "all, but fsync fails"])
def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: int | None
) -> None:
    store = filled(tmp_path, 2)
    before = store.path.read_bytes()
    real_write = os.write

    def write(handle: int, data: bytes) -> int:
        if wrote == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(handle, data[:wrote])

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bench.results.store.os.write", write)
    if wrote is None:
        monkeypatch.setattr("bench.results.store.os.fsync", fsync)
    with pytest.raises(BenchError, match="No space left") as caught:
        store.append(small("run-9", 9))
    assert "2 records" in caught.value.kept
    assert "resumes" in caught.value.remedy
    monkeypatch.undo()
    assert store.path.read_bytes() == before
    store.append(small("run-9", 9))
    assert len(Store(tmp_path).records()) == 3


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file size limit is the nearest thing to a full disk that needs no mount: the kernel cuts the write."""
    code = """
import pathlib, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from tests.unit.made_records import small
from adapters.base import BenchError
from bench.results.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(pathlib.Path(sys.argv[1]))
store.append(small("run-0", 0))
size = store.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    store.append(small("run-1", 1))
except BenchError as error:
    print(error.kept)
print(store.path.stat().st_size == size)
"""
    here = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), here], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].startswith("the 1 records before it")
    assert done.stdout.splitlines()[1] == "True"
    assert [r.run_id for r in Store(tmp_path).records()] == ["run-0"]


@pytest.mark.parametrize("value", [float("nan"), "lone \ud800 surrogate", object()])
def test_what_json_does_not_know_is_refused_before_anything_is_written(store: Store, value: object) -> None:
    record = small("run-1").model_copy(update={"ledger": ({"data": value},)})
    with pytest.raises(BenchError, match="cannot be stored as JSON"):
        store.append(record)
    assert not store.path.exists()


def test_line_separators_inside_text_are_no_line_ends(store: Store) -> None:
    store.append(small("run-1", reason="one\u2028two\x85three\nfour \U0001f4da"))
    assert Store(store.folder).records()[0].reason == "one\u2028two\x85three\nfour \U0001f4da"
    assert store.verify() == []


def test_a_stored_integer_stays_an_integer(store: Store) -> None:
    of = scenario("noop", "chain", 3, parameters={"fibo": 10, "sleep_seconds": 0.0, "k": "5"})
    sealed = store.append(made(of))
    stored = Store(store.folder).records()[0].scenario.parameters
    assert {k: repr(v) for k, v in stored.items()} == {k: repr(v) for k, v in of.parameters.items()}
    assert sealed.scenario.key == of.key


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    filled(tmp_path, 1).path.chmod(0o444)
    assert len(Store(tmp_path).records()) == 1


def test_ten_thousand_records_load(tmp_path: Path) -> None:
    line = RunRecord.model_validate(small("run").sealed()).model_dump_json()
    with (tmp_path / "runs.jsonl").open("w") as file:
        for index in range(10_000):
            changed = line.replace('"run_id":"run"', f'"run_id":"run-{index}"')
            file.write(changed.replace('"index":0', f'"index":{index}') + "\n")
    assert len(Store(tmp_path).done("plan")) == 10_000


def resealed(record: RunRecord, **fields: Any) -> bytes:
    """The line of a record that somebody changed, with a seal that fits."""
    return canonical(record.model_copy(update=fields).sealed().model_dump(mode="json")) + b"\n"


def test_a_reading_leaves_out_what_cannot_be_trusted_and_names_it(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    first, second = store.path.read_bytes().splitlines(keepends=True)
    edited = second.replace(b'"run_id":"run-1"', b'"run_id":"run-2"')
    other = json.dumps({**json.loads(first), "schema_version": 2}).encode() + b"\n"
    doubled = resealed(small("run-3", 1))
    void = resealed(small("run-4", 1, status="void"))
    data = first + second + first + edited + other + b"[]\n{\n" + doubled + void + second[:40]
    store.path.write_bytes(data)
    reading = Reading(tmp_path)
    assert [r.run_id for r in reading.records] == ["run-0", "run-1", "run-4"]
    assert [str(problem) for problem in reading.problems] == [
        "line 3 (run-0): same run id as line 1",
        "line 4 (run-2): its sha256 is not that of its content: it was changed after it was stored",
        "line 5 (run-0): its sha256 is not that of its content: it was changed after it was stored",
        "line 6: not a JSON object",
        "line 7: not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "line 8 (run-3): same sample as line 2",
        "line 10: torn: it ends within a record",
    ]
    assert (reading.left_out, reading.losses) == (7, reading.problems)
    assert store.path.read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


def test_a_sealed_row_of_another_version_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    body = {**json.loads(store.path.read_bytes()), "schema_version": 2}
    del body["sha256"]
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    store.path.write_bytes(canonical(body) + b"\n")
    (problem,) = Reading(tmp_path).problems
    assert str(problem) == "line 1 (run-0): not a record of this version: schema_version: Input should be 1"


def test_a_number_that_is_none_is_no_content_of_a_seal(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    body = json.loads(store.path.read_bytes())
    body["client"]["jitter_seconds"] = float("nan")
    store.path.write_bytes(canonical({**body, "sha256": ""}) + b"\n")
    assert [problem.costs for problem in Reading(tmp_path).problems] == ["row"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"makespan_monotonic_ns": -5 * SECOND}, "a makespan of -5.000 s"),
        ({"first_terminal_ns": EPOCH - 5 * SECOND}, "seen to have ended 5."),
        ({"accepted_ns": EPOCH - 5 * SECOND}, "accepted 5."),
        ({"last_non_terminal_ns": EPOCH + 99 * SECOND}, "s before it was last seen at work"),
    ],
)
def test_a_run_whose_clock_goes_backwards_is_read_and_is_no_sample(
    tmp_path: Path, change: dict[str, int], says: str
) -> None:
    right = small("run-1")
    assert right.client is not None and is_measured(right)
    store = Store(tmp_path)
    store.append(right.model_copy(update={"client": right.client.model_copy(update=change)}))
    reading = Reading(tmp_path)
    (record,) = reading.records
    (problem,) = reading.problems
    assert problem.costs == "sample" and says in problem.message
    assert any(says in error for error in record.clock_errors) and not is_measured(record)
    assert reading.left_out == 0 and store.verify() == reading.losses


def test_a_reading_of_a_folder_without_results_is_empty(tmp_path: Path) -> None:
    assert Reading(tmp_path / "none").records == []
    assert not (tmp_path / "none").exists()


def test_an_outline_is_the_record_without_what_steps_said_of_their_data(tmp_path: Path) -> None:
    full = Store(tmp_path).append(made())
    (found,) = Reading(tmp_path, Outline).records
    assert all(row["data"] == {} for row in found.ledger)
    assert any(row["data"] for row in full.ledger)
    for row, whole in zip(found.ledger, full.ledger, strict=True):
        assert all(row[name] == whole[name] for name in row if name != "data")
    rest = found.model_dump(exclude={"ledger"})
    assert rest == full.model_dump(exclude={"ledger"})


def test_records_added_by_others_and_to_an_unended_line_are_read(tmp_path: Path) -> None:
    store, other = filled(tmp_path, 2), Store(tmp_path)
    store.path.write_bytes(store.path.read_bytes()[:-1])
    late = Store(tmp_path)
    other.append(small("run-2", 2))
    store.append(small("run-3", 3))
    late.append(small("run-4", 4))
    for each in (store, late, Store(tmp_path)):
        assert [r.run_id for r in each.records()] == [f"run-{i}" for i in range(len(each.records()))]
    assert len(late.records()) == 5 and store.verify() == []
    assert ["no newline" in notice for notice in other.notices + late.notices] == [True]


def test_lines_are_those_that_were_sealed_and_canonical_where_they_are_not(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    lines = store.path.read_bytes().splitlines(keepends=True)
    reading = Reading(tmp_path)
    assert list(reading.lines(reading.records[::-1])) == lines[::-1]
    store.path.write_bytes(store.path.read_bytes().replace(b'"cold":', b'"cold": ')[:-1])
    again = Reading(tmp_path, Outline)
    assert b"".join(again.lines(again.records)) == b"".join(lines)
    assert again.losses == [] and len(again.problems) == 4


def test_a_line_longer_than_a_block_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = filled(tmp_path, 5).records()
    for size in (1, 7, 1000):
        monkeypatch.setattr("bench.results.store.BLOCK", size)
        assert Store(tmp_path).records() == Reading(tmp_path).records == records


def test_a_run_is_found_by_the_beginning_of_its_id() -> None:
    records = [small("run-1", 0), small("run-12", 1), small("other", 2)]
    assert by_run_id(records, "run-1").run_id == "run-1"
    assert by_run_id(records, "oth").run_id == "other"
    for wrong, message in (("run", "2 runs begin with"), ("x", "no run 'x'")):
        with pytest.raises(BenchError, match=message):
            by_run_id(records, wrong)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/results")
    monkeypatch.delenv("BENCH_HOME")
    assert default_folder().parts[-2:] == (".bench", "results")
