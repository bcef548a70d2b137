"""The FHIR bundle is valid R5, and has the numbers of the record."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fhir.resources.bundle import Bundle

from operators.record import FeatureRecord
from operators.results.fhir import fhir_bundle, fhir_json
from operators.types import Finding
from tests.support.sr_records import made_record


@pytest.fixture(scope="module")
def record() -> FeatureRecord:
    made = made_record(findings=(Finding("PIXEL_PADDING", "declared padding"),))
    return replace(made, subject=replace(made.subject, patient_key="ab" * 32))


def resources(record: FeatureRecord, kind: str) -> list[dict]:
    return [entry["resource"] for entry in fhir_bundle(record)["entry"] if entry["resource"]["resourceType"] == kind]


def test_fhir_resources_takes_it_for_r5(record):
    parsed = Bundle.model_validate_json(fhir_json(record))
    kinds = [entry.resource.__resource_type__ for entry in parsed.entry]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "Device": 2,
        "ImagingSelection": 1,
        "Observation": 2 + 1 + 2 + 1 + 64,
    }


def test_each_reference_leads_to_an_entry(record):
    bundle = fhir_bundle(record)
    text = json.dumps(bundle)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    named = {part.split('"')[0] for part in text.split('"reference": "')[1:]}
    assert named and named <= urls


def test_the_features_read_back_to_the_same_float32(record):
    values = {}
    for observation in resources(record, "Observation"):
        if "valueQuantity" in observation:
            values[observation["code"]["coding"][0]["code"]] = np.float32(observation["valueQuantity"]["value"])
    for tap, code in (("mu", "VAE-MU"), ("sigma", "VAE-SD")):
        found = [values[f"{code}-{k:03d}"] for k in range(32)]
        assert np.array_equal(np.array(found, np.float32), record.taps[tap].values)


def test_the_shapes_are_those_of_the_guide(record):
    groups = [one for one in resources(record, "Observation") if "hasMember" in one]
    for group in groups:
        assert group["category"][0]["coding"][0]["code"] == "125007"
        assert group["partOf"][0]["identifier"]["value"] == f"urn:oid:{record.series.study_instance_uid}"
        assert group["focus"][0]["identifier"]["type"]["coding"][0]["code"] == "tracking-uid"
        assert group["device"]["reference"] and group["status"] == "preliminary"
    (selection,) = resources(record, "ImagingSelection")
    (region,) = selection["instance"][0]["imageRegion2D"]
    assert region["regionType"] == "polyline" and region["coordinate"][:2] == region["coordinate"][-2:]
    assert {one["displayName"] for one in resources(record, "Device")} == {"ct_vae", "ctvae quantities of the voxels"}


def test_no_identity_and_no_date_is_in_it(record):
    text = fhir_json(record).decode()
    assert not any(word in text for word in ("Doe", "Jane", '"P1"', "19600229", "20240131", 'A1"', "Ref^R"))
