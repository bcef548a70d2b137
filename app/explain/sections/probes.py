"""What the features can predict, beside what can be predicted without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.explain.data.labels import Label
from app.explain.data.question import BODY_SIZE, Question
from app.explain.report.section import Cell, Figure, Section, Table, lacking, number, span
from app.explain.sections.figures import score_chart
from app.explain.statistics.probes import Known, Score, better_by, probe
from models.statistics.patients import Interval

KEY, TITLE = "probes", "What can be predicted from the features, and does it need them?"
COLUMNS = (
    *("label", "measure", "patients", "features", "score", "low", "high", "beats"),
    *("above_by", "above_low", "above_high"),
)
BODY, SHUFFLED = "body size alone", "shuffled labels"


def probes_section(
    question: Question,
    rivals: Mapping[str, NDArray[Any]],
    on_label: Callable[[str], None],
    known: Known | None = None,
) -> Section:
    """Return the section.

    Args:
        question: what is asked.
        rivals: descriptions of the same windows that need no network: name → (n, k); empty without `--data`.
        on_label: called with each label.
        known: probes made so far.
    """
    controls = body_size(question) | dict(rivals)
    rows: list[tuple[Cell, ...]] = []
    won: list[str] = []
    chance: list[str] = []
    lost: list[str] = []
    skipped: list[str] = []
    drawn: list[tuple[str, Mapping[str, Score]]] = []
    beaten: dict[str, Mapping[str, bool]] = {}
    for label in question.labels:
        on_label(label.name)
        own = {name: x for name, x in controls.items() if not (name == BODY and label.name in BODY_SIZE)}
        scores = probe(
            {question.tap: question.features, **own}, label, question.patients, seed=question.seed, known=known
        )
        if not scores:
            skipped.append(label.name)
            continue
        tapped = scores[question.tap]
        above = {name: better_by(tapped, one, question.seed) for name, one in scores.items() if name != question.tap}
        beats = {SHUFFLED: tapped.beats_shuffled} | {name: gap.low > 0 for name, gap in above.items()}
        (won if all(beats.values()) else chance if beats[SHUFFLED] else lost).append(label.name)
        rows += _rows(label, scores, question.tap, beats, above)
        beaten[label.name] = beats
        drawn.append((label.name, scores))
    if not rows:
        return lacking(KEY, TITLE, "no label has enough patients (six of each class, or a number that varies)")
    return Section(
        KEY,
        TITLE,
        _found(won, chance, lost),
        "A score above its controls says that features and label share something in these patients; elsewhere, on "
        "other scanners, it may be gone. A score no better than its controls does not show that the features hold "
        "nothing.",
        mood="warned" if question.too_few else "calm",
        notes=_notes(rivals, skipped),
        tables=(_by_label(question.tap, drawn, beaten), Table("probes", "", COLUMNS, tuple(rows), most=0)),
        figures=(_figure(question.tap, drawn),),
    )


def body_size(question: Question) -> dict[str, NDArray[Any]]:
    """Return the body-size-only baseline, where the table has it."""
    columns = [np.asarray(question.table.columns[name], float) for name in BODY_SIZE if name in question.table.columns]
    if not columns or not all(np.isfinite(one).any() and np.nanstd(one) > 0 for one in columns):
        return {}
    return {BODY: np.stack([np.where(np.isfinite(one), one, np.nanmedian(one)) for one in columns], axis=1)}


def _rows(
    label: Label, scores: Mapping[str, Score], tap: str, beats: Mapping[str, bool], above: Mapping[str, Interval]
) -> list[tuple[Cell, ...]]:
    own = scores[tap]
    about = (label.name, own.measure, own.patients)
    rows: list[tuple[Cell, ...]] = [(*about, tap, *own.score, None, None, None, None)]
    words = {True: "yes", False: "not shown"}
    shuffled = (own.shuffled, None, own.shuffled_high)
    rows.append((*about, SHUFFLED, *shuffled, words[beats[SHUFFLED]], own.score.value - own.shuffled, None, None))
    rows += [(*about, name, *scores[name].score, words[beats[name]], *gap) for name, gap in above.items()]
    return rows


def _by_label(
    tap: str, drawn: Sequence[tuple[str, Mapping[str, Score]]], beaten: Mapping[str, Mapping[str, bool]]
) -> Table:
    """Return a table for the page: one row per label, one column per set of features."""
    sets = list(dict.fromkeys(name for _, scores in drawn for name in scores))
    columns = ("label", "measure", "patients", *sets, SHUFFLED, "better than")
    rows: list[tuple[Cell, ...]] = []
    for label, scores in drawn:
        own = scores[tap]
        beats = beaten[label]
        beaten_text = f"{sum(beats.values())} of {len(beats)}"
        values = (scores[name].score.value if name in scores else None for name in sets)
        rows.append((label, own.measure, own.patients, *values, own.shuffled_high, beaten_text))
    return Table(
        "probes_by_label",
        "Score of each set of features; no patient is learned from and tested on; intervals, and which control is "
        "beaten, are in probes.csv",
        columns,
        tuple(rows),
        most=40,
        headings=((SHUFFLED, "shuffled labels, 95 %"), ("better than", "controls beaten")),
    )


def _found(won: Sequence[str], chance: Sequence[str], lost: Sequence[str]) -> str:
    text = [
        f"Better than every control: {', '.join(won)}."
        if won
        else "No label is predicted better than by every control."
    ]
    if chance:
        text.append(f"Above chance, but not shown to be better than every control: {', '.join(chance)}.")
    if lost:
        text.append(f"Not shown to be above chance: {', '.join(lost)}.")
    return " ".join(text)


def _notes(rivals: Mapping[str, Any], skipped: Sequence[str]) -> tuple[str, ...]:
    without = "The HU histogram and PCA of the same windows were not computed: they need --data and --model."
    pixels = (
        "“Body voxels shuffled” is the same network on the same windows whose voxels inside of the body changed "
        "places: HU and outline stay, anatomy goes. “Body voxels random” has random HU there: only the outline stays. "
        "What they predict as well needs no anatomy."
    )
    return (
        "R² of a number: 1 is perfect, 0 is no better than the mean, below 0 is worse. AUC of classes: 1 is perfect, "
        "0.5 is guessing; of more than two classes the mean of each against the rest.",
        "Intervals are over bootstrap samples of patients. “Better” means that the 95 % interval of the difference, "
        "over the same samples, is above 0; for shuffled labels, that the score is above 95 of 100 of them and its "
        "interval above their mean. Of shuffled labels the column “to” is that 95th percentile.",
        pixels if rivals else without,
        *((f"Too few patients for a probe: {', '.join(skipped)}.",) if skipped else ()),
    )


def _figure(tap: str, drawn: Sequence[tuple[str, Mapping[str, Score]]]) -> Figure:
    shown = drawn[:12]
    best = max(shown, key=lambda one: one[1][tap].score.value)
    score = best[1][tap].score
    caption = (
        f"Scores with 95 % intervals. The highest is {best[0]}: {number(score.value)} ({span(score.low, score.high)}). "
    )
    return Figure(
        "scores", score_chart(tap, shown), f"{caption}Grey marks are the controls; scores below −1 are drawn at −1."
    )
