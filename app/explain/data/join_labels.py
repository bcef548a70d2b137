"""A file of labels, joined to the rows of a table of features as the contract says."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from app.explain.data.feature_table import FeatureTable, Values
from operators.errors import StartError
from operators.make_record import patient_key
from operators.system_error import cannot_read

KEYS: Final = ("series_instance_uid", "study_instance_uid", "patient_key", "patient_id", "source_path")
"""In this order: the first that the label file has is the key."""

MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells that count as empty, in lower case."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Labels beside the features.

    Attributes:
        table: only the rows that have a partner; the labels are further columns.
        names: of the labels, in the order of the file.
        key: the column that was joined on.
        without_label: series of the table that have no partner in the label file.
        without_features: line numbers of the label file that have no partner in the table.
    """

    table: FeatureTable
    names: tuple[str, ...]
    key: str
    without_label: tuple[str, ...]
    without_features: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file: its rows, each a tuple of stripped cells in the order of `names`, and the line of each."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def column(self, name: str) -> list[str]:
        """Return one column."""
        at = self.names.index(name)
        return [row[at] for row in self.rows]


def join_labels(table: FeatureTable, file: Path, site_key: bytes | None) -> Joined:
    """Join a label file to the table.

    Args:
        table: of features.
        file: CSV in UTF-8, separated by commas, semicolons or tabs, with at least one of `KEYS` among its columns.
        site_key: hashes `patient_id` while reading, as in encoding; the ID itself is kept nowhere.

    Raises:
        StartError: `BAD_LABELS`: unreadable, without a key or a label, or no row belongs to a series of the table.
    """
    read = read_label_file(file)
    key = next((name for name in KEYS if name in read.names), None)
    names = tuple(name for name in read.names if name not in KEYS and name != "")
    if key is None:
        raise StartError("BAD_LABELS", f"the labels have the columns {_few(read.names)}; expected one of {_few(KEYS)}")
    if not names:
        raise StartError("BAD_LABELS", f"the labels have the column {key} and no other; add a column for each label")
    ours, theirs = _keys(table, key), _hashed(read.column(key), key, site_key)
    places, notes = _unique(read, theirs, names)
    found = np.array([places.get(one, -1) if one else -1 for one in ours.tolist()], np.intp)
    partner = found >= 0
    if not partner.any():
        text = f"none of {len(places)} values of {key} in the labels is in the table of {len(table)} rows"
        raise StartError("BAD_LABELS", f"{text}; check that both are of the same data")
    matched = set(found[partner].tolist())
    lines = tuple(read.lines[at] for at in places.values() if at not in matched)
    columns = {
        f"{name} (label)" if name in table.columns else name: _typed([read.column(name)[at] for at in found[partner]])
        for name in names
    }
    lost = table.texts("series_instance_uid")[~partner].tolist()
    notes += _unmatched(len(lost), len(table), len(lines), len(places), key)
    joined = table.rows(partner).with_columns(columns, *notes)
    return Joined(joined, tuple(columns), key, tuple(lost), lines)


def read_label_file(file: Path) -> LabelFile:
    """Read a CSV; the separator is the one of comma, semicolon and tab that its first line has most of.

    Raises:
        StartError: `BAD_LABELS`.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        text = cannot_read(f"the labels {file.name!r}", error, "CSV in UTF-8")
        raise StartError("BAD_LABELS", text) from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        rows = [tuple(cell.strip() for cell in row) for row in csv.reader(io.StringIO(text), delimiter=separator)]
    except csv.Error as error:
        raise StartError("BAD_LABELS", f"the labels are not CSV ({error}); save them as CSV in UTF-8") from error
    if len(rows) < 2:
        raise StartError("BAD_LABELS", f"the labels have {len(rows)} lines; expected a line of names and one per case")
    names, body = rows[0], [(number, row) for number, row in enumerate(rows[1:], 2) if any(row)]
    if len(set(names)) < len(names):
        raise StartError("BAD_LABELS", "two columns of the labels have one name; rename one")
    for number, row in body:
        if len(row) != len(names):
            text = f"line {number} of the labels has {len(row)} cells, the first line {len(names)}"
            raise StartError("BAD_LABELS", f"{text}; put cells that hold a separator into quotes")
    return LabelFile(names, tuple(row for _, row in body), tuple(number for number, _ in body))


def _keys(table: FeatureTable, key: str) -> Values:
    name = "patient_key" if key == "patient_id" else key
    ours = table.texts(name)
    if (ours == "").all():
        how = {"patient_key": "encode with CTVAE_SITE_KEY set", "source_path": "write the table with --with-paths"}
        text = f"the labels go by {key}, and the table has no {name}"
        raise StartError("BAD_LABELS", f"{text}; {how.get(name, 'write the table again')}, or label by another key")
    return ours


def _hashed(values: list[str], key: str, site_key: bytes | None) -> list[str]:
    if key != "patient_id":
        return values
    if site_key is None:
        raise StartError("BAD_LABELS", "the labels go by patient_id; set CTVAE_SITE_KEY to the key used in encoding")
    return [patient_key(site_key, value) if value else "" for value in values]


def _unique(read: LabelFile, keys: Sequence[str], names: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the row of each key; a key whose rows contradict each other is left out."""
    places: dict[str, int] = {}
    labels = list(zip(*(read.column(name) for name in names), strict=True))
    contradicting: dict[str, list[int]] = {}
    repeated = 0
    for at, one in enumerate(keys):
        first = places.setdefault(one, at) if one else at
        if first != at and labels[first] == labels[at]:
            repeated += 1
        elif first != at:
            contradicting.setdefault(one, [read.lines[first]]).append(read.lines[at])
    notes = [f"{repeated} lines of the labels repeat an earlier one and count once"] if repeated else []
    if contradicting:
        lines = _few([str(line) for listed in contradicting.values() for line in listed])
        text = f"{len(contradicting)} keys stand in the labels more than once and say different things"
        notes.append(f"{text}; they are left out (lines {lines})")
    empty = sum(not one for one in keys)
    if empty:
        notes.append(f"{empty} lines of the labels have no key and are left out")
    return {one: at for one, at in places.items() if one not in contradicting}, tuple(notes)


def _unmatched(series: int, rows: int, lines: int, labels: int, key: str) -> tuple[str, ...]:
    unlabelled = [f"{series} of {rows} series have no label (by {key}) and are left out; unmatched.csv lists them"]
    other = [f"{lines} of {labels} labels belong to no series of the table; unmatched.csv lists them"]
    return (*(unlabelled if series else ()), *(other if lines else ()))


def _typed(cells: list[str]) -> Values:
    """Return numbers where every cell that is not empty is a finite number, else text."""
    cells = ["" if cell.lower() in MISSING else cell for cell in cells]
    try:
        numbers = np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return np.array(cells, np.str_)
    return numbers if np.isfinite(numbers).any() and not np.isinf(numbers).any() else np.array(cells, np.str_)


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
