"""FeatureRecord → FHIR R5, as in HL7's guide "DICOM SR to FHIR Resource Mapping" (version 1.0.0).

The resources follow the content tree of the SR: a measurement group is an Observation with its numbers as members, its
algorithm a Device, its outline an ImagingSelection. R4 has no ImagingSelection and refers to a Device by other fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from operators.record import FeatureRecord, shortest_double
from operators.results.write_json import json_bytes
from operators.sr import codes as sr_codes
from operators.sr.content import Concept, Container, Graphic, ImageReference, Item, Number, Text
from operators.sr.groups import tracking_uid
from operators.sr.tree import measurement_report

Resource = dict[str, Any]

SYSTEMS: Final[Mapping[str, str]] = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "SCT": "http://snomed.info/sct",
    "UCUM": "http://unitsofmeasure.org",
    sr_codes.SCHEME: f"urn:oid:{sr_codes.derived_uid('coding scheme', sr_codes.SCHEME)}",
}
IDENTIFIER_TYPES: Final = "http://hl7.org/fhir/uv/dicom-sr/CodeSystem/dicom-identifier-type"
ABSENT: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"

_GROUP = Concept(*sr_codes.MEASUREMENT_GROUP, "Measurement Group")
_FINDING = Concept(*sr_codes.FINDING, "Finding")
_REGION = Concept("DCM", "111030", "Image Region")


def fhir_json(record: FeatureRecord) -> bytes:
    """Return a Bundle of type `collection`, UTF-8; the same record gives the same bytes.

    Raises:
        SeriesFailed: a value that the SR cannot hold either.
    """
    return json_bytes(fhir_bundle(record))


def fhir_bundle(record: FeatureRecord) -> Resource:
    """Return the Bundle as plain JSON values; references are the entries' own URLs."""
    entries: dict[str, Resource] = {}
    for container in measurement_report(record).children:
        if container.name is None or not isinstance(container.value, Container):
            continue
        if container.name[:2] == sr_codes.IMAGING_MEASUREMENTS:
            for number, group in enumerate(container.children):
                entries |= _group(record, group, number)
        else:
            for number, item in enumerate(container.children):
                entries[_url(record, "finding", number)] = _evaluation(record, item)
    listed = [{"fullUrl": url, "resource": resource} for url, resource in entries.items()]
    return {"resourceType": "Bundle", "type": "collection", "entry": listed}


def _group(record: FeatureRecord, group: Item, number: int) -> dict[str, Resource]:
    """Return the Observation of a group, its members, its Device and, if it has an outline, an ImagingSelection."""
    device, url = _url(record, "device", number), _url(record, "group", number)
    found = {device: _device(group)}
    numbers = [item for item in group.children if isinstance(item.value, Number)]
    outlines = [outline for item in numbers for outline in _outlines(item)]
    regions = {_url(record, "region", number, k): _selection(record, outline) for k, outline in enumerate(outlines)}
    members = {_url(record, "number", number, k): _member(record, item, device) for k, item in enumerate(numbers)}
    finding = next(item.value for item in group.children if item.name == _FINDING and isinstance(item.value, Concept))
    notes = [
        item.value.text for item in group.children if item.name and isinstance(item.value, Text) and _is_note(item)
    ]
    tracked = {"type": _identifier_type("tracking-uid", "Tracking UID"), **_uid(tracking_uid(record))}
    found[url] = _observation(record, finding, device) | {
        "category": [_concept(_GROUP)],
        "focus": [{"identifier": tracked}],
        "hasMember": [{"reference": member} for member in members],
    }
    if regions:
        found[url]["derivedFrom"] = [{"reference": region} for region in regions]
    if notes:
        found[url]["note"] = [{"text": note} for note in notes]
    return found | regions | members


def _observation(record: FeatureRecord, code: Concept, device: str | None) -> Resource:
    """Return what every Observation has; the time of the study is masked where dates are."""
    study = {
        "type": _identifier_type("study-instance-uid", "Study Instance UID"),
        **_uid(record.series.study_instance_uid),
    }
    subject: Resource = {"type": "Patient", "display": "the patient of the study"}
    if record.subject.patient_key:
        subject["identifier"] = {"system": "urn:ctvae:patient-key", "value": record.subject.patient_key}
    base: Resource = {
        "resourceType": "Observation",
        "status": "preliminary",
        "partOf": [{"type": "ImagingStudy", "identifier": study}],
        "code": _concept(code),
        "subject": subject,
        "_issued": {"extension": [{"url": ABSENT, "valueCode": "masked"}]},
    }
    return base if device is None else base | {"device": {"reference": device}}


def _member(record: FeatureRecord, item: Item, device: str) -> Resource:
    """Return the Observation of one number; its value has the digits of the SR."""
    value, name = item.value, item.name
    if not isinstance(value, Number) or name is None:
        raise TypeError("a member is not a number")
    quantity = {"value": float(value.decimal), "unit": value.unit.meaning, "system": SYSTEMS["UCUM"]}
    found = _observation(record, name, device) | {"valueQuantity": quantity | {"code": value.unit.value}}
    for child in item.children:
        if isinstance(child.value, Concept) and child.name is not None and child.name[:2] == sr_codes.METHOD:
            found["method"] = _concept(child.value)
    return found


def _evaluation(record: FeatureRecord, item: Item) -> Resource:
    text = item.value.text if isinstance(item.value, Text) else ""
    return _observation(record, item.name or _FINDING, None) | {"valueString": text}


def _device(group: Item) -> Resource:
    """Return the Device of an algorithm (TID 4019, Algorithm Identification)."""
    values = [(item.name[:2], item.value) for item in group.children if item.name is not None]
    texts = [(name, value.text) for name, value in values if isinstance(value, Text)]
    name, version = (dict(texts)[code] for code in (sr_codes.ALGORITHM_NAME, sr_codes.ALGORITHM_VERSION))
    family = [value for code, value in values if code == sr_codes.ALGORITHM_FAMILY and isinstance(value, Concept)]
    parameters = [text.partition("=") for code, text in texts if code == sr_codes.ALGORITHM_PARAMETERS]
    return {
        "resourceType": "Device",
        "identifier": [_uid(sr_codes.derived_uid("algorithm", name, version))],
        "displayName": name,
        "manufacturer": sr_codes.MANUFACTURER,
        "type": [_concept(concept) for concept in family],
        "version": [{"value": version}],
        "property": [{"type": {"text": key}, "valueString": value} for key, _, value in parameters],
    }


def _selection(record: FeatureRecord, outline: tuple[Graphic, ImageReference]) -> Resource:
    graphic, image = outline
    instance: Resource = {
        "uid": image.sop_instance_uid,
        "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{image.sop_class_uid}"},
        "imageRegion2D": [
            {"regionType": graphic.kind.lower(), "coordinate": [shortest_double(at) for at in graphic.points.ravel()]}
        ],
    }
    if image.frame is not None:
        instance["subset"] = [str(image.frame)]
    return {
        "resourceType": "ImagingSelection",
        "status": "available",
        "code": _concept(_REGION),
        "studyUid": record.series.study_instance_uid,
        "seriesUid": record.series.series_instance_uid,
        "instance": [instance],
    }


def _outlines(item: Item) -> Iterator[tuple[Graphic, ImageReference]]:
    """Yield the outlines that a number was inferred from; a text's anchor is a point, not an outline."""
    for child in item.children:
        if isinstance(child.value, Graphic) and child.value.kind == "POLYLINE":
            yield child.value, next(leaf.value for leaf in child.children if isinstance(leaf.value, ImageReference))


def _is_note(item: Item) -> bool:
    """Return whether an item is text for a person, rather than tracking or the algorithm."""
    algorithm = (sr_codes.ALGORITHM_NAME, sr_codes.ALGORITHM_VERSION, sr_codes.ALGORITHM_PARAMETERS)
    return item.name is not None and item.name[:2] not in (sr_codes.TRACKING_IDENTIFIER, *algorithm)


def _concept(code: Concept) -> Resource:
    return {"coding": [{"system": SYSTEMS[code.scheme], "code": code.value, "display": code.meaning}]}


def _identifier_type(code: str, display: str) -> Resource:
    return {"coding": [{"system": IDENTIFIER_TYPES, "code": code, "display": display}]}


def _uid(uid: str) -> Resource:
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}


def _url(record: FeatureRecord, kind: str, *numbers: int) -> str:
    return f"urn:oid:{sr_codes.derived_uid('fhir', record.job_key, kind, *numbers)}"
