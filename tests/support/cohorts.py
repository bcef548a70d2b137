"""Small cohorts of phantoms, for tests that train or certify: a folder a patient, or NIfTI."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from models.phantom import make_phantom
from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series

SHAPE, SPACING_MM = (12, 24, 24), (10.0, 15.0, 15.0)


def write_patient(folder: Path, number: int, patient_id: str | None = None, **options: object) -> Path:
    """A series of DICOM, the phantom of this seed; its PatientID is SECRET and the number."""
    hu = make_phantom(shape=SHAPE, spacing_mm=SPACING_MM, seed=number)
    said = replace(CtOptions(), patient_id=patient_id or f"SECRET{number}", **options)
    write_ct_series(hu, affine_for(SHAPE, SPACING_MM), folder, said)
    return folder


def write_cohort(folder: Path, patients: int) -> Path:
    """So many patients, one series of DICOM each, in folders p1, p2, …."""
    for number in range(1, patients + 1):
        write_patient(folder / f"p{number}", number)
    return folder


def write_nifti(path: Path, number: int = 3, *, mask: bool = False) -> Path:
    """The phantom of this seed as NIfTI, or a map of where it is denser than water."""
    hu = make_phantom(shape=SHAPE, spacing_mm=SPACING_MM, seed=number)
    voxels = (hu > 0).astype(np.uint8) if mask else hu
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-15.0, -15.0, 10.0, 1.0])), path)
    return path


def write_list(file: Path, *rows: Sequence[str]) -> Path:
    """A CSV, the first row its header."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    return file
