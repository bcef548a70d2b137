"""One result as the table needs it, from `features.json` or a Structured Report: the same numbers bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.errors import CtvaeError
from operators.measure.quantities import QUANTITIES
from operators.sr.read import SrFeatures, read_sr

Cell = str | float | int | None

_MAX_JSON_BYTES = 256 << 20
_BATCH_ROWS = 2048
_DIMENSION = re.compile(r"(.+)_\d{3,}")
DESCRIBED = (
    *("patient_key", "sex", "age_years", "manufacturer", "manufacturer_model", "kernel", "kvp", "mas"),
    *("thickness_mm", "contrast", "body_part", "image_type"),
)
"""Columns of patient and acquisition, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Result:
    """The features of one series or part, and the values beside them in the table.

    Attributes:
        described: patient and acquisition, by column name; empty where the source does not state them.
        quantities: name → float32 value, or None where it could not be measured.
        taps: name → float32 (length,).
        findings: codes, in order.
        verdict: verdict of the reliability; None where it was not assessed.
    """

    series_instance_uid: str
    part: int | None
    study_instance_uid: str
    job_key: str
    model_digest: str
    config_digest: str
    described: Mapping[str, Cell]
    quantities: Mapping[str, float | None]
    findings: tuple[str, ...]
    verdict: str | None
    taps: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        if not self.series_instance_uid or not self.model_digest or {"mu", "sigma"} - self.taps.keys():
            raise ValueError("a result needs a series, a model, mu and sigma")


def result_of_json(path: Path) -> Result:
    """Return the result in one `features.json`.

    Raises:
        CtvaeError: `BROKEN_RESULT`: the file is not a `features.json` of ctvae, or is damaged.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("larger than 256 MiB")
        return result_of_document(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"this is not a features.json of ctvae, or it is damaged ({type(error).__name__})"
        raise CtvaeError("BROKEN_RESULT", f"{what}; encode the series again, or leave the file out") from error


def result_of_sr(source: Any) -> Result:
    """Return the result in one Structured Report, a file or a data set.

    An SR holds neither the acquisition nor the site's patient key: those columns stay empty.

    Raises:
        CtvaeError: `NOT_DICOM`, `NOT_OUR_SR` or `BROKEN_SR`, see `read_sr`.
    """
    features: SrFeatures = read_sr(source)
    return Result(
        features.series_instance_uid,
        features.part,
        features.study_instance_uid,
        features.job_key,
        features.weights_sha256,
        features.config_digest,
        described={},
        quantities=features.quantities,
        findings=tuple(finding.code for finding in features.findings),
        verdict=features.verdict,
        taps=features.taps,
    )


def results_of_parquet(path: Path) -> Iterator[Result]:
    """Yield each row of a table of `ctvae cohort`.

    Raises:
        CtvaeError: `BROKEN_RESULT`: the file is damaged, or is not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            dimensions: dict[str, list[str]] = {}
            for name in file.schema_arrow.names:
                if found := _DIMENSION.fullmatch(name):
                    dimensions.setdefault(found[1], []).append(name)
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from (_from_row(row, dimensions) for row in batch.to_pylist())
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        what = f"this is not a table of `ctvae cohort`, or it is damaged ({type(error).__name__})"
        raise CtvaeError("BROKEN_RESULT", f"{what}; run the cohort again, or leave the file out") from error


def _from_row(row: Mapping[str, Any], dimensions: Mapping[str, Sequence[str]]) -> Result:
    return Result(
        str(row["series_instance_uid"]),
        row["part"],
        str(row["study_instance_uid"]),
        str(row["job_key"]),
        str(row["model_digest"]),
        str(row["config_digest"]),
        described={name: row[name] for name in DESCRIBED},
        quantities={name: row[name] for name in QUANTITIES},
        findings=tuple((row["findings"] or "").split()),
        verdict=row["verdict"],
        taps={tap: _vector([row[name] for name in names]) for tap, names in dimensions.items()},
    )


def result_of_document(document: Mapping[str, Any]) -> Result:
    """Return what the table needs of a document as in `features.json`; another one raises KeyError or TypeError."""
    series, subject, scan = document["series"], document["subject"], document["acquisition"]
    reliability = document.get("reliability")
    described: dict[str, Cell] = {
        "patient_key": _text(subject["patient_key"]),
        "sex": _text(subject["sex"]),
        "age_years": _number(subject["age_years"]),
        "manufacturer_model": _text(scan["model"]),
        "image_type": "\\".join(map(str, scan["image_type"])) or None,
    }
    described |= {name: _text(scan[name]) for name in ("manufacturer", "kernel", "contrast", "body_part")}
    described |= {name: _number(scan[name]) for name in ("kvp", "mas", "thickness_mm")}
    return Result(
        str(series["series_instance_uid"]),
        None if series["part"] is None else int(series["part"]),
        str(series["study_instance_uid"]),
        str(document["job_key"]),
        str(document["model"]["weights_sha256"]),
        str(document["config_digest"]),
        described,
        quantities={name: _number(document["quantities"].get(name)) for name in QUANTITIES},
        findings=tuple(str(finding["code"]) for finding in document["findings"]),
        verdict=None if reliability is None else str(reliability["verdict"]),
        taps={str(name): _vector(tap["values"]) for name, tap in document["taps"].items() if "values" in tap},
    )


def _vector(values: Sequence[Any]) -> NDArray[np.float32]:
    vector = np.array(values, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError("a tap is not a list of finite numbers")
    return vector


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
