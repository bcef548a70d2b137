"""MetaImage headers (itk.org/Wiki/MetaIO/Documentation): `Key = value` lines in LPS; the last line names the data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesRejected, SeriesSkipped
from operators.images.header import (
    MAX_HEADER_BYTES,
    ImageHeader,
    beside,
    either,
    no_place,
    three_dimensions,
    unsupported_type,
)

_TYPES: Final = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},  # metaTypes.h
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}


def read_meta_image_header(path: Path, root: Path) -> ImageHeader:
    """Return the header of a `.mha` or `.mhd` file.

    Args:
        path: the file.
        root: folder that must contain the data file, where the header names one.

    Raises:
        SeriesRejected: see `read_image_header`; other errors of a broken header are passed on.
        SeriesSkipped: `NOT_CT_IMAGE`.
    """
    with path.open("rb") as file:
        first = file.read(MAX_HEADER_BYTES)
    end = re.search(rb"^ElementDataFile[ \t]*=([^\n]*)\n", first, re.MULTILINE)
    if end is None:
        raise ValueError("no ElementDataFile")
    lines = first[: end.start()].decode("latin-1").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    i, j, k = _sizes(fields)
    dtype = _dtype(fields)
    packed = fields.get("CompressedData", "False").lower() == "true"
    local = end[1].decode("latin-1").strip()
    voxels = path if local.upper() == "LOCAL" else beside(path, root, local)
    skip = int(fields.get("HeaderSize", "0"))
    start = None if skip == -1 else skip + (end.end() if voxels == path else 0)
    if skip < -1 or (packed and start is None):
        raise ValueError("no such place for the data")
    affine = _affine(fields)
    return ImageHeader((i, j, k), dtype, affine, voxels, start, "zlib" if packed else "raw")


def _sizes(fields: dict[str, str]) -> tuple[int, int, int]:
    if fields.get("Modality", "MET_MOD_CT") not in ("MET_MOD_CT", "MET_MOD_OTHER", "MET_MOD_UNKNOWN"):
        raise SeriesSkipped("NOT_CT_IMAGE", f"found the MetaImage modality {fields['Modality'][:16]}")
    sizes = [int(size) for size in fields["DimSize"].split()]
    return three_dimensions(tuple(sizes))


def _dtype(fields: dict[str, str]) -> np.dtype[Any]:
    """Return the type of the values, which must be HU as stored: readers disagree on functions to intensity."""
    kind, channels = fields["ElementType"], fields.get("ElementNumberOfChannels", "1")
    if kind not in _TYPES or channels != "1" or fields.get("BinaryData", "True").lower() != "true":
        raise unsupported_type(f"{kind} in {channels} channels")
    big = either(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "False").lower() == "true"
    slope = float(fields.get("ElementToIntensityFunctionSlope", "1"))
    if slope != 1 or float(fields.get("ElementToIntensityFunctionOffset", "0")) != 0:
        raise SeriesRejected("INVALID_RESCALE", "found a MetaImage function to intensity; expected HU; apply it first")
    return np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")


def _affine(fields: dict[str, str]) -> NDArray[np.float64]:
    """Return the affine to LPS mm; each line of TransformMatrix is the direction of one axis."""
    matrix = either(fields, "TransformMatrix", "Orientation", None)
    offset = either(fields, "Offset", "Position", None)
    spacing = fields.get("ElementSpacing")
    if matrix is None or offset is None or spacing is None:
        raise no_place("no TransformMatrix, Offset and ElementSpacing of a MetaImage file")
    dimensions = len(fields["DimSize"].split())
    axes = np.array(matrix.split(), np.float64).reshape(dimensions, dimensions)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = axes.T * np.array(spacing.split(), np.float64)[:3]
    affine[:3, 3] = np.array(offset.split(), np.float64)[:3]
    return affine
