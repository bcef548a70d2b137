"""A table that `ctvae table` wrote, as arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.errors import StartError
from operators.system_error import cannot_read

if TYPE_CHECKING:
    import pyarrow as pa

Texts = NDArray[np.str_]
Floats = NDArray[np.float64]
Values = Texts | Floats

_DIMENSION: Final = re.compile(r"(.+)_(\d{3,})")
_TEXTS: Final = (
    *("series_instance_uid", "study_instance_uid", "patient_key", "sex", "manufacturer", "manufacturer_model"),
    *("kernel", "contrast", "body_part", "image_type", "findings", "verdict", "model_digest", "config_digest"),
    "source_path",
)


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features and what stands beside them, one row per series or part.

    Attributes:
        columns: name → str (n,), "" where there is none, or float64 (n,), NaN where there is none.
        taps: name → float32 (n, k), finite.
        notes: what a reader of the numbers must know, one line each.
    """

    columns: Mapping[str, Values]
    taps: Mapping[str, NDArray[np.float32]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (*self.columns.values(), *self.taps.values())}
        if len(lengths) != 1 or "series_instance_uid" not in self.columns or not self.taps:
            raise ValueError("a feature table needs series_instance_uid, a tap, and columns of one length")

    def __len__(self) -> int:
        return len(self.columns["series_instance_uid"])

    def texts(self, name: str) -> Texts:
        """Return a column as text; all empty where the table does not have it."""
        found = self.columns.get(name, np.full(len(self), ""))
        return np.asarray(found, np.str_)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.intp], *notes: str) -> FeatureTable:
        """Return some of the rows, and further notes."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        taps = {name: values[chosen] for name, values in self.taps.items()}
        return FeatureTable(columns, taps, (*self.notes, *notes))

    def with_columns(self, columns: Mapping[str, Values], *notes: str) -> FeatureTable:
        """Return the table with further columns and notes."""
        return replace(self, columns={**self.columns, **columns}, notes=(*self.notes, *notes))

    @property
    def parts(self) -> list[str]:
        """Part of each row, a whole number as text, "" where there is none: a column with gaps is read as floats."""
        texts = self.texts("part").tolist()
        return ["" if one in ("", "nan") else str(int(float(one))) for one in texts]

    @property
    def patients(self) -> Texts:
        """What tells patients apart: the patient key; the study where there is no key; without either the series."""
        patient = self.texts("patient_key")
        for name in ("study_instance_uid", "series_instance_uid"):
            patient = np.where(patient == "", self.texts(name), patient)
        return np.asarray(patient, np.str_)


def read_features(path: Path) -> FeatureTable:
    """Read a table of features, Parquet or CSV.

    Rows of another model than most, and rows with a feature that is not a finite number, are left out with a note.

    Raises:
        StartError: `BAD_TABLE`: it cannot be read, or is not a wide table of `ctvae table`.
    """
    read = _read_arrow(path)
    names = read.column_names
    if {"tap", "dimension", "value"} <= set(names):
        raise StartError(
            "BAD_TABLE", "the table is in the long form; write it again with `ctvae table`, without --long"
        )
    of_taps = _dimensions(names)
    if "series_instance_uid" not in names or not of_taps:
        expected = "expected series_instance_uid and dimensions such as mu_000, as `ctvae table` writes them"
        raise StartError("BAD_TABLE", f"the table has {len(names)} columns, but not those of features; {expected}")
    taps = {tap: np.stack([_floats(read, name) for name in listed], axis=1) for tap, listed in of_taps.items()}
    used = {name for listed in of_taps.values() for name in listed}
    columns = {name: _values(read, name) for name in names if name not in used}
    table = FeatureTable(columns, {tap: values.astype(np.float32) for tap, values in taps.items()})
    if not len(table):
        raise StartError("BAD_TABLE", "the table has no rows; encode some series first")
    return _of_one_model(_finite(_keyed(table)))


def _keyed(table: FeatureTable) -> FeatureTable:
    if (table.texts("patient_key") != "").all():
        return table
    lacking = int((table.texts("patient_key") == "").sum())
    text = "rows have no patient_key, so each study counts as a patient; if one patient has several studies, set "
    return replace(table, notes=(*table.notes, f"{lacking} of {len(table)} {text}CTVAE_SITE_KEY when encoding"))


def _finite(table: FeatureTable) -> FeatureTable:
    good = np.all([np.isfinite(values).all(axis=1) for values in table.taps.values()], axis=0)
    if good.all():
        return table
    if not good.any():
        raise StartError("BAD_TABLE", "every row has a feature that is not a finite number; encode the series again")
    return table.rows(good, f"{int((~good).sum())} rows left out: a feature is missing or not a finite number")


def _of_one_model(table: FeatureTable) -> FeatureTable:
    digests, counts = np.unique(table.texts("model_digest"), return_counts=True)
    if len(digests) < 2:
        return table
    most = str(digests[counts.argmax()])
    kept = table.texts("model_digest") == most
    text = f"{len(digests)} models are mixed in the table, whose numbers cannot be compared; only the"
    return table.rows(kept, f"{text} {int(kept.sum())} rows of model {most[:12]} are used, of {len(table)}")


def _dimensions(names: Iterable[str]) -> dict[str, list[str]]:
    """Return each tap's columns in order; a name that ends in a number without the ones before it is a plain column."""
    known = set(names)
    found: dict[str, list[str]] = {}
    for name in names:
        match = _DIMENSION.fullmatch(name)
        if match and f"{match[1]}_000" in known:
            found.setdefault(match[1], []).append(name)
    return {tap: sorted(listed, key=lambda name: int(name.rpartition("_")[2])) for tap, listed in found.items()}


def _read_arrow(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        path.open("rb").close()  # Arrow says less about a file that the system does not open
        if path.suffix == ".csv":
            options = pa.csv.ConvertOptions(
                column_types=dict.fromkeys(_TEXTS, pa.string()), strings_can_be_null=True, null_values=[""]
            )
            return pa.csv.read_csv(path, convert_options=options)
        return pa.parquet.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        text = cannot_read(f"the table {path.name!r}", error, "Parquet or CSV as `ctvae table` writes it")
        raise StartError("BAD_TABLE", text) from error


def _values(table: pa.Table, name: str) -> Values:
    import pyarrow.types as kinds

    kind = table.schema.field(name).type
    if (kinds.is_integer(kind) or kinds.is_floating(kind)) and name not in _TEXTS:
        return _floats(table, name)
    return np.array(["" if value is None else str(value) for value in table.column(name).to_pylist()], np.str_)


def _floats(table: pa.Table, name: str) -> Floats:
    try:
        listed: list[Any] = table.column(name).to_pylist()
        return np.array([np.nan if value is None else value for value in listed], np.float64)
    except (TypeError, ValueError) as error:
        raise StartError("BAD_TABLE", f"the column {name} holds text; expected numbers") from error
