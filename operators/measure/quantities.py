"""Measurements on the voxels themselves: simple quantities to compare with the features and to test them against.

They are measured on the encoder's windows, reassembled so that each voxel counts once, inside the body: the largest
piece above -300 HU with what it encloses in each axial slice (lungs, bowel gas). Tissues are those of
`models.statistics.tissues`; they are descriptive, and contrast agent and noise shift them. `docs/preprocessing.md`
defines each quantity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.statistics.body import body_mask, box_of
from models.statistics.tissues import TISSUES_HU
from operators.measure.texture import glcm_contrast, gradient_hu_per_mm, local_sd_hu
from operators.types import Windows

FRACTIONS: Mapping[str, tuple[str, ...]] = {
    "lung_fraction": ("air", "lung"),
    "emphysema_fraction": ("air",),
    "fat_fraction": ("fat",),
    "soft_tissue_fraction": ("soft",),
    "bone_fraction": ("bone",),
}
"""Quantity → the tissues that it counts in the body."""
RANGES_HU: Mapping[str, tuple[float, float]] = {
    name: (TISSUES_HU[tissues[0]][0], TISSUES_HU[tissues[-1]][1]) for name, tissues in FRACTIONS.items()
}
SHAPES = ("local_sd_hu", "gradient_hu_per_mm", "glcm_contrast", "outline_compactness", "lung_pieces")
QUANTITIES = ("mean_hu", "body_area_cm2", *RANGES_HU, *SHAPES)

LUNG_PIECE_CM3 = 10.0
"""Anything smaller is a bubble in the bowel or an airway cut off from its lung."""

_Spacing = tuple[float, float, float]


def measure_quantities(windows: Windows, window_hu: tuple[float, float]) -> dict[str, float | None]:
    """Return the quantities of a series as `window_quantities` defines them; each voxel of the windows counts once.

    Args:
        windows: the encoder's windows.
        window_hu: (low, high), the HU of the values 0 and 1.

    Returns:
            Name → value; None where it cannot be measured: all without a body, a fraction whose HU range the bundle
            clips away, and `emphysema_fraction` without lung.
    """
    low, high = window_hu
    measured = window_quantities(low + _each_voxel_once(windows) * (high - low), windows.spacing_mm)
    clipped = {name for name, (above, below) in RANGES_HU.items() if low >= below or high <= above}
    if "lung_fraction" in clipped:
        clipped |= {"lung_pieces", "emphysema_fraction"}
    return {
        name: None if name in clipped or math.isnan(value) else float(np.float32(value))
        for name, value in measured.items()
    }


def _each_voxel_once(windows: Windows) -> NDArray[np.float64]:
    """Return the grid that the windows were cut from: float64 (D, h, w)."""
    depth = windows.voxels.shape[2]
    starts = windows.starts
    whole = np.empty((int(starts.max()) + depth, *windows.voxels.shape[3:]))
    for start, window in zip(starts, windows.voxels[:, 0], strict=True):
        whole[start : start + depth] = window
    return whole


def window_quantities(hu: NDArray[np.floating[Any]], spacing_mm: _Spacing) -> dict[str, float]:
    """Return all `QUANTITIES` of a grid; NaN where one cannot be measured, all of them without a body.

    Args:
        hu: float HU (d, h, w), as the encoder sees it.
        spacing_mm: voxel spacing (z, y, x).

    Returns:
        `mean_hu` of the body; `body_area_cm2`, mean over the slices that hold body; as fractions of the body's voxels
        `lung_fraction`, `fat_fraction`, `soft_tissue_fraction`, `bone_fraction`; and
        `emphysema_fraction`: the part of the lung below -950 HU; NaN where no piece of lung has 10 cm³.
        `local_sd_hu`, `gradient_hu_per_mm`, `glcm_contrast`: see `operators.measure.texture`.
        `outline_compactness`: 4π · area / perimeter² of the body in a slice, mean over the slices that hold body: 1 for
        a disc, less for a body that is long, ragged or in pieces.
        `lung_pieces`: separate pieces of lung (below -500 HU in the body, joined over faces) of at least 10 cm³.
    """
    hu64: NDArray[np.float64] = np.asarray(hu, np.float64)
    body = body_mask(hu64)
    voxels = int(body.sum())
    if voxels == 0:
        return dict.fromkeys(QUANTITIES, math.nan)
    counted, shapes = _counts(hu64, body), _shapes(hu64, body, spacing_mm)
    lung = counted["lung_fraction"] if shapes["lung_pieces"] else math.nan
    wholes = {name: lung if name == "emphysema_fraction" else voxels for name in RANGES_HU}
    return {
        "mean_hu": counted["hu"] / voxels,
        "body_area_cm2": voxels * spacing_mm[1] * spacing_mm[2] / 100.0 / counted["slices"],
        **{name: counted[name] / whole for name, whole in wholes.items()},
        **shapes,
    }


def outline_compactness(body: NDArray[np.bool_], spacing_mm: _Spacing) -> float:
    """Return 4π · area / perimeter², mean over the slices that hold body; NaN where none does.

    The perimeter follows Crofton's formula in four directions: ½ Σ π/4 · (distance between the lines) · (crossings).
    """
    _, row_mm, column_mm = spacing_mm
    framed = np.pad(body, ((0, 0), (1, 1), (1, 1)))
    diagonal_mm = row_mm * column_mm / math.hypot(row_mm, column_mm)
    lines = (
        (framed[:, 1:] != framed[:, :-1], column_mm),
        (framed[:, :, 1:] != framed[:, :, :-1], row_mm),
        (framed[:, 1:, 1:] != framed[:, :-1, :-1], diagonal_mm),
        (framed[:, 1:, :-1] != framed[:, :-1, 1:], diagonal_mm),
    )
    perimeter_mm = sum(crossed.sum(axis=(1, 2)) * apart for crossed, apart in lines) * math.pi / 8
    area_mm2 = body.sum(axis=(1, 2)) * row_mm * column_mm
    held = area_mm2 > 0
    return float((4 * math.pi * area_mm2[held] / perimeter_mm[held] ** 2).mean()) if held.any() else math.nan


def lung_pieces(hu: NDArray[np.float64], body: NDArray[np.bool_], spacing_mm: _Spacing) -> int:
    """Return the number of separate pieces of lung, joined over faces, of at least `LUNG_PIECE_CM3`."""
    lung = (hu < RANGES_HU["lung_fraction"][1]) & body
    if not lung.any():
        return 0
    pieces, _ = ndimage.label(lung[box_of(lung)])
    sizes_cm3 = np.bincount(pieces.ravel())[1:] * math.prod(spacing_mm) / 1000.0
    return int(np.count_nonzero(sizes_cm3 >= LUNG_PIECE_CM3))


def _counts(hu: NDArray[np.float64], body: NDArray[np.bool_]) -> dict[str, float]:
    """Return the sum of the HU in the body, the number of its slices, and its voxels in each HU range."""
    inside = hu[body]
    counted = {"hu": float(inside.sum()), "slices": float(body.any(axis=(1, 2)).sum())}
    for name, (above, below) in RANGES_HU.items():
        counted[name] = float(np.count_nonzero((inside >= above) & (inside < below)))
    return counted


def _shapes(hu: NDArray[np.float64], body: NDArray[np.bool_], spacing_mm: _Spacing) -> dict[str, float]:
    """Return the `SHAPES` of a non-empty body; only its box and one voxel around it are examined."""
    box = box_of(body, margin=1)
    hu32, inside = hu[box].astype(np.float32), body[box]
    return {
        "local_sd_hu": local_sd_hu(hu32, inside),
        "gradient_hu_per_mm": gradient_hu_per_mm(hu32, inside, spacing_mm),
        "glcm_contrast": glcm_contrast(hu32, inside),
        "outline_compactness": outline_compactness(inside, spacing_mm),
        "lung_pieces": float(lung_pieces(hu[box], inside, spacing_mm)),
    }
