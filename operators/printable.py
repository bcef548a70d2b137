"""Text of a file as one that a terminal can show."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text so that it begins no line of its own and steers no terminal: `?` for what does not print."""
    return "".join(one if one.isprintable() else "?" for one in text)
