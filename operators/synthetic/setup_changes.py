"""What differs between two visits of a patient: how they lie, the table, and the calibration of the scanner.

As in `operators.synthetic.perturbations`, each turns a `Volume` into a `Volume` on the same grid, slice by slice.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from operators.measure.quantities import BODY_ABOVE_HU
from operators.synthetic.changed_volume import Plane, of_each_slice, rounded
from operators.types import Volume

AIR_HU = -1000
_BODY_GRID_MM = 2.5
_SKIN_MM = 4.0


def rotate(volume: Volume, degrees: float) -> Volume:
    """Return the scan turned in plane about its slice axis, linear between voxels; air fills the edges.

    Args:
        volume: not changed.
        degrees: angle from rows towards columns.
    """
    row_mm, column_mm = volume.spacing_mm[1:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # A position of the result corresponds to R · position in the original, in mm about the middle of the plane.
    matrix = np.array([[cosine, sine * column_mm / row_mm], [-sine * row_mm / column_mm, cosine]])
    middle = (np.array(volume.shape[1:]) - 1) / 2
    offset = middle - matrix @ middle

    def change(d: int, hu: Plane) -> Plane:
        turned = ndimage.affine_transform(hu.astype(np.float32), matrix, offset, order=1, cval=AIR_HU)
        return rounded(turned)

    return of_each_slice(volume, change, f"turned by {degrees:g} degrees")


def offset_hu(volume: Volume, hu: float) -> Volume:
    """Return the scan with `hu` added to everything but air and padding (-1000 HU and less)."""

    def change(d: int, before: Plane) -> Plane:
        return rounded(np.where(before > AIR_HU, before + np.float32(hu), before))

    return of_each_slice(volume, change, f"{hu:+g} HU")


def remove_table(volume: Volume) -> Volume:
    """Return the scan with air everywhere outside the body: the largest piece above -300 HU, filled in each slice.

    The body is found on a grid of about 2.5 mm, and a rim of 4 mm is kept for the skin. A table that touches the body
    over a large area stays. Without a body nothing is changed.
    """

    @cache
    def body() -> NDArray[np.bool_] | None:
        return _body(volume)

    steps = _steps(volume)

    def change(d: int, hu: Plane) -> Plane:
        mask = body()
        if mask is None:
            return hu
        coarse = mask[min(d // steps[0], len(mask) - 1)]
        whole = coarse.repeat(steps[1], axis=0).repeat(steps[2], axis=1)[: hu.shape[0], : hu.shape[1]]
        return np.where(whole, hu, np.int16(AIR_HU))

    return of_each_slice(volume, change, "without what lies outside of the body")


def _steps(volume: Volume) -> tuple[int, int, int]:
    z, y, x = (max(1, int(_BODY_GRID_MM / mm)) for mm in volume.spacing_mm)
    return z, y, x


def _body(volume: Volume) -> NDArray[np.bool_] | None:
    """Return the body, sampled every few slices, rows and columns; None where there is none."""
    z, y, x = _steps(volume)
    above = np.stack([volume.read_slice(d).hu[::y, ::x] > BODY_ABOVE_HU for d in range(0, volume.shape[0], z)])
    pieces, count = ndimage.label(above)
    if count == 0:
        return None
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    filled = np.stack([ndimage.binary_fill_holes(axial) for axial in largest])
    rim = max(1, round(_SKIN_MM / (y * volume.spacing_mm[1])))
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), rim)
    return np.asarray(ndimage.binary_dilation(filled, disc[None]), np.bool_)
