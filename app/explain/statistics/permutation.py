"""Permutations of whole patients, and the largest statistic over all features under each of them.

Westfall and Young's max-T (1993): a feature's p is how often the largest of all features, in permuted data, is at least
as large as this one. It holds the rate of any false finding within the label at its level, and loses less than
Bonferroni where features are correlated. With covariates the residuals of the label are permuted (Freedman and Lane
1983, doi 10.1080/07350015.1983.10509354), and the statistic is studentised (DiCiccio and Romano 2017, doi
10.1080/01621459.2016.1202117): ranks spread less at the ends of a scale, so where a covariate moves both sides, both
have less variance in the same rows. Without it, 8 of 100 tables with nothing but a confounder had p < 0.05.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.explain.data.question import PERMUTATIONS
from app.explain.statistics.design import Covariates, Floats, unit
from models.statistics.patients import numbered

_BATCH_VALUES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Permuted:
    """Statistics of a label, and of its permutations.

    Attributes:
        r2: (k,): the share of a feature's variance (of its ranks) that the label explains beyond the covariates.
        sign: (k,): of the slope where the label is one column, else 0.
        strength: (k,): what is compared: r2; with covariates the largest t² / n over the label's columns, robust.
        largest: (permutations,): the largest strength over features in each permutation.
        reached: (k,): in how many permutations a feature's strength was at least as large as its own.
    """

    r2: Floats
    sign: Floats
    strength: Floats
    largest: Floats
    reached: NDArray[np.intp]

    @property
    def p(self) -> Floats:
        """By permutation, for each feature on its own."""
        return np.asarray((1 + self.reached) / (1 + len(self.largest)), np.float64)

    @property
    def p_maxt(self) -> Floats:
        """By permutation, corrected for all features of the label."""
        ordered = np.sort(self.largest)
        above = len(ordered) - np.searchsorted(ordered, self.strength * (1 - 1e-12), side="left")
        return np.asarray((1 + above) / (1 + len(ordered)), np.float64)


def orders(patients: ArrayLike, permutations: int, seed: int) -> NDArray[np.intp]:
    """Return rows in permuted orders (permutations, n).

    Whole patients change places, and only with those that have as many rows; so rows of one patient stay together.
    """
    patient_of = numbered(patients)
    members = np.argsort(patient_of, kind="stable")
    sizes = np.bincount(patient_of)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rng = np.random.default_rng(seed)
    made = np.tile(np.arange(len(patient_of)), (permutations, 1))
    for size in np.unique(sizes):
        blocks = members[starts[sizes == size][:, None] + np.arange(size)]
        if len(blocks) < 2:
            continue
        drawn = rng.permuted(np.tile(np.arange(len(blocks)), (permutations, 1)), axis=1)
        made[:, blocks.reshape(-1)] = blocks[drawn].reshape(permutations, -1)
    return made


def permuted_r2(
    features: Floats,
    label: Floats,
    covariates: Covariates,
    patients: ArrayLike,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Permuted:
    """Test every feature against a label.

    Args:
        features: (n, k), as they enter: ranks.
        label: (n, q) columns.
        covariates: of the same rows.
        patients: (n,).
        permutations: at least 1000 for what is reported.
        seed: of the permutations.
    """
    x = unit(covariates.taken_out(features), np.sqrt(np.square(features).sum(axis=0)))
    rest = covariates.taken_out(label)
    r2 = _explained(x, rest[None], covariates)[0]
    sign = np.sign(rest[:, 0] @ x) if label.shape[1] == 1 else np.zeros(x.shape[1])
    measure = _studentised if covariates.used else _explained
    strength = measure(x, rest[None], covariates)[0]
    drawn = orders(patients, permutations, seed)
    largest, reached = np.empty(permutations), np.zeros(x.shape[1], np.intp)
    step = max(1, _BATCH_VALUES // (label.shape[1] * max(x.shape)))
    for start in range(0, permutations, step):
        found = measure(x, rest[drawn[start : start + step]], covariates)
        largest[start : start + step] = found.max(axis=1)
        reached += (found >= strength * (1 - 1e-12)).sum(axis=0)
    return Permuted(r2, np.asarray(sign, np.float64), strength, largest, reached)


def _explained(x: Floats, labels: Floats, covariates: Covariates) -> Floats:
    """Return r2 (b, k) of unit features (n, k) on each of (b, n, q) labels, beyond the covariates."""
    columns = _without(labels, covariates)
    if labels.shape[2] > 1:
        columns = np.linalg.qr(columns)[0]
    loadings = columns.transpose(0, 2, 1).reshape(-1, labels.shape[1]) @ x
    return np.asarray(np.square(loadings).reshape(len(labels), labels.shape[2], -1).sum(axis=1), np.float64)


def _studentised(x: Floats, labels: Floats, covariates: Covariates) -> Floats:
    """Return t² / n (b, k) of the column of (b, n, q) labels where it is largest; the variance may differ by row."""
    rows = labels.shape[1]
    columns = _without(labels, covariates).transpose(0, 2, 1).reshape(-1, rows)
    slope, variance = columns @ x, np.square(columns) @ np.square(x)
    ratio = np.divide(np.square(slope), rows * variance, out=np.zeros_like(slope), where=variance > 1e-15)
    return np.asarray(ratio.reshape(len(labels), labels.shape[2], -1).max(axis=1), np.float64)


def _without(labels: Floats, covariates: Covariates) -> Floats:
    """Return the labels (b, n, q) without what the covariates explain, each column of length 1."""
    count, rows, width = labels.shape
    flat = unit(covariates.taken_out(labels.transpose(1, 0, 2).reshape(rows, -1)))
    return np.ascontiguousarray(flat.reshape(rows, count, width).transpose(1, 0, 2))
