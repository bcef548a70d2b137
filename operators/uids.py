"""UIDs that are made from digests, so that the same input has the same ones."""

from __future__ import annotations


def uid_from_digest(digest: str) -> str:
    """Return a UID of the form `2.25.<number>` (PS3.5 B.2) from the first 128 bits of a hex digest."""
    return f"2.25.{int(digest[:32], 16)}"
