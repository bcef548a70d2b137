"""A table of features and its labels to a report: what `ctvae explain` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.explain.data.images import Images
from app.explain.data.question import Question
from app.explain.report.page import Heading
from app.explain.report.section import Cell, Section, Table
from app.explain.report.write import write_report
from app.explain.sections.acquisition import acquisition_section
from app.explain.sections.associations import associations_section
from app.explain.sections.atlas import atlas_section
from app.explain.sections.dimensions import dimensions_section
from app.explain.sections.layers import layers_section
from app.explain.sections.probes import probes_section
from app.explain.sections.redundancy import redundancy_section
from app.explain.sections.repeats import privacy_section, repeats_section
from app.explain.sections.ten_images import Groups, ten_images_section
from app.explain.statistics.associations import associate
from app.explain.statistics.probes import Known
from models.spec import Bundle
from models.statistics.repeat_scans import repeat_scans
from operators import __version__
from operators.results.write_json import NOTICE


@dataclass(frozen=True, slots=True)
class Further:
    """What some sections need beside the table; without it they say so.

    Attributes:
        images: of the rows.
        bundle: whose encoder made the features.
        groups: two lists of series.
        umap: draw a map by UMAP too.
    """

    images: Images | None = None
    bundle: Bundle | None = None
    groups: Groups | None = None
    umap: bool = False


def explain(
    question: Question, further: Further, folder: Path, on_section: Callable[[str], None]
) -> tuple[Section, ...]:
    """Write the report.

    Args:
        question: what is asked.
        further: inputs of single sections.
        folder: made where it is missing.
        on_section: called with what is being computed.

    Raises:
        StartError: `OUTPUT_UNWRITABLE`.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # small matrices: more threads are slower, and sums would differ from machine to machine
        sections = tuple(_sections(question, further, on_section))
    write_report(folder, heading_of(question), (*sections, _joining(question)))
    return sections


def _sections(question: Question, further: Further, on_section: Callable[[str], None]) -> Iterator[Section]:
    on_section("associations")
    found = associate(
        question.features,
        question.labels,
        question.covariates,
        question.patients,
        permutations=question.permutations,
        seed=question.seed,
    )
    yield redundancy_section(question, found)
    yield associations_section(question, found)
    if further.groups:
        yield ten_images_section(question, further.groups)
    known: Known = {}
    rivals = further.images.rivals() if further.images else {}
    yield probes_section(question, rivals, lambda name: on_section(f"probe to {name}"), known)
    yield layers_section(question, found, lambda name: on_section(f"layers, {name}"), known)
    yield acquisition_section(question, lambda name: on_section(f"acquisition, {name}"), known)
    every = question.every
    again = repeat_scans(every.taps[question.tap], every.patients, seed=question.seed)
    yield repeats_section(again)
    yield dimensions_section(question, found, further.images, further.bundle, on_section)
    on_section("atlas")
    yield atlas_section(question, umap=further.umap)
    yield privacy_section(question, again, lambda name: on_section(f"privacy, {name}"), known)


def heading_of(question: Question) -> Heading:
    """Return what stands at the top of the page."""
    table = question.table
    patients = len(np.unique(question.patients))
    labels = ", ".join(label.name for label in question.labels) or "none can be tested"
    facts = (
        ("patients", str(patients)),
        (
            "rows",
            f"{len(table)} of {len(question.every)} series" + ("" if question.all_series else ", one per patient"),
        ),
        ("features", f"{question.tap}, {question.features.shape[1]} dimensions"),
        ("labels", labels + ("" if question.of_the_user else " (the table's own columns; give yours with --labels)")),
        ("covariates", ", ".join(one.name for one in question.covariates) or "none"),
    )
    few = f"{patients} patients are fewer than ten: what is computed is shown, and proves nothing"
    return Heading(
        title="What do the features follow, and what not?",
        software=f"ctvae {__version__}",
        notice=NOTICE,
        model_digest=str(table.texts("model_digest")[0]),
        facts=facts,
        notes=(
            *([few] if question.too_few else ()),
            *table.notes,
            *(f"{one.name} is not tested: {one.why}" for one in question.unusable),
        ),
    )


def _joining(question: Question) -> Section:
    """Return the last section: which labels were joined with which series."""
    joined = question.joined
    if joined is None:
        text = "No labels were given; the labels are columns of the table itself."
        return Section("joining", "Where the labels come from", text, "")
    rows: list[tuple[Cell, ...]] = [("series", one) for one in joined.without_label]
    rows += [("line of the labels", number) for number in joined.without_features]
    text = f"Labels were joined by {joined.key}: {len(joined.table)} series have one, "
    text += f"{len(joined.without_label)} have none, and {len(joined.without_features)} labels belong to no series."
    unmatched = Table("unmatched", "Without a partner", ("what", "which"), tuple(rows), most=10)
    return Section("joining", "Where the labels come from", text, "", tables=(unmatched,))
