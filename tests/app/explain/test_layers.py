"""What choosing a layer by its score costs: nothing where one layer is best everywhere, much where all are noise."""

from __future__ import annotations

import numpy as np
import pytest

from app.explain.data.labels import Label, as_label
from app.explain.statistics.layers import auc_chosen_inside, choose_layer, r2_chosen_inside
from app.explain.statistics.probes import Known, probe
from app.explain.statistics.rankings import FOLDS, class_folds, macro_auc, ranked
from models.statistics.probes import out_of_fold, pooled_r2

PATIENTS = 40
WHO = np.array([f"p{k:02d}" for k in range(PATIENTS)])


def layers(seed: int, count: int, effect: float = 0.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Layers of noise, and one that holds the class where there is an effect."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(PATIENTS) % 2)
    noise = {f"noise{k}": rng.standard_normal((PATIENTS, 2)) for k in range(count)}
    known = {"known": rng.standard_normal((PATIENTS, 2)) + effect * y[:, None]} if effect else {}
    return noise | known, y


def label(y: np.ndarray, *, classes: bool) -> Label:
    found = as_label("y", np.where(y, "case", "control") if classes else y + np.linspace(0, 0.1, PATIENTS), WHO)
    assert isinstance(found, Label)
    return found


@pytest.mark.parametrize("classes", [True, False])
def test_where_one_layer_is_best_in_every_fold_nothing_is_lost(classes):
    known, y = layers(0, 1, effect=5.0)
    found = choose_layer(known, label(y, classes=classes), WHO, 0)
    assert found.best == "known" and found.lost == 0
    assert found.chosen > 0.8


def auc(x: np.ndarray, of: Label, seed: int) -> float:
    y, patient_of = np.asarray(of.values), np.arange(PATIENTS)
    return float(macro_auc(ranked(x, y[None], class_folds(y, patient_of, seed), patient_of, of.classes)[0])[0])


def r2(x: np.ndarray, of: Label, seed: int) -> float:
    y = np.asarray(of.values, np.float64)[:, None]
    return float(pooled_r2(y, out_of_fold(x, y, np.arange(PATIENTS), folds=FOLDS, seed=seed))[0])


@pytest.mark.parametrize(
    ("inside", "whole", "classes"), [(auc_chosen_inside, auc, True), (r2_chosen_inside, r2, False)]
)
def test_the_luckiest_of_several_layers_of_noise_is_not_as_good_where_it_is_chosen_without_the_test_patients(
    inside, whole, classes
):
    chosen, best = [], []
    for seed in range(3):
        known, y = layers(seed, 4)
        of = label(y, classes=classes)
        scores = {name: whole(x, of, seed) for name, x in known.items()}
        luckiest = max(scores, key=scores.get)
        one = inside(known, luckiest, of, WHO, seed)
        chosen.append(one[0])
        best.append(one[1])
        assert one[1] == scores[luckiest]
    assert np.mean(best) - np.mean(chosen) > 0.05


def test_of_a_single_layer_there_is_nothing_to_choose():
    known, y = layers(0, 1)
    found = choose_layer(known, label(y, classes=False), WHO, 0)
    assert found.chosen is None and found.lost is None and found.second is None


@pytest.mark.parametrize("classes", [True, False])
def test_a_probe_is_made_once_for_the_same_numbers_and_anew_for_others(classes):
    known: Known = {}
    (x,), (other, y) = layers(0, 1)[0].values(), (layers(1, 1)[0]["noise0"], layers(0, 1)[1])
    of = label(y, classes=classes)
    first = probe({"a": x}, of, WHO, shuffles=2, known=known)["a"]
    assert probe({"b": x.copy()}, of, WHO, shuffles=2, known=known)["b"] is first
    again = [
        probe({"a": other}, of, WHO, shuffles=2, known=known),
        probe({"a": x}, label(1 - y, classes=classes), WHO, shuffles=2, known=known),
        probe({"a": x}, of, np.repeat(WHO[::2], 2), shuffles=2, known=known),
        probe({"a": x}, of, WHO, seed=1, shuffles=2, known=known),
        probe({"a": x}, of, WHO, shuffles=0, known=known),
    ]
    assert len(known) == 6 and all(one["a"] is not first for one in again if one)
