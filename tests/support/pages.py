"""A client of the listener's page."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import httpx

from tests.support.waiting import PATIENCE_S, until


def client_of(port: int | None, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """Return a client that waits, and opens a connection for each request: the page closes one that is idle."""
    once = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, limits=once, timeout=PATIENCE_S)


def page_at(url: str) -> httpx.Response:
    """Return what a listener's page answers, which closes a connection of somebody who is slow to ask."""
    answers: list[httpx.Response] = []

    def asked() -> bool:
        with suppress(httpx.TransportError):
            answers.append(httpx.get(url, timeout=PATIENCE_S))
        return bool(answers)

    until(asked)
    return answers[0]
