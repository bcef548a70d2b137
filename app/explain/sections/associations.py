"""Which features go with which labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from app.explain.data.question import Question
from app.explain.report.section import Cell, Figure, Section, Table, lacking, number, p_text
from app.explain.sections.figures import pair_histograms
from app.explain.statistics.associations import ALPHA, Association, Tested
from app.explain.statistics.exploratory import Pair, strongest_pairs

KEY, TITLE = "associations", "Which features go with which labels?"

COLUMNS = (
    *("feature", "label", "n", "primary", "statistic", "p", "p_bh", "p_bonferroni", "p_maxt", "p_maxt_all"),
    *("covariates", "adjusted_statistic", "adjusted_p", "adjusted_p_bh", "adjusted_p_maxt", "adjusted_p_maxt_all"),
)
_COUNTS = (
    *("label", "primary", "n", "features", "raw", "bh", "bonferroni", "maxt", "adjusted_raw", "adjusted_bh"),
    *("adjusted_maxt", "strongest", "statistic", "p_maxt"),
)
_HEADINGS = (
    ("primary", "test"),
    ("n", "rows"),
    ("raw", "p < 0.05 before correction"),
    ("bh", "after BH"),
    ("bonferroni", "after Bonferroni"),
    ("maxt", "after max-T"),
    ("adjusted_raw", "covariates, before correction"),
    ("adjusted_maxt", "covariates, after max-T"),
    ("strongest", "strongest feature"),
    ("statistic", "its statistic"),
    ("p_maxt", "its p (max-T)"),
)


def associations_section(question: Question, found: Sequence[Association]) -> Section:
    """Return the section, with all pairs in `associations.csv`."""
    if not found:
        return lacking(KEY, TITLE, "no column can be tested as a label; see the notes at the top")
    pairs = [(one, strongest_pairs(question.features, one, question.patients)) for one in found]
    kept = [one.label.name for one in found if one.raw.counts["maxt"]]
    solid = [one.label.name for one in found if (one.adjusted or one.raw).counts["maxt"]]
    return Section(
        KEY,
        TITLE,
        _found(question, found, kept, solid),
        "That a feature goes with a label does not say that one causes the other, nor that it predicts the label in a "
        "new patient (see the probes); and a label without a feature may still be in several features together.",
        mood="warned" if question.too_few else "calm",
        notes=(*_method(question), *(line(one) for one in found), *(n for one in found for n in _left_out(one))),
        tables=(_counts(question, found), _all_pairs(question, found), _exploratory(question, pairs)),
        figures=_figures(question, found),
    )


def line(one: Association) -> str:
    """Return the plain line of a label: R before correction, B after, P when covariates are accounted for."""
    raw, adjusted = one.raw.counts, one.adjusted.counts if one.adjusted else None
    total = len(one.raw.p)
    text = f"{one.label.name}: {raw['raw']} of {total} features before correction, {raw['maxt']} after"
    if adjusted is None:
        return f"{text}; covariates could not be accounted for ({one.why_not_adjusted})."
    names = ", ".join(one.adjusted.covariates.used) if one.adjusted else ""
    return f"{text}, {adjusted['maxt']} when {names} are accounted for."


def _found(question: Question, found: Sequence[Association], kept: list[str], solid: list[str]) -> str:
    few = "With fewer than ten patients nothing here can be trusted. " if question.too_few else ""
    if not kept:
        raw = sum(one.raw.counts["raw"] for one in found)
        text = f"No feature goes with any of the {len(found)} labels after correction for having looked at "
        return f"{few}{text}{question.features.shape[1]} features ({raw} pairs have p < 0.05 before correction)."
    text = f"{few}{len(kept)} of {len(found)} labels go with at least one feature after correction: {', '.join(kept)}"
    strict = [one.label.name for one in found if (one.raw.p_maxt_all < ALPHA).any()]
    if strict != kept:
        lost = ", ".join(name for name in kept if name not in strict)
        text += f" (not {lost} when corrected for all {len(found)} labels together)"
    gone = [name for name in kept if name not in solid]
    return f"{text}; {', '.join(gone)} no longer do once covariates are accounted for." if gone else f"{text}."


def _method(question: Question) -> Iterator[str]:
    patients = len(np.unique(question.patients))
    if question.all_series:
        unit = f"Rows are the {len(question.table)} series of {patients} patients; whole patients are permuted, and "
        yield f"{unit}only with patients that have as many series; p before correction is by permutation too."
    else:
        yield f"Rows are {patients} patients, one series each; p before correction is asymptotic."
    yield (
        "Spearman for numbers, a rank test for categories: chosen before looking. BH keeps the share of false findings "
        f"at 5 %, Bonferroni and max-T ({question.permutations} permutations) the chance of any false finding."
    )


def _left_out(one: Association) -> Iterator[str]:
    yield from (f"{one.label.name}: {note}." for note in one.label.notes)
    if one.adjusted:
        yield from (
            f"{one.label.name}: not adjusted for {name}: {why}." for name, why in one.adjusted.covariates.left_out
        )


def _counts(question: Question, found: Sequence[Association]) -> Table:
    return Table(
        "labels",
        "Labels, and how many features go with each",
        _COUNTS,
        tuple(_count_row(question.tap, one) for one in found),
        shown=("label", "primary", "n", "raw", "maxt", "adjusted_maxt", "strongest", "statistic", "p_maxt"),
        most=40,
        headings=_HEADINGS,
    )


def _count_row(tap: str, one: Association) -> tuple[Cell, ...]:
    raw, adjusted = one.raw.counts, one.adjusted.counts if one.adjusted else {}
    best = int(np.abs(one.raw.statistic).argmax())
    return (
        *(one.label.name, one.primary, one.raw.n, len(one.raw.p)),
        *(raw["raw"], raw["bh"], raw["bonferroni"], raw["maxt"]),
        *(adjusted.get("raw"), adjusted.get("bh"), adjusted.get("maxt")),
        *(f"{tap}_{best:03d}", float(one.raw.statistic[best]), float(one.raw.p_maxt[best])),
    )


def _all_pairs(question: Question, found: Sequence[Association]) -> Table:
    rows = [row for one in found for row in _pair_rows(question.tap, one)]
    rows.sort(key=lambda row: (row[COLUMNS.index("p_maxt")], row[COLUMNS.index("p")]))
    return Table(
        "associations",
        "The strongest pairs",
        COLUMNS,
        tuple(rows),
        shown=("feature", "label", "n", "primary", "statistic", "p", "p_maxt", "adjusted_statistic", "adjusted_p_maxt"),
        headings=(
            *(("primary", "test"), ("n", "rows"), ("p", "p before correction"), ("p_maxt", "p (max-T)")),
            *(("adjusted_statistic", "statistic, covariates"), ("adjusted_p_maxt", "p (max-T), covariates")),
        ),
    )


def _pair_rows(tap: str, one: Association) -> Iterator[tuple[Cell, ...]]:
    adjusted = one.adjusted
    names = " ".join(adjusted.covariates.used) if adjusted else ""
    for k in range(len(one.raw.p)):
        more = _numbers(adjusted, k, ("statistic", "p", "p_bh", "p_maxt", "p_maxt_all")) if adjusted else (None,) * 5
        own = _numbers(one.raw, k, ("statistic", "p", "p_bh", "p_bonferroni", "p_maxt", "p_maxt_all"))
        yield (f"{tap}_{k:03d}", one.label.name, one.raw.n, one.primary, *own, names, *more)


def _numbers(tested: Tested, k: int, names: Sequence[str]) -> tuple[float, ...]:
    return tuple(float(getattr(tested, name)[k]) for name in names)


def _exploratory(question: Question, pairs: Sequence[tuple[Association, tuple[Pair, ...]]]) -> Table:
    columns = (
        *("feature", "label", "linear", "linear_p", "distance_correlation", "distance_correlation_p"),
        *("mutual_information_nats", "mutual_information_p", "spearman_low", "spearman_high"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            *(f"{question.tap}_{pair.feature:03d}", one.label.name, pair.linear, pair.linear_p),
            *(pair.distance, pair.distance_p, pair.information, pair.information_p),
            *((pair.interval.low, pair.interval.high) if pair.interval else (None, None)),
        )
        for one, listed in pairs
        for pair in listed
    ]
    caption = "Exploratory, for the 50 strongest pairs of each label: Pearson's r (or eta squared), distance "
    return Table(
        "exploratory",
        f"{caption}correlation, mutual information. Raw p only: they prove nothing",
        columns,
        tuple(rows),
        most=5,
    )


def _figures(question: Question, found: Sequence[Association]) -> tuple[Figure, ...]:
    ordered = sorted(found, key=lambda one: (float(one.raw.p_maxt.min()), -float(np.abs(one.raw.statistic).max())))
    shown = [(one, int(np.abs(one.raw.statistic).argmax())) for one in ordered[:9]]
    captions = "; ".join(
        f"{question.tap}_{k:03d} and {one.label.name}: {number(float(one.raw.statistic[k]))}, "
        f"{p_text(float(one.raw.p_maxt[k]))} (max-T)"
        for one, k in shown
    )
    text = (
        "The strongest feature of each label; darker is more rows. They were picked for being the strongest: new data "
    )
    png = pair_histograms([(question.features[:, k], one.label, f"{question.tap}_{k:03d}") for one, k in shown])
    return (Figure("pairs", png, f"{text}will show weaker ones. {captions}."),)
