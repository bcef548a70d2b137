"""NRRD headers (teem.sourceforge.net/nrrd/format.html): the space must be one of the three named ones."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesRejected
from operators.images.header import (
    MAX_HEADER_BYTES,
    MAX_SKIPPED_BYTES,
    Encoding,
    ImageHeader,
    beside,
    either,
    no_place,
    not_3d,
    unsupported_type,
)

_SPACES: Final = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0)),
}
_TYPES: Final = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ORDERS: Final[dict[str, Literal["<", ">"]]] = {"little": "<", "big": ">"}
_ENCODINGS: Final[dict[str, Encoding]] = {
    **dict.fromkeys(("raw",), "raw"),
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
}


def read_nrrd_header(path: Path, root: Path) -> ImageHeader:
    """Return the header of a `.nrrd` or `.nhdr` file.

    Args:
        path: the file.
        root: folder that must contain the data file, where the header names one.

    Raises:
        SeriesRejected: see `read_image_header`; other errors of a broken header are passed on.
    """
    import nrrd

    with path.open("rb") as file:
        first = file.read(MAX_HEADER_BYTES)
    text, _, _ = first.replace(b"\r\n", b"\n").partition(b"\n\n")
    end = re.search(rb"\r?\n\r?\n", first)
    try:
        fields = nrrd.read_header(text.split(b"\n"))
    except nrrd.NRRDError as error:
        raise ValueError(str(error)) from error
    spatial, affine = _affine(fields)
    shape, dtype = _shape(fields, spatial), _dtype(fields)
    if fields["encoding"] not in _ENCODINGS:
        raise SeriesRejected("UNSUPPORTED_IMAGE", "found an NRRD encoding other than raw, gzip, bzip2; save it as gzip")
    encoding = _ENCODINGS[fields["encoding"]]
    line_skip, byte_skip = (either(fields, f"{unit} skip", f"{unit}skip", 0) for unit in ("line", "byte"))
    if line_skip or byte_skip < -1 or (byte_skip == -1 and encoding != "raw"):
        raise SeriesRejected("UNSUPPORTED_IMAGE", "found lines to skip in an NRRD file; save it again")
    named = either(fields, "data file", "datafile", None)
    if (named is None and end is None) or byte_skip > MAX_SKIPPED_BYTES:
        raise ValueError("a header without an end, or no place for the data")
    begin = 0 if named is not None or end is None else end.end()
    start, skipped = (begin + byte_skip, 0) if encoding == "raw" else (begin, byte_skip)
    voxels = path if named is None else beside(path, root, str(named))
    return ImageHeader(shape, dtype, affine, voxels, None if byte_skip == -1 else start, encoding, skipped)


def _shape(fields: Any, spatial: list[bool]) -> tuple[int, int, int]:
    """Return the sizes along the spatial axes; other axes must have size 1."""
    sizes = [int(size) for size in fields["sizes"]]
    if len(sizes) != len(spatial) or sum(spatial) != 3:
        raise not_3d(sizes)
    if any(size != 1 for size, in_space in zip(sizes, spatial, strict=True) if not in_space):
        raise not_3d(sizes)
    i, j, k = (size for size, in_space in zip(sizes, spatial, strict=True) if in_space)
    return i, j, k


def _dtype(fields: Any) -> np.dtype[Any]:
    if fields["type"] not in _TYPES:
        raise unsupported_type(str(fields["type"]))
    dtype = np.dtype(_TYPES[fields["type"]])
    return dtype if dtype.itemsize == 1 else dtype.newbyteorder(_ORDERS[fields["endian"]])


def _affine(fields: Any) -> tuple[list[bool], NDArray[np.float64]]:
    """Return which axes are spatial, and the affine from the index along these to LPS mm."""
    signs = _SPACES.get(str(fields.get("space", "")).lower())
    if signs is None or fields.get("space directions") is None or fields.get("space origin") is None:
        raise no_place("no space, directions and origin of an NRRD file")
    if any(unit.strip('" ') not in ("mm", "") for unit in fields.get("space units", [])):
        raise no_place("lengths that are not in mm")
    directions = np.array([[math.nan] * 3 if row is None else row for row in fields["space directions"]], np.float64)
    spatial = [not np.isnan(row).all() for row in directions]
    affine = np.eye(4)
    if sum(spatial) == 3:
        affine[:3, :3] = directions[spatial].T
        affine[:3, 3] = fields["space origin"]
    return spatial, np.diag([*signs, 1.0, 1.0]) @ affine
