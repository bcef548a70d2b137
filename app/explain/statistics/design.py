"""Ranks, columns of a regression, and what is left of them when covariates are taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from app.explain.data.labels import Label

Floats = NDArray[np.float64]

FEW_VALUES: Final = 5
"""A covariate of at most so many different numbers (kVp, thickness) is taken as a category: its effect need not be a
straight line."""

ROWS_PER_COLUMN: Final = 5
"""A covariate is left out where fewer rows would be left for each column of the regression."""


@dataclass(frozen=True, slots=True)
class Covariates:
    """What an adjusted test accounts for.

    Attributes:
        basis: float64 (n, z), orthonormal, of the intercept and the covariates' columns.
        used: their names.
        left_out: name → why.
    """

    basis: Floats
    used: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]

    def taken_out(self, values: Floats) -> Floats:
        """Return what of values (n, …) the covariates do not explain."""
        flat = values.reshape(len(values), -1)
        return np.asarray((flat - self.basis @ (self.basis.T @ flat)).reshape(values.shape), np.float64)


def ranks(values: NDArray[Any]) -> Floats:
    """Return mid-ranks by column, less their mean."""
    ranked = np.asarray(stats.rankdata(np.asarray(values, np.float64), axis=0), np.float64)
    return np.asarray(ranked - ranked.mean(axis=0), np.float64)


def unit(columns: Floats, largest: Floats | None = None) -> Floats:
    """Return columns of length 1; 0 for one that is (next to) nothing, compared to `largest`, its length before."""
    length = np.sqrt(np.square(columns).sum(axis=0))
    least = 1e-9 * (np.maximum(length, 1) if largest is None else largest)
    return np.asarray(np.divide(columns, length, out=np.zeros_like(columns), where=length > least), np.float64)


def label_columns(label: Label) -> Floats:
    """Return the label of rows that all have one as columns (n, q): ranks, or all classes but the first as 0 and 1."""
    if label.kind == "number":
        return ranks(label.values)[:, None]
    classes = label.classes[1:]
    return np.stack([(label.values == one).astype(np.float64) for one in classes], axis=1)


def no_covariates(rows: int) -> Covariates:
    """Return the intercept alone."""
    return Covariates(np.full((rows, 1), 1 / np.sqrt(rows)), (), ())


def covariate_basis(covariates: Sequence[Label], rows: int) -> Covariates:
    """Return the basis of the covariates, taken in their order as long as there are rows enough.

    Numbers enter as ranks, and a row without a number gets the middle rank and a column of its own that says so; a
    category's empty cell is a class.
    """
    columns = [np.ones((rows, 1))]
    used: list[str] = []
    left_out: list[tuple[str, str]] = []
    for covariate in covariates:
        made = _covariate_columns(covariate)
        have = sum(one.shape[1] for one in columns)
        if not made.shape[1]:
            left_out.append((covariate.name, "the same in all rows"))
        elif (have + made.shape[1]) * ROWS_PER_COLUMN > rows:
            text = f"{made.shape[1]} more columns are too many for {rows} rows"
            left_out.append((covariate.name, text))
        else:
            columns.append(made)
            used.append(covariate.name)
    u, s, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    return Covariates(u[:, s > 1e-9 * s[0]], tuple(used), tuple(left_out))


def _covariate_columns(label: Label) -> Floats:
    there = label.there
    if label.kind == "number" and len(np.unique(label.values[there])) > FEW_VALUES:
        middle = np.zeros(len(there))
        middle[there] = ranks(label.values[there])
        return np.stack([middle, *([] if there.all() else [(~there).astype(float)])], axis=1)
    classes = np.unique(np.where(there, label.values.astype(np.str_), ""))
    return np.stack([(label.values.astype(np.str_) == one) & there for one in classes if one], axis=1).astype(
        np.float64
    )[:, 1 if there.all() else 0 :]
