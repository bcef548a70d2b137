"""The content tree of the SR: TID 1500 (Measurement Report, PS3.16), and in it TID 1501 for each vector.

The vectors are of the whole series, so no region is drawn: each group names the series that it was measured on. A tree
with an image library, or with each source image in each group, would be many times as big and say no more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from operators import __version__
from operators.sr import codes as sr_codes
from operators.sr.codes import Code
from operators.types import FeatureRecord, Finding, SeriesFailed, TapValues

QUANTITY_UNITS = {
    "hu_per_mm": ("[hnsf'U]/mm", "Hounsfield unit per millimeter"),
    "hu": ("[hnsf'U]", "Hounsfield unit"),
    "cm2": ("cm2", "square centimeter"),
    "mm": ("mm", "millimeter"),
    "ml": ("ml", "milliliter"),
}


def measurement_report(record: FeatureRecord) -> hd.sr.MeasurementReport:
    """TID 1500, with the notice before the numbers and the findings after them."""
    groups = [_posterior_group(record)]
    groups += [
        _tap_group(record, record.taps[name]) for name in sorted(set(record.taps) - set(sr_codes.POSTERIOR_TAPS))
    ]
    if any(value is not None for value in record.quantities.values()):
        groups.append(_quantities_group(record))
    report = hd.sr.MeasurementReport(
        observation_context=_observation_context(record),
        procedure_reported=codes.SCT.ComputedTomography,
        imaging_measurements=groups,
    )
    children = report[0].ContentSequence
    notice = _text_item(_concept(sr_codes.COMMENT, "Comment"), sr_codes.NOT_FOR_DIAGNOSIS)
    children.insert(len(children) - 1, notice)
    if record.findings:
        children.append(_findings_container(record.findings))
    return report


def _posterior_group(record: FeatureRecord) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """The vectors mu and sigma of the series, side by side for each dimension."""
    taps = {name: record.taps[name] for name in sr_codes.POSTERIOR_TAPS}
    lengths = {tap.length for tap in taps.values()}
    if len(lengths) != 1:
        raise SeriesFailed("BAD_VECTOR", f"mu and sigma have {sorted(lengths)} dimensions; expected the same number")
    numbers: list[hd.sr.Measurement] = []
    if lengths.pop() <= sr_codes.LISTED_DIMENSIONS:
        of_taps = [list(_vector(sr_codes.POSTERIOR_GROUP, "VAE posterior", tap)) for tap in taps.values()]
        numbers = [number for pair in zip(*of_taps, strict=True) for number in pair]
    algorithm = _network(record, length=taps["mu"].length)
    group = _group(record, sr_codes.POSTERIOR_GROUP, "VAE posterior", numbers, algorithm)
    return group if numbers else _with_digests(group, *taps.values())


def _tap_group(record: FeatureRecord, tap: TapValues) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """Any other tap."""
    if not sr_codes.NAME.fullmatch(tap.name):
        raise SeriesFailed(
            "BAD_NAME", f"tap {tap.name!r}: expected 1 to 32 of A-Z a-z 0-9 _ . -; rename it in the bundle"
        )
    code, meaning = sr_codes.tap_group(tap.name), f"VAE layer {tap.name}"
    listed = tap.length <= sr_codes.LISTED_DIMENSIONS
    numbers = list(_vector(code, meaning, tap)) if listed else []
    algorithm = _network(record, tap=tap.name, pooling=tap.pooling, length=tap.length)
    group = _group(record, code, meaning, numbers, algorithm)
    return group if listed else _with_digests(group, tap)


def _quantities_group(record: FeatureRecord) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """What the voxels themselves say; the code of each is its name in `features.json`."""
    numbers = []
    for name, value in sorted(record.quantities.items()):
        if value is None:
            continue
        if not sr_codes.NAME.fullmatch(name):
            raise SeriesFailed("BAD_NAME", f"quantity {name!r}: expected 1 to 32 of A-Z a-z 0-9 _ . -")
        unit = _unit(name)
        concept = _concept((sr_codes.SCHEME, name), name.replace("_", " "))
        numbers.append(_number(concept, np.float32(value), unit, f"quantity {name}"))
    algorithm = hd.sr.AlgorithmIdentification(
        name="ctvae quantities of the voxels",
        version=__version__,
        parameters=_parameters(**_input(record), length=len(numbers)),
    )
    return _group(record, sr_codes.QUANTITIES_GROUP, "Quantities of the voxels themselves", numbers, algorithm)


def _group(
    record: FeatureRecord,
    code: Code,
    meaning: str,
    numbers: list[hd.sr.Measurement],
    algorithm: hd.sr.AlgorithmIdentification,
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 of the whole series: what, by which algorithm, and the series that it was measured on."""
    tracking = sr_codes.derived_uid("tracking", record.series_instance_uid, record.job_key, *code)
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=tracking, identifier=f"{meaning}, whole series"),
        finding_type=_concept(code, meaning),
        algorithm_id=algorithm,
        measurements=numbers,
    )
    source = hd.sr.UIDRefContentItem(
        name=_concept(sr_codes.SERIES_INSTANCE_UID, "Series Instance UID"),
        value=record.series_instance_uid,
        relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
    )
    children = group[0].ContentSequence
    children.insert(len(children) - len(numbers), source)
    return group


def _network(record: FeatureRecord, **about_the_tap: str | int) -> hd.sr.AlgorithmIdentification:
    """TID 4019 of the encoder."""
    model = record.model
    weights = {"weights_sha256": model.weights_sha256, "architecture": model.architecture, "runtime": model.runtime}
    parameters = _parameters(**weights, **_input(record), **about_the_tap)
    return hd.sr.AlgorithmIdentification(name=model.name, version=model.version, parameters=parameters)


def _input(record: FeatureRecord) -> dict[str, str | int]:
    """What went in and how it was prepared; with the series UID, all that is needed to make the numbers again."""
    return {
        "preprocessing": json.dumps(dict(record.preprocessing), sort_keys=True, separators=(",", ":")),
        "preprocessing_sha256": record.preprocessing_digest,
        "config_sha256": record.config_digest,
        "instances": record.identity.instances,
        "instances_sha256": record.identity.instances_digest,
        "part": "whole" if record.series.part is None else record.series.part,
        "job_key": record.job_key,
    }


def _parameters(**named: str | int) -> list[str]:
    return [f"{name}={value}" for name, value in named.items()]


def _vector(group: Code, meaning: str, tap: TapValues) -> Iterator[hd.sr.Measurement]:
    """One NUM a dimension; those of mu and sigma say by their derivation which of the two they are."""
    derivations = {"mu": codes.SCT.Mean, "sigma": codes.SCT.StandardDeviation}
    for dimension, value in enumerate(tap.values):
        concept = _concept(sr_codes.dimension_code(group, dimension), f"{meaning}, dimension {dimension}")
        where = f"tap {tap.name} dimension {dimension}"
        yield _number(concept, value, codes.UCUM.NoUnits, where, derivations.get(tap.name))


def _number(
    concept: CodedConcept, value: np.float32, unit: CodedConcept, where: str, derivation: CodedConcept | None = None
) -> hd.sr.Measurement:
    """TID 300: the float32 as the shortest decimal that reads back to it, and beside it as a double, exactly."""
    if not np.isfinite(value):
        text = f"{where} is {value}; expected a finite number; check the bundle and the scan"
        raise SeriesFailed("NON_FINITE_NUMBER", text)
    measurement = hd.sr.Measurement(name=concept, value=float(value), unit=unit, derivation=derivation)
    measurement[0].MeasuredValueSequence[0].NumericValue = sr_codes.decimal(value)
    return measurement


def _with_digests(
    group: hd.sr.MeasurementsAndQualitativeEvaluations, *taps: TapValues
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """Names vectors that are too long to be listed by the SHA-256 of their values as little-endian float32."""
    concept = _concept(sr_codes.UNLISTED_VECTOR, "Vector that is not listed, SHA-256 of float32 values")
    for tap in taps:
        group[0].ContentSequence.append(_text_item(concept, sr_codes.unlisted(tap.name, tap.values)))
    return group


def _findings_container(findings: tuple[Finding, ...]) -> hd.sr.ContainerContentItem:
    """What the geometry gate and the decoder met, as text under Qualitative Evaluations (TID 1500)."""
    container = hd.sr.ContainerContentItem(
        name=_concept(sr_codes.QUALITATIVE_EVALUATIONS, "Qualitative Evaluations"),
        relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
    )
    concept = _concept(sr_codes.FINDING, "Finding")
    lines = [_text_item(concept, f"{finding.code}: {finding.detail}") for finding in findings]
    container.ContentSequence = hd.sr.ContentSequence(lines)
    return container


def _observation_context(record: FeatureRecord) -> hd.sr.ObservationContext:
    """The observer is this software with these weights, wherever it runs: no host name."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=sr_codes.derived_uid("device", __version__, record.model.weights_sha256),
        name=sr_codes.MANUFACTURER,
        manufacturer_name=sr_codes.MANUFACTURER,
        model_name=f"{record.model.name} {record.model.version}",
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.ObservationContext(observer_device_context=observer)


def _unit(quantity: str) -> CodedConcept:
    """The unit that the end of a quantity's name says, the longest first; `1` where it says none."""
    said = (unit for end, unit in QUANTITY_UNITS.items() if quantity.endswith(f"_{end}"))
    value, meaning = next(said, ("1", "no units"))
    return CodedConcept(value, "UCUM", meaning)


def _concept(code: Code, meaning: str) -> CodedConcept:
    return CodedConcept(value=code[1], scheme_designator=code[0], meaning=meaning)


def _text_item(concept: CodedConcept, text: str) -> hd.sr.TextContentItem:
    """TEXT without what UT forbids (PS3.5 6.2): control characters but for line ends, and halves of characters."""
    allowed = re.sub(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]", " ", text)
    return hd.sr.TextContentItem(name=concept, value=allowed, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)
