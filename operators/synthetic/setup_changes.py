"""What differs between two visits of a patient: how they lie, the table, and the calibration of the scanner.

As in `operators.synthetic.perturbations`, each turns a `Volume` into a `Volume` on the same grid, slice by slice.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.statistics.body import patient_mask
from operators.synthetic.changed_volume import Plane, of_each_slice, rounded
from operators.types import Volume

AIR_HU = -1000
_BODY_GRID_MM = 2.5


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
    """Return the scan with air everywhere outside the patient (`models.statistics.body.patient_mask`).

    The patient is found on a grid of about 2.5 mm. A table that touches the body over a large area stays. Without a
    body nothing is changed.
    """
    steps = _steps(volume)

    @cache
    def patient() -> NDArray[np.bool_]:
        z, y, x = steps
        coarse = np.stack([volume.read_slice(d).hu[::y, ::x] for d in range(0, volume.shape[0], z)])
        z_mm, y_mm, x_mm = (step * mm for step, mm in zip(steps, volume.spacing_mm, strict=True))
        return patient_mask(coarse, (z_mm, y_mm, x_mm))

    def change(d: int, hu: Plane) -> Plane:
        mask = patient()
        coarse = mask[min(d // steps[0], len(mask) - 1)]
        whole = coarse.repeat(steps[1], axis=0).repeat(steps[2], axis=1)[: hu.shape[0], : hu.shape[1]]
        return np.where(whole, hu, np.int16(AIR_HU))

    return of_each_slice(volume, change, "without what lies outside of the body")


def _steps(volume: Volume) -> tuple[int, int, int]:
    z, y, x = (max(1, int(_BODY_GRID_MM / mm)) for mm in volume.spacing_mm)
    return z, y, x
