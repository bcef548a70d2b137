"""What the header of a NIfTI, NRRD or MetaImage file states: where its voxels lie, in the file and in the patient.

All three store the first index fastest and give an affine from (i, j, k) to millimetres. A file that does not state
where its voxels lie is rejected: left and right must not be guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesRejected

MAX_HEADER_BYTES: Final = 1 << 18
"""Limit for a text header: some lines of geometry and notes; a diffusion scan's gradient table has 100 KiB."""

MAX_SKIPPED_BYTES: Final = 1 << 26
"""Limit for header extensions before the voxels, which must be unpacked to be skipped."""

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a header states about its voxels.

    Attributes:
        shape: (i, j, k), the first index fastest.
        dtype: type of a stored value, with its byte order.
        affine_lps_mm: float64 (4, 4), from (i, j, k, 1) to LPS mm; not checked.
        voxels: the file that holds the voxels.
        start: offset in this file at which they, or the packed data, begin; None where they are the file's last bytes.
        encoding: how they are packed.
        skipped: bytes before the voxels after unpacking.
        slope: HU per step of a stored value.
        intercept: HU of the stored value 0.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    affine_lps_mm: NDArray[np.float64]
    voxels: Path
    start: int | None
    encoding: Encoding
    skipped: int = 0
    slope: float = 1.0
    intercept: float = 0.0


def image_format(name: str, first: bytes) -> str | None:
    """Return `NIfTI`, `NRRD`, `MetaImage` or None, judged by the file's name or first bytes."""
    name = name.lower()
    if name.endswith((".nii", ".nii.gz")) or first[344:348] in (b"n+1\0", b"ni1\0") or first[4:8] == b"n+2\0":
        return "NIfTI"
    if name.endswith((".nrrd", ".nhdr")) or first.startswith(b"NRRD000"):
        return "NRRD"
    if name.endswith((".mha", ".mhd")) or re.match(rb"ObjectType\s*=\s*Image\s", first):
        return "MetaImage"
    return None


def beside(path: Path, root: Path, named: str) -> Path:
    """Return the data file that a header names, relative to it, if it is a file inside the input folder.

    Raises:
        SeriesRejected: `DATA_FILE_OUTSIDE` or `UNSUPPORTED_IMAGE`.
    """
    if named.upper().startswith("LIST") or "%" in named:
        raise SeriesRejected("UNSUPPORTED_IMAGE", "found voxels in several files; expected one file; save it again")
    try:
        found = (path.parent / named).resolve()
        inside = not Path(named).is_absolute() and found.is_relative_to(root.resolve()) and found.is_file()
    except OSError:  # too long a name, or endless links
        inside = False
    if not inside:
        raise SeriesRejected(
            "DATA_FILE_OUTSIDE",
            "the header names a data file that is not in the input folder; put it beside the header",
        )
    return found


def three_dimensions(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the first three sizes; any others must be 1.

    Raises:
        SeriesRejected: `NOT_3D`.
    """
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise not_3d(list(shape))
    return int(shape[0]), int(shape[1]), int(shape[2])


def either(fields: Any, name: str, other: str, default: Any) -> Any:
    """Return a field that has two names."""
    return fields.get(name, fields.get(other, default))


def not_3d(sizes: list[int]) -> SeriesRejected:
    """Return the error for an image that does not have three dimensions."""
    found = " × ".join(map(str, sizes[:7]))
    return SeriesRejected("NOT_3D", f"found an image of {found}; expected three dimensions; save one volume to a file")


def unsupported_type(found: str) -> SeriesRejected:
    """Return the error for values that are not one number per voxel."""
    return SeriesRejected(
        "UNSUPPORTED_PIXELS", f"found values of type {found[:32]}; expected one integer or real number for each voxel"
    )


def no_place(found: str) -> SeriesRejected:
    """Return the error for a file that does not state where in the patient its voxels lie."""
    expected = "its place in the patient in mm: left and right must not be guessed"
    return SeriesRejected("MISSING_GEOMETRY", f"found {found}; expected {expected}; save it with its geometry")
