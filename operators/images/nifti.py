"""NIfTI headers (nifti1.h, nifti2.h): the world is RAS mm, so x and y change sign to become DICOM's."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesRejected, SeriesSkipped
from operators.images.header import MAX_SKIPPED_BYTES, Encoding, ImageHeader, no_place, three_dimensions

AFFINE_TOLERANCE: Final = 1e-3
"""Relative tolerance between the two positions that a file may state: over 250 mm it is 0.25 mm."""

_RAS_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI2_SIZES: Final = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, in either byte order
_INTENT_LABEL: Final = 1002  # NIFTI_INTENT_LABEL


def read_nifti_header(path: Path, root: Path) -> ImageHeader:
    """Return the header of a `.nii` or `.nii.gz` file, NIfTI-1 or NIfTI-2.

    Args:
        path: the file.
        root: not used, for a NIfTI file holds both header and voxels.

    Raises:
        SeriesRejected: see `read_image_header`; other errors of a broken header are passed on.
        SeriesSkipped: `LABEL_MAP`.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    with path.open("rb") as file:
        first = file.read(1 << 16)
    packed = first[:2] == b"\x1f\x8b"
    if packed:
        first = zlib.decompressobj(31).decompress(first, 544)
    kind = nibabel.Nifti2Header if first[4:8] == b"n+2\0" or first[:4] in _NIFTI2_SIZES else nibabel.Nifti1Header
    magic = first[4:8] if kind is nibabel.Nifti2Header else first[344:348]
    if magic in (b"ni1\0", b"ni2\0"):
        raise SeriesRejected("UNSUPPORTED_IMAGE", "found a NIfTI pair of files; expected one file; save it as .nii.gz")
    if magic not in (b"n+1\0", b"n+2\0"):
        raise ValueError("no NIfTI magic")
    try:
        header = kind(first[: kind.sizeof_hdr], check=False)
        shape = three_dimensions(header.get_data_shape())
        dtype = header.get_data_dtype()
        affine = _nifti_affine(header)
    except HeaderDataError as error:
        raise ValueError(str(error)) from error
    if int(header["intent_code"]) == _INTENT_LABEL:
        raise SeriesSkipped("LABEL_MAP", "the header says that the file holds labels; nothing to do for this file")
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and kind.sizeof_hdr <= offset <= MAX_SKIPPED_BYTES):
        raise ValueError("no offset of the voxels")
    start, skipped = (0, int(offset)) if packed else (int(offset), 0)
    encoding: Encoding = "gzip" if packed else "raw"
    slope, intercept = _rescale(header)
    return ImageHeader(shape, dtype, _RAS_TO_LPS @ affine, path, start, encoding, skipped, slope, intercept)


def _rescale(header: Any) -> tuple[float, float]:
    """Return slope and intercept; 1 and 0 for a slope of 0 (nifti1.h: no rescale) or not finite values, as in ITK."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _nifti_affine(header: Any) -> NDArray[np.float64]:
    """Return the affine to RAS mm: the sform or else the qform, never the guess used where both are missing."""
    if int(header["xyzt_units"]) & 7 not in (0, 2):
        raise no_place("lengths that are not in mm")
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        raise no_place("neither an sform nor a qform")
    if sform is None or qform is None:
        return np.asarray(qform if sform is None else sform, np.float64)
    scale = max(1e-6, float(np.abs(qform[:3, :3]).max()))
    if not np.abs(sform[:3, :3] - qform[:3, :3]).max() <= AFFINE_TOLERANCE * scale:
        raise SeriesRejected(
            "CONTRADICTORY_GEOMETRY",
            "found an sform and a qform of different axes or spacing; expected one grid; save it with one of them",
        )
    return np.asarray(sform, np.float64)
