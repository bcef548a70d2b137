"""A change of axes of a latent space that makes mu uncorrelated and the variance of the aggregate posterior 1.

z' = A (z - centre), with the principal axes of mu over the windows it is learned on. On these windows the aggregate
posterior, cov(mu') + diag(E[σ'²]), is exactly the identity if nothing is shrunk. The posterior of a window stays a
diagonal Gaussian: σ'ᵢ² = Σⱼ Aᵢⱼ² σⱼ² is the exact marginal of each new dimension. The correlation of the rotated
posterior between dimensions is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LatentAxes:
    """An affine map of a latent space of k dimensions to one of m ≤ k, of rank m.

    Attributes:
        centre: float64 (k,).
        matrix: float64 (m, k), A; row i is the new dimension i.
    """

    centre: Floats
    matrix: Floats

    def of_mu(self, mu: NDArray[Any]) -> Floats:
        """Return mu' (n, m)."""
        return np.asarray((np.asarray(mu, np.float64) - self.centre) @ self.matrix.T, np.float64)

    def of_sigma(self, sigma: NDArray[Any]) -> Floats:
        """Return σ' (n, m), the exact marginals."""
        squared = np.square(np.asarray(sigma, np.float64)) @ np.square(self.matrix).T
        return np.asarray(np.sqrt(squared), np.float64)

    def ordered(self, score: ArrayLike) -> LatentAxes:
        """Return the same axes, ordered by falling score (m,); ties keep their order."""
        return LatentAxes(self.centre, self.matrix[np.argsort(-np.asarray(score, np.float64), kind="stable")])

    def scaled(self, mu: NDArray[Any], sigma: NDArray[Any]) -> LatentAxes:
        """Return the same axes in units in which the aggregate posterior of these windows has mean 0 and variance 1.

        Args:
            mu: (n, k), in the latents that the axes are of.
            sigma: likewise.
        """
        total = self.of_mu(mu).var(axis=0) + np.square(self.of_sigma(sigma)).mean(axis=0)
        return LatentAxes(np.asarray(mu, np.float64).mean(axis=0), self.matrix / np.sqrt(total)[:, None])


def learn_axes(
    mu: NDArray[Any], sigma: NDArray[Any], *, shrinkage: float | None = None, count: int | None = None
) -> LatentAxes:
    """Return axes learned from windows, (n, k) each: principal axes, longest first, with a positive largest entry.

    Args:
        mu: posterior means.
        sigma: posterior standard deviations.
        shrinkage: of the correlation of mu towards the identity, 0 to 1; None takes that of Ledoit and Wolf (2004, doi
            10.1016/S0047-259X(03)00096-4): with few windows the shortest axes look shorter than they are, and would be
            stretched too far.
        count: how many, the longest; None: all.

    Raises:
        ValueError: a dimension has no variance at all, neither of mu nor within a window.
    """
    from sklearn.covariance import ledoit_wolf, shrunk_covariance

    mu, within = np.asarray(mu, np.float64), np.square(np.asarray(sigma, np.float64)).mean(axis=0)
    centre, variance = mu.mean(axis=0), mu.var(axis=0)
    if (variance + within <= 0).any():
        raise ValueError("a dimension of mu has no variance, and its sigma is 0; train longer, or take fewer latents")
    deviation = np.sqrt(np.maximum(variance, 1e-12 * (variance + within)))
    scaled = (mu - centre) / deviation
    correlation = scaled.T @ scaled / len(scaled)
    shrunk = (
        ledoit_wolf(scaled, assume_centered=True)[0] if shrinkage is None else shrunk_covariance(correlation, shrinkage)
    )
    values, vectors = np.linalg.eigh(deviation[:, None] * shrunk * deviation)
    values, rotation = np.maximum(values[::-1], 0)[:count], vectors[:, ::-1].T[:count]
    signs = np.sign(rotation[np.arange(len(rotation)), np.abs(rotation).argmax(axis=1)])
    rotation = rotation * signs[:, None]
    total = values + np.square(rotation) @ within
    return LatentAxes(centre, rotation / np.sqrt(total)[:, None])
