"""DICOM Structured Report → the features it holds.

Reads what `write.py` writes and has written since version 0.1, from any source and without trusting it: numbers are
checked against each other, dimensions counted and names compared before anything is returned.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from operators.errors import CtvaeError
from operators.sr import codes as sr_codes
from operators.sr.codes import Code
from operators.sr.items import (
    children,
    code_of,
    derivation_of,
    name_of,
    number_of,
    only,
    parameters_of,
)
from operators.sr.typicality import Typicality, read_typicality
from operators.types import Finding

logger = logging.getLogger(__name__)

MALFORMED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises, early or late, on bytes that are not DICOM; OSError without an error number is one of them."""


@dataclass(frozen=True, slots=True)
class UnlistedVector:
    """A vector that is too long for the SR: its length, and the SHA-256 of its little-endian float32 values."""

    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SrFeatures:
    """The content of an SR of ctvae.

    Attributes:
        sop_instance_uid: UID of the SR itself.
        series_instance_uid: UID of the CT series that the numbers describe.
        part: None for a whole series.
        taps: name → float32 (length,): `mu`, `sigma` and the other listed taps.
        unlisted: name → digest, for each vector of more than 256 dimensions.
        quantities: name → float32 value, for those that could be measured.
        parameters: all parameters of the algorithm, as in the SR.
        typicality: whether to trust the numbers; None where it was not assessed.
        predecessors: SOP Instance UIDs of the SRs that this one replaces.
    """

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    part: int | None
    model_name: str
    model_version: str
    weights_sha256: str
    preprocessing_digest: str
    config_digest: str
    job_key: str
    taps: Mapping[str, NDArray[np.float32]]
    unlisted: Mapping[str, UnlistedVector]
    quantities: Mapping[str, float]
    findings: tuple[Finding, ...]
    parameters: Mapping[str, str]
    typicality: Typicality | None = None
    predecessors: tuple[str, ...] = ()

    @property
    def verdict(self) -> str | None:
        """Verdict of the reliability; None where it was not assessed."""
        return None if self.typicality is None else self.typicality.verdict


def read_sr(source: Path | str | Dataset) -> SrFeatures:
    """Return the features of an SR, bit for bit the numbers that were written.

    Args:
        source: a DICOM file or its data set.

    Raises:
        CtvaeError: `NOT_DICOM`; `NOT_OUR_SR` for any other object; `BROKEN_SR` for an SR of ctvae that contradicts
            itself.
        OSError: the file cannot be opened.
    """
    document = source if isinstance(source, Dataset) else open_document(Path(source))
    try:
        _check_ours(document)
        return _features(document)
    except MALFORMED as error:
        logger.debug("while reading an SR", exc_info=True)
        text = f"an item of the SR is missing or malformed ({type(error).__name__}); encode the series again"
        raise CtvaeError("BROKEN_SR", text) from error


def open_document(path: Path) -> Dataset:
    """Return a file as a DICOM data set.

    Raises:
        CtvaeError: `NOT_DICOM`.
        OSError: the file cannot be opened.
    """
    try:
        return dcmread(path)
    except MALFORMED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = f"the file cannot be read as DICOM ({type(error).__name__}); expected an SR written by ctvae"
        raise CtvaeError("NOT_DICOM", text) from error


def _check_ours(document: Dataset) -> None:
    sop_class = document.get("SOPClassUID")
    if sop_class not in (Comprehensive3DSRStorage, ComprehensiveSRStorage):
        found = getattr(sop_class, "name", None) or "no SOP class"
        raise CtvaeError("NOT_OUR_SR", f"found {found}; expected a Comprehensive or Comprehensive 3D SR of ctvae")
    schemes = [item.get("CodingSchemeDesignator") for item in document.get("CodingSchemeIdentificationSequence") or []]
    templates = [item.get("TemplateIdentifier") for item in document.get("ContentTemplateSequence") or []]
    if sr_codes.SCHEME not in schemes or templates != ["1500"]:
        text = f"found an SR without TID 1500 or the coding scheme {sr_codes.SCHEME}; expected one written by ctvae"
        raise CtvaeError("NOT_OUR_SR", text)


def _features(document: Dataset) -> SrFeatures:
    groups = _groups(document)
    posterior = groups.get(sr_codes.POSTERIOR_GROUP)
    if posterior is None:
        raise CtvaeError("BROKEN_SR", "the SR has no group for mu and sigma; encode the series again")
    parameters = parameters_of(posterior)
    taps, unlisted = _vectors(groups)
    part, typicality = parameters["part"], groups.get(sr_codes.TYPICALITY_GROUP)
    return SrFeatures(
        sop_instance_uid=str(document.SOPInstanceUID),
        study_instance_uid=str(document.StudyInstanceUID),
        series_instance_uid=str(only(posterior, sr_codes.SERIES_INSTANCE_UID).UID),
        part=None if part == "whole" else int(part),
        model_name=str(only(posterior, sr_codes.ALGORITHM_NAME).TextValue),
        model_version=str(only(posterior, sr_codes.ALGORITHM_VERSION).TextValue),
        weights_sha256=parameters["weights_sha256"],
        preprocessing_digest=parameters["preprocessing_sha256"],
        config_digest=parameters["config_sha256"],
        job_key=parameters["job_key"],
        taps=taps,
        unlisted=unlisted,
        quantities=_quantities(groups.get(sr_codes.QUANTITIES_GROUP)),
        findings=_findings(document),
        parameters=parameters,
        typicality=None if typicality is None else read_typicality(typicality),
        predecessors=tuple(_predecessors(document)),
    )


def _predecessors(document: Dataset) -> Iterator[str]:
    """Yield the UIDs of the Predecessor Documents Sequence (PS3.3 C.17.2)."""
    for study in document.get("PredecessorDocumentsSequence") or []:
        for series in study.ReferencedSeriesSequence:
            yield from (str(reference.ReferencedSOPInstanceUID) for reference in series.ReferencedSOPSequence)


def _groups(document: Dataset) -> dict[Code, Dataset]:
    """Return the measurement groups by their finding."""
    groups: dict[Code, Dataset] = {}
    for item in children(only(document, sr_codes.IMAGING_MEASUREMENTS)):
        if name_of(item) == sr_codes.MEASUREMENT_GROUP:
            code = code_of(only(item, sr_codes.FINDING).ConceptCodeSequence[0])
            if code in groups:
                raise CtvaeError("BROKEN_SR", f"two measurement groups are {code[1]}; expected one of each")
            groups[code] = item
    return groups


def _length(group: Dataset) -> int:
    """Return the number of dimensions or quantities that a group declares, so that a missing end is noticed."""
    length = int(parameters_of(group)["length"])
    if not 0 <= length <= sr_codes.LISTED_DIMENSIONS:
        raise CtvaeError("BROKEN_SR", f"a group says it lists {length} numbers; expected at most 256")
    return length


def _vectors(groups: Mapping[Code, Dataset]) -> tuple[dict[str, NDArray[np.float32]], dict[str, UnlistedVector]]:
    taps: dict[str, NDArray[np.float32]] = {}
    unlisted: dict[str, UnlistedVector] = {}
    for code, group in groups.items():
        if code in (sr_codes.QUANTITIES_GROUP, sr_codes.TYPICALITY_GROUP):
            continue
        if code == sr_codes.POSTERIOR_GROUP:
            found = {tap: _vector(group, *_posterior_names(group, tap)) for tap in sr_codes.POSTERIOR_TAPS}
        else:
            found = {code[1].removeprefix(sr_codes.tap_group("")[1]): _vector(group, code)}
        taps |= {tap: vector for tap, vector in found.items() if vector.size}
        unlisted |= _unlisted(group)
    missing = set(sr_codes.POSTERIOR_TAPS) - set(taps) - set(unlisted)
    if missing or len({taps[tap].size for tap in sr_codes.POSTERIOR_TAPS if tap in taps}) > 1:
        raise CtvaeError("BROKEN_SR", "mu and sigma differ in their number of dimensions; encode the series again")
    return taps, unlisted


def _posterior_names(group: Dataset, tap: str) -> tuple[Code, Code | None]:
    """Return the vector's code and the derivation that its numbers must have.

    Up to version 0.1 mu and sigma had the codes of their group, and only their derivation distinguished them.
    """
    old = sr_codes.dimension_code(sr_codes.POSTERIOR_GROUP, 0)
    if any(name_of(item) == old for item in children(group)):
        return sr_codes.POSTERIOR_GROUP, sr_codes.POSTERIOR_TAPS[tap]
    return sr_codes.POSTERIOR_CODES[tap], sr_codes.POSTERIOR_TAPS[tap]


def _vector(group: Dataset, code: Code, derivation: Code | None = None) -> NDArray[np.float32]:
    """Return a group's numbers with this derivation, float32 (length,), from dimension 0 with none missing."""
    numbers: dict[Code, np.float32] = {}
    for item in children(group):
        if item.ValueType != "NUM" or derivation_of(item) != derivation:
            continue
        name = name_of(item)
        if name in numbers:
            raise CtvaeError("BROKEN_SR", f"{name[1]} occurs twice; encode the series again")
        numbers[name] = number_of(item)
    length = _length(group) if numbers or not _unlisted(group) else 0
    expected = [sr_codes.dimension_code(code, dimension) for dimension in range(length)]
    if set(numbers) != set(expected):
        raise CtvaeError("BROKEN_SR", f"{code[1]} has {len(numbers)} numbers; expected one for each of {length}")
    return np.array([numbers[name] for name in expected], np.float32)


def _unlisted(group: Dataset) -> dict[str, UnlistedVector]:
    found = {}
    for item in children(group):
        if name_of(item) == sr_codes.UNLISTED_VECTOR:
            match = sr_codes.UNLISTED.fullmatch(str(item.TextValue))
            if match is None:
                raise CtvaeError("BROKEN_SR", "an unlisted vector has no length and digest; encode the series again")
            found[match["tap"]] = UnlistedVector(int(match["length"]), match["sha256"])
    return found


def _quantities(group: Dataset | None) -> dict[str, float]:
    if group is None:
        return {}
    numbers = [item for item in children(group) if item.ValueType == "NUM" and name_of(item) != sr_codes.REAL_VOXELS]
    found = {name_of(item)[1]: float(number_of(item, None)) for item in numbers}
    if len(found) != _length(group):
        raise CtvaeError("BROKEN_SR", f"the SR has {len(found)} quantities; expected {_length(group)}")
    return found


def _findings(document: Dataset) -> tuple[Finding, ...]:
    containers = [item for item in children(document) if name_of(item) == sr_codes.QUALITATIVE_EVALUATIONS]
    lines = [str(item.TextValue).partition(": ") for container in containers for item in children(container)]
    return tuple(Finding(code, detail) for code, _, detail in lines)
