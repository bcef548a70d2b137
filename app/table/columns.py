"""The table's columns: their names, types, units and meanings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.table.result import DESCRIBED, Cell, Result
from operators.measure.quantities import QUANTITIES

if TYPE_CHECKING:
    import pyarrow as pa

_MEANING: Final[Mapping[str, tuple[str, str]]] = {
    "series_instance_uid": ("string", "SeriesInstanceUID of the CT"),
    "part": ("int32", "part of a series that was split; empty for a whole series"),
    "study_instance_uid": ("string", "StudyInstanceUID of the CT"),
    "patient_key": ("string", "keyed digest (HMAC-SHA-256) of PatientID; empty without the site's key"),
    "sex": ("string", "PatientSex"),
    "age_years": ("float", "age at the study, years"),
    "manufacturer": ("string", "Manufacturer of the scanner"),
    "manufacturer_model": ("string", "ManufacturerModelName of the scanner"),
    "kernel": ("string", "ConvolutionKernel"),
    "kvp": ("float", "KVP, kV"),
    "mas": ("float", "exposure, mAs"),
    "thickness_mm": ("float", "SliceThickness, mm"),
    "contrast": ("string", "ContrastBolusAgent"),
    "body_part": ("string", "BodyPartExamined"),
    "image_type": ("string", "ImageType, values separated by a backslash"),
    "findings": ("string", "codes of findings, separated by spaces; docs/geometry.md says what each means"),
    "verdict": ("string", "whether the features should be believed; empty where that was not assessed"),
    "model_digest": ("string", "SHA-256 of the weights"),
    "config_digest": ("string", "SHA-256 of the settings that can change what is written"),
    "source_path": ("string", "folder of the series in the input of the run that made the result"),
}
_KEYS: Final = ("series_instance_uid", "part", "study_instance_uid")
_AFTER: Final = ("findings", "verdict", "model_digest", "config_digest")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        type: `string`, `int32` or `float` (32 bits).
    """

    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of the table: decided by the first result, and valid for all.

    Attributes:
        lengths: tap → number of dimensions, in the order of the columns.
        with_paths: whether there is a column `source_path`.
    """

    lengths: Mapping[str, int]
    with_paths: bool

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the wide table."""
        names = (*_KEYS, *DESCRIBED, *(["source_path"] if self.with_paths else []))
        known = [Column(name, *_MEANING[name]) for name in names]
        measured = [
            Column(name, "float", f"{name}, measured on the voxels; docs/preprocessing.md") for name in QUANTITIES
        ]
        ending = [Column(name, *_MEANING[name]) for name in _AFTER]
        return (*known, *measured, *ending, *self._dimensions())

    def wide(self, result: Result, source_path: str | None) -> dict[str, Cell]:
        """Return one row, column → value; numbers are float32 values."""
        row: dict[str, Cell] = {"series_instance_uid": result.series_instance_uid, "part": result.part}
        row["study_instance_uid"] = result.study_instance_uid
        row |= {name: result.described.get(name) for name in DESCRIBED}
        if self.with_paths:
            row["source_path"] = source_path
        row |= {name: result.quantities.get(name) for name in QUANTITIES}
        row |= {"findings": " ".join(result.findings), "verdict": result.verdict}
        row |= {"model_digest": result.model_digest, "config_digest": result.config_digest}
        for tap in self.lengths:
            row |= {f"{tap}_{k:03d}": value for k, value in enumerate(result.taps[tap].tolist())}
        return row

    def long(self, result: Result) -> Iterator[dict[str, Cell]]:
        """Yield one row for each tap and dimension."""
        keys: dict[str, Cell] = {"series_instance_uid": result.series_instance_uid, "part": result.part}
        keys["model_digest"] = result.model_digest
        for tap in self.lengths:
            for k, value in enumerate(result.taps[tap].tolist()):
                yield keys | {"tap": tap, "dimension": k, "value": value}

    def _dimensions(self) -> Iterator[Column]:
        for tap, length in self.lengths.items():
            for k in range(length):
                yield Column(f"{tap}_{k:03d}", "float", f"{_TAPS.get(tap, f'layer {tap}')}, dimension {k}")


_TAPS: Final[Mapping[str, str]] = {"mu": "posterior mean", "sigma": "posterior standard deviation"}

LONG: Final = (
    Column("series_instance_uid", *_MEANING["series_instance_uid"]),
    Column("part", *_MEANING["part"]),
    Column("model_digest", *_MEANING["model_digest"]),
    Column("tap", "string", "mu, sigma or a named layer"),
    Column("dimension", "int32", "from 0"),
    Column("value", "float", "the feature"),
)


def arrow_schema(columns: Sequence[Column], about: Mapping[str, str]) -> pa.Schema:
    """Return the Arrow schema; each field's metadata explains the column."""
    import pyarrow as pa

    types = {"string": pa.string(), "int32": pa.int32(), "float": pa.float32()}
    fields = [pa.field(column.name, types[column.type], metadata={"meaning": column.meaning}) for column in columns]
    return pa.schema(fields, metadata=dict(about))
