"""Tables of made-up features whose truth is known, in memory or as `ctvae table` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.explain.data.feature_table import FeatureTable
from app.explain.data.labels import as_label
from app.explain.data.question import ask
from app.explain.statistics.associations import Association, associate

THICKNESSES_MM = (1.0, 2.5, 5.0)
PATIENTS, DIMENSIONS = 100, 32
PEARSON = 2 * np.sin(np.pi * 0.5 / 6)
"""Of two normal variables whose Spearman correlation is 0.5."""


def made_table(
    patients: int = 100,
    *,
    series: int = 1,
    dimensions: int = 32,
    seed: int = 0,
    thickness_effect: float = 0.0,
    repeat_noise: float = 0.5,
    **columns: object,
) -> FeatureTable:
    """Features drawn by patient, and by series around the patient; thickness may move all of them.

    Args:
        columns: further columns, (n,) each, or one value for all rows.
    """
    rng = np.random.default_rng(seed)
    rows = patients * series
    of = np.repeat(np.arange(patients), series)
    mu = rng.standard_normal((patients, dimensions))[of]
    if series > 1:
        mu = mu + repeat_noise * rng.standard_normal(mu.shape)
    thickness = rng.choice(THICKNESSES_MM, rows)
    mu = mu + thickness_effect * thickness[:, None]
    made = {
        "series_instance_uid": np.char.add("1.2.", np.arange(rows).astype(str)),
        "study_instance_uid": np.char.add("1.3.", of.astype(str)),
        "patient_key": np.char.add("key", of.astype(str)),
        "thickness_mm": thickness,
        "model_digest": np.full(rows, "a" * 64),
    }
    made |= {name: np.broadcast_to(np.asarray(value), (rows,)) for name, value in columns.items()}
    return FeatureTable(made, {"mu": mu.astype(np.float32)})


def write_table(table: FeatureTable, path: Path) -> Path:
    """Write it as Parquet, as `ctvae table` does."""
    columns = {name: pa.array([one or None for one in values.tolist()]) for name, values in table.columns.items()}
    for tap, values in table.taps.items():
        columns |= {f"{tap}_{k:03d}": pa.array(values[:, k]) for k in range(values.shape[1])}
    pq.write_table(pa.table(columns), path)
    return path


def null(seed: int) -> float:
    """The smallest p_maxt of a table without any association; with a confounder that of the adjusted test."""
    if seed % 2:
        return confounded(seed, series=3)[1]
    found = _tested(seed, _noise(seed, PATIENTS))
    return float(found.raw.p_maxt.min())


def confounded(seed: int, series: int = 1) -> tuple[float, float]:
    """The smallest p_maxt before and after covariates, where thickness alone moves features and label."""
    table = made_table(PATIENTS, series=series, dimensions=DIMENSIONS, seed=seed, thickness_effect=0.5)
    y = 0.5 * np.asarray(table.columns["thickness_mm"], float) + _noise(seed, len(table))
    question = ask(table.with_columns({"y": y}))
    label = as_label("y", question.table.columns["y"], question.patients)
    (found,) = associate(question.features, [label], question.covariates, question.patients, seed=seed)
    return float(found.raw.p_maxt.min()), float(found.adjusted.p_maxt.min())


def planted(seed: int) -> float:
    """p_maxt of a feature whose Spearman correlation with the label is 0.5."""
    table = made_table(PATIENTS, dimensions=DIMENSIONS, seed=seed)
    first = table.taps["mu"][:, 0].astype(float)
    found = _tested(seed, PEARSON * first + np.sqrt(1 - PEARSON**2) * _noise(seed, PATIENTS))
    return float(found.raw.p_maxt[0])


def _tested(seed: int, y: np.ndarray) -> Association:
    question = ask(made_table(PATIENTS, dimensions=DIMENSIONS, seed=seed))
    (found,) = associate(question.features, [as_label("y", y, question.patients)], (), question.patients, seed=seed)
    return found


def _noise(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng((seed, 1)).standard_normal(rows)
