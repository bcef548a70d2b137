"""Who, what and how stand beside the numbers, and nothing more than was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from models.spec import Bundle
from operators.make_record import Disclosure, make_record
from operators.read_study import pixels_digest, read_studies
from operators.results.write_json import features_document, features_json, features_schema
from operators.series.acquisition import mixed_findings
from tests.support.records import PREPROCESSING, made_encoding, made_series
from tests.support.sr_records import made_reliability
from tests.support.tiny_ct import put, write_tiny_ct

BUNDLE = Bundle(Path(), "made", "1.0", "ct_vae", {}, PREPROCESSING, (), "ab" * 32)


def record_of(series=None, disclosure=None, bundle=BUNDLE):
    return make_record(made_encoding(series=series), bundle, disclosure or Disclosure())


def test_the_document_is_what_the_schema_says():
    jsonschema.validate(features_document(record_of()), json.loads(features_schema()))


@pytest.mark.parametrize("verdict", ["in_distribution", "out_of_distribution", "undetermined"])
def test_the_reliability_is_as_the_schema_says_and_reads_back_to_the_same_float32(verdict):
    found = made_reliability(verdict)
    document = features_document(dataclasses.replace(record_of(), reliability=found))

    jsonschema.validate(document, json.loads(features_schema()))
    written = document["reliability"]
    assert (written["verdict"], written["p_conformal"]) == (verdict, found.p_conformal)
    assert np.float32(written["percentiles"]["combined"]) == np.float32(found.percentiles.combined)
    assert (written["outlier_score"], written["percentiles"]["outlier"]) == (-4.125, found.percentiles.outlier)
    turned = written["orientation_score"], np.float32(written["percentiles"]["orientation"])
    assert turned == (-2.375, np.float32(found.percentiles.orientation))
    assert np.array(written["percentiles"]["mu"], np.float32).tobytes() == found.percentiles.mu.tobytes()


@pytest.mark.parametrize("part", ["outlier", "orientation"])
def test_scores_that_a_network_does_not_give_are_null(part):
    percentiles = dataclasses.replace(made_reliability().percentiles, **{part: None})
    found = made_reliability(**{f"{part}_score": None}, percentiles=percentiles)
    document = features_document(dataclasses.replace(record_of(), reliability=found))

    jsonschema.validate(document, json.loads(features_schema()))
    written = document["reliability"]
    assert (written[f"{part}_score"], written["percentiles"][part]) == (None, None)


@pytest.mark.parametrize("part", ["outlier", "orientation"])
@pytest.mark.parametrize("wrong", [-0.5, 100.5, float("nan")])
def test_a_percentile_that_cannot_be_is_refused(part, wrong):
    with pytest.raises(ValueError, match="a percentile that is not from 0 to 100"):
        dataclasses.replace(made_reliability().percentiles, **{part: wrong})


@pytest.mark.parametrize(
    "wrong", [{"p_conformal": None}, {"verdict": "undetermined"}, {"reasons": ()}], ids=["no p", "p", "no reason"]
)
def test_a_reliability_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match="found"):
        made_reliability(**{"verdict": "in_distribution", "p_conformal": 0.5} | wrong)


@pytest.mark.parametrize("field", ["taps", "reliability", "job_key", "geometry"])
def test_the_schema_misses_a_field_that_is_missing(field):
    document = features_document(record_of())
    del document[field]

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads(features_schema()))


def test_every_float_reads_back_to_the_same_float32():
    values = json.loads(features_json(record_of()))["taps"]["mu"]["values"]

    assert np.array(values, np.float32).tobytes() == np.array([0.1, -2.5e-8, 3.0], np.float32).tobytes()
    assert b"0.1," in features_json(record_of()), "in the fewest digits"


def test_no_identity_and_no_date_by_default():
    text = features_json(record_of()).decode()

    assert not [secret for secret in ("Doe", "ID-77", "19700102", "20200304") if secret in text]


def test_identity_and_dates_when_they_are_asked_for():
    document = features_document(record_of(disclosure=Disclosure(with_identifiers=True, with_dates=True)))

    assert document["subject"]["patient_name"] == "Doe^Jane"
    assert document["subject"]["patient_id"] == "ID-77" and document["subject"]["birth_date"] == "19700102"
    assert document["acquisition"]["study_date"] == "20200304"
    jsonschema.validate(document, json.loads(features_schema()))


def test_the_patient_key_is_the_hmac_of_the_id():
    subject = record_of(disclosure=Disclosure(site_key=b"key")).subject

    assert subject.patient_key == hmac.new(b"key", b"ID-77", hashlib.sha256).hexdigest()
    assert record_of().subject.patient_key is None


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("written", "years"), [("050Y", 50.0), ("018M", 1.5), ("004W", 0.077), ("", None), ("50", None), ("1e9Y", None)]
)
def test_age_is_read_in_years_or_not_at_all(written, years):
    assert record_of(made_series(PatientAge=written)).subject.age_years == years


def test_mas_is_exposure_or_current_times_time():
    assert record_of(made_series(Exposure="120")).acquisition.mas == 120.0
    assert record_of(made_series(XRayTubeCurrent="200", ExposureTime="500")).acquisition.mas == 100.0
    assert record_of().acquisition.mas is None


def differing(**pairs: tuple[object, object]):
    """A series of four slices, the last of which has the second value of each pair."""
    series = made_series(**{keyword: pair[0] for keyword, pair in pairs.items()})
    for keyword, pair in pairs.items():
        setattr(series.instances[-1].header, keyword, pair[1])
    return series


@pytest.mark.parametrize(
    ("keyword", "pair", "field"),
    [
        ("Manufacturer", ("A", "B"), "manufacturer"),
        ("ManufacturerModelName", ("A", "B"), "model"),
        ("ConvolutionKernel", ("B30f", "B70f"), "kernel"),
        ("KVP", ("120", "100"), "kvp"),
        ("SliceThickness", ("1", "5"), "thickness_mm"),
        ("ContrastBolusAgent", ("", "Ultravist"), "contrast"),
        ("BodyPartExamined", ("CHEST", "ABDOMEN"), "body_part"),
        ("ImageType", (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"]), "image_type"),
        ("SeriesDate", ("20200101", "20200102"), "series_date"),
        ("PatientSex", ("F", "M"), "sex"),
        ("PatientAge", ("050Y", "070Y"), "age_years"),
        ("PatientName", ("Doe^Jane", "Roe^Richard"), "patient_name"),
        ("PatientBirthDate", ("19700102", "19500102"), "birth_date"),
    ],
)
def test_where_slices_do_not_agree_nothing_is_stated(keyword, pair, field):
    """Not what the slice says that happens to be the first."""
    series = differing(**{keyword: pair})
    record = record_of(series, Disclosure(with_identifiers=True, with_dates=True))
    [finding] = mixed_findings([instance.header for instance in series.instances])

    stated = {**dataclasses.asdict(record.acquisition), **dataclasses.asdict(record.subject)}
    assert stated[field] in (None, ())
    assert finding.code in ("MIXED_KERNEL", "MIXED_KVP", "MIXED_VALUES")
    assert finding.code != "MIXED_VALUES" or finding.detail.startswith(f"{keyword} differs"), "and no value of it"
    jsonschema.validate(features_document(record), json.loads(features_schema()))


def test_a_value_that_some_slices_do_not_state_is_that_of_the_others():
    record = record_of(differing(ConvolutionKernel=("", "B30f"), KVP=("120", "120.0"), Exposure=("100", "")))

    assert (record.acquisition.kernel, record.acquisition.kvp, record.acquisition.mas) == ("B30f", 120.0, 100.0)


def test_mas_that_the_tube_current_changes_is_the_mean_of_the_slices():
    assert record_of(differing(Exposure=("100", "20"))).acquisition.mas == 80.0


def test_the_job_key_follows_what_can_change_the_result():
    same = record_of().job_key
    other_weights = record_of(bundle=dataclasses.replace(BUNDLE, weights_sha256="cd" * 32)).job_key
    other_window = dataclasses.replace(PREPROCESSING, window_hu=(-500.0, 500.0))
    other_settings = record_of(bundle=dataclasses.replace(BUNDLE, preprocessing=other_window)).job_key
    series = made_series()
    fewer = record_of(dataclasses.replace(series, instances=series.instances[:3])).job_key
    part = record_of(dataclasses.replace(series, part=1)).job_key

    assert record_of().job_key == same
    assert len({same, other_weights, other_settings, fewer, part}) == 5


def test_the_order_of_the_files_changes_nothing():
    series = made_series()
    turned = dataclasses.replace(series, instances=series.instances[::-1])

    assert features_json(record_of(turned)) == features_json(record_of(series))


def test_without_instance_uids_the_job_key_follows_the_pixels_alone(tmp_path):
    def job_key(**changed):
        write_tiny_ct(tmp_path, change=lambda dataset, d: put(dataset, SOPInstanceUID="", **changed))
        [study] = read_studies(tmp_path).studies
        return record_of(dataclasses.replace(made_series(), instances=study.series[0].instances)).job_key

    plain = job_key()

    assert job_key(PatientName="Another^Name") == plain
    assert job_key(PixelData=bytes(8 * 6 * 2)) != plain


def test_the_digest_of_files_without_a_valid_uid_is_taken_while_reading_and_the_record_reads_no_file(tmp_path):
    def change(dataset, d):
        put(dataset, SOPInstanceUID="" if d else "1.2.3.4")

    write_tiny_ct(tmp_path, change=change)
    [study] = read_studies(tmp_path).studies
    files = study.series[0].files
    digests = sorted(one.identity if one.sop_instance_uid == "1.2.3.4" else pixels_digest(one) for one in files)
    shutil.rmtree(tmp_path)

    record = record_of(series=study.series[0])

    assert record.identity.instances_digest == hashlib.sha256(json.dumps(digests).encode()).hexdigest()
