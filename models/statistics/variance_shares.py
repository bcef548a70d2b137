"""How much of what features vary by is the patient, and how much the acquisition. Arrays only.

Each standardised feature is the sum of an effect of the patient, one of the acquisition's settings (several patients
may have the same ones) and the rest, all random. Variance components by the method of fitting constants (Henderson
1953, doi 10.2307/3001853, his third): sums of squares of patients, of settings within patients, and of what is left,
set equal to their expectations. They are unbiased however unbalanced the table is. Only patients with two or more
series count: the others cannot tell the two apart.

Intervals are by the jackknife over patients. A bootstrap would not do: a patient drawn twice has the same rest twice,
which looks like an effect of the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from models.statistics.group_variance import standardised
from models.statistics.patients import Interval, numbered, sums_by_patient

Floats = NDArray[np.float64]

LEAST_PATIENTS = 3

GROUPS = 50
"""Of patients that are left out in turn, at most."""


class Shares(NamedTuple):
    """Shares of the features' variance; they add up to 1.

    Attributes:
        patient: what lies between patients.
        acquisition: what the settings account for within a patient; all that lies within patients where `rest` is None.
        rest: what differs between series of one patient with the same settings; None where the table cannot tell it
            from the acquisition.
        patients: with two or more series.
        settings: how many different ones.
    """

    patient: Interval
    acquisition: Interval
    rest: Interval | None
    patients: int
    settings: int


def variance_shares(features: NDArray[Any], patients: ArrayLike, settings: ArrayLike | None = None) -> Shares | None:
    """Split the variance of features into that of patients, of acquisitions and of the rest.

    Args:
        features: (n, k), one row per series.
        patients: (n,).
        settings: (n,), what tells acquisitions apart; by default every series is an acquisition of its own.

    Returns:
        Shares of the sum over features, none below 0; None where fewer than three patients have two or more series.
    """
    owner = numbered(patients)
    several = np.isin(owner, np.flatnonzero(np.bincount(owner) > 1))
    owner = numbered(owner[several])
    count = int(owner.max()) + 1 if owner.size else 0
    x = standardised(np.asarray(features)[several]) if count >= LEAST_PATIENTS else np.empty((0, 0))
    if not x.size:
        return None
    level = np.zeros(len(owner), np.intp) if settings is None else numbered(np.asarray(settings)[several])
    sums, everyone = _sums(x, owner, level), np.ones(count)
    changing = int((np.bincount(sums.patient) > 1).sum())
    crossed = changing >= LEAST_PATIENTS and bool(np.isfinite(_shares(sums, everyone, crossed=True)).all())
    whole = _shares(sums, everyone, crossed=crossed)
    if not np.isfinite(whole).all():
        return None
    groups = min(count, GROUPS)
    without = [
        _shares(sums, (np.arange(count) % groups != one).astype(float), crossed=crossed) for one in range(groups)
    ]
    patient, acquisition, rest = map(_jackknife, whole.tolist(), np.array(without).T)
    return Shares(patient, acquisition, rest if crossed else None, count, int(level.max()) + 1)


def _jackknife(value: float, without: Floats) -> Interval:
    """Return a share and its 95 % interval, from what it is without each of the groups of patients."""
    finite = without[np.isfinite(without)]
    if len(finite) < LEAST_PATIENTS:
        return Interval(value, 0.0, 1.0)
    error = float(np.sqrt((len(finite) - 1) * finite.var()))
    reach = float(student_t.ppf(0.975, len(finite) - 1)) * error
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the rows of each patient, and of each patient with each setting: all that sums of squares need.

    Attributes:
        rows: (p,), of each patient.
        means: (p, k).
        squares: (p,), of all values.
        cells: (p, a): rows of each patient with each setting.
        patient, setting: intp (c,): the cells that have rows.
        from_mean: (c, k): the sum over a cell's rows of what they are above the patient's mean.
    """

    rows: Floats
    means: Floats
    squares: Floats
    cells: Floats
    patient: NDArray[np.intp]
    setting: NDArray[np.intp]
    from_mean: Floats


def _sums(x: Floats, owner: NDArray[np.intp], level: NDArray[np.intp]) -> _Sums:
    levels = int(level.max()) + 1
    keys, at = np.unique(owner * levels + level, return_inverse=True)
    patient, setting, rows = keys // levels, keys % levels, np.bincount(owner).astype(np.float64)
    count, means = np.bincount(at).astype(np.float64), sums_by_patient(x, owner) / rows[:, None]
    cells = np.zeros((len(rows), levels))
    cells[patient, setting] = count
    return _Sums(
        rows=rows,
        means=means,
        squares=sums_by_patient(np.square(x).sum(axis=1), owner),
        cells=cells,
        patient=patient,
        setting=setting,
        from_mean=sums_by_patient(x, at) - count[:, None] * means[patient],
    )


def _shares(sums: _Sums, times: Floats, *, crossed: bool) -> Floats:
    """Return the shares of patient, acquisition and rest.

    Args:
        sums: of the table.
        times: (p,): 1 for a patient who counts, 0 for one who does not.
        crossed: tell the settings from the rest; else all that lies within patients is the acquisition's.

    Returns:
        float64 (3,), NaN where these patients do not tell them.
    """
    rows, patients = float(times @ sums.rows), float(times.sum())
    weight = times * sums.rows
    grand = weight @ sums.means
    of_patients = float(weight @ np.square(sums.means).sum(axis=1)) - float(grand @ grand) / rows
    within = float(times @ sums.squares - weight @ np.square(sums.means).sum(axis=1))
    of_settings, trace, rank = _settings(sums, times) if crossed else (0.0, 0.0, 0)
    spread, left = rows - float(weight @ sums.rows) / rows, rows - patients - rank
    if left < 1 or spread <= 0 or (crossed and trace <= 0):
        return np.full(3, np.nan)
    rest = (within - of_settings) / left
    acquisition = (of_settings - rank * rest) / trace if crossed else 0.0
    per_level = times @ sums.cells
    unbalanced = float((times / sums.rows) @ np.square(sums.cells).sum(axis=1)) - float(per_level @ per_level) / rows
    patient = (of_patients - (patients - 1) * rest - unbalanced * acquisition) / spread
    parts = np.maximum(0.0, (patient, acquisition, rest) if crossed else (patient, rest, 0.0))
    return parts / parts.sum() if parts.sum() else np.full(3, np.nan)


def _settings(sums: _Sums, times: Floats) -> tuple[float, float, int]:
    """Return the settings' sum of squares within patients, the trace of its matrix, and its degrees of freedom."""
    matrix = np.diag(times @ sums.cells) - sums.cells.T @ ((times / sums.rows)[:, None] * sums.cells)
    from_mean = np.zeros((len(matrix), sums.from_mean.shape[1]))
    np.add.at(from_mean, sums.setting, times[sums.patient, None] * sums.from_mean)
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-9 * max(1.0, float(values.max()))
    along = vectors[:, kept].T @ from_mean
    return float((np.square(along).sum(axis=1) / values[kept]).sum()), float(np.trace(matrix)), int(kept.sum())
