"""Encoding → FeatureRecord: who, what and how are put beside the numbers."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from pydicom.dataset import Dataset

from models.spec import Bundle
from operators.dicom.values import number_in, text_in, texts_in
from operators.geometry.origin import frame_of_reference
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.measure.quantities import measure_quantities
from operators.record import Acquisition, Encoding, FeatureRecord, ModelIdentity, SeriesIdentity, Subject
from operators.types import Series


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What of the patient may be written, section `privacy` of app.yaml: by default nothing that says who or when.

    Attributes:
        with_identifiers: name, PatientID and birth date.
        with_dates: of study and series.
        site_key: secret of the site, never from a file; with it `patient_key` is the HMAC-SHA-256 of PatientID.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    with_identifiers: bool = False
    with_dates: bool = False
    site_key: bytes | None = field(default=None, repr=False)


NOTHING_DISCLOSED: Final = Disclosure()


def make_record(
    encoding: Encoding, bundle: Bundle, disclosure: Disclosure, policy: GeometryPolicy = NO_REPAIR
) -> FeatureRecord:
    """The record of one encoded series, whose volume was built under a policy."""
    series = encoding.windows.volume.series
    digest = _instances_digest(series)
    config_digest = configuration_digest(bundle, tuple(encoding.taps), disclosure, policy)
    return FeatureRecord(
        encoding=encoding,
        identity=_identity(series, digest),
        subject=_subject(series.first, disclosure),
        acquisition=_acquisition(series.first, disclosure),
        model=ModelIdentity(bundle.name, bundle.version, bundle.weights_sha256, bundle.architecture, encoding.runtime),
        preprocessing=bundle.preprocessing.parameters(),
        preprocessing_digest=bundle.preprocessing.digest(),
        config_digest=config_digest,
        quantities=measure_quantities(encoding.windows, bundle.preprocessing.window_hu),
        job_key=_sha256([digest, series.part, bundle.weights_sha256, config_digest]),
    )


def configuration_digest(
    bundle: Bundle, taps: tuple[str, ...], disclosure: Disclosure, policy: GeometryPolicy = NO_REPAIR
) -> str:
    """SHA-256 over all settings that can change what is written; of the site's key its digest alone goes in."""
    key = hashlib.sha256(disclosure.site_key).hexdigest() if disclosure.site_key else None
    privacy = {"identifiers": disclosure.with_identifiers, "dates": disclosure.with_dates, "site_key_sha256": key}
    chosen: dict[str, Any] = {"taps": list(taps), "privacy": privacy, "geometry": _digested(policy)}
    others = {tap.name: tap.pooling for tap in bundle.taps if tap.name in taps and tap.pooling not in ("none", "mean")}
    if others:  # a bundle's own poolings are no part of its weights' digest
        chosen["poolings"] = others
    return _sha256({"preprocessing": bundle.preprocessing.parameters()} | chosen)


def _digested(policy: GeometryPolicy) -> dict[str, Any]:
    """The policy without what was added later and has its default: results of earlier versions keep their job key."""
    return {
        name: value
        for name, value in asdict(policy).items()
        if name != "implausible_hu" or value != NO_REPAIR.implausible_hu
    }


def _identity(series: Series, digest: str) -> SeriesIdentity:
    return SeriesIdentity(
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        part=series.part,
        frame_of_reference_uid=frame_of_reference([instance.header for instance in series.instances]),
        modality=text_in(series.first, "Modality") or "CT",
        instances=len(series.files),
        instances_digest=digest,
        derived_uids=dict(series.derived_uids),
    )


def _instances_digest(series: Series) -> str:
    return _sha256(sorted(instance.identity for instance in series.files))


def _subject(header: Dataset, disclosure: Disclosure) -> Subject:
    patient_id = text_in(header, "PatientID") or None
    key = None
    if disclosure.site_key and patient_id:
        key = hmac.new(disclosure.site_key, patient_id.encode(), hashlib.sha256).hexdigest()
    named = disclosure.with_identifiers
    return Subject(
        patient_key=key,
        sex=text_in(header, "PatientSex") or None,
        age_years=_age_years(header),
        patient_name=(text_in(header, "PatientName") or None) if named else None,
        patient_id=patient_id if named else None,
        birth_date=(text_in(header, "PatientBirthDate") or None) if named else None,
    )


def _age_years(header: Dataset) -> float | None:
    """PatientAge (VR AS, PS3.5 6.2: 038Y, 018M, 003W, 010D) in years."""
    found = re.fullmatch(r"(\d{3})([DWMY])", text_in(header, "PatientAge"))
    if not found:
        return None
    days = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}[found[2]]
    return round(int(found[1]) * days / 365.25, 3)


def _acquisition(header: Dataset, disclosure: Disclosure) -> Acquisition:
    return Acquisition(
        manufacturer=text_in(header, "Manufacturer") or None,
        model=text_in(header, "ManufacturerModelName") or None,
        kernel=text_in(header, "ConvolutionKernel") or None,
        kvp=number_in(header, "KVP"),
        mas=_mas(header),
        thickness_mm=number_in(header, "SliceThickness"),
        contrast=text_in(header, "ContrastBolusAgent") or None,
        body_part=text_in(header, "BodyPartExamined") or None,
        image_type=texts_in(header, "ImageType"),
        study_date=(text_in(header, "StudyDate") or None) if disclosure.with_dates else None,
        series_date=(text_in(header, "SeriesDate") or None) if disclosure.with_dates else None,
    )


def _mas(header: Dataset) -> float | None:
    """Exposure (0018,1152) in mAs; else tube current in mA × exposure time in ms (PS3.3 C.8.2.1)."""
    exposure = number_in(header, "Exposure")
    if exposure is not None:
        return exposure
    current, time_ms = number_in(header, "XRayTubeCurrent"), number_in(header, "ExposureTime")
    return None if current is None or time_ms is None else current * time_ms / 1000.0


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
