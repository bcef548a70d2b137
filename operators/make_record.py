"""Encoding → FeatureRecord: adds who, what and how to the numbers."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from pydicom.dataset import Dataset

from models.spec import Bundle
from operators.geometry.origin import frame_of_reference
from operators.geometry.policy import NO_REPAIR, GeometryPolicy
from operators.measure.quantities import measure_quantities
from operators.record import Encoding, FeatureRecord, ModelIdentity, SeriesIdentity, Subject
from operators.series.acquisition import acquisition_of, one_text
from operators.types import Series


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What may be written about the patient (section `privacy` of app.yaml): by default no identity and no date.

    Attributes:
        with_identifiers: name, PatientID and birth date.
        with_dates: of study and series.
        site_key: secret of the site, never read from a settings file; with it `patient_key` is the HMAC-SHA-256 of
            PatientID.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    with_identifiers: bool = False
    with_dates: bool = False
    site_key: bytes | None = field(default=None, repr=False)


NOTHING_DISCLOSED: Final = Disclosure()


def make_record(
    encoding: Encoding, bundle: Bundle, disclosure: Disclosure, policy: GeometryPolicy = NO_REPAIR
) -> FeatureRecord:
    """Return the record of one encoded series whose volume was built under this policy."""
    series = encoding.windows.volume.series
    headers = [instance.header for instance in series.instances]
    digest = _instances_digest(series)
    config_digest = configuration_digest(bundle, encoding.configured_taps, disclosure, policy)
    return FeatureRecord(
        encoding=encoding,
        identity=_identity(series, headers, digest),
        subject=_subject(headers, disclosure),
        acquisition=acquisition_of(headers, with_dates=disclosure.with_dates),
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
    """Return the SHA-256 over all settings that can change the results; of the site's key only its digest enters."""
    key = hashlib.sha256(disclosure.site_key).hexdigest() if disclosure.site_key else None
    privacy = {"identifiers": disclosure.with_identifiers, "dates": disclosure.with_dates, "site_key_sha256": key}
    chosen: dict[str, Any] = {"taps": list(taps), "privacy": privacy, "geometry": _digested(policy)}
    others = {tap.name: tap.pooling for tap in bundle.taps if tap.name in taps and tap.pooling not in ("none", "mean")}
    if others:  # the digest of the weights does not cover the bundle's own poolings
        chosen["poolings"] = others
    if bundle.reference_sha256 is not None:  # nor does it cover the reference population
        chosen["reference_sha256"] = bundle.reference_sha256
    return _sha256({"preprocessing": bundle.preprocessing.parameters()} | chosen)


def _digested(policy: GeometryPolicy) -> dict[str, Any]:
    """Return the policy without later settings at their defaults, so that earlier results keep their job key."""
    return {
        name: value
        for name, value in asdict(policy).items()
        if name != "implausible_hu" or value != NO_REPAIR.implausible_hu
    }


def _identity(series: Series, headers: Sequence[Dataset], digest: str) -> SeriesIdentity:
    return SeriesIdentity(
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        part=series.part,
        frame_of_reference_uid=frame_of_reference(headers),
        modality=one_text(headers, "Modality") or "CT",
        instances=len(series.files),
        instances_digest=digest,
        derived_uids=dict(series.derived_uids),
    )


def _instances_digest(series: Series) -> str:
    return _sha256(sorted(instance.identity for instance in series.files))


def patient_key(site_key: bytes, patient_id: str) -> str:
    """Return the pseudonym of a PatientID: the same throughout a site, and not reversible without the site's key."""
    return hmac.new(site_key, patient_id.encode(), hashlib.sha256).hexdigest()


def _subject(headers: Sequence[Dataset], disclosure: Disclosure) -> Subject:
    patient_id = one_text(headers, "PatientID")
    key = patient_key(disclosure.site_key, patient_id) if disclosure.site_key and patient_id else None
    named = disclosure.with_identifiers
    return Subject(
        patient_key=key,
        sex=one_text(headers, "PatientSex"),
        age_years=_age_years(one_text(headers, "PatientAge") or ""),
        patient_name=one_text(headers, "PatientName") if named else None,
        patient_id=patient_id if named else None,
        birth_date=one_text(headers, "PatientBirthDate") if named else None,
    )


def _age_years(age: str) -> float | None:
    """Return PatientAge (VR AS, PS3.5 6.2: 038Y, 018M, 003W, 010D) in years."""
    found = re.fullmatch(r"(\d{3})([DWMY])", age)
    if not found:
        return None
    days = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}[found[2]]
    return round(int(found[1]) * days / 365.25, 3)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
