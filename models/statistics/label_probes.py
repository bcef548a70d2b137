"""Whether features contain a label of two classes, such as sex; by patient.

As in `probes.py`, a probe is ridge regression on standardised features, with the penalty chosen within the training
part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.statistics.patients import RESAMPLES, interval, numbered, sample_counts
from models.statistics.probes import SHUFFLES, Floats, Probe, best_penalty, ridge_path, spread

PAIRS, CONTROL_PAIRS = 60, 10


def label_probe(
    features: NDArray[Any],
    labels: Sequence[str],
    patients: ArrayLike,
    *,
    scored: ArrayLike | None = None,
    pairs: int = PAIRS,
    shuffles: int = SHUFFLES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Probe | None:
    """Return a probe to a label of two classes, such as sex: area under the ROC curve, by patient.

    It is a ridge regression to ±1 with both classes weighted equally. One patient of each class is left out at a time,
    and the two mean scores are compared: leave-pair-out cross-validation (Airola et al. 2011, doi
    10.1016/j.csda.2010.11.018). Scores from different folds must not be compared: leaving out a patient of one class
    biases the classifier against that class, and chance would be far below 0.5.

    Args:
        features: (n, k).
        labels: (n,), empty where there is none.
        patients: (n,).
        scored: bool (n,), windows of the patients to classify; those of the others only help to learn.
        pairs: maximum number of pairs of patients; drawn at random where there are more.
        shuffles: number of times labels are shuffled between patients, for the control.
        resamples: number of bootstrap samples of patients.
        seed: seed of all draws.

    Returns:
        The probe; None unless there are two classes with at least two patients to classify in each.
    """
    named, everyone = np.asarray(labels), numbered(patients)
    labelled = named != ""
    to_score = np.ones(len(named), bool) if scored is None else np.asarray(scored, bool)
    classes = np.unique(named[labelled])
    if len(classes) != 2 or min(len(np.unique(everyone[to_score & (named == value)])) for value in classes) < 2:
        return None
    x, patient = np.asarray(features, np.float64)[labelled], numbered(everyone[labelled])
    y = np.where(named[labelled] == classes[1], 1.0, -1.0)
    rng = np.random.default_rng(seed)
    judged = to_score[labelled]
    drawn, right, score = _leave_pairs_out(x, y, patient, judged, pairs, rng)
    control = []
    for _ in range(shuffles):
        mixed = _shuffled(y, patient, judged, rng)
        control.append(_leave_pairs_out(x, mixed, patient, judged, CONTROL_PAIRS, rng)[1].mean())
    who = np.unique(drawn)
    weight = sample_counts(len(who), resamples, seed)[:, np.searchsorted(who, drawn)].prod(axis=2)
    with np.errstate(invalid="ignore"):  # a sample without any pair is NaN and left out
        sampled = (weight @ right) / weight.sum(axis=1)
    return Probe(
        score=interval(float(right.mean()), sampled),
        shuffled=float(np.mean(control)) if control else float("nan"),
        windows=int(judged.sum()),
        patients=len(np.unique(patient[judged])),
        target=spread(np.where(judged, y, np.nan), labelled),
        predicted=spread(score, labelled),
        patient=everyone,
    )


def _shuffled(y: Floats, patient: NDArray[np.intp], judged: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Return labels shuffled among patients to classify and among the others, so that both classes remain."""
    by_patient = np.array([y[patient == number][0] for number in range(int(patient.max()) + 1)])
    classified = np.isin(np.arange(len(by_patient)), patient[judged])
    for group in (classified, ~classified):
        by_patient[group] = rng.permutation(by_patient[group])
    return np.asarray(by_patient[patient], np.float64)


def _leave_pairs_out(
    x: Floats, y: Floats, patient: NDArray[np.intp], judged: NDArray[np.bool_], most: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Return pairs of patients (p, 2), last class first; 1 where it scored higher, 0.5 for ties; mean scores (n,)."""
    lasts, firsts = np.unique(patient[judged & (y > 0)]), np.unique(patient[judged & (y < 0)])
    pairs = np.array([(a, b) for a in lasts for b in firsts if a != b], np.intp)
    pairs = pairs[np.sort(rng.permutation(len(pairs))[:most])]
    right, total, times = np.empty(len(pairs)), np.zeros(len(x)), np.zeros(len(x))
    for at, (last, first) in enumerate(pairs):
        test = (patient == last) | (patient == first)
        train = ~test
        weight = _balanced(y[train])
        best = best_penalty(x[train], y[train, None], patient[train], weight, 0)[0]
        score = ridge_path(x[train], y[train, None], weight, x[test])[best, :, 0]
        gap = (
            score[(patient[test] == last) & (y[test] > 0)].mean()
            - score[(patient[test] == first) & (y[test] < 0)].mean()
        )
        right[at] = 0.5 + 0.5 * np.sign(gap)
        total[test] += score
        times[test] += 1
    return pairs, right, np.divide(total, times, out=np.full(len(x), np.nan), where=times > 0)


def _balanced(y: Floats) -> Floats:
    positive = y > 0
    share = np.where(positive, 0.5 / max(positive.sum(), 1), 0.5 / max((~positive).sum(), 1))
    return np.asarray(share * len(y), np.float64)
