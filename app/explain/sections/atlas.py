"""A map of the series: near each other are those with similar features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.explain.data.question import Question
from app.explain.report.section import Cell, Figure, Section, Table, percent
from app.explain.sections.figures import atlas
from models.statistics.group_variance import standardised
from models.statistics.rivals import principal_components

KEY, TITLE = "atlas", "Which series are alike?"
_SHOWN = 4
_LEAST_UMAP = 15


def atlas_section(question: Question, *, umap: bool) -> Section:
    """Return the section: principal components, and UMAP where it is asked for, coloured by the labels."""
    x = standardised(question.features)
    axes = principal_components(x.astype(np.float32), 2)
    places = {"PCA": axes(x)}
    if places["PCA"].shape[1] < 2:
        return Section(KEY, TITLE, "The series lie on a line: there is one component.", "", mood="missing")
    share = float(places["PCA"].var(axis=0).sum() / x.var(axis=0).sum())
    notes = ["PCA of standardised features: directions are real, and what is far apart is far apart."]
    if umap and len(x) >= _LEAST_UMAP:
        places["UMAP"] = _umap(x, question.seed)
        notes.append("UMAP keeps neighbours; distances between groups, and their sizes, mean nothing.")
    elif umap:
        notes.append(f"UMAP needs {_LEAST_UMAP} rows.")
    else:
        notes.append("UMAP was not asked for (--umap; it compiles for about half a minute).")
    columns = ("series_instance_uid", *(f"{name.lower()}_{axis}" for name in places for axis in "xy"))
    uids = question.table.texts("series_instance_uid")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (str(uid), *(float(value) for xy in places.values() for value in xy[at])) for at, uid in enumerate(uids)
    )
    figure = Figure("atlas", atlas(places, question.labels[:_SHOWN]), "Each mark is a series; similar ones are near.")
    return Section(
        KEY,
        TITLE,
        f"The map shows {percent(share)} of the features' variance; every series' place is in atlas.csv.",
        "Groups on a map are not diseases, and colours that seem to part prove nothing: the tests are above.",
        notes=tuple(notes),
        tables=(Table("atlas", "Places on the map", columns, rows, most=0),),
        figures=(figure,),
    )


def _umap(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it run on one core
        return np.asarray(UMAP(random_state=seed, n_neighbors=min(15, len(x) - 1)).fit_transform(x), np.float64)
