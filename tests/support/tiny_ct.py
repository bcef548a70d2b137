"""Tiny CT series whose every detail a test can choose, written by pydicom alone: our reader meets a stranger's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STUDY, SERIES, FRAME = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"

Change = Callable[[Dataset, int], None]


def stored_values(depth: int = 5, rows: int = 6, columns: int = 8, seed: int = 0) -> np.ndarray:
    """Stored values of a signed 16-bit CT with intercept 0: int16 (D, H, W)."""
    return np.random.default_rng(seed).integers(-1000, 2000, (depth, rows, columns)).astype(np.int16)


def write_tiny_ct(
    folder: Path,
    stored: np.ndarray | None = None,
    *,
    spacing_mm: tuple[float, float, float] = (2.0, 0.5, 0.75),
    orientation: tuple[float, ...] = AXIAL,
    origin_mm: tuple[float, float, float] = (-12.0, 34.0, -56.0),
    intercept: float = 0,
    slope: float = 1,
    syntax: str = ExplicitVRLittleEndian,
    change: Change | None = None,
) -> list[Path]:
    """Write slices from `stored` (D, H, W), d along the normal; `change(dataset, d)` is the last to touch each."""
    stored = stored_values() if stored is None else stored
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for d, plane in enumerate(stored):
        position = np.array(origin_mm) + d * spacing_mm[0] * normal
        dataset = slice_dataset(plane, d)
        put(dataset, ImagePositionPatient=position, ImageOrientationPatient=orientation)
        put(dataset, PixelSpacing=spacing_mm[1:], SliceThickness=spacing_mm[0])
        put(dataset, RescaleSlope=slope, RescaleIntercept=intercept)
        dataset.file_meta.TransferSyntaxUID = syntax
        if change:
            change(dataset, d)
        # Names in an order of their own: sorting by name must not be what sorts slices.
        path = folder / f"{(d * 7 + 3) % 101:03d}"
        save(dataset, path)
        paths.append(path)
    return paths


def slice_dataset(plane: np.ndarray, d: int) -> Dataset:
    """One slice without its place in the patient."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{d + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = STUDY, SERIES, FRAME
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "P1", "Nobody^Known"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = 100 - d
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = plane.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(plane.dtype.kind == "i")
    dataset.PixelData = plane.tobytes() + b"\0" * (plane.nbytes % 2)
    dataset["PixelData"].VR = "OW"
    return dataset


def put(dataset: Dataset, **values: object) -> None:
    """Set elements to whatever is wanted, valid or not; None removes."""
    for keyword, value in values.items():
        if value is None:
            if keyword in dataset:
                del dataset[keyword]
            continue
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = dictionary_VR(tag).replace("US or SS", "SS")
        if vr in ("DS", "IS"):
            value = "\\".join(one if isinstance(one, str) else f"{one:.12g}" for one in np.atleast_1d(value).tolist())
        dataset[keyword] = DataElement(tag, vr, value, validation_mode=config.IGNORE)


def save(dataset: Dataset, path: Path) -> None:
    """As a DICOM file in the transfer syntax of its meta information."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == ExplicitVRBigEndian and not dataset["PixelData"].value.startswith(b"BE"):
        swapped = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}").byteswap()
        dataset["PixelData"].value = swapped.tobytes()
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    try:
        dataset.save_as(
            path,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
    finally:
        config.settings.writing_validation_mode = before


CODECS: dict[str, Callable[[np.ndarray], bytes]] = {
    "1.2.840.10008.1.2.5": lambda plane: _rle(plane),
    "1.2.840.10008.1.2.4.57": lambda plane: imagecodecs.jpeg8_encode(_bits(plane), lossless=True, predictor=4),
    "1.2.840.10008.1.2.4.70": lambda plane: imagecodecs.jpeg8_encode(_bits(plane), lossless=True, predictor=1),
    "1.2.840.10008.1.2.4.80": lambda plane: imagecodecs.jpegls_encode(_bits(plane)),
    "1.2.840.10008.1.2.4.90": lambda plane: imagecodecs.jpeg2k_encode(plane, codecformat="j2k", reversible=True),
    "1.2.840.10008.1.2.4.201": lambda plane: imagecodecs.htj2k_encode(plane, reversible=True),
}
"""Lossless transfer syntaxes, each with an encoder of one plane."""


def compress(syntax: str) -> Change:
    """A change that compresses the pixels of each slice."""

    def change(dataset: Dataset, d: int) -> None:
        kind = f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
        plane = np.frombuffer(dataset.PixelData, kind).reshape(dataset.Rows, dataset.Columns)
        dataset.PixelData = encapsulate([CODECS[syntax](plane)])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax

    return change


def _rle(plane: np.ndarray) -> bytes:
    """PackBits of one literal run after another, high bytes first (PS3.5 G): nothing gained, all rules kept."""
    segments = []
    for shift in range(8 * plane.dtype.itemsize - 8, -1, -8):
        data = (_bits(plane) >> shift).astype(np.uint8).tobytes()
        runs = [bytes([len(run) - 1]) + run for run in (data[i : i + 128] for i in range(0, len(data), 128))]
        segments.append(b"".join(runs))
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    header = np.array([len(segments), *offsets, *[0] * (15 - len(offsets))], "<u4").tobytes()
    return header + b"".join(segments)


def _bits(plane: np.ndarray) -> np.ndarray:
    """JPEG and JPEG-LS know no sign: the same bits, unsigned."""
    return plane.view(f"u{plane.dtype.itemsize}")
