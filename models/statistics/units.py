"""Whether the dimensions of the posterior are in use. Arrays only.

There is one definition for the terminal, the plots, `bundle check` and the certificate: a unit is active if its
posterior mean varies over windows by more than `ACTIVE_VARIANCE` (Burda et al. 2016, arXiv:1509.00519).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ACTIVE_VARIANCE = 0.01
"""Variance of the posterior mean over windows, divided by their number: the variance of exactly these windows."""


def active_units(mu: NDArray[Any]) -> int:
    """Return how many dimensions of the posterior mean (n, k) vary by more than `ACTIVE_VARIANCE` over windows."""
    return int(np.count_nonzero(np.asarray(mu, np.float64).var(axis=0) > ACTIVE_VARIANCE))


def kl_by_dimension(mu: NDArray[Any], sigma: NDArray[Any]) -> Floats:
    """Return KL(q(z|x) ‖ N(0, 1)) in nats, mean over windows: float64 (k,) of (n, k) each."""
    mean, variance = np.asarray(mu, np.float64), np.square(np.asarray(sigma, np.float64))
    each = 0.5 * (np.square(mean) + variance - 1 - np.log(np.maximum(variance, 1e-300)))
    return np.asarray(each.mean(axis=0), np.float64)


def correlation(features: NDArray[Any]) -> Floats:
    """Return Pearson's correlation of dimensions, (k, k) of (n, k); 0 for a constant one, 1 on the diagonal."""
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    length = np.sqrt(np.square(centred).sum(axis=0))
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    matrix = np.clip(unit.T @ unit, -1, 1)
    np.fill_diagonal(matrix, 1)
    return np.asarray(matrix, np.float64)
