"""Which layer to take, chosen inside of each training fold, so that the choice is not judged by its own luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.explain.data.labels import Label
from app.explain.statistics.probes import Known, Score, better_by, probe
from app.explain.statistics.rankings import FOLDS, class_folds, joined, macro_auc, ranked
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
        chosen: the score where the layer is chosen inside of each training fold; None where there is one layer.
        lost: what that is below the best layer's score on the same folds.
    """

    scores: Mapping[str, Score]
    best: str
    second: str | None
    together: Interval | None
    chosen: float | None
    lost: float | None


def choose_layer(
    layers: Mapping[str, NDArray[Any]],
    label: Label,
    patients: NDArray[np.str_],
    seed: int,
    known: Known | None = None,
) -> LayerChoice | None:
    """Probe each layer to a label, on the same folds; None where there are too few patients for it."""
    scores = probe(layers, label, patients, seed=seed, known=known)
    if not scores:
        return None
    best = max(scores, key=lambda name: scores[name].score.value)
    pairs = {name: np.concatenate([layers[best], layers[name]], axis=1) for name in layers if name != best}
    paired = probe(pairs, label, patients, seed=seed, shuffles=0)
    second = max(paired, key=lambda name: paired[name].score.value) if paired else None
    together = better_by(paired[second], scores[best], seed) if second else None
    if len(layers) < 2:
        return LayerChoice(scores, best, second, together, None, None)
    chosen_inside = r2_chosen_inside if label.kind == "number" else auc_chosen_inside
    chosen, of_best = chosen_inside(layers, best, label, patients, seed)
    return LayerChoice(scores, best, second, together, chosen, of_best - chosen)


def r2_chosen_inside(
    layers: Mapping[str, NDArray[Any]], best: str, label: Label, patients: NDArray[np.str_], seed: int
) -> tuple[float, float]:
    """Return R² of predictions in which each fold takes the layer that was best among its training patients.

    Returns:
        That, and R² of the layer `best` on the same folds.
    """
    there = label.there
    y, patient_of = np.asarray(label.values, np.float64)[there][:, None], numbered(patients[there])
    known = {name: np.asarray(x, np.float64)[there] for name, x in layers.items()}
    whole = {name: out_of_fold(x, y, patient_of, folds=FOLDS, seed=seed) for name, x in known.items()}
    predicted = np.empty_like(y)
    for test in patient_folds(patient_of, FOLDS, seed):
        train = ~test
        inside = {
            name: pooled_r2(y[train], out_of_fold(x[train], y[train], patient_of[train], folds=FOLDS, seed=seed))[0]
            for name, x in known.items()
        }
        predicted[test] = whole[max(inside, key=lambda name: inside[name])][test]
    return float(pooled_r2(y, predicted)[0]), float(pooled_r2(y, whole[best])[0])


def auc_chosen_inside(
    layers: Mapping[str, NDArray[Any]], best: str, label: Label, patients: NDArray[np.str_], seed: int
) -> tuple[float, float]:
    """Return the same for classes: the AUC of the choice, and of the layer `best`, on the folds of one repeat."""
    there = label.there
    y, patient_of = np.asarray(label.values, np.str_)[there], numbered(patients[there])
    known = {name: np.asarray(x, np.float64)[there] for name, x in layers.items()}
    folds, parts = class_folds(y, patient_of, seed), []
    for test in folds:
        train, inner_of = ~test, numbered(patient_of[~test])
        inner, labels = class_folds(y[train], inner_of, seed), y[train][None]
        inside = {
            name: macro_auc(ranked(x[train], labels, inner, inner_of, label.classes)[0])[0] for name, x in known.items()
        }
        chosen = max(inside, key=lambda name: inside[name])
        parts.append(ranked(known[chosen], y[None], [test], patient_of, label.classes)[0])
    choice = [joined(one, int(patient_of.max()) + 1) for one in zip(*parts, strict=True)]
    return float(macro_auc(choice)[0]), float(
        macro_auc(ranked(known[best], y[None], folds, patient_of, label.classes)[0])[0]
    )
