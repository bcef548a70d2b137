"""Why a host gives no answer, as far as an error tells."""

from __future__ import annotations

import socket
import ssl


def why_no_answer(error: BaseException) -> str | None:
    """Return that a name cannot be resolved or that TLS failed, and why; None for any other error.

    Args:
        error: of the system, or a library's that such an error caused.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _is_unresolved(cause):
            return f"the name cannot be resolved: {getattr(cause, 'strerror', None) or 'it is malformed'}"
        if isinstance(cause, ssl.SSLError):
            return tls_failure(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def tls_failure(error: OSError) -> str:
    """Return that TLS failed, and why: an `ssl.SSLError`, or what ended the handshake."""
    return f"TLS failed: {error.strerror or type(error).__name__}"


def _is_unresolved(error: BaseException) -> bool:
    """Return whether the system cannot resolve a name, or Python cannot encode it to ask (RFC 3490)."""
    malformed = isinstance(error, UnicodeError) and getattr(error, "encoding", "idna") == "idna"
    return malformed or isinstance(error, socket.gaierror)
