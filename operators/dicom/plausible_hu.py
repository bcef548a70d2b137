"""Whether the values of a DICOM series can be Hounsfield units: a histogram of each slice, and the rule.

The header of a CT says that its values are HU, so only a contradiction counts against it; a field of view without air
(spine, skull base) passes. `docs/geometry.md` states the rule in words, and what it does not catch.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

BIN_HU: Final = 32
"""Width of a bin; the first begins at -32768, so that each limit below is the edge of a bin."""

SAMPLED_SIDE: Final = 128
"""In a larger slice every second, third, … row and column is counted: 128 to 255 of each."""

BELOW_SCALE_HU: Final = -1504
"""Below it lies only what scanners write outside the scan circle; noise in air does not reach it."""

AIR_BELOW_HU: Final = -416
SOFT_HU: Final = (-192, 320)
"""Fat, soft tissue and blood with contrast agent."""

TISSUE_ABOVE_HU: Final = 96
BONE_ABOVE_HU: Final = 512
DENSE_ABOVE_HU: Final = 3072
"""The end of twelve bits with intercept -1024; above it is metal."""

LEAST_NEGATIVE: Final = 0.001
LEAST_SOFT: Final = 0.05
LEAST_SOFT_OF_ALL: Final = 0.001
MOST_DENSE: Final = 0.05
MOST_BONE_WITHOUT_AIR: Final = 0.4
LEAST_AIR: Final = 0.0001
MOST_LEVELS_BELOW: Final = 0.01

Histogram = NDArray[np.int64]


def histogram_of(hu: NDArray[np.int16], padding: NDArray[np.bool_] | None) -> Histogram:
    """Count a sample of a slice, without its declared padding.

    Args:
        hu: int16 (H, W), before any value was set to air.
        padding: bool (H, W), or None.

    Returns:
        int64 (2048,), bins of 32 HU from -32768.
    """
    step = max(1, min(hu.shape) // SAMPLED_SIDE)
    sample = hu[::step, ::step]
    if padding is not None:
        sample = sample[~padding[::step, ::step]]
    return np.bincount((sample.ravel().astype(np.int32) + (1 << 15)) // BIN_HU, minlength=(1 << 16) // BIN_HU)


def why_not_hu(counts: Histogram) -> str | None:
    """Return what contradicts that the values are HU; None where nothing does.

    Args:
        counts: sum of the histograms of all slices, int64 (2048,).
    """
    scale = int(counts[_bin(-1024) :].sum())
    body = int(counts[_bin(AIR_BELOW_HU) :].sum())
    if scale == 0 or body == 0:
        return "no value of tissue" if counts.any() else None
    soft = int(counts[_bin(SOFT_HU[0]) : _bin(SOFT_HU[1])].sum())
    if counts[_bin(-1024) : _bin(0)].sum() < LEAST_NEGATIVE * scale:
        return "nothing below 0, where air and fat are"
    if not counts[_bin(TISSUE_ABOVE_HU) :].any():
        return f"nothing above {TISSUE_ABOVE_HU}, where bone and contrast agent are"
    if soft < LEAST_SOFT * body or soft < LEAST_SOFT_OF_ALL * scale:
        return f"{_percent(soft, body)} of the values above {AIR_BELOW_HU} between {SOFT_HU[0]} and {SOFT_HU[1]}"
    dense = int(counts[_bin(DENSE_ABOVE_HU) :].sum())
    if dense > MOST_DENSE * body:
        return f"{_percent(dense, body)} of the values above {AIR_BELOW_HU} above {DENSE_ABOVE_HU}, where metal is"
    bone = int(counts[_bin(BONE_ABOVE_HU) :].sum())
    if bone > MOST_BONE_WITHOUT_AIR * scale and scale - body < LEAST_AIR * scale:
        return f"{_percent(bone, scale)} of the values above {BONE_ABOVE_HU}, and no air"
    below = counts[: _bin(BELOW_SCALE_HU)]
    if _beside_one_level(below) > MOST_LEVELS_BELOW * counts.sum():
        return f"several levels below {BELOW_SCALE_HU}, where only what lies outside the scan circle can be"
    return None


def _bin(hu: int) -> int:
    return (hu + (1 << 15)) // BIN_HU


def _beside_one_level(counts: Histogram) -> int:
    """Count values farther than 256 HU, the reach of lossy compression, from the most frequent value."""
    if not counts.any():
        return 0
    most, near = int(counts.argmax()), 256 // BIN_HU
    return int(counts[: max(0, most - near)].sum() + counts[most + near + 1 :].sum())


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %"
