"""Whether the dimensions of features carry different information. Arrays only.

Two figures of the correlation matrix: the mean absolute correlation of two dimensions, and the participation ratio
(Σλ)² / Σλ² of its eigenvalues, which is k for k uncorrelated dimensions and 1 for one dimension repeated k times. With
n windows, independent dimensions correlate too, so each figure is compared with that of N(0, I) for the same n. Windows
of one patient are not independent, so there is also the mean over draws of one window per patient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import numbered
from models.statistics.units import correlation

DRAWS = 200


class Redundancy(NamedTuple):
    """The two figures of a set of windows."""

    mean_abs_r: float
    participation_ratio: float


def redundancy(features: NDArray[Any]) -> Redundancy:
    """Return both figures of features (n, k).

    Raises:
        ValueError: there are fewer than two windows or fewer than two dimensions.
    """
    features = np.asarray(features, np.float64)
    if min(features.shape) < 2:
        raise ValueError(f"features of shape {features.shape}; expected two windows and two dimensions at least")
    matrix = correlation(features)
    k = len(matrix)
    off_diagonal = float((np.abs(matrix).sum() - k) / (k * (k - 1)))
    return Redundancy(off_diagonal, float(k**2 / np.square(matrix).sum()))


def redundancy_by_patient(
    features: NDArray[Any], patients: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Redundancy:
    """Return the mean of both figures over draws of one window per patient.

    Args:
        features: (n, k).
        patients: (n,).
        draws: number of draws.
        seed: seed of the draws.
    """
    patient, rng = numbered(patients), np.random.default_rng(seed)
    windows = [np.flatnonzero(patient == number) for number in range(int(patient.max()) + 1)]
    drawn = ([rng.choice(those) for those in windows] for _ in range(draws))
    return _mean([redundancy(np.asarray(features)[rows]) for rows in drawn])


def null_redundancy(windows: int, dimensions: int, *, draws: int = DRAWS, seed: int = 0) -> Redundancy:
    """Return the mean of both figures over draws of this number of windows from N(0, I)."""
    rng = np.random.default_rng(seed)
    return _mean([redundancy(rng.standard_normal((windows, dimensions))) for _ in range(draws)])


def _mean(found: list[Redundancy]) -> Redundancy:
    r, ratio = np.mean(found, axis=0).tolist()
    return Redundancy(r, ratio)
