"""The steps' HTTP clients load certificates only where they are to check one."""

import ssl

import httpx
import pytest

from core.http import client


def test_plain_http_loads_no_certificates_and_https_all(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: loaded.append("loaded"))
    with client("http://127.0.0.1:9"):
        assert loaded == []
    with client("https://127.0.0.1:9"):
        assert loaded


def test_a_plain_client_that_is_sent_to_https_trusts_nobody() -> None:
    with client("http://127.0.0.1:9") as plain:
        transport = plain._transport
        assert isinstance(transport, httpx.HTTPTransport)
        context = transport._pool._ssl_context
        assert context is not None and context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname and context.get_ca_certs() == []
