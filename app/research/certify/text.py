"""Figures and tables of a certificate as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.certified_figures import Estimate

WIDTH = 120


def within(found: Estimate | None, digits: int = 3) -> str:
    """Return a figure with its interval, `0.912 [0.871, 0.940]`."""
    if found is None or found.value is None:
        return "not measured"
    value = number(found.value, digits)
    if found.low is None:
        return value
    return f"{value} [{number(found.low, digits)}, {number(found.high, digits)}]"


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure as text; empty where it is missing."""
    return "" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
