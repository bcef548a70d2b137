"""A report to its folder: index.html, one CSV per table, report.json."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from app.explain.report.page import Heading, html_page
from app.explain.report.section import Cell, Section, Table
from operators.errors import StartError
from operators.results.atomic import atomic_file
from operators.results.write_json import json_bytes

PAGE, NUMBERS = "report.html", "report.json"


def write_report(folder: Path, heading: Heading, sections: Sequence[Section]) -> None:
    """Write the page, the tables and the JSON; files of an earlier report with the same names are replaced.

    Raises:
        StartError: `OUTPUT_UNWRITABLE`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"cannot make the folder {folder.name!r} ({error.strerror}); choose another"
        raise StartError("OUTPUT_UNWRITABLE", text) from error
    for section in sections:
        for table in section.tables:
            _put(folder / f"{table.name}.csv", csv_text(table).encode())
    _put(folder / NUMBERS, json_bytes(document(heading, sections)))
    _put(folder / PAGE, html_page(heading, sections).encode())


def document(heading: Heading, sections: Sequence[Section]) -> dict[str, object]:
    """Return all of the report as JSON knows it; a number that is not finite is null."""
    return {
        "software": heading.software,
        "notice": heading.notice,
        "model_digest": heading.model_digest,
        "notes": list(heading.notes),
        "sections": [
            {
                "key": section.key,
                "title": section.title,
                "found": section.found,
                "does_not_mean": section.not_meant,
                "computed": section.mood != "missing",
                "notes": list(section.notes),
                "tables": {table.name: [_finite(one) for one in table.records()] for table in section.tables},
            }
            for section in sections
        ],
    }


def csv_text(table: Table) -> str:
    """Return a table as CSV; what is missing is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if _missing(cell) else cell for cell in row] for row in table.rows])
    return text.getvalue()


def _missing(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _finite(record: dict[str, Cell]) -> dict[str, Cell]:
    return {name: None if _missing(cell) else cell for name, cell in record.items()}


def _put(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)
