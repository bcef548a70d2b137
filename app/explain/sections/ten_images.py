"""Ten images of your own: which dimensions set two groups apart, and how little ten can prove."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.feature_table import FeatureTable
from app.explain.data.join_labels import KEYS
from app.explain.data.labels import Label
from app.explain.data.question import Question
from app.explain.report.section import Cell, Section, Table, number, p_text
from app.explain.statistics.associations import ALPHA, Tested, associate
from app.explain.statistics.design import Floats, ranks, unit
from operators.errors import StartError
from operators.system_error import cannot_read

KEY, TITLE = "ten", "What sets your two groups apart?"
_DRAWS: Final = 400
_POWER: Final = 0.8


@dataclass(frozen=True, slots=True)
class Groups:
    """Two lists of series.

    Attributes:
        label: `positive` and `negative`; the other rows empty.
        table: the rows of both.
        unknown: how many names of the lists are not in the table.
    """

    label: Label
    table: FeatureTable
    unknown: int


def read_groups(table: FeatureTable, positive: Path, negative: Path) -> Groups:
    """Read two files with a series UID per line, or a study UID, patient key or source path.

    Raises:
        StartError: `BAD_GROUPS`: unreadable, a series in both, or fewer than three patients of one in the table.
    """
    sides = {"positive": _names(positive), "negative": _names(negative)}
    value = np.full(len(table), "", dtype="<U8")
    unknown = 0
    for side, names in sides.items():
        hit = np.any([np.isin(table.texts(key), sorted(names)) for key in KEYS if key in table.columns], axis=0)
        if (value[hit] != "").any():
            raise StartError("BAD_GROUPS", "a series is in both lists; keep it in one")
        value[hit] = side
        known = {str(one) for key in KEYS if key in table.columns for one in table.texts(key)[hit]}
        unknown += len(names - known)
    chosen = table.rows(value != "")
    label = Label("group", "category", value[value != ""])
    for side in sides:
        count = len(np.unique(chosen.patients[label.values == side]))
        if count < 3:
            text = f"{count} patients of the {side} list are in the table; expected at least three"
            raise StartError("BAD_GROUPS", f"{text}, one series UID per line")
    return Groups(label, chosen, unknown)


def ten_images_section(question: Question, groups: Groups) -> Section:
    """Return the section."""
    features, patients = groups.table.taps[question.tap], groups.table.patients
    (found,) = associate(features, [groups.label], (), patients, permutations=question.permutations, seed=question.seed)
    least = _least_auc(found.raw, features, groups.label)
    gap = _detectable(found.raw, groups.label, question.seed)
    can = f"Only a dimension with an AUC of {number(least)} or more could be found with so few"
    power: tuple[tuple[Cell, ...], ...] = (
        ("smallest AUC that can be significant (max-T)", least),
        ("smallest difference found with 80 % power, in standard deviations", gap),
    )
    return Section(
        KEY,
        TITLE,
        f"{_verdict(question.tap, groups.label, found.raw)} {can}.",
        "Images picked by hand differ in more than what you picked them for (scanner, position, size), and a group of "
        "ten that shows nothing proves nothing: real but smaller differences are missed.",
        notes=_notes(groups, gap),
        tables=(
            _dimensions(question.tap, features, groups.label, found.raw),
            Table("power", "How little so few can prove", ("figure", "value"), power),
        ),
    )


def _surest_first(tested: Tested) -> list[int]:
    return [int(k) for k in np.argsort(tested.p_maxt, kind="stable")]


def _verdict(tap: str, label: Label, tested: Tested) -> str:
    ones = int((label.values == "positive").sum())
    sizes = f"{ones} positive and {len(label.values) - ones} negative series"
    kept = int((tested.p_maxt < ALPHA).sum())
    if not kept:
        return f"No dimension sets {sizes} apart after correction (smallest {p_text(float(tested.p_maxt.min()))})."
    names = ", ".join(f"{tap}_{k:03d}" for k in _surest_first(tested)[:kept][:8])
    return f"{kept} of {len(tested.p_maxt)} dimensions set {sizes} apart after correction: {names}."


def _notes(groups: Groups, gap: float) -> tuple[str, ...]:
    notes = [
        "AUC: how often a positive series has the higher value; 0.5 is no difference. Two classes by rank sum, max-T.",
        "A normally distributed dimension is found in 80 of 100 tries where the groups' means are "
        f"{number(gap, 1)} standard deviations apart.",
    ]
    if groups.unknown:
        notes.append(f"{groups.unknown} names of the lists are not in the table.")
    if len(np.unique(groups.table.patients)) < len(groups.table):
        notes.append("Several series of a patient are in the lists; whole patients are permuted.")
    return tuple(notes)


def _dimensions(tap: str, features: NDArray[np.float32], label: Label, tested: Tested) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            *(f"{tap}_{k:03d}", _auc(features[:, k], label), float(tested.statistic[k])),
            *(float(tested.p[k]), float(tested.p_bh[k]), float(tested.p_maxt[k])),
        )
        for k in _surest_first(tested)
    )
    return Table(
        "groups",
        "Dimensions, the surest first",
        ("feature", "auc", "statistic", "p", "p_bh", "p_maxt"),
        rows,
        most=10,
        headings=(("auc", "AUC"), ("p", "p before correction"), ("p_maxt", "p (max-T)")),
    )


def _names(file: Path) -> set[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        text = cannot_read(f"the list {file.name!r}", error, "one series UID per line")
        raise StartError("BAD_GROUPS", text) from error
    return {line.strip() for line in lines if line.strip()}


def _auc(values: NDArray[np.float32], label: Label) -> float:
    ones, zeros = values[label.values == "positive"], values[label.values == "negative"]
    return float(np.mean((ones[:, None] > zeros[None]) + 0.5 * (ones[:, None] == zeros[None])))


def _critical(tested: Tested) -> float:
    """Return the share of variance that 95 of 100 permutations do not reach in any dimension."""
    return float(np.quantile(tested.null, 1 - ALPHA, method="higher"))


def _least_auc(tested: Tested, features: NDArray[np.float32], label: Label) -> float:
    """Return the AUC that belongs to the critical correlation of ranks with the group, without ties; 1 at most."""
    n, ones = len(label.values), int((label.values == "positive").sum())
    scale = np.sqrt((n**2 - 1) / 12) * np.sqrt(n**2 / (ones * (n - ones)))
    return float(min(1.0, 0.5 + np.sqrt(_critical(tested)) * scale / n))


def _detectable(tested: Tested, label: Label, seed: int) -> float:
    """Return the difference of means, in standard deviations, that is found in 80 of 100 draws."""
    rng = np.random.default_rng(seed)
    group = (label.values == "positive").astype(np.float64)
    y = unit((group - group.mean())[:, None])
    noise = rng.standard_normal((len(group), _DRAWS))
    low, high, critical = 0.0, 8.0, _critical(tested)
    for _ in range(20):
        middle = (low + high) / 2
        power = float((_r2(noise + middle * group[:, None], y) > critical).mean())
        low, high = (low, middle) if power >= _POWER else (middle, high)
    return high


def _r2(values: Floats, y: Floats) -> Floats:
    return np.asarray(np.square(y.T @ unit(ranks(values)))[0], np.float64)
