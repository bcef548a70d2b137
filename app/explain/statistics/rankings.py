"""Classes told apart by scores: folds of patients, rankings within the folds, and their area under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.explain.statistics.logistic import nested_scores
from models.statistics.patients import firsts
from models.statistics.rivals import principal_components

Floats = NDArray[np.float64]

COMPONENTS: Final = 32
FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which of two patients of different classes scored higher, for every pair of rows in a test fold.

    Attributes:
        first, second: intp (p,): patients; the first is of the class.
        right: (p,): 1 where the first scored higher, 0.5 for a tie.
        patients: how many there are.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    right: Floats
    patients: int

    def auc(self, counts: Floats | None = None) -> Floats:
        """Return the AUC of each bootstrap sample of patients (b, patients); of all of them without one."""
        if counts is None:
            return np.array([self.right.mean()])
        weight = counts[:, self.first] * counts[:, self.second]
        with np.errstate(invalid="ignore"):
            return np.asarray((weight @ self.right) / weight.sum(axis=1), np.float64)


def macro_auc(rankings: Sequence[Ranking], counts: Floats | None = None) -> Floats:
    """Return the mean over classes, of each bootstrap sample of patients."""
    return np.asarray(np.mean([one.auc(counts) for one in rankings], axis=0), np.float64)


def class_folds(
    y: NDArray[Any], patient_of: NDArray[np.intp], seed: int, *, folds: int = FOLDS
) -> list[NDArray[np.bool_]]:
    """Return masks of rows to test on; every fold has as many patients of each class (a patient's first), or one more.

    Args:
        y: (n,), classes.
        patient_of: (n,): patients, numbered from 0.
        seed: of the draw.
        folds: how many.
    """
    rng = np.random.default_rng(seed)
    first = firsts(y, patient_of)
    shuffled = rng.permutation(len(first))
    dealt = np.empty(len(first), np.intp)
    dealt[shuffled[np.argsort(first[shuffled], kind="stable")]] = np.arange(len(first)) % folds
    return [dealt[patient_of] == fold for fold in range(folds)]


def ranked(
    x: Floats,
    labels: NDArray[Any],
    folds: list[NDArray[np.bool_]],
    patient_of: NDArray[np.intp],
    classes: tuple[str, ...],
) -> list[list[Ranking]]:
    """Return for each of labels (m, n) a ranking for each class against the rest; for two classes one in all."""
    positives = classes[1:] if len(classes) == 2 else classes
    y = np.concatenate([labels == one for one in positives])
    patients = int(patient_of.max()) + 1
    parts: list[list[Ranking]] = [[] for _ in y]
    for test in folds:
        usable = [
            at for at in range(len(y)) if 0 < y[at][test].sum() < test.sum() and 0 < y[at][~test].sum() < (~test).sum()
        ]
        if not usable:
            continue
        scores = nested_scores(_prepared(x, test), y[usable], patient_of, ~test)
        for at, score in zip(usable, scores, strict=True):
            ones, zeros = np.flatnonzero(test & y[at]), np.flatnonzero(test & ~y[at])
            right = 0.5 + 0.5 * np.sign(score[ones][:, None] - score[zeros][None])
            first, second = np.repeat(patient_of[ones], len(zeros)), np.tile(patient_of[zeros], len(ones))
            parts[at].append(Ranking(first, second, right.reshape(-1), patients))
    made = [joined(one, patients) for one in parts]
    return [made[at :: len(labels)] for at in range(len(labels))]


def joined(parts: Sequence[Ranking], patients: int) -> Ranking:
    """Return the rankings of several folds as one."""
    if not parts:
        return Ranking(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0), patients)
    first, second, right = ([getattr(one, name) for one in parts] for name in ("first", "second", "right"))
    return Ranking(np.concatenate(first), np.concatenate(second), np.concatenate(right), patients)


def _prepared(x: Floats, test: NDArray[np.bool_]) -> Floats:
    """Standardise as in the training part; more than 32 columns become components of it, each of variance 1."""
    train = x[~test]
    deviation = train.std(axis=0)
    varies = deviation > 1e-9 * (1 + np.abs(train.mean(axis=0)))
    scaled = (x[:, varies] - train[:, varies].mean(axis=0)) / deviation[varies]
    if scaled.shape[1] > COMPONENTS:
        scaled = principal_components(scaled[~test], COMPONENTS)(scaled)
        scaled = scaled / scaled[~test].std(axis=0)
    return np.asarray(scaled, np.float64)
