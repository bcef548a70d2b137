"""Whether a window is a tile cropped from a scan, or shows the whole field of view. Arrays only.

A cropped tile is surrounded by air without noise; a whole field of view reaches the edge of the window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_BELOW = 0.6
"""Fraction of a window's plane that holds anything but plain air."""

PLAIN_AIR = 0.0025
"""Threshold in the [0, 1] range: 5 HU above the lower end of 2000 HU."""


def cropped_tiles(windows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each window (n, d, h, w) in [0, 1] whether its voxels above air extend as a tile's do: bool (n,)."""
    held: NDArray[np.bool_] = np.any(np.asarray(windows, np.float32) > PLAIN_AIR, axis=1)
    rows, columns = _extent(np.any(held, axis=2)), _extent(np.any(held, axis=1))
    return np.asarray(rows * columns < TILE_BELOW, np.bool_)


def _extent(held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the extent from the first to the last true value of (n, m), as a fraction of m; 0 where there is none."""
    m = held.shape[1]
    first, last = held.argmax(axis=1), m - 1 - held[:, ::-1].argmax(axis=1)
    return np.asarray(np.where(held.any(axis=1), (last - first + 1) / m, 0.0), np.float64)
