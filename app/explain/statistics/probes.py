"""What can be predicted from features, beside what can be predicted without them: probes and their controls.

A number is predicted by ridge regression, scored by R²; a category by logistic ridge on at most 32 principal
components, scored by the area under the ROC curve (AUC), the mean over classes against the rest. Penalties are chosen
inside of each training fold; components are learned there. No patient is on both sides of a fold. All sets of features
have the same folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.labels import Label
from app.explain.statistics.rankings import FOLDS, Ranking, class_folds, macro_auc, ranked
from models.statistics.patients import RESAMPLES, Interval, firsts, interval, numbered, sample_counts
from models.statistics.probes import Probe, ridge_probes, score_difference

Floats = NDArray[np.float64]

REPEATS, SHUFFLES = 3, 20

LEAST_CLASS: Final = 6
"""Patients of a class, for a probe to be learned and tested on some of them each."""


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

    @property
    def beats_guessing(self) -> bool:
        """The interval is above what guessing scores."""
        return self.score.low > (0.5 if self.measure == "AUC" else 0.0)


Known = dict[str, Score | None]
"""The probes that a report has made so far, by a digest of what they depend on: several sections ask for the same."""


def probe(
    sets: Mapping[str, NDArray[Any]],
    label: Label,
    patients: NDArray[np.str_],
    *,
    seed: int = 0,
    shuffles: int = SHUFFLES,
    known: Known | None = None,
) -> dict[str, Score]:
    """Probe each set of features to a label; empty where there are too few patients for it.

    Args:
        sets: name → (n, k), finite.
        label: of the same rows.
        patients: (n,).
        seed: of folds, shuffles and samples.
        shuffles: of the label, for the first set alone: the others are its controls.
        known: probes that need not be made again; those that are made are added.
    """
    there = label.there
    rows, patient_of = label.rows(there), numbered(patients[there])
    known = {} if known is None else known
    made: dict[str, Score] = {}
    for at, (name, x) in enumerate(sets.items()):
        inputs = np.asarray(x, np.float64)[there], rows, patient_of, seed, shuffles if at == 0 else 0
        digest = _digest(*inputs)
        if digest not in known:
            known[digest] = (_number if label.kind == "number" else _category)(*inputs)
        found = known[digest]
        if found is None:
            return {}
        made[name] = found
    return made


def _digest(x: Floats, label: Label, patient_of: NDArray[np.intp], seed: int, shuffles: int) -> str:
    values = np.asarray(label.values)
    digest = hashlib.sha256(f"{label.kind} {values.dtype} {x.shape} {seed} {shuffles}".encode())
    for array in (x, values, patient_of):
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_well(
    features: NDArray[Any],
    labels: Sequence[Label],
    patients: NDArray[np.str_],
    on_label: Callable[[str], None],
    *,
    seed: int = 0,
    known: Known | None = None,
) -> Iterator[tuple[str, Score]]:
    """Yield how well features predict each of the labels that has enough patients."""
    for label in labels:
        on_label(label.name)
        if scores := probe({"features": features}, label, patients, seed=seed, known=known):
            yield label.name, scores["features"]


def better_by(one: Score, other: Score, seed: int = 0) -> Interval:
    """Return how much the score of one set is above another's, over the same bootstrap samples of patients."""
    if isinstance(one.parts, Probe) and isinstance(other.parts, Probe):
        return score_difference({"y": one.parts}, {"y": other.parts}, seed=seed)
    if isinstance(one.parts, Probe) or isinstance(other.parts, Probe):
        raise ValueError("the scores are of different kinds of labels")
    counts = sample_counts(one.parts[0].patients, RESAMPLES, seed)
    value = macro_auc(one.parts)[0] - macro_auc(other.parts)[0]
    return interval(float(value), macro_auc(one.parts, counts) - macro_auc(other.parts, counts))


def _number(x: Floats, label: Label, patient_of: NDArray[np.intp], seed: int, shuffles: int) -> Score | None:
    found = ridge_probes(x, {"y": label.values}, patient_of, folds=FOLDS, shuffles=0, seed=seed).get("y")
    if found is None:
        return None
    mixed = _shuffled_r2(x, np.asarray(label.values, np.float64), patient_of, seed, shuffles)
    return Score("R²", found.score, *mixed, found.patients, found)


def _shuffled_r2(x: Floats, y: Floats, patient_of: NDArray[np.intp], seed: int, shuffles: int) -> tuple[float, float]:
    if not shuffles:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    targets = {str(at): _shuffled(y, patient_of, rng) for at in range(shuffles)}
    scores = [
        one.score.value for one in ridge_probes(x, targets, patient_of, folds=FOLDS, shuffles=0, resamples=2).values()
    ]
    return float(np.mean(scores)), float(np.quantile(scores, 0.95))


def _shuffled(y: NDArray[Any], patient_of: NDArray[np.intp], rng: np.random.Generator) -> NDArray[Any]:
    """Give each patient's first label to another patient, all rows of it."""
    first = firsts(y, patient_of)
    return first[rng.permutation(len(first))][patient_of]


def _category(x: Floats, label: Label, patient_of: NDArray[np.intp], seed: int, shuffles: int) -> Score | None:
    classes = label.classes
    if min(len(np.unique(patient_of[label.values == one])) for one in classes) < LEAST_CLASS:
        return None
    folds = [test for repeat in range(REPEATS) for test in class_folds(label.values, patient_of, seed + repeat)]
    counts = sample_counts(int(patient_of.max()) + 1, RESAMPLES, seed)
    rng = np.random.default_rng(seed)
    mixed = [_shuffled(label.values, patient_of, rng) for _ in range(shuffles)]
    own = tuple(ranked(x, label.values[None], folds, patient_of, classes)[0])
    control = (
        [macro_auc(one)[0] for one in ranked(x, np.array(mixed), folds[:FOLDS], patient_of, classes)] if mixed else []
    )
    score = interval(float(macro_auc(own)[0]), macro_auc(own, counts))
    high = float(np.quantile(control, 0.95)) if control else float("nan")
    return Score("AUC", score, float(np.mean(control or [np.nan])), high, len(counts[0]), own)
