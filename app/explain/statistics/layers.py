"""Which layer to take, chosen inside of each training fold, so that the choice is not judged by its own luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.explain.data.labels import Label
from app.explain.statistics.probes import FOLDS, Score, better_by, probe
from models.statistics.patients import Interval, numbered, patient_folds
from models.statistics.probes import out_of_fold, pooled_r2

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """All layers probed to one label.

    Attributes:
        scores: layer → score; the first layer has shuffled controls too.
        best: the layer with the best score.
        second: a further layer, of all others the one that adds most to the best; None where there is one layer.
        together: how much the best and the second score above the best alone.
        chosen: the score where the layer is chosen inside of each training fold; of numbers only.
    """

    scores: Mapping[str, Score]
    best: str
    second: str | None
    together: Interval | None
    chosen: float | None


def choose_layer(
    layers: Mapping[str, NDArray[Any]], label: Label, patients: NDArray[np.str_], seed: int
) -> LayerChoice | None:
    """Probe each layer to a label, on the same folds; None where there are too few patients for it."""
    scores = probe(layers, label, patients, seed=seed)
    if not scores:
        return None
    best = max(scores, key=lambda name: scores[name].score.value)
    pairs = {name: np.concatenate([layers[best], layers[name]], axis=1) for name in layers if name != best}
    joined = probe(pairs, label, patients, seed=seed, shuffles=0)
    second = max(joined, key=lambda name: joined[name].score.value) if joined else None
    together = better_by(joined[second], scores[best], seed) if second else None
    chosen = _chosen_inside(layers, label, patients, seed) if label.kind == "number" and len(layers) > 1 else None
    return LayerChoice(scores, best, second, together, chosen)


def _chosen_inside(layers: Mapping[str, NDArray[Any]], label: Label, patients: NDArray[np.str_], seed: int) -> float:
    """R² of predictions in which each fold takes the layer that was best among its training patients."""
    there = label.there
    y, of = np.asarray(label.values, np.float64)[there][:, None], numbered(patients[there])
    known = [np.asarray(x, np.float64)[there] for x in layers.values()]
    whole = [out_of_fold(x, y, of, folds=FOLDS, seed=seed) for x in known]
    predicted = np.empty_like(y)
    for test in patient_folds(of, FOLDS, seed):
        train = ~test
        inside = [
            pooled_r2(y[train], out_of_fold(x[train], y[train], of[train], folds=FOLDS, seed=seed))[0] for x in known
        ]
        predicted[test] = whole[int(np.argmax(inside))][test]
    return float(pooled_r2(y, predicted)[0])
