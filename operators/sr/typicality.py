"""The typicality group: whether to trust the numbers; written and read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from operators.errors import CtvaeError
from operators.record import Reliability, shortest_double
from operators.sr import codes as sr_codes
from operators.sr.codes import Code
from operators.sr.content import CONTAINS, Concept, Item, Number, Text, text_value
from operators.sr.items import children, name_of, number_of, only, parameters_of, percentage_of
from operators.sr.numbers import HU, NO_UNITS, PERCENT, measured_by, number

COMMENT = Concept(*sr_codes.COMMENT, "Comment")
VERDICT = Concept(*sr_codes.VERDICT, "Verdict")
REASON = Concept(sr_codes.SCHEME, "REASON", "Reason of the verdict")
RECONSTRUCTION_ERROR = Concept(sr_codes.SCHEME, "RECON-ERROR-HU", "Reconstruction error")
RECONSTRUCTION_RATIO = Concept(sr_codes.SCHEME, "RECON-ERROR-RATIO", "Reconstruction error ratio")
OUTLIER_SCORE = Concept(sr_codes.SCHEME, "OUTLIER-SCORE", "Outlier score")
ORIENTATION_SCORE = Concept(sr_codes.SCHEME, "ORIENTATION-SCORE", "Orientation score")
PERCENTILE = Concept(sr_codes.SCHEME, "TYP-PERCENTILE", "Percentile among the reference patients")
CONFORMAL_P = Concept(sr_codes.SCHEME, "CONFORMAL-P", "Conformal p")
MAHALANOBIS = Concept(sr_codes.SCHEME, "MAHALANOBIS", "Mahalanobis distance of the latent mean")

VERDICTS = {
    "in_distribution": "Not for diagnosis. Typical CT",
    "out_of_distribution": "Not for diagnosis. Atypical CT",
    "undetermined": "Not for diagnosis. Reliability undetermined",
}
"""Text that viewers draw beside the image; with percentile and p, at most 60 characters."""


@dataclass(frozen=True, slots=True)
class Typicality:
    """The reliability in the SR: `operators.record.Reliability` without the percentiles of each dimension.

    Attributes:
        percentile: percentile of the combined score.
        reconstruction_ratio, outlier_score, orientation_score: None also in an SR of a ctvae that did not measure it.
    """

    verdict: str
    reasons: tuple[str, ...]
    n_reference: int
    p_conformal: float | None
    mahalanobis: float
    reconstruction_mae_hu: float | None
    reconstruction_ratio: float | None
    outlier_score: float | None
    orientation_score: float | None
    percentile: float
    reference_sha256: str


def typicality_content(found: Reliability) -> list[Item]:
    """Return the items of the group after its context; viewers draw numbers that have no Measurement Method."""
    texts = [Item(CONTAINS, COMMENT, Text(_comment(found))), Item(CONTAINS, VERDICT, Text(found.verdict))]
    texts += [Item(CONTAINS, REASON, text_value(why)) for why in found.reasons]
    numbers = []
    if found.reconstruction_mae_hu is not None:
        numbers.append(number(RECONSTRUCTION_ERROR, np.float32(found.reconstruction_mae_hu), HU))
    ranked = measured_by("RANK-IN-REFERENCE", "Rank among the reference patients")
    numbers.append(_percentage(PERCENTILE, np.float32(found.percentiles.combined), ranked))
    if found.p_conformal is not None:
        method = measured_by("FULL-CONFORMAL", "Full conformal")
        numbers.append(number(CONFORMAL_P, np.float32(found.p_conformal), PERCENT, method))
    method = measured_by("LEDOIT-WOLF", "Ledoit-Wolf covariance")
    numbers.append(number(MAHALANOBIS, np.float32(found.mahalanobis), NO_UNITS, method))
    if found.reconstruction_ratio is not None:
        method = measured_by("BLOCK-MEANS", "Divided by the error of block means")
        numbers.append(number(RECONSTRUCTION_RATIO, np.float32(found.reconstruction_ratio), NO_UNITS, method))
    if found.outlier_score is not None:
        method = measured_by("LOG-ODDS", "Log-odds of not being a patient")
        numbers.append(number(OUTLIER_SCORE, np.float32(found.outlier_score), NO_UNITS, method))
    if found.orientation_score is not None:
        method = measured_by("LOG-ODDS-TURNED", "Log-odds of lying upside down or back to front")
        numbers.append(number(ORIENTATION_SCORE, np.float32(found.orientation_score), NO_UNITS, method))
    return [*texts, *numbers]


def read_typicality(group: Dataset) -> Typicality:
    """Return the content of the group, bit for bit the numbers that were written.

    Raises:
        CtvaeError: `BROKEN_SR`: an item is missing or occurs twice.
    """
    parameters = parameters_of(group)
    numbers = {name_of(item): item for item in children(group) if item.ValueType == "NUM"}
    if len(numbers) != int(parameters["length"]):
        found = f"the typicality group has {len(numbers)} numbers; expected {parameters['length']}"
        raise CtvaeError("BROKEN_SR", f"{found}; encode the series again")
    p, error = numbers.get(_code(CONFORMAL_P)), numbers.get(_code(RECONSTRUCTION_ERROR))
    ratio, outlier = numbers.get(_code(RECONSTRUCTION_RATIO)), numbers.get(_code(OUTLIER_SCORE))
    orientation = numbers.get(_code(ORIENTATION_SCORE))
    return Typicality(
        verdict=str(only(group, sr_codes.VERDICT).TextValue),
        reasons=tuple(str(item.TextValue) for item in children(group) if name_of(item) == _code(REASON)),
        n_reference=int(parameters["n_reference"]),
        p_conformal=None if p is None else shortest_double(number_of(p, sr_codes.PERCENT)),
        mahalanobis=shortest_double(number_of(numbers[_code(MAHALANOBIS)], sr_codes.NO_UNITS)),
        reconstruction_mae_hu=None if error is None else shortest_double(number_of(error, (HU.scheme, HU.value))),
        reconstruction_ratio=None if ratio is None else shortest_double(number_of(ratio, sr_codes.NO_UNITS)),
        outlier_score=None if outlier is None else shortest_double(number_of(outlier, sr_codes.NO_UNITS)),
        orientation_score=None if orientation is None else shortest_double(number_of(orientation, sr_codes.NO_UNITS)),
        percentile=shortest_double(percentage_of(numbers[_code(PERCENTILE)])),
        reference_sha256=parameters["reference_sha256"],
    )


def _comment(found: Reliability) -> str:
    p = "" if found.p_conformal is None else f": percentile {found.percentiles.combined:.0f}, p {found.p_conformal:.2g}"
    return VERDICTS[found.verdict] + p


def _percentage(concept: Concept, percent: np.float32, method: Item) -> Item:
    """Return a NUM whose value is a percentage already, not a fraction to convert."""
    return Item(CONTAINS, concept, Number(sr_codes.decimal(percent), float(percent), PERCENT), (method,))


def _code(concept: Concept) -> Code:
    return concept.scheme, concept.value
