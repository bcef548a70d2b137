"""Whether to trust the features of a series: its rank among the reference patients of its bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
    error_hu = None if decoder is None else reconstruction_mae_hu(encoding, decoder, preprocessing)
    mu, sigma = (encoding.taps[name].values.astype(np.float64) for name in ("mu", "sigma"))
    standing = stand(population, mu, sigma, error_hu)
    enough = population.patients >= LEAST_PATIENTS
    return Reliability(
        verdict=_verdict(standing, enough),
        reasons=tuple(_reasons(standing, population, error_hu)) if enough else (_too_few(population),),
        n_reference=population.patients,
        p_conformal=shortest_double(standing.p) if enough else None,
        mahalanobis=shortest_double(standing.distance),
        reconstruction_mae_hu=None if error_hu is None else shortest_double(error_hu),
        real_fraction=shortest_double(float(np.mean(encoding.windows.real_fraction, dtype=np.float64))),
        percentiles=_percentiles(standing),
        reference_sha256=reference.sha256,
    )


def reconstruction_mae_hu(encoding: Encoding, decoder: Decoder, preprocessing: Preprocessing) -> float:
    """Return the mean absolute error of the decoder's reconstruction from each window's mu, in HU.

    The mean is over the real voxels of all windows; one partly outside the scan counts by its part inside, one that
    lies in two windows counts twice.

    Raises:
        SeriesFailed: `NON_FINITE_FEATURES`.
    """
    windows, (low, high) = encoding.windows, preprocessing.window_hu
    total, counted = 0.0, 0.0
    made = decoder.run(encoding.taps["mu"].windows)
    for window, decoded, (z, y, x) in zip(windows.voxels[:, 0], made, _inside(windows, preprocessing), strict=True):
        along_x = (np.abs(decoded - window) * x).sum(axis=2, dtype=np.float64)  # no BLAS: its order may vary
        total += float(((along_x * y).sum(axis=1) * z).sum())
        counted += float(z.sum() * y.sum() * x.sum())
    error_hu = (high - low) * total / counted
    if not np.isfinite(error_hu):
        text = "the decoder gives NaN or infinity; expected finite numbers: check the bundle"
        raise SeriesFailed("NON_FINITE_FEATURES", text)
    return error_hu


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


def _reasons(standing: Standing, population: Population, error_hu: float | None) -> Iterator[str]:
    """Yield one line on p, and one on each value that alone is as unlikely as the verdict requires."""
    unlikely, n = standing.p <= ALPHA, population.patients
    found = f"p {standing.p:.2g} is {'at most' if unlikely else 'above'} {ALPHA:g}"
    yield f"{found}; {n} reference patients allow no p below {population.smallest_p:.2g}"
    if not unlikely:
        return
    beyond = min(-math.log(ALPHA), max(standing.latent, standing.reconstruction))
    if standing.latent >= beyond:
        comparison = f"farther from the reference patients than {standing.latent_below:.0f} % of them from each other"
        yield f"mu is {comparison}: Mahalanobis distance {standing.distance:.3g}"
    if population.errors_hu is not None and standing.reconstruction >= beyond:
        low, high = population.errors_hu.min(), population.errors_hu.max()
        yield f"reconstruction error {error_hu:.3g} HU; of the reference patients {low:.3g} to {high:.3g} HU"


def _percentiles(standing: Standing) -> Percentiles:
    reconstruction = standing.reconstruction_below
    return Percentiles(
        combined=shortest_double(standing.combined_below),
        latent=shortest_double(standing.latent_below),
        reconstruction=None if reconstruction is None else shortest_double(reconstruction),
        mu=standing.mu_below.astype(np.float32),
        sigma=standing.sigma_below.astype(np.float32),
    )
