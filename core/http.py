"""HTTP clients of the steps: what each of them would otherwise pay for again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx


def client(base_url: str, **options: Any) -> httpx.Client:
    """A client of one service of ours: no proxy, no netrc; `options` are `httpx.Client`'s.

    Over plain HTTP no certificate authorities are loaded, which is most of what making a client costs; an answer that
    sends it to HTTPS all the same would then be refused, not trusted.
    """
    import ssl

    import httpx

    if urlsplit(base_url).scheme == "http":
        options.setdefault("verify", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return httpx.Client(base_url=base_url, trust_env=False, **options)
