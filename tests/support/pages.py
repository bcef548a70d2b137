"""A client of the listener's page."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from tests.support.waiting import PATIENCE_S


def client_of(port: int | None, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """Return a client that waits, and opens a connection for each request: the page closes one that is idle."""
    once = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, limits=once, timeout=PATIENCE_S)
