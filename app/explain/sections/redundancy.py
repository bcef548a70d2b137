"""Whether the dimensions say different things: one fact told 27 times must not count as 27."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.question import Question
from app.explain.report.section import Cell, Figure, Section, Table, number, percent
from app.explain.sections.figures import correlation_map
from app.explain.statistics.associations import Association
from models.statistics.redundancy import null_redundancy, redundancy
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
    figures_of, chance = redundancy(features), null_redundancy(len(features), length, draws=20, seed=question.seed)
    matrix = correlation(features)
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1] if length <= _MOST_DRAWN else _spectrum(features)
    needed = int(np.searchsorted(np.cumsum(values) / values.sum(), _SHARE)) + 1
    effective = figures_of.participation_ratio
    few = effective < _RATIO * chance.participation_ratio
    text = f"{length} features are worth about {number(effective, 1)} independent ones; {needed} "
    text += f"component{'s hold' if needed > 1 else ' holds'} {percent(_SHARE)} of their variance."
    warning = _warning(question, found, effective) if few else ""
    close = int((np.abs(np.triu(matrix, 1)) > 0.9).sum())
    rows: tuple[tuple[Cell, ...], ...] = (
        ("features", length, None),
        ("mean absolute correlation of two features", figures_of.mean_abs_r, chance.mean_abs_r),
        ("effective number of dimensions (participation ratio)", effective, chance.participation_ratio),
        ("components for 95 % of the variance", needed, None),
        ("pairs of features with a correlation above 0.9", close, None),
    )
    return Section(
        KEY,
        TITLE,
        text + warning,
        "Features that repeat each other are not wrong: together they carry what they carry. But a count of "
        "significant ones then counts one finding several times.",
        mood="warned" if few else "calm",
        notes=(
            "Independent features correlate by chance too: the column beside it says how much, with as many rows.",
            *(
                ("Test features together (the probes do), or whiten them first, rather than one at a time.",)
                if few
                else ()
            ),
        ),
        tables=(
            Table("redundancy", "How much the features repeat each other", ("figure", "value", "by chance"), rows),
            Table(
                *("components", "", ("component", "share_of_variance")),
                tuple((at + 1, float(one)) for at, one in enumerate((values / values.sum())[:64])),
                most=0,
            ),
        ),
        figures=(_map(question, matrix),) if length <= _MOST_DRAWN else (),
    )


def _warning(question: Question, found: Sequence[Association], effective: float) -> str:
    counted = [(one.raw.counts["maxt"], one.label.name) for one in found if one.raw.counts["maxt"] > 1]
    if not counted:
        return " What one of them goes with, the others go with too."
    most, name = max(counted)
    facts = max(1, min(most, round(effective)))
    times = "one fact" if facts == 1 else f"at most about {facts} facts"
    length = question.features.shape[1]
    return f" “{most} of {length} features go with {name}” is {times} told {most} times, not {most} findings."


def _spectrum(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the eigenvalues of the correlation matrix of features that outnumber the rows, from the rows' products."""
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
