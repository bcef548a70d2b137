"""What is asked: which rows, which features, which labels, accounting for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from app.explain.data.feature_table import FeatureTable
from app.explain.data.join_labels import Joined
from app.explain.data.labels import LEAST_PATIENTS, Label, Unusable, one_series_each, read_labels
from models.statistics.group_variance import standardised
from operators.errors import StartError
from operators.measure.quantities import QUANTITIES

PERMUTATIONS: Final = 1000
BODY_SIZE: Final = ("body_area_cm2",)
ACQUISITION: Final = ("thickness_mm", "kvp", "kernel", "manufacturer")
TECHNICAL: Final = ("manufacturer", "manufacturer_model", "kernel", "kvp", "thickness_mm", "mas")
OF_THE_TABLE: Final = ("age_years", "sex", "kvp", "kernel", "thickness_mm", "manufacturer", *QUANTITIES)


@dataclass(frozen=True, slots=True)
class Question:
    """What all sections of one report share.

    Attributes:
        every: all series that have labels.
        table: the rows that are tested: one per patient, or all.
        tap: the features in question.
        labels: of the rows of `table`.
        unusable: columns that cannot be tested.
        covariates: of the rows of `table`, in the order in which they are taken.
        of_the_user: whether the labels are from a file.
        all_series: whether a patient may have several rows.
        joined: how a file of labels was joined.
    """

    every: FeatureTable
    table: FeatureTable
    tap: str
    labels: tuple[Label, ...]
    unusable: tuple[Unusable, ...]
    covariates: tuple[Label, ...]
    of_the_user: bool = False
    all_series: bool = False
    joined: Joined | None = None
    permutations: int = PERMUTATIONS
    seed: int = 0

    @property
    def features(self) -> NDArray[np.float32]:
        """(n, k) of the tap."""
        return self.table.taps[self.tap]

    @property
    def patients(self) -> NDArray[np.str_]:
        """(n,)."""
        return self.table.patients

    @property
    def too_few(self) -> bool:
        """Fewer patients than any of this can be believed with."""
        return len(np.unique(self.patients)) < LEAST_PATIENTS


def ask(
    table: FeatureTable,
    joined: Joined | None = None,
    *,
    tap: str = "mu",
    covariates: Sequence[str] | None = None,
    all_series: bool = False,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Question:
    """Make the question of a report.

    Args:
        table: of features.
        joined: labels of a file; without them the table's own columns are the labels.
        tap: the features in question.
        covariates: names of columns; by default body size and acquisition.
        all_series: keep all series of a patient.
        permutations: of whole patients.
        seed: of all that is drawn.

    Raises:
        StartError: `NO_SUCH_TAP`, `BAD_COVARIATE`, or `TOO_FEW_PATIENTS`: fewer than three.
    """
    every = joined.table if joined else table
    if tap not in every.taps:
        raise StartError("NO_SUCH_TAP", f"the table has the taps {', '.join(every.taps)}, not {tap!r}; see --taps")
    wanted = (*BODY_SIZE, *ACQUISITION) if covariates is None else tuple(covariates)
    unknown = [name for name in wanted if name not in every.columns]
    if covariates is not None and unknown:
        raise StartError("BAD_COVARIATE", f"there is no column {unknown[0]!r}; name columns of the table or the labels")
    rows = every if all_series else one_series_each(every)
    same = _copies(rows.taps[tap])
    if same:
        text = f"{same} rows have the features of another row: the same scan under another name or patient?"
        rows = rows.rows(
            np.arange(len(rows)), f"{text} Copies count as independent and make p too small; leave them out"
        )
    count = len(np.unique(rows.patients))
    if count < 3:
        text = f"{count} patients are in the table; at least three are needed, and {LEAST_PATIENTS} to learn anything"
        raise StartError("TOO_FEW_PATIENTS", text)
    names = joined.names if joined else [name for name in OF_THE_TABLE if name in every.columns]
    labels, unusable = read_labels(rows, names)
    return Question(
        every=every,
        table=rows,
        tap=tap,
        labels=labels,
        unusable=unusable,
        covariates=read_labels(rows, tuple(dict.fromkeys(wanted)))[0],
        of_the_user=joined is not None,
        all_series=all_series,
        joined=joined,
        permutations=permutations,
        seed=seed,
    )


def _copies(features: NDArray[np.float32]) -> int:
    """Count the rows that have another one within a thousandth of a standard deviation per feature."""
    x = standardised(features)
    if len(x) < 2 or not x.shape[1]:
        return 0
    nearest = cKDTree(x).query(x, k=2)[0][:, 1]
    return int((nearest < 1e-3 * np.sqrt(x.shape[1])).sum())
