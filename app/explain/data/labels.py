"""What a column can be tested as: a number or a category; and which rows of a table are tested."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.explain.data.feature_table import FeatureTable, Values

LEAST_CLASS: Final = 3
"""Patients: a smaller class is left out."""

LEAST_PATIENTS: Final = 10
"""With fewer, what is computed is shown, and said to prove nothing."""

MOST_CLASSES: Final = 20


@dataclass(frozen=True, slots=True)
class Label:
    """One column to be tested.

    Attributes:
        values: float64 (n,), NaN where there is none; or str (n,), "" where there is none.
        notes: what was left out, for a reader.
    """

    name: str
    kind: Literal["number", "category"]
    values: Values
    notes: tuple[str, ...] = ()

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which rows have a value."""
        if self.kind == "number":
            return np.isfinite(np.asarray(self.values, np.float64))
        return np.asarray(self.values != "", np.bool_)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of a category in alphabetical order; empty for a number."""
        return () if self.kind == "number" else tuple(np.unique(self.values[self.there]).tolist())

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Label:
        """Return the label of some of the rows."""
        return Label(self.name, self.kind, self.values[chosen], self.notes)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A column that cannot be tested, and why."""

    name: str
    why: str


def read_labels(table: FeatureTable, names: Sequence[str]) -> tuple[tuple[Label, ...], tuple[Unusable, ...]]:
    """Return the columns that can be tested, and the others."""
    read = [as_label(name, table.columns[name], table.patients) for name in names if name in table.columns]
    usable = tuple(one for one in read if isinstance(one, Label))
    return usable, tuple(one for one in read if isinstance(one, Unusable))


def as_label(name: str, values: Values, patients: NDArray[np.str_]) -> Label | Unusable:
    """Return a column as a label.

    Numbers with three or more different values are a number; with two a category, as text is. A class of fewer than
    `LEAST_CLASS` patients is left out.
    """
    notes: list[str] = []
    if values.dtype.kind == "f":
        numbers = np.asarray(values, np.float64)
        distinct = np.unique(numbers[np.isfinite(numbers)])
        if len(distinct) > 2:
            lacking = int((~np.isfinite(numbers)).sum())
            missing = (f"{lacking} of {len(values)} rows have no value and are left out",) if lacking else ()
            return Label(name, "number", numbers, missing)
        values = np.where(np.isfinite(numbers), np.char.mod("%g", numbers), "")
    texts = np.asarray(values, np.str_)
    there = texts != ""
    if not there.any():
        return Unusable(name, "no row has a value")
    classes = np.unique(texts[there]).tolist()
    if len(classes) == 1:
        return Unusable(name, f"constant: every value is {classes[0][:40]!r}")
    counts = {one: len(np.unique(patients[texts == one])) for one in classes}
    small = [one for one in classes if counts[one] < LEAST_CLASS]
    if len(classes) - len(small) > MOST_CLASSES:
        return Unusable(name, f"{len(classes)} different values, like an identifier; expected at most {MOST_CLASSES}")
    if len(classes) - len(small) < 2:
        sizes = ", ".join(map(str, sorted(counts.values(), reverse=True)[:6]))
        return Unusable(name, f"fewer than two classes have {LEAST_CLASS} patients (classes have {sizes})")
    if lacking := int((~there).sum()):
        notes.append(f"{lacking} of {len(values)} rows have no value and are left out")
    if small:
        listed = ", ".join(one[:30] for one in small[:5])
        notes.append(f"{len(small)} classes of fewer than {LEAST_CLASS} patients are left out ({listed})")
    return Label(name, "category", np.where(np.isin(texts, small), "", texts), tuple(notes))


def one_series_each(table: FeatureTable) -> FeatureTable:
    """Return one row per patient: the one whose UID has the lowest SHA-256.

    So neither features nor labels have a say, and another table of the same series gives the same choice.
    """
    patients = table.patients
    uids, parts = table.texts("series_instance_uid").tolist(), table.texts("part").tolist()
    digests = [hashlib.sha256(f"{uid} {part}".encode()).hexdigest() for uid, part in zip(uids, parts, strict=True)]
    first: dict[str, int] = {}
    for at in np.argsort(digests).tolist():
        first.setdefault(str(patients[at]), at)
    chosen = np.sort(np.array(list(first.values()), np.intp))
    if len(chosen) == len(table):
        return table
    text = f"{len(table)} series of {len(chosen)} patients: one series per patient is used, drawn by its UID"
    return table.rows(chosen, text)
