"""Other statistics of the strongest pairs: looked at after the primary one, raw p only, and so no proof of anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from app.explain.data.labels import Label
from app.explain.statistics.associations import Association
from app.explain.statistics.design import Floats
from models.statistics.patients import Interval, interval, numbered, sample_counts

STRONGEST: Final = 50
GROUPS: Final = 4
RESAMPLES: Final = 1000
MOST_DISTANCES: Final = 1000
"""Rows: of more, so many are drawn for the distance correlation, which needs the distance of every two."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances between rows, (n, n): doubly centred, and U-centred with a diagonal of 0."""

    centred: Floats
    unbiased: Floats


@dataclass(frozen=True, slots=True)
class Pair:
    """One feature and one label.

    Attributes:
        linear: Pearson's r; of a category the share of the variance between its classes (eta squared).
        distance: distance correlation (Székely et al. 2007, doi 10.1214/009053607000000505), 0 where independent.
        information: mutual information in nats, of quarters of the feature on quarters (or classes) of the label.
        spearman: the primary statistic's interval over bootstrap samples of patients; of numbers only.
    """

    feature: int
    linear: float
    linear_p: float
    distance: float
    distance_p: float
    information: float
    information_p: float
    interval: Interval | None


def strongest_pairs(
    features: NDArray[Any], association: Association, patients: NDArray[np.str_], *, most: int = STRONGEST
) -> tuple[Pair, ...]:
    """Return the features with the strongest primary statistic, the strongest first."""
    there = association.label.there
    label, patient_of = association.label.rows(there), numbered(patients[there])
    order = np.argsort(-np.abs(association.raw.statistic), kind="stable")[:most]
    chosen = np.asarray(features, np.float64)[there][:, order]
    return tuple(_pairs(order, chosen, label, patient_of))


def _pairs(order: NDArray[np.intp], features: Floats, label: Label, patient_of: NDArray[np.intp]) -> Iterator[Pair]:
    classes = np.unique(label.values, return_inverse=True)[1] if label.kind == "category" else None
    y = np.eye(int(classes.max()) + 1)[classes] if classes is not None else np.asarray(label.values, float)[:, None]
    groups = classes if classes is not None else _quarters(label.values)
    near = np.random.default_rng(0).permutation(len(y))[:MOST_DISTANCES]
    apart = distances(y[near])
    counts = sample_counts(int(patient_of.max()) + 1, RESAMPLES, 0)[:, patient_of] if classes is None else None
    for at, x in zip(order.tolist(), features.T, strict=True):
        if x.std() == 0:
            yield Pair(at, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, None)
            continue
        linear = stats.pearsonr(x, y[:, 0]) if classes is None else _eta(x, classes)
        distance = distance_correlation(distances(x[near, None]), apart)
        table = np.zeros((GROUPS, int(groups.max()) + 1))
        np.add.at(table, (_quarters(x), groups), 1)
        table = table[table.any(axis=1)][:, table.any(axis=0)]
        shared = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
        yield Pair(
            at,
            float(linear[0]),
            float(linear[1]),
            *distance,
            float(shared.statistic / (2 * len(x))),
            float(shared.pvalue),
            _bootstrapped(x, y[:, 0], counts) if counts is not None else None,
        )


def distance_correlation(x: Distances, y: Distances) -> tuple[float, float]:
    """Return the distance correlation, and p of the test of Shen et al. (2022, doi 10.1080/10618600.2021.1938585).

    The test is chi squared of the bias-corrected statistic; it is conservative.
    """
    variance = np.sqrt((x.centred**2).mean() * (y.centred**2).mean())
    spread = np.sqrt(np.sum(x.unbiased**2) * np.sum(y.unbiased**2))
    if variance <= 0 or spread <= 0:
        return 0.0, 1.0
    r2 = max(0.0, float((x.centred * y.centred).mean() / variance))
    corrected = float(np.sum(x.unbiased * y.unbiased) / spread)
    return float(np.sqrt(r2)), float(stats.chi2.sf(len(x.centred) * corrected + 1, 1))


def distances(values: Floats) -> Distances:
    """Return the Euclidean distances between rows (n, d), n at least 4, centred in both ways."""
    apart = np.sqrt(np.maximum(0, np.square(values[:, None] - values[None]).sum(axis=2)))
    n, sums = len(apart), apart.sum(axis=0)
    centred = apart - sums / n - sums[:, None] / n + sums.sum() / n**2
    unbiased = apart - sums / (n - 2) - sums[:, None] / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(unbiased, 0)
    return Distances(centred, unbiased)


def _quarters(values: ArrayLike) -> NDArray[np.intp]:
    ranked = stats.rankdata(values, method="average")
    return np.asarray(np.minimum(GROUPS - 1, np.floor((ranked - 0.5) / len(ranked) * GROUPS)), np.intp)


def _eta(x: Floats, classes: NDArray[np.intp]) -> tuple[float, float]:
    groups = [x[classes == one] for one in range(int(classes.max()) + 1)]
    between = sum(len(one) * (one.mean() - x.mean()) ** 2 for one in groups)
    return float(between / np.square(x - x.mean()).sum()), float(stats.f_oneway(*groups).pvalue)


def _bootstrapped(x: Floats, y: Floats, counts: Floats) -> Interval:
    """Return Spearman's rho of ranks over all rows, weighted by how often each patient is drawn, with its interval."""
    rx, ry = stats.rankdata(x), stats.rankdata(y)
    total = counts.sum(axis=1)

    def mean(values: Floats) -> Floats:
        return np.asarray(counts @ values / total, np.float64)

    covariance = mean(rx * ry) - mean(rx) * mean(ry)
    variance = (mean(rx * rx) - mean(rx) ** 2) * (mean(ry * ry) - mean(ry) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(float(np.corrcoef(rx, ry)[0, 1]), covariance / np.sqrt(variance))
