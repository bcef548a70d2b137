"""Whether features repeat when they should. Arrays only.

Repeatability is ICC(A,1) of McGraw and Wong (1996, doi 10.1037/1082-989X.1.1.30): two-way, absolute agreement, one
measurement. Windows are the subjects; the original scan and the changed scan are the raters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import Interval, interval, numbered, sample_counts

Floats = NDArray[np.float64]
_ICC_RESAMPLES = 300


@dataclass(frozen=True, slots=True)
class Repeatability:
    """How well each dimension repeats under changes that should not matter.

    Attributes:
        icc: change → ICC(A,1) by dimension, float64 (k,), of the original and changed window; 0 for a dead dimension.
        mean_icc: change → mean over dimensions.
        mean: mean over changes and dimensions.
        median: median over dimensions of each one's mean over changes.
        within_sd: float64 (k,): deviation of a window's values over all changes and the original, bias included.
        between_sd: float64 (k,): deviation between windows, with that within them removed.
        minimal_detectable_change: float64 (k,): 1.96 · √2 · within_sd. A smaller difference may be due to the changes.
        dead: bool (k,), dimensions that do not vary.
    """

    icc: Mapping[str, Floats]
    mean_icc: Mapping[str, Interval]
    mean: Interval
    median: float
    within_sd: Floats
    between_sd: Floats
    minimal_detectable_change: Floats
    dead: NDArray[np.bool_]


def icc_a1(ratings: ArrayLike) -> Any:
    """Return ICC(A,1): the fraction of variance due to subjects; systematic differences of raters count against it.

        (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n)

    Args:
        ratings: (n, k, …): n ≥ 2 subjects, k ≥ 2 raters; computed for each position of the remaining axes.

    Returns:
        float64 (…); NaN where nothing varies at all. Below 0 where raters differ more than subjects.

    Raises:
        ValueError: there are fewer subjects or raters.
    """
    ratings = np.asarray(ratings, np.float64)
    n, k = ratings.shape[:2]
    if n < 2 or k < 2:
        raise ValueError(f"{n} subjects and {k} raters; ICC needs at least two of each")
    grand = ratings.mean(axis=(0, 1))
    rows, columns = ratings.mean(axis=1) - grand, ratings.mean(axis=0) - grand
    left = ratings - grand - rows[:, None] - columns[None]
    msr = k * np.square(rows).sum(axis=0) / (n - 1)
    msc = n * np.square(columns).sum(axis=0) / (k - 1)
    mse = np.square(left).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n))[()]


def repeatability(
    reference: NDArray[Any],
    changed: Mapping[str, NDArray[Any]],
    patients: ArrayLike,
    *,
    dead_variance: float = 0.0,
    resamples: int = _ICC_RESAMPLES,
    seed: int = 0,
) -> Repeatability:
    """Return the repeatability of features under changes.

    Args:
        reference: (n, k), of the unchanged windows.
        changed: change → (n, k), of the same windows, changed.
        patients: (n,).
        dead_variance: a dimension whose variance over windows is not larger is dead: its ICC counts as 0. Use
            `units.ACTIVE_VARIANCE` for a posterior mean, whose prior has variance 1.
        resamples: number of bootstrap samples of patients, for the intervals.
        seed: seed of the samples.
    """
    reference = np.asarray(reference, np.float64)
    dead = reference.var(axis=0) <= np.maximum(dead_variance, 1e-12 * np.square(reference).mean(axis=0))
    pairs = np.stack(
        [np.stack([reference, np.asarray(features, np.float64)], axis=1) for features in changed.values()], axis=2
    )

    def by_change(chosen: NDArray[Any]) -> Floats:
        return np.where(dead, 0.0, np.nan_to_num(icc_a1(chosen)))

    icc = by_change(pairs)
    samples = [by_change(pairs[rows]) for rows in _patient_samples(patients, resamples, seed)]
    sampled = np.stack(samples) if samples else np.zeros((0, *icc.shape))
    everything = np.stack([reference, *(np.asarray(features, np.float64) for features in changed.values())], axis=1)
    within = np.sqrt(everything.var(axis=1, ddof=1).mean(axis=0))
    between = np.maximum(everything.mean(axis=1).var(axis=0, ddof=1) - within**2 / everything.shape[1], 0)
    return Repeatability(
        icc=dict(zip(changed, icc, strict=True)),
        mean_icc={name: interval(icc[at].mean(), sampled[:, at].mean(axis=1)) for at, name in enumerate(changed)},
        mean=interval(icc.mean(), sampled.mean(axis=(1, 2))),
        median=float(np.median(icc.mean(axis=0))),
        within_sd=within,
        between_sd=np.sqrt(between),
        minimal_detectable_change=1.96 * np.sqrt(2) * within,
        dead=dead,
    )


def _patient_samples(patients: ArrayLike, resamples: int, seed: int) -> list[NDArray[np.intp]]:
    """Return the windows of each bootstrap sample of patients; a single patient gives no intervals."""
    patient = numbered(patients)
    count = int(patient.max()) + 1
    if count < 2:
        return []
    windows = [np.flatnonzero(patient == number) for number in range(count)]
    drawn = sample_counts(count, resamples, seed).astype(int)
    rows = (np.concatenate([np.tile(windows[at], times) for at, times in enumerate(each)]) for each in drawn)
    return [chosen for chosen in rows if len(chosen) >= 2]
