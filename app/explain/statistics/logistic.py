"""Logistic ridge regression, many at once: as many labels, shuffled ones among them, as one matrix of features has."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.statistics.patients import patient_folds

Floats = NDArray[np.float64]

PENALTIES: Final = np.logspace(-3, 1, 5)
"""λ of: mean loss + λ/2 · |slopes|², features standardised."""

INNER_FOLDS: Final = 3

_STEPS, _STEEPEST = 15, 30.0


def nested_scores(x: Floats, y: NDArray[np.bool_], patients: NDArray[np.intp], train: NDArray[np.bool_]) -> Floats:
    """Return scores (m, n) of all rows for labels y (m, n), by the penalty that is best inside of the training part.

    Args:
        x: (n, k), standardised.
        y: bool (m, n).
        patients: (n,): inner folds are by patient.
        train: bool (n,).
    """
    rows = np.flatnonzero(train)
    loss = np.zeros((len(y), len(PENALTIES)))
    for test in patient_folds(patients[rows], INNER_FOLDS, 1):
        learn, check = rows[~test], rows[test]
        for at, penalty in enumerate(PENALTIES):
            score = _scores(x, fit(x[learn], y[:, learn], float(penalty)))[:, check]
            each = _weights(y[:, check]) * np.logaddexp(0, np.where(y[:, check], -score, score))
            loss[:, at] += each.sum(axis=1)
    best = loss.argmin(axis=1)
    scores = np.empty(y.shape)
    for at in np.unique(best):
        chosen = best == at
        scores[chosen] = _scores(x, fit(x[rows], y[chosen][:, rows], float(PENALTIES[at])))
    return scores


def fit(x: Floats, y: NDArray[np.bool_], penalty: float) -> Floats:
    """Return intercept and slopes (m, 1 + k) of labels y (m, n), both classes with one weight; by Newton's method."""
    columns = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    weight, found = _weights(y), np.zeros((len(y), columns.shape[1]))
    ridge = np.eye(columns.shape[1]) * penalty
    ridge[0, 0] = 1e-9
    for _ in range(_STEPS):
        score = np.clip(found @ columns.T, -_STEEPEST, _STEEPEST)
        chance = 1 / (1 + np.exp(-score))
        slope = (weight * (chance - y)) @ columns + found @ ridge
        curve = (weight * chance * (1 - chance))[:, :, None] * columns
        step = np.linalg.solve(curve.transpose(0, 2, 1) @ columns + ridge, slope[:, :, None])[:, :, 0]
        found = found - step
        if np.abs(step).max() < 1e-5:
            break
    return found


def _scores(x: Floats, found: Floats) -> Floats:
    return np.asarray(found[:, :1] + found[:, 1:] @ x.T, np.float64)


def _weights(y: NDArray[np.bool_]) -> Floats:
    """Return the weight of each row: each class has half of the sum 1; a class without rows has none."""
    ones = y.sum(axis=1, keepdims=True)
    share = np.where(y, 0.5 / np.maximum(ones, 1), 0.5 / np.maximum(y.shape[1] - ones, 1))
    return np.asarray(share, np.float64)
