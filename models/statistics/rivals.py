"""What features have to beat: descriptions of a window that need no training, or only linear algebra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HISTOGRAM_BINS = 32


def hu_histogram(windows: NDArray[Any], bins: int = HISTOGRAM_BINS) -> Floats:
    """Return the fraction of a window's voxels in each of `bins` equal ranges of [0, 1]: (n, bins) of (n, …).

    A value outside [0, 1] counts for the outermost bin.
    """
    levels = np.clip(np.floor(np.asarray(windows, np.float32) * bins), 0, bins - 1).astype(np.intp)
    flat = levels.reshape(len(levels), -1)
    return np.stack([np.bincount(window, minlength=bins) for window in flat]) / flat.shape[1]


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """Linear components of windows.

    Attributes:
        centre: float32 (v,).
        axes: float32 (count, v), orthonormal, the longest first.
    """

    centre: NDArray[np.float32]
    axes: NDArray[np.float32]

    def __call__(self, windows: NDArray[Any]) -> Floats:
        """Return the windows' loadings, (n, count)."""
        flat = np.asarray(windows, np.float32).reshape(len(windows), -1)
        return np.asarray((flat - self.centre) @ self.axes.T, np.float64)

    def rebuilt(self, windows: NDArray[Any]) -> NDArray[np.float32]:
        """Return the windows rebuilt from these components, in their original shape."""
        made = self(windows).astype(np.float32) @ self.axes + self.centre
        return np.asarray(made.reshape(np.shape(windows)), np.float32)


def principal_components(windows: NDArray[Any], count: int) -> PrincipalComponents:
    """Return components learned from windows (n, …), at most n - 1 of them.

    They follow from the n × n products of the windows, for a window has many more voxels than there are windows.
    """
    flat = np.asarray(windows, np.float32).reshape(len(windows), -1)
    centre = flat.mean(axis=0)
    apart = flat - centre
    values, vectors = np.linalg.eigh((apart @ apart.T).astype(np.float64))
    longest = np.argsort(values)[::-1][: min(count, len(flat) - 1)]  # the mean is subtracted
    kept = longest[values[longest] > 1e-9 * max(values.max(), 1e-300)]
    axes = (vectors[:, kept] / np.sqrt(values[kept])).T.astype(np.float32) @ apart
    return PrincipalComponents(centre, axes)


def composition_and_components(composition: NDArray[Any], components: NDArray[Any], length: int = 32) -> Floats:
    """Return a composition (n, c) beside as many components (n, m) as make up `length` values.

    Raises:
        ValueError: there are too few of them.
    """
    missing = length - np.shape(composition)[1]
    if not 0 <= missing <= np.shape(components)[1]:
        raise ValueError(f"{np.shape(composition)[1]} values and {np.shape(components)[1]} components make no {length}")
    return np.concatenate([composition, np.asarray(components)[:, :missing]], axis=1).astype(np.float64)
