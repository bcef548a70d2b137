"""Volume and Windows → NIfTI files for any viewer, written slice by slice; the same volume gives the same bytes.

NIfTI-1 stores an affine in float32: at 500 mm from the scanner's centre it is exact to 0.00003 mm.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.errors import SeriesFailed
from operators.results.atomic import atomic_file
from operators.types import Finding, Shape, Volume, Windows

COMPRESSION_LEVEL: Final = 3
"""One of zlib's nine levels: CT is noise, and higher levels take twice the time to save some percent."""

MAX_NIFTI1_SIDE: Final = 32767
"""A NIfTI-1 header stores sizes as int16."""

_SCANNER_ANATOMICAL: Final = 1  # NIFTI_XFORM_SCANNER_ANAT
_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_volume_nifti(volume: Volume, path: Path) -> Volume:
    """Write the HU of a volume, int16.

    Returns:
        The volume with the findings of its slices added.

    Raises:
        SeriesRejected, SeriesFailed: from reading the slices; `OUTPUT_UNWRITABLE`.
    """
    found: list[tuple[Finding, ...]] = []

    def slices() -> Iterable[NDArray[np.int16]]:
        for ready in volume.slices():
            found.append(ready.findings)
            yield ready.hu

    _write(slices(), volume.shape, np.dtype("<i2"), volume.affine_lps_mm, path)
    return replace(volume, findings=volume.findings_with(found))


def write_windows_nifti(windows: Windows, window_hu: tuple[float, float], folder: Path, name: str) -> list[Path]:
    """Write each window in HU, float32, as `<name>.window<n>.nii.gz`, n from 1 on: what the encoder sees.

    Args:
        windows: the windows of one series.
        window_hu: (low, high), the HU of the values 0 and 1.
        folder: an existing folder.
        name: the series' name in file names.

    Raises:
        SeriesFailed: `OUTPUT_UNWRITABLE`.
    """
    low, high = window_hu
    depth, height, width = windows.voxels.shape[2:]
    paths = []
    for number, (voxels, affine) in enumerate(zip(windows.voxels, windows.affines_lps_mm, strict=True), 1):
        paths.append(folder / f"{name}.window{number}.nii.gz")
        planes = (plane * np.float32(high - low) + np.float32(low) for plane in voxels[0])
        _write(planes, (depth, height, width), np.dtype("<f4"), affine, paths[-1])
    return paths


def remove_nifti(folder: Path, name: str) -> None:
    """Remove the volume and windows that an earlier export wrote of a series."""
    (folder / f"{name}.nii.gz").unlink(missing_ok=True)
    for file in folder.glob(f"{name}.window*.nii.gz"):
        if file.name.removeprefix(f"{name}.window").removesuffix(".nii.gz").isdigit():
            file.unlink()


def _write(
    planes: Iterable[NDArray[Any]], shape: Shape, dtype: np.dtype[Any], affine_lps_mm: NDArray[np.float64], path: Path
) -> None:
    """Write one gzip member without time or name; the column is its fastest index."""
    header = _header(shape, dtype, affine_lps_mm)
    with (
        atomic_file(path) as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION_LEVEL, fileobj=file, mtime=0) as packed,
    ):
        packed.write(header)
        for plane in planes:
            packed.write(np.ascontiguousarray(plane, dtype).data)


def _header(shape: Shape, dtype: np.dtype[Any], affine_lps_mm: NDArray[np.float64]) -> bytes:
    """Return the 348 bytes of a header and four that say that no extension follows (nifti1.h)."""
    import nibabel

    if max(shape) > MAX_NIFTI1_SIDE:
        found = " × ".join(map(str, shape))
        raise SeriesFailed(
            "OUTPUT_UNWRITABLE", f"a volume of {found} is larger than NIfTI-1 allows (32767 per axis); split the series"
        )
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(dtype)
    affine_ras_mm = _LPS_TO_RAS @ affine_lps_mm[:, [2, 1, 0, 3]]
    header.set_sform(affine_ras_mm, _SCANNER_ANATOMICAL)
    header.set_qform(affine_ras_mm, _SCANNER_ANATOMICAL)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"], header["magic"] = 1, 0, b"n+1"
    header["vox_offset"] = 352
    block: bytes = header.binaryblock
    return block + bytes(4)
