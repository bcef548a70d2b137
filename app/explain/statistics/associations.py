"""Every feature against every label: one primary statistic per type of label, named beforehand, and its corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from app.explain.data.labels import Label
from app.explain.data.question import PERMUTATIONS
from app.explain.statistics.design import Covariates, Floats, covariate_basis, label_columns, no_covariates, ranks
from app.explain.statistics.permutation import Permuted, permuted_r2

ALPHA: Final = 0.05

SPEARMAN, RANK_SUM, KRUSKAL_WALLIS = "Spearman", "Wilcoxon rank sum", "Kruskal-Wallis"


@dataclass(frozen=True, slots=True)
class Tested:
    """All features against one label.

    Attributes:
        statistic: (k,): Spearman's rho; of two classes the correlation of ranks with the class, above 0 where the class
            that comes last in the alphabet has the higher values; of more classes the share of the ranks' variance
            (epsilon squared). With covariates the partial ones.
        p: raw, (k,): asymptotic; by permutation where patients have several rows.
        p_bh, p_bonferroni, p_maxt: corrected for all features.
        p_maxt_all: corrected for all features and all labels.
        covariates: that are accounted for.
        strength: (k,), what is compared with
        null: the largest strength in each permutation.
    """

    n: int
    statistic: Floats
    p: Floats
    p_bh: Floats
    p_bonferroni: Floats
    p_maxt: Floats
    p_maxt_all: Floats
    covariates: Covariates
    strength: Floats
    null: Floats

    @property
    def counts(self) -> dict[str, int]:
        """How many features are below 0.05, raw and by each correction."""
        listed = {"raw": self.p, "bh": self.p_bh, "bonferroni": self.p_bonferroni, "maxt": self.p_maxt}
        return {name: int((p < ALPHA).sum()) for name, p in listed.items()}


@dataclass(frozen=True, slots=True)
class Association:
    """One label: its primary statistic before and after covariates.

    Attributes:
        adjusted: None where there are no covariates, or too few rows for them.
        why_not_adjusted: in that case.
    """

    label: Label
    primary: str
    raw: Tested
    adjusted: Tested | None
    why_not_adjusted: str = ""


def associate(
    features: NDArray[np.float32],
    labels: Sequence[Label],
    covariates: Sequence[Label],
    patients: NDArray[np.str_],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> tuple[Association, ...]:
    """Test every feature (n, k) against every label; a label is never adjusted for itself.

    Args:
        features: (n, k).
        labels: of the same rows.
        covariates: of the same rows, in the order in which they are taken.
        patients: (n,).
        permutations: of whole patients.
        seed: of the permutations: the same for all labels, so that `p_maxt_all` knows how they hang together.
    """
    found = [_associate(features, label, covariates, patients, permutations, seed) for label in labels]
    smallest = _smallest_p([(one.label, one.raw) for one in found])
    adjusted = [(one.label, one.adjusted) for one in found if one.adjusted]
    smallest_adjusted = _smallest_p(adjusted)
    return tuple(
        replace(
            one,
            raw=_over_all_labels(one.label, one.raw, smallest),
            adjusted=_over_all_labels(one.label, one.adjusted, smallest_adjusted) if one.adjusted else None,
        )
        for one in found
    )


def primary_statistic(label: Label) -> str:
    """Return the name of the statistic that a label is tested with."""
    if label.kind == "number":
        return SPEARMAN
    return RANK_SUM if len(label.classes) == 2 else KRUSKAL_WALLIS


def _associate(
    features: NDArray[np.float32],
    label: Label,
    covariates: Sequence[Label],
    patients: NDArray[np.str_],
    permutations: int,
    seed: int,
) -> Association:
    there = label.there
    known, who = label.rows(there), patients[there]
    x, y = ranks(features[there]), label_columns(known)
    primary = primary_statistic(known)

    def tested(given: Covariates) -> Tested:
        permuted = permuted_r2(x, y, given, who, permutations=permutations, seed=seed)
        return _tested(permuted, given, known, repeated=len(np.unique(who)) < len(who))

    raw = tested(no_covariates(len(x)))
    others = [one.rows(there) for one in covariates if one.name.partition(" (")[0] != label.name.partition(" (")[0]]
    basis = covariate_basis(others, len(x))
    if not basis.used:
        why = "; ".join(f"{name}: {text}" for name, text in basis.left_out) or "there are no covariates"
        return Association(label, primary, raw, None, why)
    return Association(label, primary, raw, tested(basis))


def _tested(permuted: Permuted, covariates: Covariates, label: Label, *, repeated: bool) -> Tested:
    rows, squared = len(label.values), primary_statistic(label) == KRUSKAL_WALLIS
    statistic = permuted.r2 if squared else permuted.sign * np.sqrt(permuted.r2)
    p = permuted.p if repeated else asymptotic_p(permuted.strength, rows, covariates, label)
    return Tested(
        n=rows,
        statistic=np.asarray(statistic, np.float64),
        p=p,
        p_bh=np.asarray(stats.false_discovery_control(p), np.float64),
        p_bonferroni=np.minimum(1, p * len(p)),
        p_maxt=permuted.p_maxt,
        p_maxt_all=permuted.p_maxt,
        covariates=covariates,
        strength=permuted.strength,
        null=permuted.largest,
    )


def asymptotic_p(strength: Floats, rows: int, covariates: Covariates, label: Label) -> Floats:
    """Return p of what permutations compare.

    Of ranks on classes, without covariates, by chi squared; else by Student's t, of several classes times their number.
    """
    columns = max(1, len(label.classes) - 1)
    if label.kind == "category" and not covariates.used:
        return np.asarray(stats.chi2.sf((rows - 1) * strength, columns), np.float64)
    freedom = rows - covariates.basis.shape[1] - 1
    if freedom < 1:
        return np.ones_like(strength)
    if covariates.used:
        p = stats.f.sf(strength * freedom, 1, freedom) * (len(label.classes) if columns > 1 else 1)
        return np.asarray(np.minimum(1, p), np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(stats.f.sf(strength / ((1 - np.minimum(strength, 1)) / freedom), 1, freedom), np.float64)


def _smallest_p(tested: Sequence[tuple[Label, Tested]]) -> Floats:
    """Return the smallest asymptotic p over all features and labels in each permutation, sorted."""
    if not tested:
        return np.empty(0)
    return np.sort(np.min([asymptotic_p(one.null, one.n, one.covariates, label) for label, one in tested], axis=0))


def _over_all_labels(label: Label, tested: Tested, smallest: Floats) -> Tested:
    p = asymptotic_p(tested.strength, tested.n, tested.covariates, label)
    below = np.searchsorted(smallest, p * (1 + 1e-9), side="right")
    return replace(tested, p_maxt_all=np.asarray((1 + below) / (1 + len(smallest)), np.float64))
