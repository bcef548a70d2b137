"""How much of the features is patient and how much is acquisition, and what harmonising takes away."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.statistics.group_variance import standardised
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


class Shares(NamedTuple):
    """Shares of the features' variance, the mean over features, from patients with two or more series alone."""

    patient: Interval
    series: Interval
    patients: int


def variance_shares(features: NDArray[Any], patients: NDArray[np.str_], *, seed: int = 0) -> Shares | None:
    """Split the variance into that between patients and that between series of one patient.

    One-way analysis of variance (method of moments) of each standardised feature; shares are of the sum, not below 0.

    Returns:
        None where fewer than three patients have two or more series: then they cannot be separated.
    """
    of = numbered(patients)
    several = np.isin(of, np.flatnonzero(np.bincount(of) > 1))
    of = numbered(of[several])
    count = int(of.max()) + 1 if of.size else 0
    if count < 3:
        return None
    x = standardised(np.asarray(features)[several])
    sizes = np.bincount(of).astype(np.float64)
    sums, squares = sums_by_patient(x, of), sums_by_patient(np.square(x), of)
    everyone = np.ones((1, count))
    drawn = _between_share(sample_counts(count, RESAMPLES, seed), sizes, sums, squares)
    whole = float(_between_share(everyone, sizes, sums, squares)[0])
    return Shares(interval(whole, drawn), interval(1 - whole, 1 - drawn), count)


def _between_share(counts: Floats, sizes: Floats, sums: Floats, squares: Floats) -> Floats:
    """The share between patients for each of the draws (b, patients); a patient drawn twice is two patients."""
    rows, groups = counts @ sizes, counts.sum(axis=1)
    total, within = counts @ sums, counts @ (squares - np.square(sums) / sizes[:, None])
    between = counts @ (np.square(sums) / sizes[:, None]) - np.square(total) / rows[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = within / (rows - groups)[:, None]
        typical = (rows - counts @ np.square(sizes) / rows) / (groups - 1)
        outside = np.maximum(0, (between / (groups - 1)[:, None] - inside) / typical[:, None])
        return np.asarray(np.nanmean(outside / (outside + inside), axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class Distances:
    """Between scans of one patient and of different patients, in standardised features.

    Attributes:
        within, between: medians.
        found: how often the nearest other scan is of the same patient, over scans that have another one.
        chance: what guessing would give.
        scans: that have another one of the same patient.
        within_all, between_all: all of them, for a picture.
    """

    within: float
    between: float
    found: Interval
    chance: float
    scans: int
    within_all: Floats
    between_all: Floats


def repeat_distances(features: NDArray[Any], patients: NDArray[np.str_], *, seed: int = 0) -> Distances | None:
    """Compare distances; None where no patient has two series, or there is one patient only."""
    of = numbered(patients)
    x = standardised(features)
    apart = np.sqrt(np.maximum(0, np.square(x).sum(axis=1)[:, None] + np.square(x).sum(axis=1)[None] - 2 * x @ x.T))
    same = of[:, None] == of[None]
    np.fill_diagonal(same, False)
    if not same.any() or len(np.unique(of)) < 2:
        return None
    has = same.any(axis=1)
    np.fill_diagonal(apart, np.inf)
    hits = of[apart.argmin(axis=1)] == of
    sums = sums_by_patient(np.stack([hits & has, has], axis=1), of)
    drawn = sample_counts(len(sums), RESAMPLES, seed) @ sums
    with np.errstate(invalid="ignore"):
        found = interval(float(hits[has].mean()), drawn[:, 0] / drawn[:, 1])
    upper = np.triu(np.ones_like(same), 1)
    within, between = apart[same & upper], apart[~same & upper]
    chance = float((same.sum(axis=1)[has] / (len(of) - 1)).mean())
    return Distances(
        float(np.median(within)), float(np.median(between)), found, chance, int(has.sum()), within, between
    )


Harmonise = Callable[[Floats, NDArray[np.str_], Floats, NDArray[np.str_]], Floats]
"""(features and batches to learn from, features and batches to apply to) → harmonised features of the latter."""


def combat(x: Floats, batch: NDArray[np.str_], at: Floats, at_batch: NDArray[np.str_]) -> Floats:
    """Johnson's ComBat (2007, doi 10.1093/biostatistics/kxj037), learned once, applied to cases one by one."""
    import pandas as pd
    from combatlearn.core import ComBatModel

    names = [str(k) for k in range(x.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows per batch, which the report says itself
        model = ComBatModel(method="johnson")
        model.fit(pd.DataFrame(x, columns=names), batch=pd.Series(batch))
        return np.asarray(model.transform(pd.DataFrame(at, columns=names), batch=pd.Series(at_batch)), np.float64)


def projection(x: Floats, batch: NDArray[np.str_], at: Floats, at_batch: NDArray[np.str_]) -> Floats:
    """Take out the directions in which the means of batches differ; a new case needs no batch for it."""
    classes = np.unique(batch)
    centre, deviation = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    means = np.stack([((x - centre) / deviation)[batch == one].mean(axis=0) for one in classes])
    _, s, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    taken = directions[s > 1e-9 * max(s[0], 1e-300)][: len(classes) - 1]
    scaled = (at - centre) / deviation
    return np.asarray((scaled - scaled @ taken.T @ taken) * deviation + centre, np.float64)


def harmonised(
    x: NDArray[Any], batch: NDArray[np.str_], patients: NDArray[np.str_], how: Harmonise, seed: int
) -> Floats:
    """Return each row harmonised by what was learned without its patient; an unknown batch stays as it is."""
    wide, of = np.asarray(x, np.float64), numbered(patients)
    made = wide.copy()
    for test in patient_folds(of, 5, seed):
        known = np.isin(batch, [one for one in np.unique(batch) if (batch[~test] == one).sum() > 1])
        learn, apply = ~test & known, test & known
        if len(np.unique(batch[learn])) > 1 and apply.any():
            made[apply] = how(wide[learn], batch[learn], wide[apply], batch[apply])
    return made
