"""The proof that a bundle carries: do features repeat, do they tell windows apart, are they in use. Arrays only.

Repeatability is that of McGraw and Wong (1996, doi 10.1037/1082-989X.1.1.30), ICC(A,1): two-way, absolute agreement,
one measurement. Windows are the subjects; the scan as it is and the scan changed are the raters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import RESAMPLES, Interval, interval, mean_interval, numbered, sample_counts

Floats = NDArray[np.float64]
Metric = Literal["euclidean", "cosine", "whitened"]

METRICS: tuple[Metric, ...] = ("euclidean", "cosine", "whitened")

ACTIVE_VARIANCE = 0.01
"""Of the posterior mean over windows: a unit above it is active (Burda et al. 2016, arXiv:1509.00519)."""

_ICC_RESAMPLES = 300


@dataclass(frozen=True, slots=True)
class Repeatability:
    """How well each dimension repeats under changes that should not matter.

    Attributes:
        icc: change → ICC(A,1) by dimension, float64 (k,), of the window as it is and changed; 0 for a dead dimension.
        mean_icc: change → the mean over dimensions.
        mean: over changes and dimensions.
        median: over dimensions, of each one's mean over changes.
        within_sd: float64 (k,): deviation of one window's values over all changes and the original; bias included.
        between_sd: float64 (k,): deviation between windows, that within them taken off.
        minimal_detectable_change: float64 (k,): 1.96 · √2 · within_sd. A smaller difference may be the changes' work.
        dead: bool (k,).
    """

    icc: Mapping[str, Floats]
    mean_icc: Mapping[str, Interval]
    mean: Interval
    median: float
    within_sd: Floats
    between_sd: Floats
    minimal_detectable_change: Floats
    dead: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Identity:
    """How often the nearest window of a gallery is the same window, before it was changed.

    Attributes:
        top1: part of the windows, changed, whose nearest one in the gallery (and no other as near) is itself.
        gallery: how many windows, distractors included.
    """

    top1: Interval
    gallery: int

    @property
    def chance(self) -> float:
        """What guessing would give."""
        return 1 / self.gallery


@dataclass(frozen=True, slots=True)
class Whitening:
    """A linear map after which the features that it was learned on have unit covariance (nearly: it is shrunk)."""

    centre: Floats
    matrix: Floats

    def __call__(self, features: NDArray[Any]) -> Floats:
        """Whitened features, (n, k)."""
        return np.asarray((np.asarray(features, np.float64) - self.centre) @ self.matrix, np.float64)


def icc_a1(ratings: ArrayLike) -> Any:
    """ICC(A,1): the part of the variance that is the subjects' own, systematic differences between raters counted.

        (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n)

    Args:
        ratings: (n, k, …): n ≥ 2 subjects, k ≥ 2 raters; whatever comes after is computed for each.

    Returns:
        float64 (…); NaN where nothing varies at all. Below 0 where raters differ more than subjects.

    Raises:
        ValueError: fewer subjects or raters.
    """
    ratings = np.asarray(ratings, np.float64)
    n, k = ratings.shape[:2]
    if n < 2 or k < 2:
        raise ValueError(f"{n} subjects and {k} raters; ICC needs at least two of each")
    grand = ratings.mean(axis=(0, 1))
    rows, columns = ratings.mean(axis=1) - grand, ratings.mean(axis=0) - grand
    left = ratings - grand - rows[:, None] - columns[None]
    msr = k * np.square(rows).sum(axis=0) / (n - 1)
    msc = n * np.square(columns).sum(axis=0) / (k - 1)
    mse = np.square(left).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n))[()]


def repeatability(
    reference: NDArray[Any],
    changed: Mapping[str, NDArray[Any]],
    patients: ArrayLike,
    *,
    dead_variance: float = 0.0,
    resamples: int = _ICC_RESAMPLES,
    seed: int = 0,
) -> Repeatability:
    """Repeatability of features under changes.

    Args:
        reference: (n, k), of the windows as they are.
        changed: change → (n, k), of the same windows, changed.
        patients: (n,).
        dead_variance: a dimension whose variance over windows is no larger is dead: its ICC counts as 0.
            `ACTIVE_VARIANCE` for a posterior mean, whose prior has variance 1.
        resamples: bootstrap samples of patients, for the intervals.
        seed: of the samples.
    """
    reference = np.asarray(reference, np.float64)
    dead = reference.var(axis=0) <= np.maximum(dead_variance, 1e-12 * np.square(reference).mean(axis=0))
    pairs = np.stack([np.stack([reference, np.asarray(one, np.float64)], axis=1) for one in changed.values()], axis=2)

    def by_change(chosen: NDArray[Any]) -> Floats:
        return np.where(dead, 0.0, np.nan_to_num(icc_a1(chosen)))

    icc = by_change(pairs)
    samples = [by_change(pairs[rows]) for rows in _patient_samples(patients, resamples, seed)]
    sampled = np.stack(samples) if samples else np.zeros((0, *icc.shape))
    everything = np.stack([reference, *(np.asarray(one, np.float64) for one in changed.values())], axis=1)
    within = np.sqrt(everything.var(axis=1, ddof=1).mean(axis=0))
    between = np.maximum(everything.mean(axis=1).var(axis=0, ddof=1) - within**2 / everything.shape[1], 0)
    return Repeatability(
        icc=dict(zip(changed, icc, strict=True)),
        mean_icc={name: interval(icc[at].mean(), sampled[:, at].mean(axis=1)) for at, name in enumerate(changed)},
        mean=interval(icc.mean(), sampled.mean(axis=(1, 2))),
        median=float(np.median(icc.mean(axis=0))),
        within_sd=within,
        between_sd=np.sqrt(between),
        minimal_detectable_change=1.96 * np.sqrt(2) * within,
        dead=dead,
    )


def identity(
    reference: NDArray[Any],
    changed: NDArray[Any],
    patients: ArrayLike,
    *,
    gallery: NDArray[np.intp] | None = None,
    distractors: NDArray[Any] | None = None,
    metric: Metric = "euclidean",
    whitening: Whitening | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Identity:
    """How often a changed window finds itself among the gallery's windows.

    Args:
        reference: (n, k), of the windows as they are.
        changed: (n, k), of the same windows, changed.
        patients: (n,), for the interval.
        gallery: indices of windows that do not overlap (`non_overlapping`); by default all.
        distractors: (m, k), of windows of other patients, which are in the gallery and are not looked for.
        metric: `whitened` needs a
        whitening: learned on the features of other patients.
        resamples: bootstrap samples of patients; the gallery stays whole in each.
        seed: of the samples.
    """
    hits = found_again(reference, changed, gallery=gallery, distractors=distractors, metric=metric, whitening=whitening)
    chosen = np.asarray(patients) if gallery is None else np.asarray(patients)[gallery]
    others = 0 if distractors is None else len(distractors)
    return Identity(mean_interval(hits, chosen, resamples=resamples, seed=seed), len(hits) + others)


def found_again(
    reference: NDArray[Any],
    changed: NDArray[Any],
    *,
    gallery: NDArray[np.intp] | None = None,
    distractors: NDArray[Any] | None = None,
    metric: Metric = "euclidean",
    whitening: Whitening | None = None,
) -> NDArray[np.bool_]:
    """For each window of the gallery, bool (g,): changed, it is nearer to itself than to any other; see `identity`."""
    move = _space(metric, whitening)
    chosen = slice(None) if gallery is None else gallery
    here, there = move(np.asarray(reference)[chosen]), move(np.asarray(changed)[chosen])
    if distractors is not None:
        here = np.concatenate([here, move(np.asarray(distractors))])
    distance = np.stack([np.square(here - one).sum(axis=1) for one in there])
    own = distance.diagonal().copy()
    np.fill_diagonal(distance, np.inf)
    return np.asarray(own < distance.min(axis=1), bool)


def whiten(features: NDArray[Any]) -> Whitening:
    """Learn a whitening of features (n, k): standardised, then the inverse root of their shrunk covariance.

    Shrunk as Ledoit and Wolf do it (2004, doi 10.1016/S0047-259X(03)00096-4), for n may be small against k.
    """
    from sklearn.covariance import ledoit_wolf

    features = np.asarray(features, np.float64)
    centre, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-12 * (1 + np.abs(centre)), 1 / np.where(deviation > 0, deviation, 1), 0)
    covariance, _ = ledoit_wolf((features - centre) * scale, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T
    return Whitening(centre, scale[:, None] * root)


def non_overlapping(low_mm: ArrayLike, high_mm: ArrayLike, patients: ArrayLike) -> NDArray[np.intp]:
    """Indices of windows of which no two of one patient share a part of their extent along z; as many as there can be.

    Args:
        low_mm: (n,), where each window begins along the body.
        high_mm: (n,), where it ends.
        patients: (n,). Scans of one patient are taken to be of the same place where their coordinates are.
    """
    low, high, of = np.asarray(low_mm, float), np.asarray(high_mm, float), numbered(patients)
    reached: dict[int, float] = {}
    chosen = []
    for at in np.lexsort((np.arange(len(low)), low, high)).tolist():  # the one that ends first leaves most room
        if low[at] >= reached.get(int(of[at]), -np.inf) - 1e-6:
            chosen.append(at)
            reached[int(of[at])] = float(high[at])
    return np.array(sorted(chosen), np.intp)


def active_units(mu: NDArray[Any]) -> int:
    """How many dimensions of the posterior mean (n, k) vary by more than `ACTIVE_VARIANCE` over windows."""
    return int(np.count_nonzero(np.asarray(mu, np.float64).var(axis=0) > ACTIVE_VARIANCE))


def kl_by_dimension(mu: NDArray[Any], sigma: NDArray[Any]) -> Floats:
    """KL(q(z|x) ‖ N(0, 1)) in nats, mean over windows: float64 (k,) of (n, k) each."""
    mean, variance = np.asarray(mu, np.float64), np.square(np.asarray(sigma, np.float64))
    each = 0.5 * (np.square(mean) + variance - 1 - np.log(np.maximum(variance, 1e-300)))
    return np.asarray(each.mean(axis=0), np.float64)


def correlation(features: NDArray[Any]) -> Floats:
    """Pearson's correlation of dimensions, (k, k) of (n, k); 0 with a constant one, 1 on the diagonal."""
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    length = np.sqrt(np.square(centred).sum(axis=0))
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    matrix = np.clip(unit.T @ unit, -1, 1)
    np.fill_diagonal(matrix, 1)
    return np.asarray(matrix, np.float64)


def _patient_samples(patients: ArrayLike, resamples: int, seed: int) -> list[NDArray[np.intp]]:
    """Windows of each bootstrap sample of patients; without intervals where there is one patient only."""
    of = numbered(patients)
    count = int(of.max()) + 1
    if count < 2:
        return []
    windows = [np.flatnonzero(of == one) for one in range(count)]
    drawn = sample_counts(count, resamples, seed).astype(int)
    rows = (np.concatenate([np.tile(windows[at], times) for at, times in enumerate(each)]) for each in drawn)
    return [chosen for chosen in rows if len(chosen) >= 2]


def _space(metric: Metric, whitening: Whitening | None) -> Callable[[NDArray[Any]], Floats]:
    """To where the Euclidean distance is the metric's."""
    if metric == "whitened":
        if whitening is None:
            raise ValueError("the whitened distance needs a whitening, learned on other patients' features")
        return whitening
    if metric == "euclidean":
        return lambda features: np.asarray(features, np.float64)

    def on_sphere(features: NDArray[Any]) -> Floats:
        wide = np.asarray(features, np.float64)
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        unit: Floats = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
        return unit

    return on_sphere
