"""What harmonising takes away of the acquisition."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.explain.statistics.rankings import class_folds
from models.statistics.patients import numbered

Floats = NDArray[np.float64]

Harmonise = Callable[[Floats, NDArray[np.str_], Floats, NDArray[np.str_]], Floats]
"""(features and batches to learn from, features and batches to apply to) → harmonised features of the latter."""


def combat(x: Floats, batch: NDArray[np.str_], at: Floats, at_batch: NDArray[np.str_]) -> Floats:
    """Return cases after Johnson's ComBat (2007, doi 10.1093/biostatistics/kxj037), learned from other rows."""
    import pandas as pd
    from combatlearn.core import ComBatModel

    names = [str(k) for k in range(x.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows per batch, which the report says itself
        model = ComBatModel(method="johnson")
        model.fit(pd.DataFrame(x, columns=names), batch=pd.Series(batch))
        return np.asarray(model.transform(pd.DataFrame(at, columns=names), batch=pd.Series(at_batch)), np.float64)


def projection(x: Floats, batch: NDArray[np.str_], at: Floats, at_batch: NDArray[np.str_]) -> Floats:
    """Take out the directions in which the means of batches differ; a new case needs no batch for it."""
    classes = np.unique(batch)
    centre, deviation = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    means = np.stack([((x - centre) / deviation)[batch == one].mean(axis=0) for one in classes])
    _, s, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    taken = directions[s > 1e-9 * max(s[0], 1e-300)][: len(classes) - 1]
    scaled = (at - centre) / deviation
    return np.asarray((scaled - scaled @ taken.T @ taken) * deviation + centre, np.float64)


def halves(
    batch: NDArray[np.str_], patients: NDArray[np.str_], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks of the rows to learn from and of those to apply to: each batch's patients are dealt to both.

    One half is judged alone. Were each part harmonised by what the others say, its own batches would come out shifted
    against what was learned, and a probe over all parts would read the batch from the shifts: on noise, ComBat then
    gave an AUC of 0.02.
    """
    learn, apply = class_folds(batch, numbered(patients), seed, folds=2)
    return learn, apply
