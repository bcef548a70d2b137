"""Quantities of a window that resemble no training target: probes for them show what the features know.

The network is trained to describe a soft histogram of HU, gradient and local standard deviation, so probes for related
quantities only show that the training worked. The quantities here describe shape, position and noise, which no
histogram of the window holds. They, and the seeds of the trainings that are compared, are fixed before the final
training.

The body is that of `models.statistics.body`: the largest piece above -300 HU, filled slice by slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.statistics.body import BODY_ABOVE_HU, SKIN_MM, body_mask
from operators.measure.quantities import LUNG_PIECE_CM3, RANGES_HU

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

SEEDS: Final = (0, 1, 2)
"""Seeds of the trainings and of the probes' folds."""

MIRRORED_HU = (-1000.0, 400.0)
PART_CM3 = 50.0
SPINE_ABOVE_HU = 250.0
"""Above most vessels with contrast medium, which the HU range of bone includes too."""
SPINE_CM3 = 2.0
SPINE_REACH_MM = 30.0


def probe_targets(hu: NDArray[np.floating[Any]], spacing_mm: Spacing) -> dict[str, float]:
    """Return all targets of one window, NaN where one cannot be measured; without a body, all are NaN.

    Args:
        hu: float HU (d, h, w), as the encoder sees it: rows from front to back, columns from right to left.
        spacing_mm: voxel spacing (z, y, x).

    Returns:
        name → value, in the order of `TARGETS`.
    """
    window: Floats = np.asarray(hu, np.float64)
    body = body_mask(window)
    if not body.any():
        return dict.fromkeys(TARGETS, math.nan)
    return {name: measure(window, body, spacing_mm) for name, measure in TARGETS.items()}


def left_right_asymmetry_hu(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the mean absolute difference between the body and its mirror image about its centroid's column, in HU.

    It is taken where the body and its image overlap, with HU clipped to `MIRRORED_HU`.
    """
    columns = np.arange(body.shape[2])
    middle = float((body.sum(axis=(0, 1)) * columns).sum() / body.sum())
    image = np.rint(2 * middle - columns).astype(int)
    inside = (image >= 0) & (image < body.shape[2])
    here, there = columns[inside], image[inside]
    both = body[:, :, here] & body[:, :, there]
    clipped = np.clip(hu, *MIRRORED_HU)
    return float(np.abs(clipped[:, :, here] - clipped[:, :, there])[both].mean()) if both.any() else math.nan


def front_to_side_ratio(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the extent from front to back over that from side to side: standard deviations of the body in mm."""
    _, rows, columns = np.nonzero(body)
    side = float(columns.std()) * spacing_mm[2]
    return float(rows.std()) * spacing_mm[1] / side if side > 0 else math.nan


def body_row_mm(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return how far the body's centroid is behind the window's centre, in mm."""
    return _from_centre(body, 1, spacing_mm)


def body_column_mm(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return how far the body's centroid is to the left of the window's centre, in mm."""
    return _from_centre(body, 2, spacing_mm)


def spine_row_mm(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return how far the spine (or else the largest column of bone) is behind the body's centroid; see `_spine`."""
    return _spine(hu, body, spacing_mm)[0]


def spine_column_mm(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return how far the spine is to the left of the body's centroid, in mm; see `_spine`."""
    return _spine(hu, body, spacing_mm)[1]


def fat_shell_mm(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the thickness of the fat below the skin: its area over the outline of what it encloses, mean over slices.

    It encloses the largest piece above the HU range of fat inside the body without its outermost `SKIN_MM`, opened by
    one pixel and filled. NaN where no slice has such a piece.
    """
    found = []
    for axial, inside in zip(hu, body, strict=True):
        depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm[1:])[1:-1, 1:-1]
        below_skin = depth > SKIN_MM
        lean = ndimage.binary_opening(below_skin & (axial > RANGES_HU["fat_fraction"][1]))
        pieces, count = ndimage.label(lean)
        if count == 0:
            continue
        largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        core = ndimage.binary_fill_holes(largest)
        low, high = RANGES_HU["fat_fraction"]
        fat = below_skin & ~core & (axial >= low) & (axial < high)
        area_mm2 = spacing_mm[1] * spacing_mm[2]
        # The outline of a disc of the core's area: the core's own outline grows with every notch.
        found.append(float(fat.sum()) * area_mm2 / (2 * math.sqrt(math.pi * float(core.sum()) * area_mm2)))
    return float(np.mean(found)) if found else math.nan


def gas_outside_lungs_fraction(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the fraction of the body that is gas (below -500 HU) in pieces under `LUNG_PIECE_CM3`: bowel, airways."""
    pieces, count = ndimage.label((hu < RANGES_HU["lung_fraction"][1]) & body)
    if count == 0:
        return 0.0
    voxels = np.bincount(pieces.ravel())[1:]
    small = voxels[voxels * math.prod(spacing_mm) / 1000.0 < LUNG_PIECE_CM3]
    return float(small.sum() / body.sum())


def soft_tissue_noise_hu(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the noise of a voxel in soft tissue, in HU, from differences between neighbours along a row.

    The standard deviation follows from their median absolute value, which edges hardly change, over voxels whose
    surroundings are soft tissue too.
    """
    low, high = RANGES_HU["soft_tissue_fraction"]
    even = ndimage.binary_erosion(body & (hu >= low) & (hu < high), np.ones((1, 3, 3), bool))
    both = even[:, :, 1:] & even[:, :, :-1]
    steps = np.abs(hu[:, :, 1:] - hu[:, :, :-1])[both]
    return float(np.median(steps)) / (0.674489750196082 * math.sqrt(2)) if steps.size else math.nan


def body_parts(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the number of separate pieces above -300 HU of at least `PART_CM3`: one trunk, two legs, arms."""
    pieces, _ = ndimage.label(hu > BODY_ABOVE_HU)
    sizes_cm3 = np.bincount(pieces.ravel())[1:] * math.prod(spacing_mm) / 1000.0
    return float(np.count_nonzero(sizes_cm3 >= PART_CM3))


def soft_tissue_skewness(hu: Floats, body: Mask, spacing_mm: Spacing) -> float:
    """Return the skewness of the HU of the body's soft tissue; NaN where they do not vary."""
    low, high = RANGES_HU["soft_tissue_fraction"]
    soft = hu[body & (hu >= low) & (hu < high)]
    deviation = float(soft.std()) if soft.size else 0.0
    return float(((soft - soft.mean()) ** 3).mean() / deviation**3) if deviation > 1e-6 else math.nan


TARGETS: Final[Mapping[str, Callable[[Floats, Mask, Spacing], float]]] = {
    measure.__name__: measure
    for measure in (
        left_right_asymmetry_hu,
        front_to_side_ratio,
        body_row_mm,
        body_column_mm,
        spine_row_mm,
        spine_column_mm,
        fat_shell_mm,
        gas_outside_lungs_fraction,
        soft_tissue_noise_hu,
        body_parts,
        soft_tissue_skewness,
    )
}
"""The probe targets: each is a function of the window's HU, its body and the spacing."""


def _from_centre(body: Mask, axis: int, spacing_mm: Spacing) -> float:
    return float((np.nonzero(body)[axis].mean() - (body.shape[axis] - 1) / 2) * spacing_mm[axis])


def _spine(hu: Floats, body: Mask, spacing_mm: Spacing) -> tuple[float, float]:
    """Return (row, column) in mm from the body's centroid where most bone lies along z, within `SPINE_REACH_MM` of it.

    In a trunk that is the spine, in a thigh the femur. NaN where there is less bone than `SPINE_CM3`.
    """
    bone = (body & (hu >= SPINE_ABOVE_HU)).sum(axis=0).astype(np.float64)
    if bone.sum() * math.prod(spacing_mm) / 1000.0 < SPINE_CM3:
        return math.nan, math.nan
    plane_mm = np.array(spacing_mm[1:])
    dense = ndimage.gaussian_filter(bone, SPINE_REACH_MM / 2 / plane_mm, mode="constant")
    places = np.argwhere(np.ones(bone.shape, bool)).reshape(*bone.shape, 2) * plane_mm
    peak = places[np.unravel_index(int(dense.argmax()), bone.shape)]
    near = bone * (np.linalg.norm(places - peak, axis=2) <= SPINE_REACH_MM)
    at = (near[..., None] * places).sum(axis=(0, 1)) / near.sum()
    middle = np.argwhere(body)[:, 1:].mean(axis=0) * plane_mm
    row, column = (at - middle).tolist()
    return row, column
