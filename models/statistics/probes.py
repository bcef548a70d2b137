"""What features know: ridge probes to quantities, cross-validated by patient. `label_probes.py` has those to labels.

A probe is a ridge regression (Hoerl and Kennard 1970, doi 10.1080/00401706.1970.10488634) on standardised features. Its
penalty is chosen within each training fold, again by patient, so that test patients have no influence; means and
deviations are those of the training fold. R² is pooled over all out-of-fold predictions,

    R² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)²,

and is below 0 where a probe is worse than the mean of y. It comes with the same probe on shuffled targets and an
interval
over bootstrap samples of patients: of the mean squared error over the variance of y in all windows. That denominator is
the same in each sample: a sample with hardly any variance could otherwise give any R². All targets that the same
windows have share one singular value decomposition per fold; eleven targets on a hundred windows take well below a
second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import (
    RESAMPLES,
    Interval,
    interval,
    numbered,
    patient_folds,
    sample_counts,
    sums_by_patient,
)

Floats = NDArray[np.float64]

PENALTIES = np.logspace(-4, 4, 17)
"""Candidates for the ridge's alpha, per training window: alpha is this times their number."""

FOLDS, INNER_FOLDS, SHUFFLES = 10, 5, 10

STEADY = 0.05
"""Minimum variation of the scored windows, as a fraction of the standard deviation over all windows: below it there is
nothing to predict, R² would divide by next to nothing, and the quantity is left out."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One target, predicted from features.

    Attributes:
        score: R² for a quantity; area under the ROC curve for a label.
        shuffled: mean score of the same probe on targets shuffled over windows.
        windows, patients: numbers of those that have the target.
        target, predicted: float64 (n,), NaN where there is no target; for a label, of its last class.
        patient: intp (n,), each window's patient.
    """

    score: Interval
    shuffled: float
    windows: int
    patients: int
    target: Floats
    predicted: Floats
    patient: NDArray[np.intp]


def ridge_probes(
    features: NDArray[Any],
    targets: Mapping[str, ArrayLike],
    patients: ArrayLike,
    *,
    scored: ArrayLike | None = None,
    folds: int = FOLDS,
    shuffles: int = SHUFFLES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Probe]:
    """Return a probe to each target.

    Args:
        features: (n, k), finite.
        targets: name → (n,), NaN where a window has none. A target without variance, or that only one patient has, is
            left out of the result.
        patients: (n,), anything that identifies them.
        scored: bool (n,), windows of the patients to predict; those of the others only help to learn. By default all.
            With a dozen test patients, a probe that learns from eleven says more about the dozen than about the
            features.
        folds: maximum number of folds of the outer cross-validation; the inner one has `INNER_FOLDS`.
        shuffles: number of shuffled copies of each target to probe.
        resamples: number of bootstrap samples of patients.
        seed: seed of folds, shuffles and samples.
    """
    x, patient = np.asarray(features, np.float64), numbered(patients)
    to_score = np.ones(len(x), bool) if scored is None else np.asarray(scored, bool)
    found: dict[str, Probe] = {}
    for present, names in _by_presence(
        {name: np.asarray(y, np.float64) for name, y in targets.items()}, patient, to_score
    ):
        y = np.stack([np.asarray(targets[name], np.float64)[present] for name in names], axis=1)
        judged = to_score[present]
        rng = np.random.default_rng(seed)
        mixed = [y[rng.permutation(len(y))] for _ in range(shuffles)]
        stacked = np.concatenate([y, *mixed], axis=1)
        predicted = out_of_fold(x[present], stacked, patient[present], scored=judged, folds=folds, seed=seed)
        rest = slice(len(names), None)
        control = pooled_r2(stacked[judged, rest], predicted[judged, rest]).reshape(shuffles, len(names))
        for column, name in enumerate(names):
            target = spread(np.where(judged, y[:, column], np.nan), present)
            guess = spread(predicted[:, column], present)
            sums = r2_sums(target, guess, patient)
            sums = sums[sums[:, 1] > 0]
            found[name] = Probe(
                score=interval(*r2_of_samples(sums, sample_counts(len(sums), resamples, seed))),
                shuffled=float(control[:, column].mean()) if shuffles else float("nan"),
                windows=int(judged.sum()),
                patients=len(np.unique(patient[present][judged])),
                target=target,
                predicted=guess,
                patient=patient,
            )
    return {name: found[name] for name in targets if name in found}


def mean_score(probes: Mapping[str, Probe], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean R² over targets; each bootstrap sample of patients is the same for all of them."""
    return _mean_difference(probes, None, resamples, seed)


def score_difference(
    probes: Mapping[str, Probe], others: Mapping[str, Probe], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the difference in mean R², over the targets of both, from other features of the same windows.

    It is paired: each bootstrap sample of patients is the same for both.

    Raises:
        ValueError: the windows differ, or no target is common.
    """
    return _mean_difference(probes, others, resamples, seed)


def out_of_fold(
    x: Floats,
    y: Floats,
    patients: ArrayLike,
    *,
    scored: NDArray[np.bool_] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> Floats:
    """Return predictions of (n, m) targets, each by a ridge that saw no window of its patient.

    They are NaN where `scored` is false: such windows only help to learn.

    Raises:
        ValueError: there are fewer than two patients.
    """
    patient = numbered(patients)
    weight = np.ones(len(x))
    predicted = np.full_like(y, np.nan)
    for test in patient_folds(patient, folds, seed, scored):
        train = ~test
        best = best_penalty(x[train], y[train], patient[train], weight[train], seed)
        path = ridge_path(x[train], y[train], weight[train], x[test])
        predicted[test] = np.take_along_axis(path, best[None, None, :], axis=0)[0]
    return predicted


def pooled_r2(y: Floats, predicted: Floats) -> Floats:
    """Return R² of each column, (m,), of (n, m)."""
    return np.asarray(1 - np.square(y - predicted).sum(axis=0) / np.square(y - y.mean(axis=0)).sum(axis=0), np.float64)


def best_penalty(x: Floats, y: Floats, patient: NDArray[np.intp], weight: Floats, seed: int) -> NDArray[np.intp]:
    """Return the index of the best of `PENALTIES` for each target, (m,); with one patient there is no choice."""
    if len(np.unique(patient)) < 2:
        return np.full(y.shape[1], len(PENALTIES) // 2)
    errors = np.zeros((len(PENALTIES), y.shape[1]))
    for test in patient_folds(patient, INNER_FOLDS, seed + 1):
        path = ridge_path(x[~test], y[~test], weight[~test], x[test])
        errors += (weight[test, None] * np.square(path - y[test])).sum(axis=1)
    return np.asarray(errors.argmin(axis=0), np.intp)


def ridge_path(x: Floats, y: Floats, weight: Floats, at: Floats) -> Floats:
    """Return predictions at (t, k) for every penalty, (penalties, t, m); features as standardised in training."""
    share = (weight / weight.sum())[:, None]
    centre, middle = (share * x).sum(axis=0), (share * y).sum(axis=0)
    deviation = np.sqrt((share * np.square(x - centre)).sum(axis=0))
    deviation[deviation < 1e-12 * (1 + np.abs(centre))] = np.inf  # a constant carries no information
    root = np.sqrt(share)
    train, query = root * (x - centre) / deviation, (at - centre) / deviation
    if x.shape[1] <= len(x):
        u, s, vt = np.linalg.svd(train, full_matrices=False)
        along, eigenvalues = (query @ vt.T) * s, np.square(s)
    else:  # wide features: the same through their products, n × n
        eigenvalues, u = np.linalg.eigh(train @ train.T)
        along = (query @ train.T) @ u
    shrunk = 1 / (np.maximum(eigenvalues, 0) + PENALTIES[:, None])
    loadings = u.T @ (root * (y - middle))
    return np.asarray((along * shrunk[:, None, :]) @ loadings + middle, np.float64)


def _by_presence(
    targets: Mapping[str, Floats], patient: NDArray[np.intp], scored: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.bool_], list[str]]]:
    """Yield targets that the same windows have, together, without those that cannot be probed."""
    groups: dict[bytes, tuple[NDArray[np.bool_], list[str]]] = {}
    for name, y in targets.items():
        present = np.isfinite(y)
        judged = present & scored
        if len(np.unique(patient[present])) >= 2 and judged.any() and y[judged].std() > STEADY * y[present].std():
            groups.setdefault(present.tobytes(), (present, []))[1].append(name)
    yield from groups.values()


def spread(values: Floats, present: NDArray[np.bool_]) -> Floats:
    """Return the values at the windows that have them; NaN at the others."""
    whole = np.full(len(present), np.nan)
    whole[present] = values
    return whole


def r2_sums(y: Floats, predicted: Floats, patient: NDArray[np.intp]) -> Floats:
    """Return by patient: Σ(y - ŷ)², count, Σy, Σy²; y has its mean subtracted, for numerical precision."""
    centred = y - np.nanmean(y)
    present = np.isfinite(y)
    columns = np.stack([np.square(y - predicted), np.ones_like(y), centred, np.square(centred)], axis=1)
    return sums_by_patient(np.where(present[:, None], columns, 0), patient)


def r2_of_samples(sums: Floats, counts: Floats) -> tuple[float, Floats]:
    """Return R² of all windows, and of each sample of patients; NaN where a sample has no window with the target."""
    error, count, total, squares = sums.sum(axis=0)
    variance = (squares - total**2 / count) / count
    drawn = counts @ sums[:, :2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(1 - error / count / variance), np.asarray(1 - drawn[:, 0] / drawn[:, 1] / variance, np.float64)


def _mean_difference(
    probes: Mapping[str, Probe], others: Mapping[str, Probe] | None, resamples: int, seed: int
) -> Interval:
    names = [name for name in probes if others is None or name in others]
    if not names:
        raise ValueError("no target has a probe on both sides")
    patient = probes[names[0]].patient
    if others is not None and not np.array_equal(patient, others[names[0]].patient):
        raise ValueError("the probes are of different windows; compare features of the same ones")
    known = np.unique(patient[np.isfinite([probes[name].target for name in names]).any(axis=0)])
    counts = sample_counts(len(known), resamples, seed)
    whole, sampled = 0.0, np.zeros(resamples)
    for sign, side in ((1, probes), (-1, others or {})):
        for name in names if side else ():
            sums = r2_sums(side[name].target, side[name].predicted, patient)[known]
            value, drawn = r2_of_samples(sums, counts)
            whole, sampled = whole + sign * value / len(names), sampled + sign * drawn / len(names)
    return interval(whole, sampled)
