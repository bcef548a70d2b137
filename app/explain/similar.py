"""The series whose features are nearest to those of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.explain.data.feature_table import FeatureTable
from models.statistics.group_variance import standardised
from models.statistics.identity import whiten
from operators.errors import StartError

Metric = Literal["standardised", "whitened", "cosine"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One series near another.

    Attributes:
        same_patient: whether it is of the same patient, as far as the table knows.
        nearer_than: the share of all other series that are farther away.
    """

    series_instance_uid: str
    part: str
    distance: float
    same_patient: bool
    nearer_than: float


def similar(table: FeatureTable, series: str, *, tap: str, metric: Metric, most: int) -> tuple[Neighbour, ...]:
    """Return the nearest series, the nearest first.

    Args:
        table: of all series.
        series: a SeriesInstanceUID of it; of a series in parts the first part.
        tap: the features.
        metric: Euclidean on standardised or on whitened features, or 1 - cosine.
        most: how many.

    Raises:
        StartError: `NO_SUCH_SERIES`, `NO_SUCH_TAP`.
    """
    uids = table.texts("series_instance_uid")
    found = np.flatnonzero(uids == series)
    if not len(found):
        raise StartError("NO_SUCH_SERIES", f"the series is not among the {len(table)} rows of the table; check its UID")
    if tap not in table.taps:
        raise StartError("NO_SUCH_TAP", f"the table has the taps {', '.join(table.taps)}, not {tap!r}")
    at = int(found[0])
    distance = _distances(table, at, tap, metric)
    patients, parts = table.patients, table.parts
    order = [one for one in np.argsort(distance, kind="stable").tolist() if one != at]
    return tuple(
        Neighbour(
            str(uids[one]),
            parts[one],
            float(distance[one]),
            bool(patients[one] == patients[at]),
            1 - rank / max(1, len(order)),
        )
        for rank, one in enumerate(order[:most])
    )


def _distances(table: FeatureTable, at: int, tap: str, metric: Metric) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    x = table.taps[tap].astype(np.float64)
    if metric == "cosine":
        length = np.linalg.norm(x, axis=1)
        return np.asarray(1 - x @ x[at] / np.maximum(length * length[at], 1e-300))
    moved = whiten(x)(x) if metric == "whitened" else standardised(x)
    return np.asarray(np.linalg.norm(moved - moved[at], axis=1))
