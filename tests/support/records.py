"""Made nouns for tests that start in the middle of the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from models.spec import Preprocessing
from operators.instance import Instance
from operators.record import Encoding, TapValues
from operators.types import Finding, HuSlice, Series, Volume, Windows

PREPROCESSING = Preprocessing("window", (4, 8, 8), (5.0, 4.0, 4.0), (-1000.0, 1000.0))


def made_series(folder: Path = Path(), **tags: object) -> Series:
    instances = []
    for number in range(4):
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{number + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        header.FrameOfReferenceUID, header.Modality = "1.2.3.5", "CT"
        header.PatientID, header.PatientName, header.PatientBirthDate = "ID-77", "Doe^Jane", "19700102"
        header.PatientSex, header.PatientAge, header.StudyDate = "F", "050Y", "20200304"
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        instances.append(Instance(folder / f"{number}.dcm", header))
    return Series("1.2.3.4", "1.2.3", ".", tuple(instances))


def made_windows(hu: np.ndarray, series: Series | None = None) -> Windows:
    """One window of the given HU, int or float (4, 8, 8), on the grid of `PREPROCESSING`."""
    low, high = PREPROCESSING.window_hu
    affine = np.array([[0, 0, 4.0, 0], [0, 4.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1.0]])
    finding = Finding("OVERLAPPING_SLICES", "thickness 5 mm, spacing 4 mm")
    volume = Volume(
        series or made_series(),
        hu.shape,
        affine,
        (5.0, 4.0, 4.0),
        (finding,),
        lambda d: HuSlice(hu[d].astype(np.int16)),
    )
    voxels = np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)[None, None]
    return Windows(volume, voxels, affine[None], (5.0, 4.0, 4.0), np.ones(1, np.float32), volume.findings)


def made_encoding(hu: np.ndarray | None = None, series: Series | None = None) -> Encoding:
    windows = made_windows(np.full((4, 8, 8), 40.0) if hu is None else hu, series)
    mu, sigma = np.array([[0.1, -2.5e-8, 3.0]], np.float32), np.array([[0.9, 1.0, 1e-3]], np.float32)
    taps = {"mu": TapValues("mu", "none", mu[0], mu), "sigma": TapValues("sigma", "none", sigma[0], sigma)}
    return Encoding(windows, taps, "onnxruntime 1.32.0 cpu")
