"""The HTTP ledger: `python -m core.collector --host 0.0.0.0 --port 8080 --file /data/ledger.jsonl`.

POST /events (token) answers only when the event is on disk; GET /events?run_id=&since= gives JSON lines.
"""

from __future__ import annotations

import argparse
import threading
from dataclasses import asdict
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from core.errors import BenchError
from core.httpd import HttpError, JsonHandler, JsonServer, fail, token_from_environment
from core.ledger import LedgerFile


class Collector(JsonServer):
    """Writes every event to one file; appends are one at a time."""

    def __init__(self, host: str, port: int, file: Path, token: str) -> None:
        self.ledger = LedgerFile(file)
        self.last_seq = self.ledger.recover()
        self.lock = threading.Lock()
        super().__init__(host, port, _Handler, token)


class _Handler(JsonHandler):
    server: Collector

    def route(self, method: str) -> None:
        url = urlsplit(self.path)
        if (method, url.path) == ("POST", "/events"):
            self.require_token()
            self._append()
        elif (method, url.path) == ("GET", "/events"):
            self._read(parse_qs(url.query))
        elif (method, url.path) == ("GET", "/healthz"):
            self.answer(200, {"ok": True, "seq": self.server.last_seq})
        else:
            raise HttpError(404, f"no {method} {url.path}; there are POST /events, GET /events, GET /healthz")

    def _append(self) -> None:
        event = self.json_body()
        try:
            with self.server.lock:
                receipt = self.server.ledger.append(event)
                self.server.last_seq = max(self.server.last_seq, receipt.seq)
        except (ValueError, TypeError) as error:
            raise HttpError(400, str(error)) from error
        except BenchError as error:
            raise HttpError(507, str(error)) from error
        self.answer(200, asdict(receipt))

    def _read(self, query: dict[str, list[str]]) -> None:
        since = query.get("since", ["0"])[0]
        if not since.isdigit():
            raise HttpError(400, "since is a sequence number")
        run_id = query.get("run_id", [None])[0]
        lines = self.server.ledger.lines(run_id=run_id, since=int(since))
        self.answer_bytes(200, b"".join(lines), "application/x-ndjson")


def main() -> int:
    """Serve until SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.collector", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--file", type=Path, required=True, help="the JSON lines file to keep")
    args = parser.parse_args()
    try:
        server = Collector(args.host, args.port, args.file, token_from_environment("the collector"))
    except BenchError as error:
        fail("collector", error)
        return error.exit_code
    except OSError as error:
        fail("collector", OSError(f"cannot listen on {args.host}:{args.port}: {error.strerror}"))
        return 1
    server.serve_until_signalled("ledger")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
