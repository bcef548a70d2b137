"""The report as one HTML page: figures embedded, nothing from the network, readable on a phone and on paper."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from app.explain.report.section import Cell, Section


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands at the top.

    Attributes:
        facts: (what, value): of the table.
        notes: what a reader of all of it must know.
    """

    title: str
    software: str
    notice: str
    model_digest: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def html_page(heading: Heading, sections: Sequence[Section]) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell_text, "embedded": _embedded}
    template = files("app.explain.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(heading=heading, sections=sections)


def cell_text(cell: Cell) -> str:
    """Return a cell as the page shows it: three decimals at most; the files have all digits."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "–"
    if not isinstance(cell, float):
        return str(cell)
    if 0 < abs(cell) < 0.0005:
        return "< 0.001" if cell > 0 else "> −0.001"
    return (f"{cell:.3f}" if abs(cell) < 100 else f"{cell:.0f}").replace("-", "−")


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
