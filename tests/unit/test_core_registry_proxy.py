"""The ConfigMap proxy of a registry: same answers, and no lost update, over HTTP.

The API server here is a small one of our own that keeps ConfigMaps and refuses an outdated
resourceVersion (409), which is the rule the proxy relies on; a real cluster is the business of tests/kind.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from core.errors import RegistryError
from core.registry import ConfigMapProxy, Registration, find, open_registry


class ApiServer(ThreadingHTTPServer):
    """ConfigMaps of one namespace."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.maps: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.conflicts = 0


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        found = self.server.maps.get(self.path.rpartition("/")[2])
        self.reply(200 if found else 404, found or {})

    def do_POST(self) -> None:
        self.write(create=True)

    def do_PUT(self) -> None:
        self.write(create=False)

    def write(self, *, create: bool) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        with self.server.lock:
            known = self.server.maps.get(name)
            version = known["metadata"]["resourceVersion"] if known else None
            if (create and known) or (not create and version != body["metadata"]["resourceVersion"]):
                self.server.conflicts += 1
                self.reply(409, {"reason": "Conflict"})
                return
            body["metadata"]["resourceVersion"] = str(int(version or 0) + 1)
            self.server.maps[name] = body
        self.reply(200, body)

    def reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def proxy(api: ApiServer) -> ConfigMapProxy:
    return ConfigMapProxy(f"http://127.0.0.1:{api.server_port}", "bookstore-ml", "token", verify=True)


def record(run_id: str) -> Registration:
    return Registration(
        "shop", f"s3://b/{run_id}", "0" * 64, run_id, None, "t", {"k": "5"}, {"score": 0.5}, {}
    )


def test_it_keeps_versions_tags_and_the_alias(api: ApiServer) -> None:
    registry = proxy(api)
    assert registry.champion("shop") is None
    first, second = registry.register(record("r1")), registry.register(record("r2"))
    assert registry.register(record("r1")).version == first.version == "1"
    assert second.version == "2"
    registry.set_champion("shop", "2")
    registry.set_tags("shop", "2", {"a": "b"})
    champion = registry.champion("shop")
    assert champion is not None
    assert (champion.version, champion.tags["a"]) == ("2", "b")
    registry.delete_tag("shop", "2", "a")
    registry.delete_tag("shop", "2", "a")
    assert registry.tagged("shop", "a") == []
    assert find(registry, "shop", "r2", None) == registry.get("shop", "2")
    assert "PROXY" in first.tags["bench.registry"]
    with pytest.raises(RegistryError, match="no version 9"):
        registry.get("shop", "9")


def test_writers_at_once_lose_nothing(api: ApiServer) -> None:
    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(lambda number: proxy(api).register(record(f"r{number}")).version, range(6)))
    assert sorted(versions) == ["1", "2", "3", "4", "5", "6"]


def test_outside_a_pod_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_SERVICEACCOUNT_DIR", "/nonexistent")
    with pytest.raises(RegistryError, match="no service account here"):
        open_registry("configmap-proxy", "")
