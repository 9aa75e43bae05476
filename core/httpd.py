"""The small HTTP server under the collector and the serving service: JSON, a token, bounded bodies."""

from __future__ import annotations

import hmac
import json
import os
import signal
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.errors import BadInput

MAX_BODY_BYTES = 1 << 20


class HttpError(Exception):
    """An answer other than 200, with the text for the JSON `error` field."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class JsonServer(ThreadingHTTPServer):
    """One thread per connection; `token` guards what changes state."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler], token: str) -> None:
        self.token = token
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Bind without the reverse DNS look-up of the base class, which can block for seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_name}:{self.server_port}"

    def serve_until_signalled(self, name: str) -> None:
        """Say where it listens, serve until SIGTERM or SIGINT, then finish what is under way."""

        def stop(_signal: int, _frame: object) -> None:
            threading.Thread(target=self.shutdown, daemon=True).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print(f"{name} listening on {self.url}", flush=True)
        self.serve_forever(poll_interval=0.2)
        self.server_close()


class JsonHandler(BaseHTTPRequestHandler):
    """Reads bounded JSON bodies and answers JSON; subclasses write `route`."""

    protocol_version = "HTTP/1.1"
    server_version = "bench"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = 30  # seconds a silent client may hold its thread
    server: JsonServer

    def route(self, method: str) -> None:
        """Answer one request. Raises HttpError for anything but success."""
        raise HttpError(404, "no such path")

    def do_GET(self) -> None:
        """Read."""
        self._dispatch("GET")

    def do_POST(self) -> None:
        """Change."""
        self._dispatch("POST")

    def do_PUT(self) -> None:
        """Replace."""
        self._dispatch("PUT")

    def _dispatch(self, method: str) -> None:
        try:
            self.route(method)
        except HttpError as error:
            self.close_connection = True  # a refused body may be unread
            self.answer(error.status, {"error": str(error)})
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - one bad request must not end the service
            self.log_error("%s %s: %s: %s", method, self.path, type(error).__name__, error)
            self.close_connection = True
            self.answer(500, {"error": str(error) or type(error).__name__})

    def require_token(self) -> None:
        """Raises HttpError 401 unless the caller sent the token; compared in constant time."""
        given = self.headers.get("X-Bench-Token", "")
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            raise HttpError(401, "missing or wrong X-Bench-Token")

    def body(self) -> bytes:
        """The request's body. Raises HttpError 411 without a length, 413 above 1 MiB."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise HttpError(411, "Content-Length is required")
        if int(length) > MAX_BODY_BYTES:
            raise HttpError(413, f"a body is at most {MAX_BODY_BYTES} bytes")
        return self.rfile.read(int(length))

    def json_body(self) -> Any:
        """The body as JSON. Raises HttpError 400."""
        try:
            return json.loads(self.body())
        except ValueError as error:
            raise HttpError(400, f"the body is not JSON: {error}") from error

    def answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Send a JSON object."""
        self.answer_bytes(status, json.dumps(content).encode() + b"\n", "application/json", headers)

    def answer_bytes(
        self, status: int, content: bytes, content_type: str, headers: dict[str, str] | None = None
    ) -> None:
        """Send a whole body."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Quiet: one line a request would cost more than the request."""


def token_from_environment(service: str) -> str:
    """BENCH_TOKEN.

    Raises:
        BadInput: if it is not set: an open service would let anyone change state.
    """
    token = os.environ.get("BENCH_TOKEN", "")
    if not token:
        raise BadInput(
            f"{service} needs a token in the environment variable BENCH_TOKEN",
            next_step="export BENCH_TOKEN=$(openssl rand -hex 16)",
        )
    return token


def fail(program: str, error: Exception) -> None:
    """One clear line on stderr."""
    print(f"{program}: error: {error}", file=sys.stderr, flush=True)
