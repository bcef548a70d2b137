"""Whether a window is a tile that was cropped from a scan, or shows the whole field of view. Arrays only.

Around a cropped tile there is air without noise; a whole field of view reaches to the edge of the window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_BELOW = 0.6
"""Of a window's plane, what holds anything but plain air."""

PLAIN_AIR = 0.0025
"""Of the [0, 1] range, and less: 5 HU above the lower end in 2000."""


def cropped_tiles(windows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each window (n, d, h, w), in [0, 1], whether the extent of its voxels above air is a tile's: (n,)."""
    held: NDArray[np.bool_] = np.any(np.asarray(windows, np.float32) > PLAIN_AIR, axis=1)
    rows, columns = _extent(np.any(held, axis=2)), _extent(np.any(held, axis=1))
    return np.asarray(rows * columns < TILE_BELOW, np.bool_)


def _extent(held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From the first to the last of (n, m), as a part of m; 0 where there is none."""
    m = held.shape[1]
    first, last = held.argmax(axis=1), m - 1 - held[:, ::-1].argmax(axis=1)
    return np.asarray(np.where(held.any(axis=1), (last - first + 1) / m, 0.0), np.float64)
