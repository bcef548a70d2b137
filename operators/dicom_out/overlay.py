"""One channel of a layer kept as a grid, on the slices of the CT: a Parametric Map that viewers draw over it.

OHIF 3.13 draws a map only where each frame lies on a slice of the CT and has its rows and columns. It draws only the
first map of a series, and only values from 0 to 1. So each slice gets a frame in which a pixel has the value of its
cell, the channel's lowest value as 0 and its highest as 1; the Real World Value Mapping gives the values
back. The Parametric Maps of the grid itself hold the values exactly, and are much smaller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from operators.dicom_out.parametric_map import map_file, mapping
from operators.record import FeatureRecord, TapValues
from operators.results.map_files import Overlay, overlay_file_name

OUTSIDE = -1.0
"""Stored where no window is."""

EDGE = 1e-6
"""Of a cell: added, so that rounding errors of an affine do not decide which cell a voxel on an edge lies in."""


def overlays(record: FeatureRecord, wanted: tuple[Overlay, ...]) -> dict[str, bytes]:
    """Return file name → map of each of the channels that were asked for."""
    return {
        overlay_file_name(one): _overlay(record, record.taps[one.tap], one.channel, number)
        for number, one in enumerate(wanted, 1)
    }


def _overlay(record: FeatureRecord, tap: TapValues, channel: int, number: int) -> bytes:
    grids = tap.windows.reshape(len(tap.windows), *(tap.shape or ()))[:, channel]
    low, high = float(grids.min()), float(grids.max())
    span = high - low or 1.0
    values = _on_slices(record, ((grids - low) / span).astype(np.float32))
    return map_file(
        record,
        values[..., None],
        record.volume.affine_lps_mm,
        [mapping(tap.name, channel, slope=span, intercept=low)],
        (0.0, 1.0),
        named=(f"{tap.name} channel {channel}", number),
        label=f"layer {tap.name}, channel {channel}",
        own_series=True,
    )


def _on_slices(record: FeatureRecord, grids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each voxel of the scan the value of the cell that it lies in, of the window whose middle is nearest.

    Args:
        record: the record of the series.
        grids: (windows, d, h, w).

    Returns:
        float32 (D, H, W); `OUTSIDE` where no window is.
    """
    windows, volume = record.encoding.windows, record.volume
    cell = np.array(windows.voxels.shape[2:]) / grids.shape[1:]
    to_cell = [
        np.diag([*(1 / cell), 1.0]) @ np.linalg.inv(affine) @ volume.affine_lps_mm for affine in windows.affines_lps_mm
    ]
    depth, rows, columns = volume.shape
    middle = [(depth - 1) / 2, (rows - 1) / 2, (columns - 1) / 2, 1.0]
    made = np.full(volume.shape, OUTSIDE, np.float32)
    y, x = np.arange(rows)[:, None], np.arange(columns)[None]
    first = 0.5 / cell + EDGE  # a window's first voxel has its centre half a voxel inside of the first cell
    for z in range(depth):
        along = [abs(float((one @ [z, *middle[1:]])[0]) + 0.5 / cell[0] - grids.shape[1] / 2) for one in to_cell]
        nearest = int(np.argmin(along))
        one = to_cell[nearest]
        at = [np.floor(one[k, 0] * z + one[k, 1] * y + one[k, 2] * x + one[k, 3] + first[k]) for k in range(3)]
        inside = np.logical_and.reduce(
            [(index >= 0) & (index < size) for index, size in zip(at, grids.shape[1:], strict=True)]
        )
        cells = tuple(np.broadcast_to(index, inside.shape)[inside].astype(np.intp) for index in at)
        made[z][inside] = grids[nearest][cells]
    return made
