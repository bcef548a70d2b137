"""Whether features identify windows: how often the nearest window of a gallery is the same one. Arrays only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import RESAMPLES, Interval, mean_interval, numbered

Floats = NDArray[np.float64]
Metric = Literal["euclidean", "cosine", "whitened"]

METRICS: tuple[Metric, ...] = ("euclidean", "cosine", "whitened")


@dataclass(frozen=True, slots=True)
class Identity:
    """How often the nearest window of a gallery is the same window before the change.

    Attributes:
        top1: fraction of the changed windows whose unique nearest window in the gallery is themselves.
        gallery: number of windows, including distractors.
    """

    top1: Interval
    gallery: int

    @property
    def chance(self) -> float:
        """The value that guessing would give."""
        return 1 / self.gallery


@dataclass(frozen=True, slots=True)
class Whitening:
    """A linear map after which the features it was learned on have (nearly, for it is shrunk) unit covariance."""

    centre: Floats
    matrix: Floats

    def __call__(self, features: NDArray[Any]) -> Floats:
        """Return whitened features, (n, k)."""
        return np.asarray((np.asarray(features, np.float64) - self.centre) @ self.matrix, np.float64)


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
    """Return how often a changed window finds itself among the gallery's windows.

    Args:
        reference: (n, k), of the unchanged windows.
        changed: (n, k), of the same windows, changed.
        patients: (n,), for the interval.
        gallery: indices of windows that do not overlap (`non_overlapping`); by default all.
        distractors: (m, k), of windows of other patients, which are in the gallery but are not looked for.
        metric: distance; `whitened` needs `whitening`.
        whitening: learned on the features of other patients.
        resamples: number of bootstrap samples of patients; the gallery is complete in each.
        seed: seed of the samples.
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
    """Return whether each window of the gallery, changed, is nearest to itself, bool (g,); see `identity`."""
    move = _space(metric, whitening)
    chosen = slice(None) if gallery is None else gallery
    gallery_points, queries = move(np.asarray(reference)[chosen]), move(np.asarray(changed)[chosen])
    if distractors is not None:
        gallery_points = np.concatenate([gallery_points, move(np.asarray(distractors))])
    distance = np.stack([np.square(gallery_points - query).sum(axis=1) for query in queries])
    own = distance.diagonal().copy()
    np.fill_diagonal(distance, np.inf)
    return np.asarray(own < distance.min(axis=1), bool)


def whiten(features: NDArray[Any]) -> Whitening:
    """Return a whitening learned on features (n, k): standardise, then the inverse root of their shrunk covariance.

    The shrinkage is that of Ledoit and Wolf (2004, doi 10.1016/S0047-259X(03)00096-4), for n may be small against k.
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
    """Return indices of as many windows as possible of which no two of one patient overlap along z.

    Args:
        low_mm: (n,), where each window begins along the body.
        high_mm: (n,), where it ends.
        patients: (n,). Scans of one patient are assumed to share their coordinates.
    """
    low, high, patient = np.asarray(low_mm, float), np.asarray(high_mm, float), numbered(patients)
    reached: dict[int, float] = {}
    chosen = []
    for at in np.lexsort((np.arange(len(low)), low, high)).tolist():  # the window that ends first leaves most room
        if low[at] >= reached.get(int(patient[at]), -np.inf) - 1e-6:
            chosen.append(at)
            reached[int(patient[at])] = float(high[at])
    return np.array(sorted(chosen), np.intp)


def _space(metric: Metric, whitening: Whitening | None) -> Callable[[NDArray[Any]], Floats]:
    """Return the map to the space in which the Euclidean distance is this metric."""
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
