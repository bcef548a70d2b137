"""Patients as the unit of chance: folds and bootstrap samples by patient, never by window.

Windows of one patient overlap and resemble each other; a fold or an interval that treats them as independent is too
good to be true.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000


class Interval(NamedTuple):
    """A figure and its 95 % interval: the 2.5th and 97.5th percentile over bootstrap samples of patients."""

    value: float
    low: float
    high: float


def numbered(patients: ArrayLike) -> NDArray[np.intp]:
    """Return each window's patient as a number from 0, in the order of the patients' names: intp (n,)."""
    return np.unique(np.asarray(patients), return_inverse=True)[1].reshape(-1)


def patient_folds(
    patients: ArrayLike, folds: int, seed: int, among: NDArray[np.bool_] | None = None
) -> list[NDArray[np.bool_]]:
    """Return masks of the windows to test on, bool (n,), at most `folds`: each patient is in one of them.

    Args:
        patients: (n,).
        folds: maximum number of folds.
        seed: seed of the draw.
        among: bool (n,): windows of the patients to test on; by default all.

    Raises:
        ValueError: there are fewer than two patients.
    """
    patient = numbered(patients)
    count = int(patient.max()) + 1 if patient.size else 0
    if count < 2:
        raise ValueError(f"{count} patients; cross-validation by patient needs at least two")
    tested = np.arange(count) if among is None else np.unique(patient[among])
    order = np.random.default_rng(seed).permutation(tested)
    return [np.isin(patient, part) for part in np.array_split(order, min(folds, len(tested)))]


def sample_counts(patients: int, resamples: int, seed: int) -> Floats:
    """Return how often each bootstrap sample draws each patient: (resamples, patients)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)


def sums_by_patient(values: NDArray[Any], patients: ArrayLike) -> Floats:
    """Return sums over each patient's windows: (patients, …) of (n, …)."""
    patient = numbered(patients)
    sums = np.zeros((int(patient.max()) + 1, *values.shape[1:]))
    np.add.at(sums, patient, values)
    return sums


def firsts(values: NDArray[Any], patients: ArrayLike) -> NDArray[Any]:
    """Return the first value of each patient, in the order of `numbered`: (patients, …) of (n, …)."""
    return values[np.unique(np.asarray(patients), return_index=True)[1]]


def interval(value: float, resampled: NDArray[Any]) -> Interval:
    """Return a value with the percentiles of its bootstrap samples; samples that are NaN are left out."""
    finite = resampled[np.isfinite(resampled)]
    if not finite.size:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.percentile(finite, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def mean_interval(values: NDArray[Any], patients: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean over windows, (n,), and its interval."""
    values = np.asarray(values, np.float64)
    sums = sums_by_patient(np.stack([values, np.ones_like(values)], axis=1), patients)
    total = sample_counts(len(sums), resamples, seed) @ sums
    return interval(float(values.mean()), total[:, 0] / total[:, 1])
