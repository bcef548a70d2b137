"""How much of the scanner is in the features, and whether it can be taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from app.explain.data.labels import Label, read_labels
from app.explain.data.question import TECHNICAL, Question
from app.explain.report.section import Cell, Section, Table, lacking, number
from app.explain.sections.variance import variance_of
from app.explain.statistics.harmonising import Harmonise, combat, halves, projection
from app.explain.statistics.probes import LEAST_CLASS, Known, Score, probe, read_well

KEY, TITLE = "acquisition", "How much of the scanner is in the features?"

WAYS: Final[Mapping[str, Harmonise]] = {"ComBat": combat, "projection": projection}
_LEAST_BATCH: Final = 2 * LEAST_CLASS
"""Patients of a scanner: one half to learn harmonising from, the other to judge it by."""


def acquisition_section(question: Question, on_label: Callable[[str], None], known: Known | None = None) -> Section:
    """Return the section: what can be read of the acquisition, its share of the variance, what harmonising does."""
    labels = read_labels(question.table, TECHNICAL)[0]
    rows: list[tuple[Cell, ...]] = []
    read = list(read_well(question.features, labels, question.patients, on_label, seed=question.seed, known=known))
    for name, score in read:
        rows.append((name, score.measure, "as they are", *score.score, score.shuffled, score.shuffled_high))
    batch = next((label for label in labels if label.kind == "category" and _learnable(label, question)), None)
    if batch:
        on_label("harmonising")
        rows += _after(question, batch)
    shares, variance = variance_of(question)
    if not rows and not variance.rows:
        text = "the table says too little of the acquisition: one scanner, or too few patients of each, and no repeats"
        return lacking(KEY, TITLE, text)
    untested = [name for name in TECHNICAL if name not in {label for label, _ in read}]
    return Section(
        KEY,
        TITLE,
        f"{_found(question.tap, read)} {shares}" if variance.rows else _found(question.tap, read),
        "A scanner that can be read from the features need not distort your label, but it can: where patients of one "
        "scanner also differ in the label, the two cannot be told apart. Harmonising cannot correct a scanner never "
        "seen.",
        mood="warned" if any(score.beats_shuffled for _, score in read) else "calm",
        notes=(
            *((f"Not tested, for they are constant, missing or too rare: {', '.join(untested)}.",) if untested else ()),
            *_notes(batch),
            *(() if variance.rows else (shares,)),
        ),
        tables=(_predicted(rows), variance),
    )


def _predicted(rows: Sequence[tuple[Cell, ...]]) -> Table:
    return Table(
        "acquisition",
        "Prediction of the acquisition from the features, before and after harmonising",
        ("label", "measure", "features", "score", "low", "high", "shuffled", "shuffled_high"),
        tuple(rows),
        most=40,
        headings=(
            *(("low", "95 % from"), ("high", "to"), ("shuffled", "shuffled labels")),
            ("shuffled_high", "95 of 100 shuffled below"),
        ),
    )


def _learnable(label: Label, question: Question) -> bool:
    sizes = [len(np.unique(question.patients[label.values == one])) for one in label.classes]
    return min(sizes) >= _LEAST_BATCH


def _after(question: Question, batch: Label) -> list[tuple[Cell, ...]]:
    """Return how well batch and the user's labels are read before and after harmonising learned from other patients."""
    patients, values = question.patients[batch.there], np.asarray(batch.values[batch.there], np.str_)
    learn, apply = halves(values, patients, question.seed)
    features = question.features[batch.there].astype(np.float64)
    sets = {"as they are": features[apply]} | {
        f"{way} of {batch.name}": how(features[learn], values[learn], features[apply], values[apply])
        for way, how in WAYS.items()
    }
    rows: list[tuple[Cell, ...]] = []
    for label in (batch, *(one for one in question.labels if question.of_the_user)):
        chosen = label.rows(batch.there).rows(apply)
        for way, made in sets.items():
            for score in probe({way: made}, chosen, patients[apply], seed=question.seed).values():
                mixed = (score.shuffled, score.shuffled_high)
                rows.append((label.name, score.measure, f"{way}, half of the patients", *score.score, *mixed))
    return rows


def _found(tap: str, read: list[tuple[str, Score]]) -> str:
    shown = [(name, score) for name, score in read if score.beats_shuffled]
    if not read:
        return (
            "Whether the acquisition can be read from the features cannot be tested: one scanner, or too few patients."
        )
    if not shown:
        return f"None of {len(read)} properties of the acquisition can be shown to be readable from {tap}."
    listed = ", ".join(f"{name} ({score.measure} {number(score.score.value)})" for name, score in shown)
    return f"{len(shown)} of {len(read)} properties of the acquisition can be read from {tap}: {listed}."


def _notes(batch: Label | None) -> tuple[str, ...]:
    if batch is None:
        return (f"Harmonising was not tried: no property has two classes of {_LEAST_BATCH} patients.",)
    return (
        f"ComBat and the projection are learned by {batch.name} from one half of the patients and applied to the other "
        "half as to new cases; the scores before and after are those of that half. ComBat needs to know the scanner of "
        "a new case and to have learned it; the projection needs neither, and takes out whatever else lies in the same "
        "directions.",
    )
