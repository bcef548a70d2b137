"""A volume as a series of CT Image Storage (PS3.3 A.3), for phantoms, tests, and arrays to send to a PACS.

Every attribute of Type 1 and 2 is present and valid; UIDs are digests of the content and the options, and dates and
times
come from the options: the same call writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)
from pydicom.valuerep import DSfloat

from operators.uids import uid_from_digest

IMPLEMENTATION_UID = "2.25.318446287021764920348610543294175820461"


@dataclass(frozen=True, slots=True)
class CtOptions:
    """What the series states beside its voxels.

    Two series belong to one study if `patient_id`, `study_id` and `study_date` agree; they then share their frame of
    reference.

    Attributes:
        transfer_syntax: UID: native, deflated, or lossless: RLE, JPEG Lossless (.57), JPEG-LS (.80), JPEG 2000 (.90),
            HTJ2K (.201).
        signed: PixelRepresentation: True for two's complement, False for unsigned.
        slope: RescaleSlope: stored value × slope + intercept = HU.
        intercept: RescaleIntercept; None means 0 if signed and -1024 if unsigned.
        thickness_mm: SliceThickness; None for the distance between slices.
        patient_position: how the patient lay (PS3.3 C.7.3.1.1.2).
        study_date: date of study, series and instances, as DA; likewise `study_time`, as TM.
    """

    transfer_syntax: str = ExplicitVRLittleEndian
    signed: bool = True
    slope: float = 1.0
    intercept: float | None = None
    thickness_mm: float | None = None
    patient_id: str = "PHANTOM"
    patient_name: str = "Phantom^CT"
    patient_sex: str = ""
    patient_birth_date: str = ""
    patient_age: str = ""
    patient_position: str = "HFS"
    study_id: str = "1"
    accession_number: str = ""
    study_description: str = "Phantom"
    study_date: str = "20200101"
    study_time: str = "120000"
    series_number: int = 1
    series_description: str = "Phantom CT"
    body_part: str = "CHEST"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    manufacturer: str = "ctvae"
    model_name: str = "analytic phantom"
    kernel: str = "STANDARD"
    kvp: float = 120.0
    tube_current_ma: int = 200
    exposure_time_ms: int = 500
    contrast_agent: str = ""


def affine_for(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> NDArray[np.float64]:
    """Return the affine of a plain axial volume: slices to the head, rows to the back, columns to the left.

    Args:
        shape: (D, H, W).
        spacing_mm: (z, y, x).
        centre_mm: centre of the volume, (x, y, z) in LPS.

    Returns:
        float64 (4, 4), from the index (d, h, w, 1) to LPS mm (x, y, z, 1).
    """
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_mm)[::-1]
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def write_ct_series(
    hu: NDArray[np.int16], affine_lps_mm: NDArray[np.float64], folder: Path, options: CtOptions | None = None
) -> list[Path]:
    """Write one file per slice, `0001.dcm` onwards, in the order of the slices.

    Args:
        hu: int16 (D, H, W), Hounsfield units; the affine gives the directions of the axes.
        affine_lps_mm: float64 (4, 4), from the index (d, h, w, 1) to LPS mm (x, y, z, 1). Rows and columns are
            perpendicular; slices may be sheared against them, as with a tilted gantry.
        folder: is created if missing.
        options: everything else.

    Raises:
        ValueError: rows and columns are not perpendicular, or HU cannot be stored under these options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(ct_datasets(hu, affine_lps_mm, options), start=1):
        paths.append(folder / f"{number:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def ct_datasets(
    hu: NDArray[np.int16], affine_lps_mm: NDArray[np.float64], options: CtOptions | None = None
) -> Iterator[FileDataset]:
    """Yield the data sets that `write_ct_series` saves, one by one, for changing them before."""
    options = options or CtOptions()
    affine = np.asarray(affine_lps_mm, np.float64) + 0.0  # -0.0 would give another UID
    _check_range(hu, options)
    study = digest_uid("study", options.patient_id, options.study_id, options.study_date)
    content = np.ascontiguousarray(hu, "<i2")
    series = digest_uid(study, json.dumps(asdict(options)), str(hu.shape), content.data, affine.tobytes())
    shared = _patient_and_study(options) | _series_and_equipment(options) | _image_plane(affine, options)
    for d, plane in enumerate(hu):
        dataset = _empty_file(digest_uid(series, str(d)), options)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = digest_uid(study, "frame of reference")
        for keyword, value in shared.items():
            setattr(dataset, keyword, value)
        position = affine[:3, 3] + d * affine[:3, 0]
        dataset.InstanceNumber = d + 1
        dataset.ImagePositionPatient = _decimals(position)
        dataset.SliceLocation = _decimal(float(position @ _normal(affine)))
        _add_pixels(dataset, _stored(plane, options), options)
        yield dataset


def _check_range(hu: NDArray[np.int16], options: CtOptions) -> None:
    """Check that every HU can be stored."""
    if hu.ndim != 3 or hu.size == 0 or hu.dtype != np.int16:
        raise ValueError(f"a volume of shape {hu.shape}, {hu.dtype}; expected (D, H, W), none of them zero, int16")
    ends = sorted(np.rint((np.array([hu.min(), hu.max()], float) - _intercept(options)) / options.slope))
    limits = np.iinfo(_dtype(options))
    if ends[0] < limits.min or ends[1] > limits.max:
        raise ValueError(
            f"HU from {hu.min()} to {hu.max()} would be stored as {ends[0]:.0f} to {ends[1]:.0f}; expected "
            f"{limits.min} to {limits.max}: choose another slope, intercept or sign"
        )


def _stored(hu: NDArray[np.int16], options: CtOptions) -> NDArray[Any]:
    """Return HU as stored in the file: int16 or uint16 (H, W)."""
    return np.rint((hu.astype(np.float64) - _intercept(options)) / options.slope).astype(_dtype(options))


def _dtype(options: CtOptions) -> type[np.int16] | type[np.uint16]:
    return np.int16 if options.signed else np.uint16


def _intercept(options: CtOptions) -> float:
    if options.intercept is not None:
        return options.intercept
    return 0.0 if options.signed else -1024.0


def _normal(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return row direction × column direction (PS3.3 C.7.6.2.1.1)."""
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    return np.asarray(normal / np.linalg.norm(normal))


def _image_plane(affine: NDArray[np.float64], options: CtOptions) -> dict[str, Any]:
    """Return the Image Plane module (PS3.3 C.7.6.2) except the position, which differs from slice to slice."""
    row, column = affine[:3, 2], affine[:3, 1]
    columns_mm, rows_mm = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if min(columns_mm, rows_mm) == 0 or abs(row @ column) > 1e-4 * columns_mm * rows_mm:
        raise ValueError("rows and columns of the affine are not perpendicular; CT Image Storage cannot represent that")
    between_mm = float(abs(affine[:3, 0] @ _normal(affine)))
    return {
        "PixelSpacing": _decimals(np.array([rows_mm, columns_mm])),
        "ImageOrientationPatient": _decimals(np.concatenate([row / columns_mm, column / rows_mm])),
        "SliceThickness": _decimal(options.thickness_mm or between_mm),
    }


def _patient_and_study(options: CtOptions) -> dict[str, Any]:
    """Return the Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2)."""
    return {
        "PatientName": options.patient_name,
        "PatientID": options.patient_id,
        "PatientBirthDate": options.patient_birth_date,
        "PatientSex": options.patient_sex,
        "StudyDate": options.study_date,
        "StudyTime": options.study_time,
        "ReferringPhysicianName": "",
        "StudyID": options.study_id,
        "AccessionNumber": options.accession_number,
        "StudyDescription": options.study_description,
    } | ({"PatientAge": options.patient_age} if options.patient_age else {})


def _series_and_equipment(options: CtOptions) -> dict[str, Any]:
    """Return General Series, Equipment, Acquisition and CT Image (PS3.3 C.7.3.1, C.7.5.1, C.7.10.1, C.8.2.1)."""
    contrast = {"ContrastBolusAgent": options.contrast_agent} if options.contrast_agent else {}
    return contrast | {
        "Modality": "CT",
        "SeriesNumber": options.series_number,
        "SeriesDescription": options.series_description,
        "SeriesDate": options.study_date,
        "SeriesTime": options.study_time,
        "BodyPartExamined": options.body_part,
        "PatientPosition": options.patient_position,
        "PositionReferenceIndicator": "",
        "Manufacturer": options.manufacturer,
        "ManufacturerModelName": options.model_name,
        "ImageType": list(options.image_type),
        "AcquisitionNumber": 1,
        "AcquisitionDate": options.study_date,
        "AcquisitionTime": options.study_time,
        "ContentDate": options.study_date,
        "ContentTime": options.study_time,
        "KVP": _decimal(options.kvp),
        "XRayTubeCurrent": options.tube_current_ma,
        "ExposureTime": options.exposure_time_ms,
        "Exposure": options.tube_current_ma * options.exposure_time_ms // 1000,
        "ConvolutionKernel": options.kernel,
        "RescaleSlope": _decimal(options.slope),
        "RescaleIntercept": _decimal(_intercept(options)),
        "RescaleType": "HU",
    }


def _empty_file(sop_instance_uid: str, options: CtOptions) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(options.transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    syntax = meta.TransferSyntaxUID
    dataset = FileDataset("", {}, b"\0" * 128, meta, syntax.is_implicit_VR, syntax.is_little_endian)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, UID(sop_instance_uid)
    return dataset


def _add_pixels(dataset: FileDataset, pixels: NDArray[Any], options: CtOptions) -> None:
    """Add the Image Pixel module (PS3.3 C.7.6.3) with encoded data (PS3.5 8 and A)."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(options.signed)
    syntax = UID(options.transfer_syntax)
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax, pixels, generate_instance_uid=False)
    elif syntax in (JPEGLossless, HTJ2KLossless):
        dataset.PixelData = encapsulate([_codestream(pixels, syntax)])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    elif syntax.is_compressed and not syntax.is_deflated:
        raise ValueError(f"transfer syntax {syntax.name}; expected one that CtOptions names")
    else:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        dataset.PixelData = pixels.astype(order + pixels.dtype.str[1:]).tobytes()
        dataset["PixelData"].VR = "OW"


def _codestream(pixels: NDArray[Any], syntax: UID) -> bytes:
    import imagecodecs

    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    return bytes(imagecodecs.ljpeg_encode(pixels.view(np.uint16), bitspersample=16))


def digest_uid(*content: str | bytes | memoryview) -> UID:
    """Return `2.25.` and a number of 128 bits from a digest (PS3.5 B.2)."""
    digest = hashlib.sha256()
    for piece in content:
        raw = memoryview(piece.encode() if isinstance(piece, str) else piece)
        digest.update(raw.nbytes.to_bytes(8, "big"))
        digest.update(raw)
    return UID(uid_from_digest(digest.hexdigest()))


def _decimal(value: float) -> DSfloat:
    """Return a DS of at most 16 characters (PS3.5 6.2)."""
    return DSfloat(value + 0.0, auto_format=True)


def _decimals(values: NDArray[np.float64]) -> list[DSfloat]:
    return [_decimal(float(value)) for value in values]
