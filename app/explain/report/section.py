"""A section of the report: what was found, what that does not mean, its tables and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers of the report: all of them go into NAME.csv and report.json, the first rows into the page.

    Attributes:
        name: of the file, without its ending.
        caption: over it on the page.
        shown: the columns on the page; all where empty.
        most: rows on the page; the file has them all.
        headings: column → what the page calls it.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    shown: tuple[str, ...] = ()
    most: int = 15
    headings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows) or not set(self.shown) <= set(self.columns):
            raise ValueError(f"table {self.name}: rows or shown columns do not fit its columns")

    def records(self) -> Iterator[dict[str, Cell]]:
        """Yield each row as column → cell."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture.

    Attributes:
        png: its bytes.
        caption: what it shows and how to read it; also its text for those who do not see it.
    """

    name: str
    png: bytes
    caption: str
    wide: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """One question and its answer.

    Attributes:
        key: of its place on the page.
        found: one sentence.
        not_meant: one sentence: what that does not mean.
        mood: whether a reader has reason to be `calm`, or must be `warned`; `missing` where inputs were lacking.
        notes: further lines: how it was done, what was left out.
    """

    key: str
    title: str
    found: str
    not_meant: str
    mood: Literal["calm", "warned", "missing"] = "calm"
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


def lacking(key: str, title: str, why: str) -> Section:
    """Return a section whose inputs are missing; `why` says what to give."""
    return Section(key, title, f"Not computed: {why}", "", mood="missing")


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.0f} %"


def number(value: float, digits: int = 2) -> str:
    """Return a number with so many decimals, with a minus sign that is one."""
    return f"{value:.{digits}f}".replace("-", "−")


def span(low: float, high: float, digits: int = 2) -> str:
    """Return an interval in words."""
    return f"{number(low, digits)} to {number(high, digits)}"


def p_text(p: float) -> str:
    """Return a p-value as a reader expects it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
