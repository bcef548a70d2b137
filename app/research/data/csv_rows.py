"""Rows of a list of scans or a file of labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from operators.errors import StartError
from operators.system_error import cannot_read


def csv_rows(file: Path, reason: str) -> list[dict[str, str]]:
    """Return the rows of a CSV, cells without spaces around them; a cell without a column name is an error."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StartError(reason, cannot_read("the list", error, "CSV in UTF-8")) from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise StartError(reason, f"line {number} has more or fewer cells than the first line; quote commas")
    return [{(name or "").strip(): value.strip() for name, value in row.items()} for row in rows]


def filled(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that have a name and a value."""
    return {name: value for name, value in labels.items() if name and value}
