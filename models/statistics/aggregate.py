"""How far the aggregate posterior is from the prior: whether z may be drawn from N(0, I) and percentiles mean anything.

The aggregate posterior q(z) = E[q(z|x)] has mean E[mu] and covariance cov(mu) + diag(E[σ²]). The divergence of the
Gaussian g with these moments has a closed form. It is a lower bound: KL(q ‖ N(0, I)) = KL(q ‖ g) + KL(g ‖ N(0, I)).
With few windows the sampling error matters: the null is the value for draws of N(0, I).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DRAWS = 200


def aggregate_kl(mu: NDArray[Any], sigma: NDArray[Any]) -> float:
    """Return KL(N(mean, cov) ‖ N(0, I)) in nats of the aggregate posterior of windows, (n, k) each.

    Raises:
        ValueError: the covariance is singular: there are fewer windows than dimensions, and no sigma.
    """
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    covariance = np.cov(mu, rowvar=False, bias=True).reshape(mu.shape[1], mu.shape[1])
    return gaussian_kl(mu.mean(axis=0), covariance + np.diag(np.square(sigma).mean(axis=0)))


def aggregate_kl_null(
    windows: int, dimensions: int, *, variance: ArrayLike = 0.0, draws: int = DRAWS, seed: int = 0
) -> float:
    """Return the mean aggregate KL of a code that is N(0, I), for this number of windows.

    Args:
        windows: n.
        dimensions: k.
        variance: variance of the posteriors, a number or (k,), 0 to 1: mu is drawn with what that leaves of 1.
        draws: number of draws.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    within = np.clip(np.broadcast_to(np.asarray(variance, np.float64), dimensions), 0.0, 1.0)
    sigma = np.broadcast_to(np.sqrt(within), (windows, dimensions))
    drawn = (rng.standard_normal((windows, dimensions)) * np.sqrt(1 - within) for _ in range(draws))
    return float(np.mean([aggregate_kl(mu, sigma) for mu in drawn]))


def gaussian_kl(mean: Floats, covariance: Floats) -> float:
    """Return KL(N(mean, covariance) ‖ N(0, I)) in nats: ½ (tr C + m·m - k - log det C).

    Raises:
        ValueError: the covariance is singular.
    """
    values = np.linalg.eigvalsh(covariance)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError("the covariance is singular; expected more windows than dimensions, or a sigma above 0")
    return float(0.5 * (np.trace(covariance) + mean @ mean - len(mean) - np.log(values).sum()))
