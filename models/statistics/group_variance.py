"""How much of the variance of features a flag explains, such as tile versus whole field of view. Arrays only.

The features are standardised, so that each dimension has an equal share of the total variance. The share of a flag is
the variance between its groups (η², mean over dimensions). The relevant flag is not always known: the best split in
two, by 2-means, shows how much any flag can explain. A Gaussian without clusters has such a split too; its share is the
null.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import numbered, sums_by_patient

Floats = NDArray[np.float64]

STARTS, DRAWS = 10, 20


def flag_share(features: NDArray[Any], flag: ArrayLike) -> float:
    """Return the fraction of the variance of standardised features (n, k) between the groups of a flag (n,).

    Dimensions that do not vary are left out; the result is 0 if none varies.
    """
    x = standardised(features)
    if not x.shape[1]:
        return 0.0
    count = np.bincount(numbered(flag))
    return float((np.square(sums_by_patient(x, flag)) / count[:, None]).sum() / x.size)


def best_split_share(features: NDArray[Any], *, starts: int = STARTS, seed: int = 0) -> float:
    """Return the share of the best flag with two groups that 2-means finds in standardised features (n, k)."""
    from sklearn.cluster import KMeans

    x = standardised(features)
    if len(x) < 3 or not x.shape[1]:
        return 0.0
    return flag_share(x, KMeans(2, n_init=starts, random_state=seed).fit(x).labels_)


def split_null(
    windows: int, dimensions: int, *, covariance: Floats | None = None, draws: int = DRAWS, seed: int = 0
) -> float:
    """Return the mean share of the best split of this number of windows drawn from a Gaussian.

    Args:
        windows: n.
        dimensions: k.
        covariance: (k, k), of the Gaussian; by default the identity. That of the features themselves distinguishes two
            clusters from one long axis.
        draws: number of draws.
        seed: seed of draws and starts.
    """
    rng = np.random.default_rng(seed)
    spread = np.eye(dimensions) if covariance is None else covariance
    values, vectors = np.linalg.eigh(spread)
    root = vectors * np.sqrt(np.maximum(values, 0))
    drawn = (rng.standard_normal((windows, dimensions)) @ root.T for _ in range(draws))
    return float(np.mean([best_split_share(sample, starts=3, seed=seed) for sample in drawn]))


def standardised(features: NDArray[Any]) -> Floats:
    """Return features (n, k') of mean 0 and variance 1, without the dimensions that do not vary."""
    x = np.asarray(features, np.float64)
    centred, deviation = x - x.mean(axis=0), x.std(axis=0)
    varies = deviation > 1e-12 * (1 + np.abs(x.mean(axis=0)))
    return np.asarray(centred[:, varies] / deviation[varies], np.float64)
