"""Text from a file, made safe to show in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text so that it begins no line of its own and steers no terminal: `?` for what does not print."""
    return "".join(character if character.isprintable() else "?" for character in text)
