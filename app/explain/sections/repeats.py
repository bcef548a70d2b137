"""What two scans of one patient have in common, and whether a patient could be recognised by it."""

from __future__ import annotations

from collections.abc import Callable

from app.explain.data.labels import read_labels
from app.explain.data.question import Question
from app.explain.report.section import Cell, Figure, Section, Table, lacking, number, percent, span
from app.explain.sections.figures import two_histograms
from app.explain.statistics.probes import Known, read_well
from models.statistics.repeat_scans import RepeatScans

REPEATS_KEY, REPEATS_TITLE = "repeats", "Are two scans of one patient alike?"
PRIVACY_KEY, PRIVACY_TITLE = "privacy", "Could a patient be recognised by the features?"


def repeats_section(found: RepeatScans | None) -> Section:
    """Return the section: distance of two scans within and between patients."""
    if found is None:
        return lacking(REPEATS_KEY, REPEATS_TITLE, "no patient has two series in the table")
    ratio = found.within / found.between if found.between else float("nan")
    text = (
        f"Two scans of one patient are {number(ratio)} times as far apart as scans of two patients (medians), and the "
    )
    text += f"nearest scan of a scan is of the same patient for {percent(found.found.value)} of {found.scans} scans"
    rows: tuple[tuple[Cell, ...], ...] = (
        ("median distance, one patient", found.within, None, None),
        ("median distance, two patients", found.between, None, None),
        ("nearest scan is of the same patient", *found.found),
        ("the same, by guessing", found.chance, None, None),
        ("both scans are the nearest of each other", *found.mutual),
        ("scans with another one of the same patient", found.scans, None, None),
    )
    return Section(
        REPEATS_KEY,
        REPEATS_TITLE,
        f"{text} ({span(found.found.low, found.found.high)}; guessing {percent(found.chance)}).",
        "Scans of one patient in one table are often phases or reconstructions of one examination: that they are alike "
        "is no proof that a scan next year would be.",
        tables=(
            Table(
                "repeats",
                "Distances",
                ("figure", "value", "low", "high"),
                rows,
                headings=(("low", "95 % from"), ("high", "to")),
            ),
        ),
        figures=(
            Figure(
                "distances",
                two_histograms(found.within_all, found.between_all),
                "Distances of two scans. The less the two shapes overlap, the better the features know the patient.",
            ),
        ),
    )


def privacy_section(
    question: Question, again: RepeatScans | None, on_label: Callable[[str], None], known: Known | None = None
) -> Section:
    """Return the section: the same patient found again; sex and age read from the features."""
    rows: list[tuple[Cell, ...]] = []
    sentences = []
    if again:
        rows.append(("the same patient is found again", "share of scans", *again.found, again.chance))
        sentences.append(f"the same patient is found again for {percent(again.found.value)} of scans")
    labels = read_labels(question.table, ("sex", "age_years"))[0]
    read = read_well(question.features, labels, question.patients, on_label, seed=question.seed, known=known)
    for name, score in read:
        rows.append((name, score.measure, *score.score, score.shuffled))
        how = "can be read" if score.beats_shuffled else "is not shown to be readable"
        sentences.append(f"{name} {how} ({score.measure} {number(score.score.value)})")
    if not rows:
        return lacking(PRIVACY_KEY, PRIVACY_TITLE, "no patient has two series, and sex and age are unknown or too rare")
    return Section(
        PRIVACY_KEY,
        PRIVACY_TITLE,
        "; ".join(sentences)[0].upper() + "; ".join(sentences)[1:] + ".",
        "Low scores here are no anonymity: who holds another scan of the patient, or a better method, may find more. "
        "Treat features as data of a person.",
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
