"""NIfTI, NRRD and MetaImage files as series of their own, for research: found, checked, read slice by slice.

They name no patient, study or scanner: their UIDs come from the SHA-256 of the file, and their features are written
only as JSON, for a DICOM SR needs DICOM. Axes stay in the file's order: slices along its slowest axis, then rows,
columns.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

from operators.dicom.pixel_format import MAX_SIDE
from operators.errors import CtvaeError, SeriesRejected
from operators.geometry.grid import direction_findings
from operators.geometry.planes import DIRECTION_TOLERANCE, POSITION_LIMIT_MM, SPACING_RANGE_MM, check_extent
from operators.geometry.policy import MIN_SLICES
from operators.images.header import ImageHeader, image_format
from operators.images.meta_image import read_meta_image_header
from operators.images.nifti import read_nifti_header
from operators.images.nrrd import read_nrrd_header
from operators.images.voxels import Spool, spool_hu
from operators.instance import ImageFile, Instance
from operators.types import Finding, HuSlice, Series, Shape, Volume
from operators.uids import file_sha256, uid_from_digest

MAX_VOXELS: Final = 1 << 31
"""2048 slices of 1024²; as int16 they take 4 GiB of temporary space, which a small packed file may ask for."""

_FIRST_BYTES: Final = 352


def is_image(path: Path) -> bool:
    """Return whether a file looks like one of the three formats, judged by its name or first bytes."""
    return _format(path) is not None


def find_image(path: Path, root: Path) -> Instance | None:
    """Return a file in one of the three formats, digested; None for any other file. Its header is not checked yet.

    Args:
        path: a regular file.
        root: the input folder; a data file named by the header must lie inside it.

    Raises:
        OSError: the file cannot be read.
    """
    found = _format(path)
    if found is None:
        return None
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.Modality, voxels = "CT", path
    try:
        stated = read_image_header(path, ImageFile(found, root, path, _stamp(path)))
        voxels, header.NumberOfFrames = stated.voxels, stated.shape[2]  # selection rules use the number of slices
    except CtvaeError:
        pass  # the gate will give the reason
    digest = file_sha256(path)
    if voxels != path:
        digest = hashlib.sha256(f"{digest} {file_sha256(voxels)}".encode()).hexdigest()
    header.SOPInstanceUID = uid_from_digest(digest)
    return Instance(path, header, image=ImageFile(found, root, voxels, _stamp(voxels)))


def image_series(instance: Instance, folder: str) -> Series:
    """Return the file as a series, without the header values that only DICOM has.

    Args:
        instance: the file, as `find_image` returns it.
        folder: path of the file itself, relative to the input: one folder holds many such series.
    """
    uid = instance.sop_instance_uid
    study = uid_from_digest(hashlib.sha256(f"StudyInstanceUID\n{uid}".encode()).hexdigest())
    what = instance.image.format if instance.image else ""
    finding = Finding("UID_DERIVED", f"{what} has no UIDs; those of study and series come from the SHA-256 of the file")
    derived = (("SeriesInstanceUID", ""), ("StudyInstanceUID", ""))
    return Series(uid, study, folder, (instance,), derived_uids=derived, findings=(finding,))


def image_volume(series: Series, min_slices: int = MIN_SLICES) -> Volume:
    """Return the volume of such a series, checked as strictly as DICOM; its voxels are unpacked here, once.

    Args:
        series: the series, as `image_series` returns it.
        min_slices: fewer slices are rejected.

    Raises:
        SeriesRejected: `TOO_FEW_SLICES`, `UNSUPPORTED_PIXELS`, `MISSING_GEOMETRY`, `SHEARED_AXES`; see
            `read_image_header` for the header, `spool_hu` for the voxels.
        SeriesSkipped: `LABEL_MAP` or `NOT_CT_IMAGE`.
        OSError: the file no longer exists, or there is no space to unpack it.
    """
    instance = series.instances[0]
    if instance.image is None:
        raise ValueError("a DICOM series")
    header = read_image_header(instance.path, instance.image)
    _check_type(header)
    columns, rows, depth = header.shape
    _check_shape(depth, rows, columns, min_slices)
    lengths = _checked_spacing(header.affine_lps_mm)
    shape, spacing = (depth, rows, columns), (float(lengths[2]), float(lengths[1]), float(lengths[0]))
    check_extent(shape, spacing)
    affine, flip_slices, flip_rows = _right_handed(header.affine_lps_mm, header.shape)
    spool, voxel_findings = spool_hu(header, instance.image)
    normal, column, row = (affine[:3, :3] / spacing).T
    detail = f"{instance.image.format}: no patient, no acquisition, and no SR, which needs DICOM"
    directions = direction_findings(np.stack([row, column, normal]))
    findings = (*series.findings, Finding("RESEARCH_FORMAT", detail), *directions, *voxel_findings)
    read = partial(_read_slice, spool, shape, flip_slices, flip_rows)
    return Volume(series, shape, affine, spacing, findings, read)


def read_image_header(path: Path, image: ImageFile) -> ImageHeader:
    """Return the header of a file in one of the three formats.

    Raises:
        SeriesRejected: `UNREADABLE_FILE`, `UNSUPPORTED_IMAGE`, `UNSUPPORTED_PIXELS`, `NOT_3D`, `MISSING_GEOMETRY`,
            `CONTRADICTORY_GEOMETRY`, `DATA_FILE_OUTSIDE`.
        SeriesSkipped: `LABEL_MAP` or `NOT_CT_IMAGE`, where the header says so.
        OSError: the file cannot be read.
    """
    read = {"NIfTI": read_nifti_header, "NRRD": read_nrrd_header, "MetaImage": read_meta_image_header}[image.format]
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # the gate rejects values that are not finite
            return read(path, image.root)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, zlib.error) as error:
        raise SeriesRejected(
            "UNREADABLE_FILE", f"the header of this {image.format} file cannot be read; get the file again"
        ) from error


def _read_slice(spool: Spool, shape: Shape, flip_slices: bool, flip_rows: bool, d: int) -> HuSlice:
    depth, rows, columns = shape
    if not 0 <= d < depth:
        raise IndexError(f"slice {d} of a volume of {depth}")
    hu = spool.read((depth - 1 - d if flip_slices else d) * rows * columns, rows * columns).reshape(rows, columns)
    return HuSlice(hu[::-1] if flip_rows else hu)


def _check_type(header: ImageHeader) -> None:
    kind, size = header.dtype.kind, header.dtype.itemsize
    if header.dtype.names is not None or kind not in "iuf" or size > 8:
        raise SeriesRejected(
            "UNSUPPORTED_PIXELS", f"found values of type {header.dtype.name}; expected one number for each voxel"
        )


def _check_shape(depth: int, rows: int, columns: int, min_slices: int) -> None:
    if min(rows, columns) < 1 or max(rows, columns) > MAX_SIDE or depth * rows * columns > MAX_VOXELS:
        raise SeriesRejected(
            "UNSUPPORTED_PIXELS",
            f"found {depth} × {rows} × {columns} voxels; expected at most {MAX_SIDE} rows and columns and {MAX_VOXELS} "
            "voxels",
        )
    if depth < min_slices:
        raise SeriesRejected(
            "TOO_FEW_SLICES", f"found {depth} slices; expected at least {min_slices}; get the whole volume"
        )


def _checked_spacing(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return lengths in mm of the axes (i, j, k) of a finite affine, whose axes must be at right angles."""
    if not np.isfinite(affine).all():
        raise _bad_place("an affine with NaN or infinity", "finite numbers")
    if np.abs(affine[:3, 3]).max() > POSITION_LIMIT_MM:
        raise _bad_place(f"an origin at {np.abs(affine[:3, 3]).max():g} mm", "a place in a scanner")
    low, high = SPACING_RANGE_MM
    axes = affine[:3, :3].clip(-2 * high, 2 * high)  # anything beyond is too long, and its square may be infinite
    lengths: NDArray[np.float64] = np.linalg.norm(axes, axis=0)
    if lengths.min() < low or lengths.max() > high:
        found = f"voxels of {lengths.min():g} mm" if lengths.min() < low else "longer voxels"
        raise _bad_place(found, f"{low:g} to {high:g} mm")
    directions = affine[:3, :3] / lengths
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine > DIRECTION_TOLERANCE:
        raise SeriesRejected(
            "SHEARED_AXES",
            f"found axes with a cosine of {cosine:.3g} between them; expected right angles; resample it onto them",
        )
    return lengths


def _right_handed(affine: NDArray[np.float64], shape: Shape) -> tuple[NDArray[np.float64], bool, bool]:
    """Return the affine from (d, h, w, 1) to LPS mm with d along row × column, and whether slices or rows are flipped.

    If one must be flipped, it is the slices if they then go to the head (or back, or left), else the rows.
    """
    turned = affine[:, [2, 1, 0, 3]].copy()
    if np.linalg.det(affine[:3, :3]) > 0:
        return turned, False, False
    along = turned[:3, 0]
    axis, last = (0, shape[2] - 1) if along[np.abs(along).argmax()] < 0 else (1, shape[1] - 1)
    turned[:3, 3] += last * turned[:3, axis]
    turned[:3, axis] *= -1
    return turned, axis == 0, axis == 1


def _format(path: Path) -> str | None:
    with path.open("rb") as file:
        return image_format(path.name, file.read(_FIRST_BYTES))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _bad_place(found: str, expected: str) -> SeriesRejected:
    return SeriesRejected("MISSING_GEOMETRY", f"found {found}; expected {expected}; save the file with its geometry")
