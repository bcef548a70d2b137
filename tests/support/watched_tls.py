"""TLS sockets that note which threads use them, and what OpenSSL does not allow."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Use:
    """The use of one TLS connection.

    OpenSSL wants one call at a time. Whether two calls meet is luck, so each thread gets one turn: one that takes the
    connection back from another thread could have met that thread's call.

    Attributes:
        turns: the threads, in order.
        wrong: each call that met another one, or could have.
    """

    turns: list[threading.Thread] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _inside: list[tuple[threading.Thread, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, thread: threading.Thread, call: str) -> Iterator[None]:
        """Note a call of a thread, which goes on for as long as the block."""
        with self._lock:
            self.wrong += [f"{call} in {thread.name} during {other}" for who, other in self._inside if who != thread]
            if thread in self.turns[:-1]:
                self.wrong.append(f"{call} in {thread.name} after {self.turns[-1].name} had the connection")
            if thread not in self.turns[-1:]:
                self.turns.append(thread)
            self._inside.append((thread, call))
        try:
            yield
        finally:
            with self._lock:
                self._inside.remove((thread, call))


def watched(uses: list[Use]) -> type[ssl.SSLSocket]:
    """Return what takes the place of `ssl.SSLContext.sslsocket_class`; the use of each socket is added to the list."""

    class Watched(ssl.SSLSocket):
        def __new__(cls, *about: Any, **more: Any) -> Watched:
            made = super().__new__(cls, *about, **more)
            made.use = Use()
            uses.append(made.use)
            return made

    def noting(call: str) -> Any:
        plain = getattr(ssl.SSLSocket, call)

        def noted(self: Any, *about: Any, **more: Any) -> Any:
            with self.use.of(threading.current_thread(), call):
                return plain(self, *about, **more)

        return noted

    # Whatever hands something to OpenSSL, or takes the connection from it; `recv` and the rest call these.
    for call in ("do_handshake", "read", "write", "send", "pending", "shutdown", "unwrap", "_real_close"):
        setattr(Watched, call, noting(call))
    return Watched
