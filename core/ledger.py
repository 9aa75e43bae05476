"""The append-only record of what really happened: an event is on disk before the effect it announces.

Two ways in, one format (one JSON object a line): a file under `flock`, or the HTTP collector, which keeps
such a file itself.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from core.errors import BadInput, LedgerError
from core.http import client

if TYPE_CHECKING:
    import httpx

SCHEMA = 1
EVENTS = ("start", "finish", "failed", "effect", "lineage")
TOKEN_HEADER = "X-Bench-Token"
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The ledger's answer to one event.

    `seq` counts events of the ledger from 1; `attempt` counts starts of (run_id, step, index) from 1;
    `append_ns` is what lock, write and fsync cost; `repeated` says the event id was already recorded.
    """

    seq: int
    attempt: int
    append_ns: int = 0
    repeated: bool = False


class Ledger(Protocol):
    """Where events go."""

    uri: str

    def append(self, event: Event) -> Receipt:
        """Record one event durably. Raises LedgerError."""
        ...


def check_event(event: object) -> dict[str, Any]:
    """The event as a dict, if it has what every event must have.

    Raises:
        ValueError: naming the field that is missing or wrong.
    """
    if not isinstance(event, dict):
        raise ValueError("an event is a JSON object")
    if event.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, not {event.get('schema')!r}")
    if event.get("event") not in EVENTS:
        raise ValueError(f"event must be one of {', '.join(EVENTS)}, not {event.get('event')!r}")
    for field in ("run_id", "step", "event_id", "attempt_token"):
        value = event.get(field)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{field} must be a non-empty string")
    index = event.get("index")
    if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
        raise ValueError("index must be an integer or null")
    attempt = event.get("attempt")
    if event["event"] != "start" and (not isinstance(attempt, int) or isinstance(attempt, bool)):
        raise ValueError("attempt must be an integer on every event but start")
    return event


class LedgerFile:
    """A ledger in one local file, shared by any number of processes.

    Every append takes the file's lock, reads what others added, numbers the event, writes one line and
    fsyncs. A last line torn by a kill is moved to `<file>.torn-<byte offset>` by whoever comes next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = path.absolute().as_uri()
        self._forget()

    def _forget(self) -> None:
        self._inode = -1
        self._offset = 0
        self._seq = 0
        self._seqs: list[int] = []
        self._offsets: list[int] = []
        self._attempts: dict[tuple[str, str, int | None], int] = {}
        self._receipts: dict[str, Receipt] = {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            created = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if created:
                    _fsync_folder(self.path.parent)
                yield handle
            finally:
                os.close(handle)  # drops the lock too
        except OSError as error:
            raise LedgerError(
                f"ledger {self.uri}: {error.strerror or error}",
                kept="every event the ledger answered for",
                next_step="free space or fix the permissions there, then start the step again",
            ) from error

    def _catch_up(self, handle: int) -> None:
        """Read the lines added since last time; put a torn tail aside."""
        status = os.fstat(handle)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._forget()
            self._inode = status.st_ino
        chunk = _read_exactly(handle, self._offset, status.st_size - self._offset)
        for line in chunk.splitlines(keepends=True):
            event = _parse(line)
            if event is None:
                if self._offset + len(line) < status.st_size:
                    number = len(self._offsets) + 1
                    raise LedgerError(
                        f"ledger {self.uri}: line {number} is not a JSON event",
                        kept="the file as it is",
                        next_step=f"look at line {number} of {self.path} and remove it",
                    )
                self._set_aside(handle, line)
                return
            self._index(event, len(line))

    def _set_aside(self, handle: int, tail: bytes) -> None:
        aside = self.path.with_name(f"{self.path.name}.torn-{self._offset}")
        with aside.open("wb") as file:
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        _fsync_folder(self.path.parent)
        os.ftruncate(handle, self._offset)
        os.fsync(handle)

    def _index(self, event: dict[str, Any], length: int) -> None:
        self._offsets.append(self._offset)
        self._offset += length
        self._seq = max(self._seq, int(event["seq"]))
        self._seqs.append(self._seq)
        attempt = int(event["attempt"])
        if event["event"] == "start":
            key = (event["run_id"], event["step"], event["index"])
            self._attempts[key] = max(attempt, self._attempts.get(key, 0))
        self._receipts[event["event_id"]] = Receipt(int(event["seq"]), attempt, repeated=True)

    def append(self, event: Event) -> Receipt:
        """Number one event and make it durable; an event id seen before is not written again.

        Raises:
            ValueError: if a field is missing or wrong.
            LedgerError: if the file cannot be read or written; the file is then as before.
        """
        began = time.monotonic_ns()
        checked = check_event(dict(event))
        with self._locked() as handle:
            self._catch_up(handle)
            known = self._receipts.get(checked["event_id"])
            if known is not None:
                return known
            key = (checked["run_id"], checked["step"], checked.get("index"))
            known_starts = self._attempts.get(key, 0)
            attempt = known_starts + 1 if checked["event"] == "start" else checked["attempt"]
            numbered = {**checked, "index": key[2], "seq": self._seq + 1, "attempt": attempt}
            line = json.dumps(numbered, sort_keys=True, separators=(",", ":")).encode() + b"\n"
            self._write(handle, line)
            self._index(numbered, len(line))
        return Receipt(numbered["seq"], attempt, append_ns=time.monotonic_ns() - began)

    def _write(self, handle: int, line: bytes) -> None:
        try:
            written = 0
            while written < len(line):
                written += os.write(handle, line[written:])
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, self._offset)
            raise

    def lines(self, *, run_id: str | None = None, since: int = 0) -> Iterator[bytes]:
        """The recorded lines (newline included) with `seq` above `since`, of one run or of all."""
        known = bisect.bisect_right(self._seqs, since)
        start = self._offsets[known] if known < len(self._offsets) else self._offset
        wanted = None if run_id is None else f'"run_id":{json.dumps(run_id)}'.encode()
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                for line in file:
                    if wanted is not None and wanted not in line:
                        continue
                    event = _parse(line)
                    if event is None or int(event["seq"]) <= since:
                        continue
                    if run_id is None or event["run_id"] == run_id:
                        yield line
        except FileNotFoundError:
            return

    def recover(self) -> int:
        """Index the file, putting a torn tail aside. Returns the last `seq`."""
        with self._locked() as handle:
            self._catch_up(handle)
        return self._seq


class HttpLedger:
    """A ledger behind the HTTP collector. Retries carry the same event id, so nothing is recorded twice."""

    def __init__(self, uri: str, token: str, *, give_up_seconds: float = 30.0) -> None:
        import httpx
        import tenacity  # noqa: F401 - here, not in the first append, which is timed

        self.uri = uri.rstrip("/")
        self._give_up_seconds = give_up_seconds
        self._client = client(
            self.uri, headers={TOKEN_HEADER: token}, timeout=httpx.Timeout(10.0, connect=5.0)
        )

    def append(self, event: Event) -> Receipt:
        """Send one event and wait until the collector has it on disk.

        Raises:
            LedgerError: if the collector stays unreachable or refuses the event.
        """
        import httpx
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _TryAgain)),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=2.0),
            stop=tenacity.stop_after_delay(self._give_up_seconds),
            reraise=True,
        )
        try:
            response = retrying(self._post, dict(event))
        except (httpx.TransportError, _TryAgain) as error:
            raise LedgerError(
                f"ledger {self.uri} is unreachable: {str(error) or type(error).__name__}",
                kept="every event the ledger answered for",
                next_step=f"check that the collector answers: curl {self.uri}/healthz",
            ) from error
        if response.status_code != 200:
            raise LedgerError(
                f"ledger {self.uri} refused the event: {response.status_code} {_error_of(response)}",
                kept="every event the ledger answered for",
                next_step="check BENCH_TOKEN" if response.status_code in (401, 403) else "see its log",
            )
        answer = response.json()
        return Receipt(
            int(answer["seq"]), int(answer["attempt"]), int(answer["append_ns"]), bool(answer["repeated"])
        )

    def _post(self, event: dict[str, Any]) -> httpx.Response:
        response = self._client.post("/events", json=event)
        if response.status_code >= 500:
            raise _TryAgain(f"{response.status_code} {_error_of(response)}")
        return response


class _TryAgain(Exception):
    """The collector answered, but not for good."""


def open_ledger(uri: str, token: str = "") -> Ledger:
    """The ledger at `uri`: `file:///path/ledger.jsonl` or `http://host:port`.

    Raises:
        BadInput: for any other scheme.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        return HttpLedger(uri, token)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return LedgerFile(Path(unquote(parts.path)))
    raise BadInput(
        f"BENCH_LEDGER_URI {uri!r} is neither file:///path/ledger.jsonl nor http://host:port",
        next_step="export BENCH_LEDGER_URI=file:///tmp/ledger.jsonl",
    )


def new_id() -> str:
    """A fresh event id or attempt token: 32 hex digits."""
    return uuid.uuid4().hex


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "seq" in event else None


def _read_exactly(handle: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(handle, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _error_of(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
