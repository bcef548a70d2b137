"""Why a host gives no answer, as far as an error tells."""

from __future__ import annotations

import socket


def why_no_answer(error: BaseException) -> str | None:
    """Return that the name of a host cannot be resolved, and why; None for any other error.

    Args:
        error: of the system, or a library's that such an error caused.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _is_unresolved(cause):
            return f"the name cannot be resolved: {getattr(cause, 'strerror', None) or 'it is malformed'}"
        cause = cause.__cause__ or cause.__context__
    return None


def _is_unresolved(error: BaseException) -> bool:
    """Return whether the system cannot resolve a name, or Python cannot encode it to ask (RFC 3490)."""
    malformed = isinstance(error, UnicodeError) and getattr(error, "encoding", "idna") == "idna"
    return malformed or isinstance(error, socket.gaierror)
