"""The ledger: durable before it answers, numbered once, whole after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from core import ledger
from core.errors import BadInput, LedgerError
from core.ledger import HttpLedger, LedgerFile
from tests.unit.conftest import TOKEN, Home, Server

Serve = Callable[..., Server]


def event(
    kind: str = "start", *, run_id: str = "r", step: str = "train", index: int | None = None
) -> dict[str, Any]:
    return {
        "schema": 1,
        "event": kind,
        "event_id": ledger.new_id(),
        "run_id": run_id,
        "step": step,
        "index": index,
        "attempt": 0 if kind == "start" else 1,
        "attempt_token": ledger.new_id(),
        "data": {},
    }


def test_seq_counts_events_and_attempt_counts_starts_of_the_same_step(tmp_path: Path) -> None:
    book = LedgerFile(tmp_path / "l.jsonl")
    answers = [
        book.append(event()),
        book.append(event()),
        book.append(event(index=0)),
        book.append(event(run_id="other")),
        book.append(event("finish")),
    ]
    assert [answer.seq for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer.attempt for answer in answers[:4]] == [1, 2, 1, 1]


def test_processes_that_append_at_once_share_one_numbering(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from core.ledger import *\n"
        "book = LedgerFile(Path(sys.argv[1]))\n"
        "for _ in range(25): book.append(dict(schema=1, event='start', event_id=new_id(), run_id='r',"
        " step='s', index=None, attempt=0, attempt_token='t'))"
    )
    call = [sys.executable, "-c", code, str(home.path / "ledger.jsonl")]
    writers = [subprocess.Popen(call, env=home.env) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    events = home.events()
    assert [item["seq"] for item in events] == list(range(1, 101))
    assert [item["attempt"] for item in events] == list(range(1, 101))


def test_an_event_id_is_recorded_once(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    sent = event()
    first = LedgerFile(path).append(sent)
    again = LedgerFile(path).append(sent)  # another process would see the same
    assert (again.seq, again.attempt, again.repeated) == (first.seq, first.attempt, True)
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize("tail", [b'{"event": "sta', b"\0" * 64, b'{"event": "start"}\n'])
def test_a_torn_tail_is_kept_aside_and_named(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "l.jsonl"
    LedgerFile(path).append(event())
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert LedgerFile(path).append(event()).seq == 2
    assert (tmp_path / f"l.jsonl.torn-{len(whole)}").read_bytes() == tail
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_broken_line_in_the_middle_is_named_and_nothing_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    book = LedgerFile(path)
    book.append(event())
    content = path.read_bytes() + b"garbage\n" + path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="line 2 is not a JSON event"):
        LedgerFile(path).append(event())
    assert path.read_bytes() == content


def test_lines_are_filtered_by_run_and_seq(tmp_path: Path) -> None:
    book = LedgerFile(tmp_path / "l.jsonl")
    for number in range(6):
        book.append(event(run_id=f"r{number % 2}"))
    seqs = [json.loads(line)["seq"] for line in book.lines(run_id="r1", since=2)]
    assert seqs == [4, 6]
    assert [json.loads(line)["seq"] for line in LedgerFile(book.path).lines(since=5)] == [6]


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    for field in ("schema", "event", "run_id", "step", "event_id", "attempt_token"):
        broken = {key: value for key, value in event().items() if key != field}
        with pytest.raises(ValueError, match=field):
            LedgerFile(tmp_path / "l.jsonl").append(broken)


def test_a_full_disk_is_named_and_the_ledger_stays_whole(home: Home) -> None:
    """A tmpfs of 64 KiB in a mount namespace of its own: the real ENOSPC."""
    script = f"""
        mount -t tmpfs -o size=64k tmpfs {home.path} || exit 77
        cd {Path(__file__).parents[2]}
        i=0
        while [ $i -lt 40 ] && {sys.executable} -m core.entry probe --run-id full >/dev/null 2>{home.path}.err
        do i=$((i+1)); head -c 16384 /dev/zero > {home.path}/filler-$i 2>/dev/null; done
        cat {home.path}.err >&2
        cat {home.path}/ledger.jsonl
    """
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        env=home.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine lets nobody mount a small file system")
    assert "No space left on device" in done.stderr
    assert "ledger file://" in done.stderr
    assert "Traceback" not in done.stderr
    for line in done.stdout.splitlines():
        json.loads(line)


# --- the HTTP collector ------------------------------------------------------------------------------


@pytest.fixture
def collector(home: Home, serve: Serve) -> Server:
    return serve("core.collector", "--file", str(home.path / "ledger.jsonl"))


def test_the_collector_answers_with_seq_and_attempt(collector: Server, home: Home) -> None:
    client = HttpLedger(collector.url, TOKEN)
    assert client.append(event()).attempt == 1
    assert client.append(event()).attempt == 2
    assert client.append(event("finish")).append_ns > 0
    lines = collector.get("/events?run_id=r&since=1").text.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [2, 3]
    assert lines == (home.path / "ledger.jsonl").read_text().splitlines()[1:]
    assert collector.get("/healthz").json() == {"ok": True, "seq": 3}


def test_writes_need_the_token_and_reads_do_not(collector: Server, home: Home) -> None:
    for headers in ({}, {"X-Bench-Token": "wrong"}, {"Authorization": f"Bearer {TOKEN}"}):
        answer = httpx.post(f"{collector.url}/events", json=event(), headers=headers, trust_env=False)
        assert answer.status_code == 401
    assert home.events() == []
    assert collector.get("/events").status_code == 200
    with pytest.raises(LedgerError, match="401"):
        HttpLedger(collector.url, "wrong").append(event())


def test_bad_bodies_are_refused(collector: Server) -> None:
    headers = {"X-Bench-Token": TOKEN}
    post = f"{collector.url}/events"
    assert httpx.post(post, content=b"{", headers=headers, trust_env=False).status_code == 400
    assert httpx.post(post, json=[1], headers=headers, trust_env=False).status_code == 400
    big = httpx.post(post, content=b" " * ((1 << 20) + 1), headers=headers, trust_env=False)
    assert big.status_code == 413
    chunked = httpx.post(post, content=iter([b"{}"]), headers=headers, trust_env=False)
    assert chunked.status_code == 411
    assert collector.get("/nowhere").status_code == 404
    assert collector.get("/events?since=x").status_code == 400


def test_it_needs_a_token_to_start(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "core.collector", "--file", str(home.path / "l")],
        env={**home.env, "BENCH_TOKEN": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "BENCH_TOKEN" in done.stderr


def test_after_sigkill_and_a_torn_line_seq_and_attempts_go_on(home: Home, serve: Serve) -> None:
    file = home.path / "ledger.jsonl"
    first = serve("core.collector", "--file", str(file))
    HttpLedger(first.url, TOKEN).append(event())
    first.process.kill()
    first.process.wait()
    with file.open("ab") as torn:
        torn.write(b'{"schema":1,"eve')
    second = serve("core.collector", "--file", str(file))
    answer = HttpLedger(second.url, TOKEN).append(event())
    assert (answer.seq, answer.attempt) == (2, 2)
    assert len(list(home.path.glob("ledger.jsonl.torn-*"))) == 1


def test_many_writers_at_once_lose_and_repeat_nothing(collector: Server, home: Home) -> None:
    def write(number: int) -> int:
        return HttpLedger(collector.url, TOKEN).append(event(run_id=f"r{number}")).seq

    with ThreadPoolExecutor(16) as pool:
        seqs = list(pool.map(write, range(64)))
    assert sorted(seqs) == list(range(1, 65))
    assert [item["seq"] for item in home.events()] == list(range(1, 65))


def test_a_post_whose_answer_was_lost_is_not_recorded_twice(collector: Server, home: Home) -> None:
    """A relay passes the first event on, then hangs up instead of answering: the client tries again."""
    calls: list[int] = []

    class Relay(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = httpx.post(
                f"{collector.url}/events", content=body, headers={"X-Bench-Token": TOKEN}, trust_env=False
            )
            calls.append(answer.json()["seq"])
            if len(calls) == 1:
                self.connection.close()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    relay = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    try:
        answer = HttpLedger(f"http://127.0.0.1:{relay.server_port}", TOKEN).append(event())
    finally:
        relay.shutdown()
        relay.server_close()
    assert calls == [1, 1]
    assert (answer.seq, answer.attempt, answer.repeated) == (1, 1, True)
    assert len(home.events()) == 1


def test_an_unreachable_ledger_is_named() -> None:
    with pytest.raises(LedgerError, match=r"http://127\.0\.0\.1:9 is unreachable"):
        HttpLedger("http://127.0.0.1:9", TOKEN, give_up_seconds=0.2).append(event())


def test_other_schemes_are_refused() -> None:
    with pytest.raises(BadInput, match="ftp://"):
        ledger.open_ledger("ftp://x/y")
