"""What can be predicted from features, beside what can be predicted without them: probes and their controls.

A number is predicted by ridge regression, scored by R²; a category by logistic ridge on at most 32 principal
components, scored by the area under the ROC curve (AUC), the mean over classes against the rest. Penalties are chosen
inside of each training fold; components are learned there. No patient is on both sides of a fold. All sets of features
have the same folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.labels import Label
from app.explain.statistics.logistic import nested_scores
from models.statistics.patients import RESAMPLES, Interval, interval, numbered, sample_counts
from models.statistics.probes import Probe, ridge_probes, score_difference
from models.statistics.rivals import principal_components

Floats = NDArray[np.float64]

COMPONENTS: Final = 32
FOLDS, REPEATS, SHUFFLES = 5, 3, 20

LEAST_CLASS: Final = 6
"""Patients of a class, for a probe to be learned and tested on some of them each."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which of two patients of different classes scored higher, for every pair of rows in a test fold.

    Attributes:
        first, second: intp (p,): patients; the first is of the class.
        right: (p,): 1 where the first scored higher, 0.5 for a tie.
        patients: how many there are.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    right: Floats
    patients: int

    def auc(self, counts: Floats | None = None) -> Floats:
        """Return the AUC of each bootstrap sample of patients (b, patients); of all of them without one."""
        if counts is None:
            return np.array([self.right.mean()])
        weight = counts[:, self.first] * counts[:, self.second]
        with np.errstate(invalid="ignore"):
            return np.asarray((weight @ self.right) / weight.sum(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class Score:
    """How well one set of features predicts one label.

    Attributes:
        measure: `R²` or `AUC`.
        score: with its interval over bootstrap samples of patients.
        shuffled: the mean score of labels shuffled between patients.
        shuffled_high: 95 of 100 shuffled labels score less.
        parts: what two sets are compared by.
    """

    measure: str
    score: Interval
    shuffled: float
    shuffled_high: float
    patients: int
    parts: Probe | tuple[Ranking, ...]

    @property
    def beats_shuffled(self) -> bool:
        """The score is above 95 of 100 shuffled ones, and its interval above their mean."""
        return self.score.value > self.shuffled_high and self.score.low > self.shuffled


def probe(
    sets: Mapping[str, NDArray[Any]],
    label: Label,
    patients: NDArray[np.str_],
    *,
    seed: int = 0,
    shuffles: int = SHUFFLES,
) -> dict[str, Score]:
    """Probe each set of features to a label; empty where there are too few patients for it.

    Args:
        sets: name → (n, k), finite.
        label: of the same rows.
        patients: (n,).
        seed: of folds, shuffles and samples.
        shuffles: of the label, for the first set alone: the others are its controls.
    """
    there = label.there
    known, of = label.rows(there), numbered(patients[there])
    chosen = {name: np.asarray(x, np.float64)[there] for name, x in sets.items()}
    if label.kind == "number":
        return _number(chosen, known, of, seed, shuffles)
    return _category(chosen, known, of, seed, shuffles)


def read_well(
    features: NDArray[Any],
    labels: Sequence[Label],
    patients: NDArray[np.str_],
    on_label: Callable[[str], None],
    *,
    seed: int = 0,
) -> Iterator[tuple[str, Score]]:
    """Yield how well features predict each of the labels that has enough patients."""
    for label in labels:
        on_label(label.name)
        if scores := probe({"features": features}, label, patients, seed=seed):
            yield label.name, scores["features"]


def better_by(one: Score, other: Score, seed: int = 0) -> Interval:
    """Return how much the score of one set is above another's, over the same bootstrap samples of patients."""
    if isinstance(one.parts, Probe) and isinstance(other.parts, Probe):
        return score_difference({"y": one.parts}, {"y": other.parts}, seed=seed)
    if isinstance(one.parts, Probe) or isinstance(other.parts, Probe):
        raise ValueError("the scores are of different kinds of labels")
    counts = sample_counts(one.parts[0].patients, RESAMPLES, seed)
    value = _macro(one.parts)[0] - _macro(other.parts)[0]
    return interval(float(value), _macro(one.parts, counts) - _macro(other.parts, counts))


def _number(
    sets: Mapping[str, Floats], label: Label, of: NDArray[np.intp], seed: int, shuffles: int
) -> dict[str, Score]:
    made: dict[str, Score] = {}
    for at, (name, x) in enumerate(sets.items()):
        found = ridge_probes(x, {"y": label.values}, of, folds=FOLDS, shuffles=0, seed=seed).get("y")
        if found is None:
            return {}
        mixed = _shuffled_r2(x, np.asarray(label.values, np.float64), of, seed, shuffles if at == 0 else 0)
        made[name] = Score("R²", found.score, *mixed, found.patients, found)
    return made


def _shuffled_r2(x: Floats, y: Floats, of: NDArray[np.intp], seed: int, shuffles: int) -> tuple[float, float]:
    if not shuffles:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    targets = {str(at): _shuffled(y, of, rng) for at in range(shuffles)}
    scores = [one.score.value for one in ridge_probes(x, targets, of, folds=FOLDS, shuffles=0, resamples=2).values()]
    return float(np.mean(scores)), float(np.quantile(scores, 0.95))


def _shuffled(y: NDArray[Any], of: NDArray[np.intp], rng: np.random.Generator) -> NDArray[Any]:
    """Give each patient's first label to another patient, all rows of it."""
    first = _firsts(y, of)
    return first[rng.permutation(len(first))][of]


def _firsts(y: NDArray[Any], of: NDArray[np.intp]) -> NDArray[Any]:
    """The first label of each patient, in the order of their numbers."""
    return y[np.unique(of, return_index=True)[1]]


def _category(
    sets: Mapping[str, Floats], label: Label, of: NDArray[np.intp], seed: int, shuffles: int
) -> dict[str, Score]:
    classes = label.classes
    if min(len(np.unique(of[label.values == one])) for one in classes) < LEAST_CLASS:
        return {}
    folds = [test for repeat in range(REPEATS) for test in _folds(label.values, of, seed + repeat)]
    counts = sample_counts(int(of.max()) + 1, RESAMPLES, seed)
    rng = np.random.default_rng(seed)
    mixed = [_shuffled(label.values, of, rng) for _ in range(shuffles)]
    made: dict[str, Score] = {}
    for name, x in sets.items():
        own = tuple(_ranked(x, label.values[None], folds, of, classes)[0])
        control = [_macro(one)[0] for one in _ranked(x, np.array(mixed), folds[:FOLDS], of, classes)] if mixed else []
        score = interval(float(_macro(own)[0]), _macro(own, counts))
        high = float(np.quantile(control, 0.95)) if control else float("nan")
        made[name] = Score("AUC", score, float(np.mean(control or [np.nan])), high, len(counts[0]), own)
        mixed = []
    return made


def _macro(rankings: Sequence[Ranking], counts: Floats | None = None) -> Floats:
    return np.asarray(np.mean([one.auc(counts) for one in rankings], axis=0), np.float64)


def _folds(y: NDArray[Any], of: NDArray[np.intp], seed: int) -> list[NDArray[np.bool_]]:
    """Masks of rows to test on; of each class (a patient's first) every fold has as many patients, or one more."""
    rng = np.random.default_rng(seed)
    first = _firsts(y, of)
    shuffled = rng.permutation(len(first))
    dealt = np.empty(len(first), np.intp)
    dealt[shuffled[np.argsort(first[shuffled], kind="stable")]] = np.arange(len(first)) % FOLDS
    return [dealt[of] == fold for fold in range(FOLDS)]


def _ranked(
    x: Floats, labels: NDArray[Any], folds: list[NDArray[np.bool_]], of: NDArray[np.intp], classes: tuple[str, ...]
) -> list[list[Ranking]]:
    """For each of labels (m, n) a ranking for each class against the rest; for two classes one in all."""
    asked = classes[1:] if len(classes) == 2 else classes
    y = np.concatenate([labels == one for one in asked])
    parts: list[list[tuple[NDArray[np.intp], NDArray[np.intp], Floats]]] = [[] for _ in y]
    for test in folds:
        usable = [
            at for at in range(len(y)) if 0 < y[at][test].sum() < test.sum() and 0 < y[at][~test].sum() < (~test).sum()
        ]
        if not usable:
            continue
        scores = nested_scores(_prepared(x, test), y[usable], of, ~test)
        for at, score in zip(usable, scores, strict=True):
            ones, zeros = np.flatnonzero(test & y[at]), np.flatnonzero(test & ~y[at])
            right = 0.5 + 0.5 * np.sign(score[ones][:, None] - score[zeros][None])
            parts[at].append((np.repeat(of[ones], len(zeros)), np.tile(of[zeros], len(ones)), right.reshape(-1)))
    made = [_joined(one, int(of.max()) + 1) for one in parts]
    return [made[at :: len(labels)] for at in range(len(labels))]


def _joined(parts: list[tuple[NDArray[np.intp], NDArray[np.intp], Floats]], patients: int) -> Ranking:
    if not parts:
        return Ranking(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0), patients)
    first, second, right = (np.concatenate(listed) for listed in zip(*parts, strict=True))
    return Ranking(first, second, right, patients)


def _prepared(x: Floats, test: NDArray[np.bool_]) -> Floats:
    """Standardise as in the training part; more than 32 columns become components of it, each of variance 1."""
    train = x[~test]
    deviation = train.std(axis=0)
    varies = deviation > 1e-9 * (1 + np.abs(train.mean(axis=0)))
    scaled = (x[:, varies] - train[:, varies].mean(axis=0)) / deviation[varies]
    if scaled.shape[1] > COMPONENTS:
        scaled = principal_components(scaled[~test], COMPONENTS)(scaled)
        scaled = scaled / scaled[~test].std(axis=0)
    return np.asarray(scaled, np.float64)
