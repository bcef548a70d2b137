"""Whether two scans of one patient are more alike than scans of two patients. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.group_variance import standardised
from models.statistics.patients import Interval, mean_interval, numbered

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RepeatScans:
    """Distances between scans of one patient and of different patients, in standardised features.

    Attributes:
        within, between: medians.
        found: how often the nearest other scan is of the same patient, over scans that have another one.
        mutual: how often that is so and the scan is the nearest one of its nearest, too: they have found each other.
        chance: what `found` would be by guessing.
        scans: that have another one of the same patient.
        patients: with two scans or more.
        within_all, between_all: all distances, for a picture.
    """

    within: float
    between: float
    found: Interval
    mutual: Interval
    chance: float
    scans: int
    patients: int
    within_all: Floats
    between_all: Floats


def repeat_scans(features: NDArray[Any], patients: ArrayLike, *, seed: int = 0) -> RepeatScans | None:
    """Compare distances; None where no patient has two scans, or there is one patient only.

    Args:
        features: (n, k), one row per scan.
        patients: (n,).
        seed: of the bootstrap samples of patients.
    """
    patient = numbered(patients)
    x = standardised(features)
    same = patient[:, None] == patient[None]
    np.fill_diagonal(same, False)
    if not same.any() or patient.max() < 1:
        return None
    lengths = np.square(x).sum(axis=1)
    apart = np.sqrt(np.maximum(0, lengths[:, None] + lengths[None] - 2 * x @ x.T))
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    repeated = same.any(axis=1)
    hits = patient[nearest] == patient
    mutual = hits & (nearest[nearest] == np.arange(len(patient)))
    upper = np.triu(np.ones_like(same), 1)
    within, between = apart[same & upper], apart[~same & upper]
    return RepeatScans(
        within=float(np.median(within)),
        between=float(np.median(between)),
        found=mean_interval(hits[repeated], patient[repeated], seed=seed),
        mutual=mean_interval(mutual[repeated], patient[repeated], seed=seed),
        chance=float((same.sum(axis=1)[repeated] / (len(patient) - 1)).mean()),
        scans=int(repeated.sum()),
        patients=len(np.unique(patient[repeated])),
        within_all=within,
        between_all=between,
    )
