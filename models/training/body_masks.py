"""The body in training windows, for views without a table: found once per window, when it is first drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BODY_ABOVE = 0.35
"""Threshold in the [0, 1] range: -300 HU in -1000 to 1000."""

SKIN_VOXELS = 1


class BodyMasks:
    """The masks of one scan's windows, indexed like its windows: `masks[number]` is bool (d, h, w)."""

    def __init__(self, windows: NDArray[np.floating[Any]]) -> None:
        self.windows = windows
        self.dtype = np.dtype(bool)
        self._packed: dict[int, NDArray[np.uint8]] = {}

    def __getitem__(self, number: int) -> NDArray[np.bool_]:
        shape = self.windows.shape[1:]
        if number not in self._packed:
            self._packed[number] = np.packbits(body_of(np.asarray(self.windows[number], np.float32)))
        flat = np.unpackbits(self._packed[number], count=int(np.prod(shape)))
        return flat.reshape(shape).astype(bool)


def body_masks(scans: Sequence[NDArray[np.floating[Any]]]) -> list[BodyMasks]:
    """Return the masks of scans; nothing is computed yet."""
    return [BodyMasks(windows) for windows in scans]


def body_of(window: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the body in a window (d, h, w) in [0, 1]: its largest piece, what that encloses, and the skin around it.

    Without a body it is the whole window.
    """
    pieces, count = ndimage.label(window > BODY_ABOVE)
    if count == 0:
        return np.ones(window.shape, bool)
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    filled = np.stack([ndimage.binary_fill_holes(axial) for axial in largest])
    plane = np.ones((1, 2 * SKIN_VOXELS + 1, 2 * SKIN_VOXELS + 1), bool)
    return np.asarray(ndimage.binary_dilation(filled, plane), bool)
