"""Disentanglement measured against truth: latents of phantoms whose factors are known. Arrays only.

Four measures of whether one latent stands for one factor, since no single measure settles it (Locatello et al. 2019,
arXiv:1811.12359):

- MIG, mutual information gap (Chen et al. 2018, arXiv:1802.04942): for each factor, the difference in mutual
  information between the two most informative latents, over the factor's entropy. Mutual information is Ross'
  nearest-neighbour estimate (2014, doi 10.1371/journal.pone.0087357) between a latent and a factor in bins of equal
  counts: the usual 20 × 20 histogram would be mostly bias with some hundred phantoms.
- DCI (Eastwood and Williams 2018, ICLR): from the importances of a random forest for each factor. Disentanglement:
  whether a latent serves one factor; completeness: whether one latent serves a factor; informativeness: out-of-bag R².
- SAP, separated attribute predictability (Kumar et al. 2018, arXiv:1711.00848): for each factor the gap between the two
  highest squared correlations with a single latent.
- Factor R²: a cross-validated ridge probe from all latents together; high with entangled latents too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.probes import ridge_probes

Floats = NDArray[np.float64]

TREES = 100


@dataclass(frozen=True, slots=True)
class Disentanglement:
    """The measures; each mapping is by factor, each figure its mean over factors.

    Attributes:
        mig: nearly 0 to 1.
        disentanglement: of DCI, over latents weighted by their use.
        completeness: of DCI.
        informativeness: of DCI: out-of-bag R² of a random forest.
        sap: 0 to 1.
        factor_r2: of the ridge probe, in tenfold cross-validation over phantoms.
    """

    mig: Mapping[str, float]
    disentanglement: float
    completeness: Mapping[str, float]
    informativeness: Mapping[str, float]
    sap: Mapping[str, float]
    factor_r2: Mapping[str, float]


def disentanglement(
    latents: NDArray[Any], factors: Mapping[str, ArrayLike], *, bins: int | None = None, seed: int = 0
) -> Disentanglement:
    """Return all measures.

    Args:
        latents: (n, k), of n phantoms.
        factors: name → (n,), drawn independently; at least two, none of them constant.
        bins: number of bins of a factor, for MIG; by default one per thirty phantoms, between 2 and 20.
        seed: seed of the forests, the folds and MIG's tie breaking.
    """
    z = np.asarray(latents, np.float64)
    v = {name: np.asarray(values, np.float64) for name, values in factors.items()}
    importance, informative = forest_importance(z, v, seed)
    probes = ridge_probes(z, v, np.arange(len(z)), shuffles=0, resamples=1, seed=seed)
    return Disentanglement(
        mig=mutual_information_gap(z, v, bins=bins, seed=seed),
        disentanglement=_disentanglement(importance),
        completeness=dict(zip(v, _completeness(importance).tolist(), strict=True)),
        informativeness=informative,
        sap=separated_attribute_predictability(z, v),
        factor_r2={name: probe.score.value for name, probe in probes.items()},
    )


def mutual_information_gap(
    latents: Floats, factors: Mapping[str, Floats], *, bins: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Return MIG by factor; see the module."""
    from sklearn.feature_selection import mutual_info_classif

    count = bins or int(np.clip(len(latents) // 30, 2, 20))
    gaps = {}
    for name, values in factors.items():
        edges = np.quantile(values, np.linspace(0, 1, count + 1)[1:-1])
        binned = np.searchsorted(edges, values, side="right")
        share = np.bincount(binned) / len(binned)
        entropy = -float(np.sum(share * np.log(np.where(share > 0, share, 1))))
        known = np.sort(mutual_info_classif(latents, binned, random_state=seed))
        gaps[name] = float((known[-1] - (known[-2] if len(known) > 1 else 0)) / entropy)
    return gaps


def separated_attribute_predictability(latents: Floats, factors: Mapping[str, Floats]) -> dict[str, float]:
    """Return SAP by factor: R² of a linear regression on each latent alone, best minus second best."""
    gaps = {}
    for name, values in factors.items():
        covariance = ((latents - latents.mean(axis=0)) * (values - values.mean())[:, None]).mean(axis=0)
        variance = latents.var(axis=0) * values.var()
        squared = np.divide(covariance**2, variance, out=np.zeros_like(covariance), where=variance > 0)
        ordered = np.sort(squared)
        gaps[name] = float(ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0))
    return gaps


def forest_importance(latents: Floats, factors: Mapping[str, Floats], seed: int = 0) -> tuple[Floats, dict[str, float]]:
    """Return importances of each latent for each factor, (k, factors), columns summing to 1, and each out-of-bag R².

    Importances are the mean decrease in impurity. A tree may choose from all latents at each split: with a subset it
    would have to take useless ones, and an ideal code would score too low.
    """
    from sklearn.ensemble import RandomForestRegressor

    columns, informative = [], {}
    for name, values in factors.items():
        forest = RandomForestRegressor(TREES, max_features=1.0, oob_score=True, random_state=seed, n_jobs=1)
        forest.fit(latents, values)
        columns.append(forest.feature_importances_)
        informative[name] = float(forest.oob_score_)
    return np.stack(columns, axis=1), informative


def _disentanglement(importance: Floats) -> float:
    """Return Σ ρ_i (1 - H(P_i)): P_i is the distribution of latent i's importance over factors, ρ_i its total share."""
    used = importance.sum(axis=1)
    return float(np.sum(used / used.sum() * (1 - _relative_entropy(importance))))


def _completeness(importance: Floats) -> Floats:
    """Return 1 - H(P_j) by factor: P_j is the distribution of its importance over latents."""
    return 1 - _relative_entropy(importance.T)


def _relative_entropy(rows: Floats) -> Floats:
    """Return the entropy of each row, made a distribution, over its maximum; 1 for a row of zeros."""
    total = rows.sum(axis=1, keepdims=True)
    share = np.divide(rows, total, out=np.full_like(rows, 1 / rows.shape[1]), where=total > 0)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
    return np.asarray(entropy / np.log(max(rows.shape[1], 2)), np.float64)
