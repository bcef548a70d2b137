"""How much of the scanner is in the features, and whether it can be taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from app.explain.data.labels import Label, read_labels
from app.explain.data.question import TECHNICAL, Question
from app.explain.report.section import Cell, Figure, Section, Table, lacking, number, percent, span
from app.explain.sections.figures import two_histograms
from app.explain.statistics.acquisition import (
    Distances,
    Harmonise,
    Shares,
    combat,
    harmonised,
    projection,
    variance_shares,
)
from app.explain.statistics.probes import Score, probe

KEY, TITLE = "acquisition", "How much of the scanner is in the features?"
REPEATS_KEY, REPEATS_TITLE = "repeats", "Are two scans of one patient alike?"
PRIVACY_KEY, PRIVACY_TITLE = "privacy", "Could a patient be recognised by the features?"

WAYS: Final[Mapping[str, Harmonise]] = {"ComBat": combat, "projection": projection}
_LEAST_BATCH: Final = 6


def acquisition_section(question: Question, on_label: Callable[[str], None]) -> Section:
    """Return the section: what can be read of the acquisition, its share of the variance, what harmonising does."""
    labels = read_labels(question.table, TECHNICAL)[0]
    rows: list[tuple[Cell, ...]] = []
    read = list(_readable(question, labels, on_label))
    for name, score in read:
        rows.append((name, score.measure, "as they are", *score.score, score.shuffled, score.shuffled_high))
    batch = next((label for label in labels if label.kind == "category" and _learnable(label, question)), None)
    if batch:
        on_label("harmonising")
        rows += _after(question, batch, read)
    if not rows:
        return lacking(
            KEY, TITLE, "the table says too little of the acquisition: one scanner, or too few patients of each"
        )
    shares = variance_shares(question.every.taps[question.tap], question.every.patients, seed=question.seed)
    untested = [name for name in TECHNICAL if name not in {label for label, _ in read}]
    return Section(
        KEY,
        TITLE,
        _found(question.tap, read),
        "A scanner that can be read from the features need not distort your label, but it can: where patients of "
        "one scanner "
        "also differ in the label, the two cannot be told apart. Harmonising cannot correct a scanner never seen.",
        mood="warned" if any(score.beats_shuffled for _, score in read) else "calm",
        notes=(
            *((f"Not tested, for they are constant, missing or too rare: {', '.join(untested)}.",) if untested else ()),
            *_notes(batch),
            _shares(shares),
        ),
        tables=(
            Table(
                "acquisition",
                "Prediction of the acquisition from the features, before and after harmonising",
                ("label", "measure", "features", "score", "low", "high", "shuffled", "shuffled_high"),
                tuple(rows),
                most=40,
                headings=(
                    *(("low", "95 % from"), ("high", "to"), ("shuffled", "shuffled labels")),
                    ("shuffled_high", "95 of 100 shuffled below"),
                ),
            ),
            _shares_table(shares),
        ),
    )


def repeats_section(found: Distances | None) -> Section:
    """Return the section: distance of two scans within and between patients."""
    if found is None:
        return lacking(REPEATS_KEY, REPEATS_TITLE, "no patient has two series in the table")
    ratio = found.within / found.between if found.between else float("nan")
    text = (
        f"Two scans of one patient are {number(ratio)} times as far apart as scans of two patients (medians), and the "
    )
    text += f"nearest scan of a scan is of the same patient in {percent(found.found.value)} of {found.scans} cases"
    rows: tuple[tuple[Cell, ...], ...] = (
        ("median distance, one patient", found.within, None, None),
        ("median distance, two patients", found.between, None, None),
        ("nearest scan is of the same patient", *found.found),
        ("the same, by guessing", found.chance, None, None),
        ("scans with another one of the same patient", found.scans, None, None),
    )
    return Section(
        REPEATS_KEY,
        REPEATS_TITLE,
        f"{text} ({span(found.found.low, found.found.high)}; guessing {percent(found.chance)}).",
        "Scans of one patient in one table are often phases or reconstructions of one examination: that they are "
        "alike is "
        "no proof that a scan next year would be.",
        tables=(Table("repeats", "Distances", ("figure", "value", "low", "high"), rows),),
        figures=(
            Figure(
                "distances",
                two_histograms(found.within_all, found.between_all),
                "Distances of two scans. The less the two shapes overlap, the better the features know the patient.",
            ),
        ),
    )


def privacy_section(question: Question, again: Distances | None, on_label: Callable[[str], None]) -> Section:
    """Return the section: the same patient found again; sex and age read from the features."""
    rows: list[tuple[Cell, ...]] = []
    said = []
    if again:
        rows.append(("the same patient is found again", "share of scans", *again.found, again.chance))
        said.append(f"the same patient is found again for {percent(again.found.value)} of scans")
    labels = read_labels(question.table, ("sex", "age_years"))[0]
    for name, score in _readable(question, labels, on_label):
        rows.append((name, score.measure, *score.score, score.shuffled))
        how = "can be read" if score.beats_shuffled else "is not shown to be readable"
        said.append(f"{name} {how} ({score.measure} {number(score.score.value)})")
    if not rows:
        return lacking(PRIVACY_KEY, PRIVACY_TITLE, "no patient has two series, and sex and age are unknown or too rare")
    return Section(
        PRIVACY_KEY,
        PRIVACY_TITLE,
        "; ".join(said)[0].upper() + "; ".join(said)[1:] + ".",
        "Low scores here are no anonymity: who holds another scan of the patient, or a better method, may find "
        "more. Treat "
        "features as data of a person.",
        mood="warned",
        tables=(
            Table(
                "privacy",
                "What the features give away",
                ("what", "measure", "value", "low", "high", "by_chance"),
                tuple(rows),
                headings=(("low", "95 % from"), ("high", "to")),
            ),
        ),
    )


def _readable(
    question: Question, labels: Sequence[Label], on_label: Callable[[str], None]
) -> Iterator[tuple[str, Score]]:
    """How well the features predict each of the labels that has enough patients."""
    for label in labels:
        on_label(label.name)
        scores = probe({question.tap: question.features}, label, question.patients, seed=question.seed)
        if scores:
            yield label.name, scores[question.tap]


def _learnable(label: Label, question: Question) -> bool:
    sizes = [len(np.unique(question.patients[label.values == one])) for one in label.classes]
    return min(sizes) >= _LEAST_BATCH


def _after(question: Question, batch: Label, read: list[tuple[str, Score]]) -> list[tuple[Cell, ...]]:
    """The batch, and the labels of the user, after harmonising that was learned without the patient."""
    there = batch.there
    patients, values = question.patients[there], np.asarray(batch.values[there], np.str_)
    rows: list[tuple[Cell, ...]] = []
    for way, how in WAYS.items():
        made = harmonised(question.features[there], values, patients, how, question.seed)
        for label in (batch, *(one for one in question.labels if question.of_the_user)):
            scores = probe({way: made}, label.rows(there), patients, seed=question.seed)
            if scores:
                score = scores[way]
                mixed = (score.shuffled, score.shuffled_high)
                rows.append((label.name, score.measure, f"{way} of {batch.name}", *score.score, *mixed))
    return rows


def _found(tap: str, read: list[tuple[str, Score]]) -> str:
    shown = [(name, score) for name, score in read if score.beats_shuffled]
    if not shown:
        return f"None of {len(read)} properties of the acquisition can be shown to be readable from {tap}."
    listed = ", ".join(f"{name} ({score.measure} {number(score.score.value)})" for name, score in shown)
    return f"{len(shown)} of {len(read)} properties of the acquisition can be read from {tap}: {listed}."


def _notes(batch: Label | None) -> tuple[str, ...]:
    if batch is None:
        return ("Harmonising was not tried: no property has two classes of six patients.",)
    return (
        f"ComBat and the projection are learned by {batch.name} from other patients and applied to each patient as "
        "to a new "
        "case. ComBat needs to know the scanner of the new case and to have learned it; the projection needs "
        "neither, and "
        "takes out whatever else lies in the same directions.",
    )


def _shares(shares: Shares | None) -> str:
    if shares is None:
        return "Patient and acquisition cannot be separated: fewer than three patients have two or more series."
    text = f"Of the variance, {percent(shares.patient.value)} lies between patients ({span(*shares.patient[1:])}) and "
    text += (
        f"{percent(shares.series.value)} between series of one patient ({span(*shares.series[1:])}): scanner, phase, "
    )
    return (
        f"{text}reconstruction and position together; from the {shares.patients} patients with two or more "
        "series alone."
    )


def _shares_table(shares: Shares | None) -> Table:
    listed = {"between patients": shares.patient, "between series of one patient": shares.series} if shares else {}
    rows = tuple((name, *one) for name, one in listed.items())
    columns = ("part", "share_of_variance", "low", "high")
    caption = "Share of the features' variance, from patients with two or more series"
    return Table("variance", caption, columns, rows, headings=(("low", "95 % from"), ("high", "to")))
