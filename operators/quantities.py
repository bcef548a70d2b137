"""What the voxels themselves say: simple quantities to hold beside the features, and to test them against.

Measured on the windows that the encoder saw, inside the body: the largest piece above -300 HU in each window, with what
it encloses in each axial slice (lungs, bowel gas) counted in. A series of several windows has the mean over them, each
weighing as much as it holds of the body. Thresholds are in HU and are those commonly used for CT body composition; they
are descriptive, contrast agent and noise move them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from operators.types import Windows

BODY_ABOVE_HU = -300.0
RANGES_HU: Mapping[str, tuple[float, float]] = {
    "lung_fraction": (-np.inf, -500.0),
    "emphysema_fraction": (-np.inf, -950.0),
    "fat_fraction": (-190.0, -30.0),
    "soft_tissue_fraction": (-29.0, 150.0),
    "bone_fraction": (150.0, np.inf),
}


def measure_quantities(windows: Windows, window_hu: tuple[float, float]) -> dict[str, float | None]:
    """The quantities of a series.

    Args:
        windows: what the encoder saw.
        window_hu: (low, high), the HU that 0 and 1 stand for; a fraction whose range is clipped away is None.

    Returns:
        `mean_hu` (of the body, clipped to the bundle's HU range), `body_area_cm2` (mean over the slices that hold body)
        and, as fractions of the body's voxels, `lung_fraction`, `fat_fraction`, `soft_tissue_fraction`,
        `bone_fraction`; `emphysema_fraction` is the part of the lung below -950 HU. All None where there is no body.
    """
    low, high = window_hu
    sums: dict[str, float] = dict.fromkeys(("hu", "slices", *RANGES_HU), 0.0)
    voxels = 0
    for window in windows.voxels[:, 0]:
        hu = low + window.astype(np.float64) * (high - low)
        body = body_mask(hu)
        inside = hu[body]
        voxels += inside.size
        sums["hu"] += float(inside.sum())
        sums["slices"] += int(body.any(axis=(1, 2)).sum())
        for name, (above, below) in RANGES_HU.items():
            sums[name] += int(np.count_nonzero((inside >= above) & (inside < below)))
    if voxels == 0:
        return dict.fromkeys(("mean_hu", "body_area_cm2", *RANGES_HU))
    pixel_cm2 = windows.spacing_mm[1] * windows.spacing_mm[2] / 100.0
    quantities: dict[str, float | None] = {
        "mean_hu": sums["hu"] / voxels,
        "body_area_cm2": voxels * pixel_cm2 / sums["slices"],
    }
    for name, (above, below) in RANGES_HU.items():
        whole = sums["lung_fraction"] if name == "emphysema_fraction" else voxels
        visible = low < below and high > above
        quantities[name] = sums[name] / whole if visible and whole else None
    return {name: None if value is None else float(np.float32(value)) for name, value in quantities.items()}


def body_mask(hu: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The body in a window: bool (d, h, w), the largest piece above -300 HU with what it encloses slice by slice."""
    pieces, count = ndimage.label(hu > BODY_ABOVE_HU)
    if count == 0:
        return np.zeros(hu.shape, bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    body = pieces == sizes.argmax()
    filled = np.stack([ndimage.binary_fill_holes(axial) for axial in body])
    return np.asarray(filled, bool)
