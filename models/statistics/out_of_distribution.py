"""Whether a series is like those of the reference patients: up to four values, one rank, one conformal p-value.

Full conformal prediction (Vovk, Gammerman, Shafer, 2005), applied to anomalies (Laxhammar and Falkman, 2010; Bates et
al., Annals of Statistics 2023): the new patient joins the reference patients in one bag, in which every patient is
measured against the others in the same way. If the new patient is exchangeable with the reference patients, the chance
of a p-value of at most alpha is at most alpha, whatever their number and distribution. Each patient counts once, with
one series.

- Latent: the Mahalanobis distance of mu from the mean of the others, in their covariance after Ledoit and Wolf (2004),
  for there are often fewer patients than dimensions.
- Reconstruction: the error beside that of a code that has learned nothing, which says how complex the scan is: an error
  alone is small where a scan is simple, whatever it shows (Serrà et al., 2020, arXiv:1909.11480, correct likelihoods
  by complexity). The distance of its logarithm from the median, up or down (Nalisnick et al., 2019, test likelihoods
  for typicality this way).
- Outlier: what a classifier of patients and made-up outliers makes of the windows, the logarithm of the odds that they
  are not of a patient (outlier exposure: Hendrycks et al., 2019, arXiv:1812.04606). It was fitted on other patients
  than these, so that the reference patients and a new one remain exchangeable.
- Orientation: what a classifier of chests, and of the same upside down and back to front, makes of the windows: the
  logarithm of the odds that one of them is reversed so. It is 0 for the many patients of whom no lung is seen, and
  what is below counts as 0: to see that a chest lies as it should is no reason to find those strange.
- Combined: the largest of the ranks. With ranks alone two patients would often share the first place, so beyond the
  others a rank continues along an exponential tail fitted to their upper half. Those of latent and reconstruction end
  at `LATENT_TAIL` and `RECONSTRUCTION_TAIL`: a dozen patients give no tail to trust, and one odd one among them would
  hide everything that the others find.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.1
LEAST_PATIENTS = 9
"""With fewer patients no p-value can be as small as `ALPHA`: the smallest is 1 / (n + 1)."""

MOST_PATIENTS = 100
"""The work for a bag grows with the square of its size; with this many the smallest p-value is 0.0099."""

LATENT_TAIL = 1.0
"""How far beyond the others the rank of a latent distance may go at most."""

RECONSTRUCTION_TAIL = 3.0
"""The same of a reconstruction error. Odds of an outlier, which others were fitted for, have no such end."""

_LEAST_EXCESS = 1.0
"""Least mean excess of scores that are logarithms of odds, whose tail then falls no faster than the odds. Without it,
where half of the patients share the largest score, as limbs do with 0, any larger one would be endlessly far, and one
such reference patient would hide everything that the other parts find."""
_LEAST_RATIO = 1e-4
"""Anything smaller is rounding, which its logarithm would exaggerate."""
_FARTHEST = 1e6
"""Largest combined score; finite, so that scores can always be compared."""
_LEAST_VARIANCE = 1e-9
"""Added to each variance, as a fraction of the mean variance of the bag: without it a covariance may be singular."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Population:
    """The reference patients, one series each, in an order that does not reveal whose it is.

    Attributes:
        mu: float64 (n, length), of the series.
        sigma: likewise.
        error_ratios: float64 (n,), reconstruction errors beside those of a simple code; None for a bundle without a
            decoder.
        outliers: float64 (n,), outlier scores, which may be negative; larger is less like a patient. None for a bundle
            that gives none.
        orientations: float64 (n,), orientation scores, which may be negative and are 0 for many patients; larger is
            more likely upside down or back to front. None for a bundle that gives none.
    """

    mu: Floats
    sigma: Floats
    error_ratios: Floats | None
    outliers: Floats | None = None
    orientations: Floats | None = None

    def __post_init__(self) -> None:
        errors = np.ones(len(self.mu)) if self.error_ratios is None else self.error_ratios
        scores = {"outlier": self.outliers, "orientation": self.orientations}
        if self.mu.ndim != 2 or self.mu.shape != self.sigma.shape or errors.shape != (len(self.mu),):
            raise ValueError(f"mu of {self.mu.shape}, sigma of {self.sigma.shape}, errors of {errors.shape}")
        for name, values in scores.items():
            if values is not None and values.shape != (len(self.mu),):
                raise ValueError(f"{name} scores of {values.shape} for {len(self.mu)} patients")
        if not 2 <= len(self.mu) <= MOST_PATIENTS:
            raise ValueError(f"{len(self.mu)} patients; expected 2 to {MOST_PATIENTS}")
        known = [values for values in scores.values() if values is not None]
        if not all(np.isfinite(values).all() for values in (self.mu, self.sigma, errors, *known)):
            raise ValueError("numbers that are not finite")
        if min(self.sigma.min(), errors.min()) < 0:
            raise ValueError("a negative sigma or error")
        if not np.ptp(self.mu, axis=0).any():
            raise ValueError("mu is the same for all reference patients; expected a network that tells them apart")

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self.mu)

    @property
    def smallest_p(self) -> float:
        """Smallest p-value possible with this number of patients."""
        return 1 / (self.patients + 1)

    @property
    def mean(self) -> Floats:
        """Mean of mu, float64 (length,)."""
        return np.asarray(self.mu.mean(axis=0))

    @property
    def covariance(self) -> Floats:
        """Ledoit and Wolf's covariance of mu, float64 (length, length)."""
        return ledoit_wolf(self.mu - self.mean, self.mu.shape[1])


@dataclass(frozen=True, slots=True)
class Standing:
    """The position of one series in a population.

    Attributes:
        distance: Mahalanobis distance of its mu from the reference patients.
        p: conformal p-value, for any number of patients; it can be `ALPHA` or less only from `LEAST_PATIENTS` on.
        latent, reconstruction, outlier, orientation: -ln of the fraction of patients expected beyond it; 0 for a
            missing one of the last three. The largest one is the combined score.
        combined_below, latent_below, reconstruction_below, outlier_below, orientation_below: percentage of the
            reference patients with a smaller value; None for a missing one of the last three.
        mu_below, sigma_below: float64 (length,), likewise for each dimension.
    """

    distance: float
    p: float
    latent: float
    reconstruction: float
    outlier: float
    orientation: float
    combined_below: float
    latent_below: float
    reconstruction_below: float | None
    outlier_below: float | None
    orientation_below: float | None
    mu_below: Floats
    sigma_below: Floats


def stand(
    population: Population,
    mu: Floats,
    sigma: Floats,
    error_ratio: float | None,
    outlier: float | None = None,
    orientation: float | None = None,
) -> Standing:
    """Return the position of a series in a population.

    Args:
        population: population of the bundle that encoded the series.
        mu: float64 (length,), of the series.
        sigma: likewise.
        error_ratio: its reconstruction error beside that of a simple code; None where the population has none.
        outlier: its outlier score; likewise.
        orientation: its orientation score; likewise.
    """
    distances = distances_from_others(np.vstack([population.mu, mu]))
    latent = surprise(distances, LATENT_TAIL)
    reconstruction, below = np.zeros(len(latent)), None
    if population.error_ratios is not None and error_ratio is not None:
        errors = np.append(population.error_ratios, error_ratio)
        reconstruction, below = surprise(deviation(errors), RECONSTRUCTION_TAIL), _below(errors)
    unlike, unlike_below = _of_odds(population.outliers, outlier, len(latent))
    turned, turned_below = _of_odds(population.orientations, orientation, len(latent), least=0.0)
    combined = np.max([latent, reconstruction, unlike, turned], axis=0)
    return Standing(
        distance=float(distances[-1]),
        p=float(np.count_nonzero(combined >= combined[-1]) / len(combined)),
        latent=float(latent[-1]),
        reconstruction=float(reconstruction[-1]),
        outlier=float(unlike[-1]),
        orientation=float(turned[-1]),
        combined_below=_below(combined),
        latent_below=_below(distances),
        reconstruction_below=below,
        outlier_below=unlike_below,
        orientation_below=turned_below,
        mu_below=100 * np.mean(population.mu < mu, axis=0),
        sigma_below=100 * np.mean(population.sigma < sigma, axis=0),
    )


def distances_from_others(bag: Floats) -> Floats:
    """Return the Mahalanobis distance of each vector of a bag from the others, float64 (m + 1,).

    The vectors span at most as many dimensions as there are vectors, and are rotated into these first.

    Args:
        bag: float64 (m + 1, length).
    """
    length = bag.shape[1]
    u, singular, _ = np.linalg.svd(bag - bag.mean(axis=0), full_matrices=False)
    turned = u * singular
    floor = _LEAST_VARIANCE * float(np.square(singular).sum()) / (len(bag) * length) * np.eye(len(singular))
    found = np.empty(len(bag))
    for at, vector in enumerate(turned):
        others = np.delete(turned, at, axis=0)
        mean = others.mean(axis=0)
        from_mean = vector - mean
        covariance = ledoit_wolf(others - mean, length) + floor
        found[at] = math.sqrt(max(0.0, float(from_mean @ np.linalg.solve(covariance, from_mean))))
    return found


def ledoit_wolf(centred: Floats, length: int) -> Floats:
    """Return the covariance after Ledoit and Wolf, J. Multivariate Analysis 88 (2004): shrunk towards a multiple of I.

    scikit-learn's `ledoit_wolf` gives the same, but only for vectors that were not reduced to fewer dimensions.

    Args:
        centred: float64 (m, k), with their mean subtracted.
        length: number of dimensions before the reduction to k.
    """
    m, k = centred.shape
    sample = centred.T @ centred / m
    mean_variance, squares = float(np.trace(sample)) / length, float(np.square(sample).sum())
    dispersion = squares / length - mean_variance**2
    noise = (float(np.square(np.square(centred).sum(axis=1)).sum()) / m - squares) / (m * length)
    shrinkage = min(max(noise, 0.0), dispersion) / dispersion if dispersion > 0 else 1.0
    return np.asarray((1 - shrinkage) * sample + shrinkage * mean_variance * np.eye(k))


def deviation(errors: Floats) -> Floats:
    """Return how far the logarithm of each error of a bag is from their median, float64 (m,)."""
    logs = np.log(np.maximum(errors, _LEAST_RATIO))
    return np.asarray(np.abs(logs - np.median(logs)))


def _of_odds(
    others: Floats | None, new: float | None, patients: int, *, least: float = -math.inf
) -> tuple[Floats, float | None]:
    """Return the surprise of scores that are logarithms of odds, float64 (patients,), and the percentage below the new.

    They may be negative; what is below `least` surprises as little as that. Where there are none, nothing is
    surprising, and there is no percentage.
    """
    if others is None or new is None:
        return np.zeros(patients), None
    scores = np.append(others, new)
    counted = np.maximum(scores, least)
    return surprise(counted - counted.min(), least_excess=_LEAST_EXCESS), _below(scores)


def surprise(values: Floats, tail: float = math.inf, *, least_excess: float = 0.0) -> Floats:
    """Return -ln of the fraction of the others expected beyond each value of a bag, float64 (m + 1,).

    Of m others, the k-th in ascending order leaves 1 - k / (m + 1) beyond it, linear between them and from 0. Beyond
    the largest, the fraction falls exponentially: by e per mean excess of the others above their median. Equal values
    have the result of the first of them: a value that all share surprises nobody, nor does one that many have.

    Args:
        values: float64 (m + 1,), m ≥ 2, not negative.
        tail: how far the result may go beyond ln(m + 1), which it approaches; without a limit by default.
        least_excess: what a smaller mean excess counts as.
    """
    order = np.argsort(values, kind="stable")
    ascending, others = values[order], len(values) - 1
    lower = np.concatenate([[0.0], ascending[:-1]])
    upper = np.concatenate([ascending[1:], [np.inf]])
    inside = np.divide(ascending - lower, upper - lower, out=np.zeros(len(values)), where=upper > lower)
    found = np.empty(len(values))
    found[order] = -np.log1p(-(np.arange(len(values)) + inside) / (others + 1))
    rest = ascending[:-1]
    excess = rest[rest > np.median(rest)] - np.median(rest)
    scale = max(float(excess.mean()) if excess.size else 0.0, least_excess, np.finfo(np.float64).tiny)
    beyond = ascending[-1] - ascending[-2]
    farther = min(beyond / scale, _FARTHEST) if beyond > 0 else 0.0
    found[order[-1]] = math.log(others + 1) + farther / (1 + farther / tail)
    found[order] = found[order][np.searchsorted(ascending, ascending)]
    return found


def _below(bag: Floats) -> float:
    """Return the percentage of the bag before its last value that is smaller than that value."""
    return float(100 * np.count_nonzero(bag[:-1] < bag[-1]) / (len(bag) - 1))
