"""Whether later series, or those of one scanner, have other features than the reference.

As CheXstray (Soin et al. 2022, arXiv:2202.02833) watches metadata and a VAE's latents against a reference period. Here
one figure per group, the distance of its mean from the reference's in whitened features, has a p by permutation of
patients; and each dimension has a Kolmogorov-Smirnov statistic, corrected for all dimensions and groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from app.explain.data.feature_table import FeatureTable
from app.explain.data.labels import one_series_each
from models.statistics.identity import whiten
from operators.errors import StartError

LEAST: Final = 10
"""Patients of a group, and of the reference."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One group against the reference.

    Attributes:
        distance: of the means, in standard deviations of whitened features.
        p: of that distance, by permutation of patients; not corrected for the number of groups.
        p_corrected: times the number of groups (Bonferroni).
        changed: dimensions with a corrected Kolmogorov-Smirnov p below 0.05, the most changed first.
        largest: the largest Kolmogorov-Smirnov statistic.
    """

    group: str
    patients: int
    distance: float
    p: float
    p_corrected: float
    changed: tuple[int, ...]
    largest: float


@dataclass(frozen=True, slots=True)
class Drifts:
    """All groups; those with fewer than ten patients are left out and counted."""

    reference: str
    reference_patients: int
    groups: tuple[Drift, ...]
    left_out: tuple[str, ...]


def drift(
    table: FeatureTable,
    column: str,
    *,
    tap: str = "mu",
    reference: str | None = None,
    parts: int = 4,
    permutations: int = 1000,
    seed: int = 0,
) -> Drifts:
    """Compare groups of patients to a reference.

    Args:
        table: of features; one series per patient is used.
        column: of the table: numbers or dates in ISO form make `parts` periods of equal size, of which the first is the
            reference; other text makes a group per value.
        tap: the features.
        reference: the value that is the reference; by default the first period, or the most frequent value.
        parts: periods.
        permutations: of patients.
        seed: of the permutations.

    Raises:
        StartError: `BAD_COLUMN`, `NO_SUCH_TAP`, `TOO_FEW_PATIENTS`.
    """
    if column not in table.columns:
        raise StartError("BAD_COLUMN", f"there is no column {column!r}; give a column of the table or of the labels")
    if tap not in table.taps:
        raise StartError("NO_SUCH_TAP", f"the table has the taps {', '.join(table.taps)}, not {tap!r}")
    rows = one_series_each(table.rows(_there(table, column)))
    group = _grouped(rows, column, parts)
    names, counts = np.unique(group, return_counts=True)
    chosen = reference or (str(names[0]) if _ordered(rows, column) else str(names[counts.argmax()]))
    of_reference = group == chosen
    if of_reference.sum() < LEAST:
        text = f"the reference {chosen!r} has {int(of_reference.sum())} patients; expected at least {LEAST}"
        raise StartError("TOO_FEW_PATIENTS", f"{text}; name another with --reference, or ask for fewer --parts")
    x = rows.taps[tap].astype(np.float64)
    compared = [str(one) for one, count in zip(names, counts, strict=True) if count >= LEAST and one != chosen]
    tests = max(1, len(compared) * x.shape[1])
    groups = tuple(
        _against(one, x, group == one, of_reference, (len(compared), tests), permutations, seed) for one in compared
    )
    left_out = tuple(str(one) for one, count in zip(names, counts, strict=True) if count < LEAST)
    return Drifts(chosen, int(of_reference.sum()), groups, left_out)


def _against(
    name: str,
    x: NDArray[np.float64],
    inside: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    corrections: tuple[int, int],
    permutations: int,
    seed: int,
) -> Drift:
    groups, tests = corrections
    both = np.concatenate([x[inside], x[reference]])
    both = whiten(both)(both)  # by both: so that under the null which rows are whose is arbitrary
    count = int(inside.sum())
    distance = _apart(both, count)
    rng = np.random.default_rng(seed)
    reached = sum(_apart(both[rng.permutation(len(both))], count) >= distance for _ in range(permutations))
    p = (1 + reached) / (1 + permutations)
    compared = [stats.ks_2samp(x[inside, k], x[reference, k]) for k in range(x.shape[1])]
    order = np.argsort([-one.statistic for one in compared], kind="stable").tolist()
    changed = tuple(k for k in order if compared[k].pvalue * tests < 0.05)
    largest = float(compared[order[0]].statistic)
    return Drift(name, count, distance, float(p), float(min(1, p * groups)), changed, largest)


def _apart(both: NDArray[np.float64], count: int) -> float:
    return float(np.linalg.norm(both[:count].mean(axis=0) - both[count:].mean(axis=0)))


def _there(table: FeatureTable, column: str) -> NDArray[np.bool_]:
    values = table.columns[column]
    return np.isfinite(values.astype(np.float64)) if values.dtype.kind == "f" else np.asarray(values != "", np.bool_)


def _ordered(table: FeatureTable, column: str) -> bool:
    return table.columns[column].dtype.kind == "f" or _dates(table.texts(column)) is not None


def _dates(texts: NDArray[np.str_]) -> NDArray[np.datetime64] | None:
    try:
        return texts.astype("datetime64[D]")
    except ValueError:
        return None


def _grouped(table: FeatureTable, column: str, parts: int) -> NDArray[np.str_]:
    """Return each row's group: a period, named by its first and last value, or the value itself."""
    values = table.columns[column]
    ordered = values if values.dtype.kind == "f" else _dates(table.texts(column))
    if ordered is None:
        return table.texts(column)
    if len(np.unique(ordered)) < parts:
        return np.array([f"{one:g}" if values.dtype.kind == "f" else str(one) for one in ordered], np.str_)
    at = np.searchsorted(np.sort(ordered), ordered, side="left") * parts // len(ordered)
    names = {k: f"{k + 1}: {_shown(ordered[at == k].min())} to {_shown(ordered[at == k].max())}" for k in np.unique(at)}
    return np.array([names[one] for one in at], np.str_)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
