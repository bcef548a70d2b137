"""Whether the dimensions say different things: one fact told 27 times must not count as 27."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.question import Question
from app.explain.report.section import Cell, Figure, Section, Table, number, percent
from app.explain.sections.figures import correlation_map
from app.explain.statistics.associations import Association
from models.statistics.redundancy import Redundancy, null_redundancy, redundancy
from models.statistics.units import correlation

KEY, TITLE = "redundancy", "Do the features say different things?"

_SHARE: Final = 0.95
_MOST_DRAWN: Final = 512
_RATIO: Final = 0.5
"""Fewer effective dimensions than this share of what independent features have: one fact is told several times."""


def redundancy_section(question: Question, found: Sequence[Association]) -> Section:
    """Return the section: correlation of the features, effective dimensions, and the warning that follows from them."""
    features = question.features
    length = features.shape[1]
    if length < 2:
        return Section(KEY, TITLE, "There is a single feature, so nothing is repeated.", "")
    matrix = correlation(features)
    chance = null_redundancy(len(features), length, draws=20, seed=question.seed)
    facts = _Repeated(redundancy(features), chance, matrix, _spectrum(features, matrix))
    text = f"{length} features are worth about {number(facts.effective, 1)} independent ones; {facts.needed} "
    text += f"component{'s hold' if facts.needed > 1 else ' holds'} {percent(_SHARE)} of their variance."
    notes = ["Independent features correlate by chance too: the column beside it says how much, with as many rows."]
    if facts.few:
        text += _warning(question, found, facts.effective)
        notes.append("Test features together (the probes do), or whiten them first, rather than one at a time.")
    return Section(
        KEY,
        TITLE,
        text,
        "Features that repeat each other are not wrong: together they carry what they carry. But a count of "
        "significant ones then counts one finding several times.",
        mood="warned" if facts.few else "calm",
        notes=tuple(notes),
        tables=(_how_much(facts), _components(facts)),
        figures=(_map(question, matrix),) if length <= _MOST_DRAWN else (),
    )


@dataclass(frozen=True, slots=True)
class _Repeated:
    """How much the features repeat each other.

    Attributes:
        figures: of the features.
        chance: of as many independent features with as many rows.
        matrix: correlations of the features, (n, n).
        spectrum: its eigenvalues, the largest first.
    """

    figures: Redundancy
    chance: Redundancy
    matrix: NDArray[np.float64]
    spectrum: NDArray[np.float64]

    @property
    def effective(self) -> float:
        return self.figures.participation_ratio

    @property
    def few(self) -> bool:
        return self.effective < _RATIO * self.chance.participation_ratio

    @property
    def needed(self) -> int:
        """How many components hold most of the variance."""
        return int(np.searchsorted(np.cumsum(self.spectrum) / self.spectrum.sum(), _SHARE)) + 1


def _how_much(facts: _Repeated) -> Table:
    figures, chance = facts.figures, facts.chance
    close = int((np.abs(np.triu(facts.matrix, 1)) > 0.9).sum())
    rows: tuple[tuple[Cell, ...], ...] = (
        ("features", len(facts.matrix), None),
        ("mean absolute correlation of two features", figures.mean_abs_r, chance.mean_abs_r),
        ("effective number of dimensions (participation ratio)", facts.effective, chance.participation_ratio),
        ("components for 95 % of the variance", facts.needed, None),
        ("pairs of features with a correlation above 0.9", close, None),
    )
    return Table("redundancy", "How much the features repeat each other", ("figure", "value", "by chance"), rows)


def _components(facts: _Repeated) -> Table:
    shares = (facts.spectrum / facts.spectrum.sum())[:64]
    rows: tuple[tuple[Cell, ...], ...] = tuple((at + 1, float(one)) for at, one in enumerate(shares))
    return Table("components", "", ("component", "share_of_variance"), rows, most=0)


def _warning(question: Question, found: Sequence[Association], effective: float) -> str:
    counted = [(one.raw.counts["maxt"], one.label.name) for one in found if one.raw.counts["maxt"] > 1]
    if not counted:
        return " What one of them goes with, the others go with too."
    most, name = max(counted)
    facts = max(1, min(most, round(effective)))
    times = "one fact" if facts == 1 else f"at most about {facts} facts"
    length = question.features.shape[1]
    return f" “{most} of {length} features go with {name}” is {times} told {most} times, not {most} findings."


def _spectrum(features: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvalues of the correlation matrix; of a long vector's from the rows' products, which are fewer."""
    if len(matrix) <= _MOST_DRAWN:
        return np.sort(np.linalg.eigvalsh(matrix))[::-1]
    x = features.astype(np.float64) - features.mean(axis=0)
    length = np.sqrt(np.square(x).sum(axis=0))
    x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return np.sort(np.maximum(np.linalg.eigvalsh(x @ x.T), 0))[::-1]


def _map(question: Question, matrix: NDArray[np.float64]) -> Figure:
    caption = (
        f"Correlation of every two dimensions of {question.tap}; those alike stand side by side. Off the diagonal, "
    )
    return Figure(
        "correlation", correlation_map(matrix, question.tap), f"{caption}dark blue or red is the same fact again."
    )
