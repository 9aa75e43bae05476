"""The results store: append-only JSON lines, one sealed record per run, in one folder."""

import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from adapters.base import BenchError
from bench.records import RecordStatus, RunRecord, Sample, canonical

FILE = "runs.jsonl"
PUBLISHED = Path(__file__).resolve().parent.parent / "docs" / "results"
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

    def __str__(self) -> str:
        name = f" ({self.run_id})" if self.run_id else ""
        return f"line {self.line}{name}: {self.message}"


def default_folder() -> Path:
    """`$BENCH_HOME/results`, or `.bench/results` under the project root (the folder with pyproject.toml)."""
    home = os.environ.get("BENCH_HOME")
    if home:
        return Path(home) / "results"
    return Path(__file__).resolve().parent.parent / ".bench" / "results"


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
    """The records in `folder`.

    A record that `append` returned is on disk. Opening puts a last line torn by a crash aside, in
    `runs.torn-<n>.jsonl`, and says so in `notices`; any other damage is an error and nothing is changed.

    With `read_as` every line is read at once as that kind of record: less work than to open first and read then.

    Raises:
        BenchError: if a line is damaged, or the folder cannot be read.
    """

    def __init__(self, folder: Path, read_as: type[RunRecord] | None = None) -> None:
        self._read_as = read_as
        self.folder = folder
        self.path = folder / FILE
        self.notices: list[str] = []
        self._forget()
        with _explained(self.path, "nothing was changed"), self._open() as handle:
            if handle is not None:
                self._catch_up(handle)

    def _forget(self) -> None:
        self._inode = -1
        self._offset = 0
        self._spans: list[tuple[int, int]] = []
        self._parsed: list[RunRecord] = []
        self._run_ids: set[str] = set()
        self._answered: dict[tuple[str, str, int], str] = {}
        self._tries: Counter[tuple[str, str, int]] = Counter()

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
                yield cls(folder)
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
            with self._open(create=True) as handle:
                assert handle is not None
                self._catch_up(handle)
                self._refuse_duplicates(sealed)
                self._write(handle, line)
                self._index(sealed, len(line))
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
                        self._parsed.append(_parse(self._read_as or RunRecord, self.path, line, number))
            finally:
                os.close(handle)
        return list(self._parsed)

    def lines(self, records: Sequence[RunRecord]) -> Iterator[bytes]:
        """The line of each of its records, newline included, in the order given.

        As stored where its bytes are those that were sealed; otherwise the record's canonical JSON.
        """
        numbers = {(record.run_id, record.sha256): at for at, record in enumerate(self.records())}
        with _explained(self.path, "the file as it is"):
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for record in records:
                at = numbers[record.run_id, record.sha256]
                line = _read(handle, *self._spans[at])
                if not _is_sealed(line, record.sha256):
                    line = _canonical(_parse(RunRecord, self.path, line, at + 1).model_dump(mode="json"))
                yield line + b"\n"
        finally:
            os.close(handle)

    def done(self, plan_id: str) -> set[tuple[str, int]]:
        """(scenario key, index) of the plan's samples that need no further run: all but void ones."""
        return {(scenario, index) for plan, scenario, index in self._answered if plan == plan_id}

    def tries(self, plan_id: str, scenario_key: str, index: int) -> int:
        """How many records, void ones included, answer this sample."""
        return self._tries[plan_id, scenario_key, index]

    def verify(self) -> list[Problem]:
        """What is wrong with the file; empty when every byte is as it was written."""
        return verify(self.folder)

    @contextlib.contextmanager
    def _open(self, create: bool = False) -> Iterator[int | None]:
        """The file under its lock: no reader takes a line for torn that is still being written."""
        created = False
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
            created = not self.path.exists()
        try:
            flags = os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            handle = os.open(self.path, os.O_RDWR | flags, 0o644)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            if create or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if created:
                _sync_folder(self.folder)
            yield handle
        finally:
            os.close(handle)

    def _catch_up(self, handle: int) -> None:
        """Read what was added since the last look; put a torn last line aside."""
        status = os.fstat(handle)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._forget()
            self._inode = status.st_ino
        if status.st_size == self._offset:
            return
        with no_collection():
            tail = self._take(handle, status.st_size)
        if tail:
            self._set_aside(handle, tail)

    def _take(self, handle: int, end: int) -> bytes:
        """Take note of every whole line up to `end`; what is left at the end, torn, is returned."""
        last: bytes | None = None
        rest = b""
        for start in range(self._offset, end, BLOCK):
            *lines, rest = (rest + _read(handle, start, min(start + BLOCK, end))).split(b"\n")
            for line in lines:
                if last is not None:
                    self._note(last)
                last = line
        if last is not None and not rest and not _is_json(last):
            return last + b"\n"
        if last is not None:
            self._note(last)
        return rest

    def _note(self, line: bytes) -> None:
        number = len(self._spans) + 1
        if self._read_as is None or len(self._parsed) < len(
            self._spans
        ):  # what was appended here is read later
            self._index(_parse(_Head, self.path, line, number), len(line) + 1)
        else:
            self._parsed.append(_parse(self._read_as, self.path, line, number))
            self._index(self._parsed[-1], len(line) + 1)

    def _set_aside(self, handle: int, tail: bytes) -> None:
        number = 1
        while (aside := self.folder / f"runs.torn-{number}.jsonl").exists():
            number += 1
        what = f"the last line of {self.path} was torn by a crash ({len(tail)} bytes)"
        try:
            with aside.open("xb") as file:
                file.write(tail)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(self.folder)
            os.ftruncate(handle, self._offset)
            os.fsync(handle)
        except OSError as error:
            self.notices.append(f"{what}; it is ignored, since it cannot be moved: {error.strerror or error}")
            return
        self.notices.append(f"{what}; moved to {aside}; that run was not acknowledged and is repeated")

    def _index(self, record: "RunRecord | _Head", length: int) -> None:
        """Take note of a record whose line, newline included, is `length` bytes long and comes next."""
        key = (record.sample.plan_id, record.sample.scenario, record.sample.index)
        self._spans.append((self._offset, self._offset + length - 1))
        self._offset += length
        self._run_ids.add(record.run_id)
        self._tries[key] += 1
        if record.status != "void":
            self._answered[key] = record.run_id

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


def verify(folder: Path) -> list[Problem]:
    """What is wrong with the stored lines, read as bytes: works on files too damaged to open.

    A line is right if it is the canonical JSON of an object whose `sha256` is that of its other fields, so
    any changed byte shows; and if it is a valid record whose run id and sample are not there twice.
    """
    path = folder / FILE
    with _explained(path, "nothing was changed"):
        if not path.exists():
            return []
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)
            data = file.read()
    problems: list[Problem] = []
    runs: dict[str, int] = {}
    answered: dict[tuple[str, str, int], int] = {}
    *lines, tail = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        found = _check(line)
        if isinstance(found, tuple):
            problems.append(Problem(number, *found))
            continue
        key = (found.sample.plan_id, found.sample.scenario, found.sample.index)
        if found.run_id in runs:
            problems.append(Problem(number, found.run_id, f"same run id as line {runs[found.run_id]}"))
        runs.setdefault(found.run_id, number)
        if found.status != "void":
            if key in answered:
                problems.append(Problem(number, found.run_id, f"same sample as line {answered[key]}"))
            answered.setdefault(key, number)
    if tail:
        problems.append(Problem(len(lines) + 1, "", "torn: no newline at its end"))
    return problems


def _check(line: bytes) -> tuple[str, str] | RunRecord:
    """The record on the line, or (run id, what is wrong)."""
    try:
        body = json.loads(line)
    except ValueError as error:
        return "", f"not JSON: {error}"
    if not isinstance(body, dict):
        return "", "not a JSON object"
    run_id = str(body.get("run_id", ""))
    stored = body.pop("sha256", "")
    if hashlib.sha256(_canonical(body)).hexdigest() != stored:
        return run_id, "its sha256 is not that of its content: it was changed after it was stored"
    if _canonical({**body, "sha256": stored}) != line:
        return run_id, "its bytes are not as they were written"
    try:
        return RunRecord.model_validate_json(line)
    except ValidationError as error:
        return run_id, f"not a record of this version: {_first(error)}"


def _canonical(body: dict[str, Any]) -> bytes:
    return canonical(body, allow_nan=False)


def _is_sealed(line: bytes, sha256: str) -> bool:
    """Whether this is, but for the seal itself, the text that the seal was taken over: so it is canonical JSON."""
    before, _, after = line.partition(b'"sha256":"%s",' % sha256.encode())
    found = hashlib.sha256(before)
    found.update(after)
    return found.hexdigest() == sha256


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
        aside = path.with_name(f"runs.damaged-{number}.jsonl")
        raise BenchError(
            f"line {number} of {path} is damaged: {_first(error)}",
            f"set that line aside: sed -n '{number}p' {path} > {aside} && sed -i '{number}d' {path}",
            "the file as it is",
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


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
