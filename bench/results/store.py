"""The results store: append-only JSON lines, one sealed record per run, in one folder."""

import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from adapters.base import BenchError
from bench.results.records import RecordStatus, RunRecord, Sample, canonical

FILE = "runs.jsonl"
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "results"
"""The results that this version was published with."""
LOCK = "runs.lock"
ORPHAN_TRIES = 30
BLOCK = 1 << 20
"""Bytes read at once: memory for this many is used again, where a whole file's would be asked for anew."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a stored line. `line` counts from 1."""

    line: int
    run_id: str
    message: str
    costs: Literal["row", "sample", ""] = "row"
    """What is lost by it: the row is left out, the run is no sample, or nothing."""

    def __str__(self) -> str:
        name = f" ({self.run_id})" if self.run_id else ""
        return f"line {self.line}{name}: {self.message}"

    @property
    def outcome(self) -> str:
        """What comes of it, in words."""
        return {"row": "left out", "sample": "no sample", "": "counts all the same"}[self.costs]


def default_folder() -> Path:
    """`$BENCH_HOME/results`, or `.bench/results` under the project root (the folder with pyproject.toml)."""
    home = os.environ.get("BENCH_HOME")
    if home:
        return Path(home) / "results"
    return Path(__file__).resolve().parents[2] / ".bench" / "results"


def _holder(handle: int) -> str:
    return os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"


def _taken(handle: int) -> bool:
    """Take the lock. A holder that was killed may leave it for a moment to a child that is about to start."""
    for _ in range(ORPHAN_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            if holder.isdigit() and Path(f"/proc/{holder}").exists():
                return False
            time.sleep(0.1)
        else:
            return True
    return False


class Store:
    """The records in `folder`, and more to come.

    A record that `append` returned is on disk. Opening changes nothing. What a crash left of a last line is passed
    over; `locked` and `append` put it aside, in `runs.torn-<n>.jsonl`, and say so in `notices`. Any other damage is
    an error.

    Raises:
        BenchError: if a line is damaged, or the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.notices: list[str] = []
        self._forget()
        with _explained(self.path, "nothing was changed"), _opened(self.path) as handle:
            if handle is not None:
                self._look(handle)

    def _forget(self) -> None:
        self._inode = -1
        self._offset = 0
        self._unended = False
        self._spans: list[tuple[int, int]] = []
        self._parsed: list[RunRecord] = []
        self._run_ids: set[str] = set()
        self._answered: dict[tuple[str, str, int], str] = {}
        self._tries: Counter[tuple[str, str, int]] = Counter()
        self._refused: set[tuple[str, str]] = set()

    @classmethod
    @contextlib.contextmanager
    def locked(cls, folder: Path) -> Iterator["Store"]:
        """The store, held for one `bench run` until the block ends (or the process dies).

        Raises:
            BenchError: naming the process that holds it.
        """
        path = folder / LOCK
        with _explained(path, "nothing was changed"):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _taken(handle):
                holder = _holder(handle)
                raise BenchError(
                    f"another run is writing to {folder} (process {holder})",
                    f"wait for it (ps -p {holder}), or give this one a folder of its own: --results DIR",
                    "what it has stored so far",
                )
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            try:
                store = cls(folder)
                if store.path.exists():
                    with _explained(store.path, "nothing was changed"), store._writable() as file:
                        store._mend(file)
                yield store
            finally:
                os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def append(self, record: RunRecord) -> RunRecord:
        """Seal the record and make it durable: one write of one line, then fsync.

        Raises:
            BenchError: for a run id or a sample that is already there, for a record that is not JSON, and
                when the disk is full; the file is then as before.
        """
        sealed, line = _line(record)
        try:
            with self._writable() as handle:
                self._mend(handle)
                self._refuse_duplicates(sealed)
                self._write(handle, line)
                self._index(sealed, len(line) - 1, len(line))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise BenchError(
                f"cannot store run {record.run_id} in {self.path}: {error.strerror or error}",
                ("free some space" if full else "mend that")
                + ", then start the same command again: it resumes",
                f"the {len(self._spans)} records before it in {self.path}; this run is not among them",
            ) from error
        return sealed

    def records(self) -> list[RunRecord]:
        """All records, in the order they were stored. Opening reads only their heads; this reads the rest.

        Raises:
            BenchError: if a line is no valid record, naming it.
        """
        unread = self._spans[len(self._parsed) :]
        if unread:
            with _explained(self.path, "the file as it is"):
                handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with no_collection():
                    for start, end in unread:
                        line, number = _read(handle, start, end), len(self._parsed) + 1
                        self._parsed.append(_parse(RunRecord, self.path, line, number))
            finally:
                os.close(handle)
        return list(self._parsed)

    def done(self, plan_id: str) -> set[tuple[str, int]]:
        """(scenario key, index) of the plan's samples that need no further run: all but void ones."""
        return {(scenario, index) for plan, scenario, index in self._answered if plan == plan_id}

    def refused(self, plan_id: str) -> set[str]:
        """Keys of the plan's scenarios that were found impossible: they need no run any more."""
        return {scenario for plan, scenario in self._refused if plan == plan_id}

    def tries(self, plan_id: str, scenario_key: str, index: int) -> int:
        """How many records, void ones included, answer this sample."""
        return self._tries[plan_id, scenario_key, index]

    def verify(self) -> list[Problem]:
        """What is wrong with the file; empty when every byte is as it was written."""
        return verify(self.folder)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[int]:
        """The file, made where there is none, for one writer alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        created = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if created:
                _sync_folder(self.folder)
            yield handle
        finally:
            os.close(handle)

    def _look(self, handle: int) -> bytes:
        """Take note of what was added since the last look; what a crash left of a last line is returned."""
        status = os.fstat(handle)
        if status.st_ino != self._inode or status.st_size < self._offset or self._unended:
            self._forget()
            self._inode = status.st_ino
        with no_collection():
            return self._take(handle, status.st_size)

    def _take(self, handle: int, end: int) -> bytes:
        """As `_look`, up to `end`."""
        last: tuple[bytes, bool] | None = None
        for found in _lines(handle, self._offset, end):
            if last is not None:
                self._note(*last)
            last = found
        if last is None:
            return b""
        line, ended = last
        if not _is_object(line):
            return line + b"\n" * ended
        self._note(line, ended)
        self._unended = not ended
        return b""

    def _note(self, line: bytes, ended: bool) -> None:
        head = _parse(_Head, self.path, line, len(self._spans) + 1)
        self._index(head, len(line), len(line) + ended)

    def _mend(self, handle: int) -> None:
        """As `_look`, and make the file ready for one more line."""
        if tail := self._look(handle):
            self._set_aside(handle, tail)
        elif self._unended:
            os.write(handle, b"\n")
            os.fsync(handle)
            self._offset, self._unended = self._offset + 1, False
            self.notices.append(f"the last line of {self.path} had no newline; it has one now")

    def _set_aside(self, handle: int, tail: bytes) -> None:
        number = 1
        while (aside := self.folder / f"runs.torn-{number}.jsonl").exists():
            number += 1
        with aside.open("xb") as file:
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.folder)
        os.ftruncate(handle, self._offset)
        os.fsync(handle)
        self.notices.append(
            f"the last line of {self.path} was torn by a crash ({len(tail)} bytes); moved to {aside}; that run was "
            "not acknowledged and is repeated"
        )

    def _index(self, record: "RunRecord | _Head", length: int, taken: int) -> None:
        """Take note of a record whose line comes next: `length` bytes, `taken` with its newline."""
        key = _answer(record)
        self._spans.append((self._offset, self._offset + length))
        self._offset += taken
        self._run_ids.add(record.run_id)
        self._tries[key] += 1
        if record.status != "void":
            self._answered[key] = record.run_id
        if record.status == "unsupported":
            self._refused.add((record.sample.plan_id, record.sample.scenario))

    def _refuse_duplicates(self, record: RunRecord) -> None:
        sample = record.sample
        kept = f"the stored record, and all others in {self.path}"
        if record.run_id in self._run_ids:
            raise BenchError(f"run {record.run_id} is already stored", "give the run an id of its own", kept)
        there = self._answered.get((sample.plan_id, sample.scenario, sample.index))
        if there is not None:
            raise BenchError(
                f"{sample.scenario} #{sample.index} of plan {sample.plan_id} is already answered by {there}",
                f"to see it: bench results show {there} --results {self.folder}",
                kept,
            )

    def _write(self, handle: int, line: bytes) -> None:
        try:
            written = os.write(handle, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except BaseException:
            # A part of the line may be there. Should this fail too, the next opening finds it torn.
            with contextlib.suppress(OSError):
                os.ftruncate(handle, self._offset)
            raise


class Reading:
    """What the file in `folder` has, read and checked; nothing is changed.

    `records` are its rows in the file's order, read as `model`. Left out are lines that are no whole record of this
    version, rows whose content is not what their sha256 was taken over, and those that repeat the run or the sample
    of an earlier line; `problems` names each, also in the file's order.

    Raises:
        BenchError: if the file cannot be read.
    """

    def __init__(self, folder: Path, model: type[RunRecord] = RunRecord) -> None:
        self.path = folder / FILE
        self.records: list[RunRecord] = []
        self.problems: list[Problem] = []
        self._spans: dict[str, tuple[int, int]] = {}
        self._reworded: set[str] = set()
        self._runs: dict[str, int] = {}
        self._answered: dict[tuple[str, str, int], int] = {}
        with _explained(self.path, "nothing was changed"), _opened(self.path) as handle, no_collection():
            if handle is None:
                return
            at = 0
            for number, (line, ended) in enumerate(_lines(handle, 0, os.fstat(handle).st_size), 1):
                self._row(model, number, line, ended, at)
                at += len(line) + ended

    @property
    def losses(self) -> list[Problem]:
        """The problems that cost a row or a sample."""
        return [problem for problem in self.problems if problem.costs]

    @property
    def left_out(self) -> int:
        """How many lines of the file are not among the records."""
        return sum(problem.costs == "row" for problem in self.problems)

    def lines(self, records: Sequence[RunRecord]) -> Iterator[bytes]:
        """The line of each of its records, newline included, in the order given.

        As stored where its bytes are those that were sealed; otherwise the record's canonical JSON.
        """
        with _explained(self.path, "the file as it is"):
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for record in records:
                line = _read(handle, *self._spans[record.run_id])
                if record.run_id in self._reworded:
                    line = _canonical(json.loads(line))
                yield line + b"\n"
        finally:
            os.close(handle)

    def _row(self, model: type[RunRecord], number: int, line: bytes, ended: bool, at: int) -> None:
        """Take in one line of the file, which begins at byte `at`."""
        try:
            record = model.model_validate_json(line)
        except ValidationError as error:
            run_id, why = _unread(line, ended, error)
            self.problems.append(Problem(number, run_id, why))
            return
        reworded = not _is_sealed(line, record.sha256)
        if why := self._refused(record, line, reworded):
            self.problems.append(Problem(number, record.run_id, why))
            return
        self._runs[record.run_id] = number
        if record.status != "void":
            self._answered[_answer(record)] = number
        self._spans[record.run_id] = (at, at + len(line))
        self.records.append(record)
        if reworded:
            self._reworded.add(record.run_id)
            self.problems.append(Problem(number, record.run_id, "its bytes are not as they were written", ""))
        if not ended:
            self.problems.append(Problem(number, record.run_id, "no newline at its end", ""))
        if backwards := record.backwards:
            why = "clocks go backwards: " + "; ".join(backwards)
            self.problems.append(Problem(number, record.run_id, why, "sample"))

    def _refused(self, record: RunRecord, line: bytes, reworded: bool) -> str:
        """Why a record is left out; empty where it is not."""
        if reworded and _digest(json.loads(line)) != record.sha256:
            return CHANGED
        if record.run_id in self._runs:
            return f"same run id as line {self._runs[record.run_id]}"
        if record.status != "void" and (key := _answer(record)) in self._answered:
            return f"same sample as line {self._answered[key]}"
        return ""


CHANGED = "its sha256 is not that of its content: it was changed after it was stored"


def verify(folder: Path) -> list[Problem]:
    """What is wrong with the stored lines: works on files too damaged to open.

    A line is right if it is the canonical JSON of an object whose `sha256` is that of its other fields, so
    any changed byte shows; and if it is a valid record whose run id and sample are not there twice, and whose times
    do not go backwards.
    """
    return Reading(folder).problems


def _unread(line: bytes, ended: bool, error: ValidationError) -> tuple[str, str]:
    """The run id, where there is one, of a line that is no record, and why it is none."""
    try:
        body = json.loads(line)
    except ValueError as broken:
        return "", f"not JSON: {broken}" if ended else "torn: it ends within a record"
    if not isinstance(body, dict):
        return "", "not a JSON object"
    sealed = _digest(body) == body.get("sha256")
    why = f"not a record of this version: {_first(error)}" if sealed else CHANGED
    return str(body.get("run_id", "")), why


def _digest(body: dict[str, Any]) -> str | None:
    """sha256 of an object's fields but `sha256` itself; None where a value is none that the store writes."""
    try:
        content = _canonical({name: value for name, value in body.items() if name != "sha256"})
    except ValueError:
        return None
    return hashlib.sha256(content).hexdigest()


def _answer(record: "RunRecord | _Head") -> tuple[str, str, int]:
    """Which planned measurement the record answers."""
    return record.sample.plan_id, record.sample.scenario, record.sample.index


def _canonical(body: dict[str, Any]) -> bytes:
    return canonical(body, allow_nan=False)


def _is_sealed(line: bytes, sha256: str) -> bool:
    """Whether this is, but for the seal itself, the text that the seal was taken over: so it is canonical JSON."""
    before, _, after = line.partition(_SEAL % sha256.encode())
    found = hashlib.sha256(before)
    found.update(b'"schema_version":1,"status":')
    found.update(after)
    return found.hexdigest() == sha256


_SEAL = b'"schema_version":1,"sha256":"%s","status":'
"""Where the seal stands in canonical JSON: between its neighbours in the alphabet."""


def _line(record: RunRecord) -> tuple[RunRecord, bytes]:
    """The sealed record and its line: the same canonical JSON that its sha256 is taken over."""
    try:
        # pydantic would quietly store a NaN as null.
        json.dumps(record.model_dump(), allow_nan=False, default=str)
        sealed = record.sealed()
        line = _canonical(sealed.model_dump(mode="json"))
        # Read back at once: a value that JSON changes (a tuple, an integer key) is settled now.
        return RunRecord.model_validate_json(line), line + b"\n"
    except ValueError as error:  # NaN, a lone surrogate, or a value in the ledger that JSON does not know
        raise BenchError(
            f"run {record.run_id} cannot be stored as JSON: {error}",
            "this is a fault of the harness: report it with the run id",
            "all records before it",
        ) from error


class _Head(BaseModel):
    """What the store itself needs of a record. The rest of the line is still checked to be JSON."""

    schema_version: Literal[1]
    sample: Sample
    run_id: str
    status: RecordStatus


Model = TypeVar("Model", bound=BaseModel)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No search for garbage: where many objects are made and kept, looking for some takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _parse(model: type[Model], path: Path, line: bytes, number: int) -> Model:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        if _is_object(line) and _digest(body := json.loads(line)) == body.get("sha256"):
            raise BenchError(
                f"line {number} of {path} is no record of this version: {_first(error)}",
                "use the bench that wrote it, or a folder of its own: --results DIR",
                "the file as it is",
            ) from error
        aside = shlex.quote(str(path.with_name(f"runs.damaged-{number}.jsonl")))
        named = shlex.quote(str(path))
        raise BenchError(
            f"line {number} of {path} is damaged: {_first(error)}",
            f"set that line aside: sed -n '{number}p' {named} > {aside} && sed -i '{number}d' {named}",
            "the file as it is",
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _is_object(line: bytes) -> bool:
    """Whether the line is whole: no beginning of a JSON object is one itself."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines(handle: int, start: int, end: int) -> Iterator[tuple[bytes, bool]]:
    """Each line between the two offsets, and whether it has its newline, which the last may lack."""
    rest = b""
    for at in range(start, end, BLOCK):
        *lines, rest = (rest + _read(handle, at, min(at + BLOCK, end))).split(b"\n")
        for line in lines:
            yield line, True
    if rest:
        yield rest, False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """The file to read, None where there is none: no line is taken for torn that is still being written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield handle
    finally:
        os.close(handle)


def _read(handle: int, start: int, end: int) -> bytes:
    chunks: list[bytes] = []
    while start < end:
        chunk = os.pread(handle, min(end - start, 1 << 24), start)
        if not chunk:
            break
        chunks.append(chunk)
        start += len(chunk)
    return b"".join(chunks)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(path: Path, kept: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"cannot use {path}: {error.strerror or error}", "mend that, or give --results DIR", kept
        ) from error


def by_run_id(records: Sequence[RunRecord], run_id: str) -> RunRecord:
    """The record of a run, by its id or an unambiguous beginning of it.

    Raises:
        BadInput: if there is none, or more than one.
    """
    from bench.errors import BadInput

    found = [record for record in records if record.run_id == run_id]
    found = found or [record for record in records if record.run_id.startswith(run_id)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"no run {run_id!r} is stored here", "to see which are: bench results ls")
    names = ", ".join(record.run_id for record in found[:5])
    raise BadInput(f"{len(found)} runs begin with {run_id!r}: {names}", "type more of the id")
