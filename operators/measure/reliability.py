"""Whether to trust the features of a series: its rank among the reference patients of its bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bundle.reference import Reference
from models.runtime import Decoder
from models.spec import Preprocessing
from models.statistics.out_of_distribution import ALPHA, LEAST_PATIENTS, Population, Standing, stand
from operators.errors import SeriesFailed
from operators.geometry.windows import target_axes
from operators.record import Encoding, Percentiles, Reliability, shortest_double
from operators.types import Verdict, Windows

BLOCK: Final = 16
"""Voxels along each axis of the blocks whose means a reconstruction is compared with.

A window of 32 × 96 × 96 has 72 of them, of the order of a network's latents.
"""

_LEAST_HU: Final = 0.01
"""Least error of the block means, in HU: those of air alone have none."""


def measure_reliability(encoding: Encoding, reference: Reference, preprocessing: Preprocessing) -> Reliability:
    """Return the rank of a series among the reference patients, and the verdict.

    Args:
        encoding: the series' encoding.
        reference: reference population of the bundle that encoded it.
        preprocessing: the bundle's preprocessing.

    Raises:
        SeriesFailed: `NON_FINITE_FEATURES`: the decoder gives NaN or infinity.
    """
    population, decoder = reference.population, reference.decoder
    found = None if decoder is None else reconstruction_error(encoding, decoder, preprocessing)
    mu, sigma = (encoding.taps[name].values.astype(np.float64) for name in ("mu", "sigma"))
    ratio = None if found is None else found.ratio
    standing = stand(population, mu, sigma, ratio, encoding.outlier, encoding.orientation)
    enough = population.patients >= LEAST_PATIENTS
    return Reliability(
        verdict=_verdict(standing, enough),
        reasons=tuple(_reasons(standing, population, found, encoding)) if enough else (_too_few(population),),
        n_reference=population.patients,
        p_conformal=shortest_double(standing.p) if enough else None,
        mahalanobis=shortest_double(standing.distance),
        reconstruction_mae_hu=None if found is None else shortest_double(found.mae_hu),
        reconstruction_ratio=None if ratio is None else shortest_double(ratio),
        outlier_score=None if encoding.outlier is None else shortest_double(encoding.outlier),
        orientation_score=None if encoding.orientation is None else shortest_double(encoding.orientation),
        real_fraction=shortest_double(float(np.mean(encoding.windows.real_fraction, dtype=np.float64))),
        percentiles=_percentiles(standing),
        reference_sha256=reference.sha256,
    )


@dataclass(frozen=True, slots=True)
class ReconstructionError:
    """How well the decoder makes the windows of a series from their mu.

    Attributes:
        mae_hu: mean absolute error in HU.
        ratio: that error divided by the one of a code that has learned nothing: the means of blocks of `BLOCK`³ voxels.
    """

    mae_hu: float
    ratio: float


def reconstruction_error(encoding: Encoding, decoder: Decoder, preprocessing: Preprocessing) -> ReconstructionError:
    """Return the error of the decoder's reconstruction from each window's mu.

    Means are over the real voxels of all windows; one partly outside the scan counts by its part inside, one that lies
    in two windows counts twice.

    Raises:
        SeriesFailed: `NON_FINITE_FEATURES`.
    """
    windows, (low, high) = encoding.windows, preprocessing.window_hu
    error = simple = counted = 0.0
    made = decoder.run(encoding.taps["mu"].windows)
    for window, decoded, inside in zip(windows.voxels[:, 0], made, _inside(windows, preprocessing), strict=True):
        error += _weighted(np.abs(decoded - window), inside)
        simple += _weighted(np.abs(block_means(window, inside) - window), inside)
        counted += math.prod(float(axis.sum()) for axis in inside)
    mae_hu = (high - low) * error / counted
    if not np.isfinite(mae_hu):
        text = "the decoder gives NaN or infinity; expected finite numbers: check the bundle"
        raise SeriesFailed("NON_FINITE_FEATURES", text)
    return ReconstructionError(mae_hu, mae_hu / max((high - low) * simple / counted, _LEAST_HU))


def block_means(window: NDArray[np.float32], inside: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    """Return a window in which every voxel is the mean of its block of `BLOCK`³ voxels, or what is left at the ends.

    Args:
        window: float32 (d, h, w).
        inside: fraction of each voxel inside the scan along z, y and x, by which it counts.
    """
    z, y, x = inside
    total: NDArray[np.floating] = window * z[:, None, None] * y[:, None] * x
    weights = [np.add.reduceat(axis, np.arange(0, len(axis), BLOCK), dtype=np.float64) for axis in inside]
    for axis in (2, 1, 0):  # neighbours in memory first: half the time
        total = np.add.reduceat(total, np.arange(0, window.shape[axis], BLOCK), axis=axis, dtype=np.float64)
    weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
    means: NDArray[np.float32] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0).astype(np.float32)
    for axis, length in enumerate(window.shape):
        means = means.repeat(BLOCK, axis=axis).take(np.arange(length), axis=axis)
    return means


def _weighted(values: NDArray[np.float32], inside: tuple[NDArray[np.float32], ...]) -> float:
    """Return the sum of values (d, h, w), each weighed by its part inside the scan."""
    z, y, x = inside
    along_x = (values * x).sum(axis=2, dtype=np.float64)  # no BLAS: its order may vary
    return float(((along_x * y).sum(axis=1) * z).sum())


def _inside(windows: Windows, preprocessing: Preprocessing) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """Yield the fraction of each voxel inside the scan, per window, along z, y and x: float32 (d,), (h,), (w,)."""
    z, y, x = (axis.weights().inside.astype(np.float32) for axis in target_axes(windows.volume, preprocessing))
    depth = windows.voxels.shape[2]
    for start in windows.starts:
        yield z[start : start + depth], y, x


def _verdict(standing: Standing, enough: bool) -> Verdict:
    if not enough:
        return "undetermined"
    return "out_of_distribution" if standing.p <= ALPHA else "in_distribution"


def _too_few(population: Population) -> str:
    n = population.patients
    return f"{n} reference patients allow no p below {population.smallest_p:.2g}; at least {LEAST_PATIENTS} are needed"


def _reasons(
    standing: Standing, population: Population, error: ReconstructionError | None, encoding: Encoding
) -> Iterator[str]:
    """Yield one line on p, and one on each value that alone is as unlikely as the verdict requires."""
    unlikely, n = standing.p <= ALPHA, population.patients
    found = f"p {standing.p:.2g} is {'at most' if unlikely else 'above'} {ALPHA:g}"
    yield f"{found}; {n} reference patients allow no p below {population.smallest_p:.2g}"
    if not unlikely:
        return
    parts = standing.latent, standing.reconstruction, standing.outlier, standing.orientation
    beyond = min(-math.log(ALPHA), max(parts))
    if standing.latent >= beyond:
        comparison = f"farther from the reference patients than {standing.latent_below:.0f} % of them from each other"
        yield f"mu is {comparison}: Mahalanobis distance {standing.distance:.3g}"
    if error is not None and population.error_ratios is not None and standing.reconstruction >= beyond:
        low, high = population.error_ratios.min(), population.error_ratios.max()
        beside = f"{error.ratio:.3g} times that of plain block means; of the reference patients {low:.3g} to {high:.3g}"
        yield f"reconstruction error {error.mae_hu:.3g} HU, {beside}"
    if encoding.outlier is not None and population.outliers is not None and standing.outlier >= beyond:
        yield f"it is less like a patient than {_beside('outlier', encoding.outlier, population.outliers)}"
    if encoding.orientation is not None and population.orientations is not None and standing.orientation >= beyond:
        beside = _beside("orientation", encoding.orientation, population.orientations)
        yield f"it is more likely to lie upside down or back to front than {beside}"


def _beside(name: str, score: float, theirs: NDArray[np.float64]) -> str:
    """Return how many reference patients have a smaller score, with all these scores."""
    smaller, range_of = np.count_nonzero(theirs < score), f"{theirs.min():.3g} to {theirs.max():.3g}"
    return f"{smaller} of {len(theirs)} reference patients: {name} score {score:.3g}, theirs {range_of}"


def _percentiles(standing: Standing) -> Percentiles:
    reconstruction, outlier = standing.reconstruction_below, standing.outlier_below
    orientation = standing.orientation_below
    return Percentiles(
        combined=shortest_double(standing.combined_below),
        latent=shortest_double(standing.latent_below),
        reconstruction=None if reconstruction is None else shortest_double(reconstruction),
        outlier=None if outlier is None else shortest_double(outlier),
        orientation=None if orientation is None else shortest_double(orientation),
        mu=standing.mu_below.astype(np.float32),
        sigma=standing.sigma_below.astype(np.float32),
    )
