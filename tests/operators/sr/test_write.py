"""The SR holds the numbers bit for bit, is valid whatever the source's headers are like, and is always the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage

from operators.errors import SeriesFailed
from operators.measure.quantities import QUANTITIES
from operators.record import TapValues
from operators.sr.predecessor import read_predecessor
from operators.sr.read import read_sr
from operators.sr.write import sr_bytes
from operators.types import Finding
from tests.support.checkout import ROOT
from tests.support.sr_records import (
    NOTICE,
    SERIES,
    STUDY,
    code_value,
    ct_header,
    dciodvfy,
    group_of,
    items,
    made_record,
    numbers,
    reread,
)

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


# The numbers


@settings(max_examples=25)
@given(mu=arrays(np.float32, 4, elements=FLOAT32), sigma=arrays(np.float32, 4, elements=FLOAT32))
def test_every_finite_float32_survives_as_decimal_and_as_double(mu, sigma):
    document = reread(made_record(taps={"mu": mu, "sigma": sigma}, quantities={}))
    measured = [item.MeasuredValueSequence[0] for item in numbers(group_of(document, "VAE-POST"))]
    expected = np.stack([mu, sigma], axis=1).ravel()
    decimals = np.array([np.float32(str(value.NumericValue)) for value in measured])
    doubles = np.array([value.FloatingPointValue for value in measured])
    assert decimals.tobytes() == expected.tobytes()
    assert doubles.tobytes() == expected.astype(np.float64).tobytes()
    assert max(len(str(value.NumericValue)) for value in measured) <= 16


@settings(max_examples=25)
@given(mu=arrays(np.float32, 4, elements=FLOAT32), sigma=arrays(np.float32, 4, elements=FLOAT32))
def test_read_sr_gives_back_what_was_written_bit_for_bit(mu, sigma):
    taps = read_sr(reread(made_record(taps={"mu": mu, "sigma": sigma}))).taps
    assert (taps["mu"].tobytes(), taps["sigma"].tobytes()) == (mu.tobytes(), sigma.tobytes())


@pytest.mark.parametrize(
    "value", [-0.0, 1e-45, -1.1754944e-38, -3.4028235e38, 1.2345679e15, -0.00012345679, 16777216.0]
)
def test_awkward_numbers_survive(value):
    document = reread(made_record(taps={"mu": [value], "sigma": [1.0]}))
    measured = numbers(group_of(document, "VAE-POST"))[0].MeasuredValueSequence[0]
    assert np.float32(str(measured.NumericValue)).tobytes() == np.float32(value).tobytes()
    assert np.float64(measured.FloatingPointValue).tobytes() == np.float64(np.float32(value)).tobytes()


def test_highdicom_reads_every_number_by_its_group_concept_and_derivation():
    record = made_record(taps={"dense": np.arange(16) / 7})
    document = hd.sr.srread(BytesIO(sr_bytes(record)))
    groups = {group.finding_type.value: group for group in document.content.get_image_measurement_groups()}
    found: dict[tuple[str, str | None], float] = {}
    for group in (groups["VAE-POST"], groups["TAP-dense"]):
        for one in group.get_measurements():
            found[one.name.value, one.derivation and one.derivation.meaning] = one.value
            assert one.unit == codes.UCUM.NoUnits
    expected = {(f"TAP-dense-{k:03d}", None): float(v) for k, v in enumerate(record.taps["dense"].values)}
    for tap, short, derivation in (("mu", "MU", codes.SCT.Mean), ("sigma", "SD", codes.SCT.StandardDeviation)):
        for k, v in enumerate(record.taps[tap].values):
            expected[f"VAE-{short}-{k:03d}", derivation.meaning] = float(v)
    assert found == expected


def test_quantities_have_a_group_with_units_and_leave_out_what_could_not_be_measured():
    record = made_record(
        quantities={
            "mean_hu": -101.7,
            "gradient_hu_per_mm": 7.5,
            "body_area_cm2": 612.3,
            "soft_tissue_fraction": 0.4,
            "x_fraction": None,
        }
    )
    document = hd.sr.srread(BytesIO(sr_bytes(record)))
    group = next(
        g for g in document.content.get_image_measurement_groups() if g.finding_type.value == "VOXEL-QUANTITIES"
    )
    found = {one.name.value: (np.float32(one.value), one.unit.value) for one in group.get_measurements()}
    assert found == {
        "mean_hu": (np.float32(-101.7), "[hnsf'U]"),
        "gradient_hu_per_mm": (np.float32(7.5), "[hnsf'U]/mm"),
        "body_area_cm2": (np.float32(612.3), "cm2"),
        "soft_tissue_fraction": (np.float32(40), "%"),
        "REAL-VOXELS": (np.float32(75), "%"),
    }
    written = {name: float(np.float32(value)) for name, value in record.quantities.items() if value is not None}
    assert read_sr(document).quantities == written


@settings(max_examples=50)
@given(fraction=st.floats(0, 1, width=32))
def test_a_fraction_in_percent_reads_back_to_the_same_float32(fraction):
    record = made_record(quantities={"lung_fraction": fraction})
    assert np.float32(read_sr(reread(record)).quantities["lung_fraction"]).tobytes() == np.float32(fraction).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_an_error_that_names_the_dimension(bad):
    with pytest.raises(SeriesFailed, match="NON_FINITE_NUMBER: tap mu dimension 1 is"):
        reread(made_record(taps={"mu": [0.0, bad], "sigma": [1.0, 1.0]}))


def test_a_vector_of_more_than_256_dimensions_is_named_by_its_digest():
    long = np.arange(257, dtype=np.float32)
    features = read_sr(reread(made_record(taps={"block1": long, "dense": long[:256]})))
    assert features.unlisted["block1"].sha256 == hashlib.sha256(long.tobytes()).hexdigest()
    assert features.unlisted["block1"].length == 257
    assert set(features.taps) == {"mu", "sigma", "dense"}


def test_a_posterior_of_more_than_256_dimensions_is_named_by_its_digests():
    features = read_sr(reread(made_record(taps={"mu": np.zeros(300), "sigma": np.ones(300)})))
    assert set(features.unlisted) == {"mu", "sigma"}
    assert features.unlisted["sigma"].sha256 == hashlib.sha256(np.ones(300, "<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["a\\b", "", "layer 1", "x" * 33])
def test_a_tap_whose_name_no_code_can_hold_is_an_error(name):
    with pytest.raises(SeriesFailed, match="BAD_NAME"):
        reread(made_record(taps={name: [1.0]}))


# Who, what and how


def test_read_sr_gives_back_who_what_and_how():
    record = made_record(part=2, findings=(Finding("GAP", "one: two"), Finding("UID_DERIVED", "é")))
    features = read_sr(reread(record))
    assert (features.study_instance_uid, features.series_instance_uid, features.part) == (STUDY, SERIES, 2)
    assert (features.model_name, features.model_version, features.weights_sha256) == ("ct_vae", "0.1", "b2" * 32)
    assert (features.preprocessing_digest, features.config_digest) == ("c3" * 32, "d4" * 32)
    assert features.job_key == record.job_key
    assert features.findings == record.findings
    assert features.parameters["preprocessing"].startswith('{"fit":"window"')


def test_the_notice_stands_in_the_tree_and_in_the_series_description():
    document = reread(made_record())
    assert NOTICE in [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"]
    assert NOTICE in document.SeriesDescription
    assert len(document.SeriesDescription) <= 64


def test_it_says_complete_unverified_and_preliminary():
    document = reread(made_record())
    assert (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_the_evidence_is_the_instances_of_the_series():
    document = hd.sr.srread(BytesIO(sr_bytes(made_record())))
    assert document.get_evidence() == [(STUDY, SERIES, f"{SERIES}.{number}", CTImageStorage) for number in (1, 2, 3)]


def test_an_instance_without_a_valid_uid_is_no_evidence():
    headers = [ct_header(1), ct_header(2, SOPInstanceUID="not.a.uid"), ct_header(3, SOPClassUID=None)]
    document = hd.sr.srread(BytesIO(sr_bytes(made_record(headers))))
    assert [uid for _, _, uid, _ in document.get_evidence()] == [f"{SERIES}.1"]


def test_a_series_without_any_uid_still_has_a_valid_sr(tmp_path):
    bare = Dataset()
    content = sr_bytes(made_record([bare], series_instance_uid="2.25.5", study_instance_uid="2.25.6"))
    assert dciodvfy(content, tmp_path) == []
    features = read_sr(pydicom.dcmread(BytesIO(content)))
    assert (features.study_instance_uid, features.series_instance_uid) == ("2.25.6", "2.25.5")


def test_derived_uids_take_the_place_of_those_in_the_header():
    document = reread(made_record([ct_header(StudyInstanceUID="bad")], study_instance_uid="2.25.77"))
    assert document.StudyInstanceUID == "2.25.77"


def test_the_predecessor_is_part_of_the_content():
    record = made_record()
    first = reread(record)
    second = reread(record, predecessor=read_predecessor(first))
    reference = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert read_sr(second).predecessors == (first.SOPInstanceUID,)
    assert read_sr(first).predecessors == ()


def test_the_sr_says_what_of_sigma_lies_within_windows_and_what_between():
    record = made_record()
    mu, sigma = (np.float32([[one], [three]]) for one, three in ((1.0, 3.0), (0.25, 0.25)))
    taps = {"mu": TapValues("mu", "none", mu.mean(axis=0), mu), "sigma": TapValues("sigma", "none", sigma[0], sigma)}
    windows = record.encoding.windows
    two = replace(
        windows,
        voxels=np.repeat(windows.voxels, 2, axis=0),
        affines_lps_mm=np.repeat(windows.affines_lps_mm, 2, axis=0),
        real_fraction=np.repeat(windows.real_fraction, 2),
    )
    document = reread(replace(record, encoding=replace(record.encoding, windows=two, taps=taps)))
    (said,) = (item.TextValue for item in items(document) if _code(item) == "SIGMA-PARTS")
    assert "0.25 within windows" in said
    assert "1 between the 2 windows" in said


# The same each time


def test_equal_records_give_equal_bytes_in_processes_with_other_hash_seeds_clocks_and_zones():
    program = (
        "import tests.support.sr_records as t, hashlib; print(hashlib.sha256(t.sr_bytes(t.made_record())).hexdigest())"
    )
    digests = {hashlib.sha256(sr_bytes(made_record())).hexdigest()}
    for seed, zone in (("1", "Asia/Tokyo"), ("2", "America/Lima")):
        paths = str(ROOT)
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_the_order_in_which_files_and_taps_were_found_changes_nothing():
    headers = [ct_header(number, StudyTime=f"10{number}000") for number in (1, 2, 3)]
    one = made_record(headers, taps={"a": [1.0], "b": [2.0]})
    other = made_record(headers[::-1], taps={"b": [2.0], "a": [1.0]})
    assert sr_bytes(one) == sr_bytes(other)


def test_the_uid_changes_with_any_number_and_with_the_job():
    record = made_record()
    mu = record.taps["mu"].values.copy()
    mu[31] = np.nextafter(mu[31], np.float32(9))
    uids = {
        reread(one).SOPInstanceUID for one in (record, made_record(taps={"mu": mu}), replace(record, job_key="f6" * 32))
    }
    assert len(uids) == 3


def test_the_file_names_the_same_object_as_the_data_set_and_no_library():
    document = reread(made_record())
    assert document.file_meta.MediaStorageSOPInstanceUID == document.SOPInstanceUID
    assert document.file_meta.ImplementationVersionName == "CTVAE_SR_2"
    assert document.preamble == bytes(128)


def test_no_clock_is_read():
    moments = {element.value for element in reread(made_record()).iterall() if element.VR in ("DA", "TM", "DT")}
    assert moments == {"20240131", "101112.5", "19600229"}


def test_each_source_series_and_part_has_an_sr_series_of_its_own():
    record = made_record()
    others = [
        made_record([ct_header(9)], series_instance_uid="1.2.3"),
        made_record(part=1),
        made_record(part=2),
        replace(record, config_digest="d5" * 32),
        replace(record, model=replace(record.model, weights_sha256="b3" * 32)),
    ]
    series = [reread(one).SeriesInstanceUID for one in (record, *others)]
    series.append(reread(record, sr_class="comprehensive").SeriesInstanceUID)
    assert len(set(series)) == len(series)
    assert reread(replace(record, job_key="f6" * 32)).SeriesInstanceUID == series[0]


def test_another_version_of_ctvae_writes_into_another_series(monkeypatch):
    before = reread(made_record()).SeriesInstanceUID
    monkeypatch.setattr("operators.sr.header.__version__", "9.9")
    assert reread(made_record()).SeriesInstanceUID != before


def test_a_revision_has_a_higher_instance_number():
    record = made_record()
    first = reread(record)
    late_slice = reread(made_record([ct_header(number) for number in (1, 2, 3, 4)]))
    newer_bytes = reread(record, predecessor=read_predecessor(late_slice))
    assert first.InstanceNumber < late_slice.InstanceNumber < newer_bytes.InstanceNumber


def _code(item: Dataset) -> str:
    return code_value(item) if "ConceptNameCodeSequence" in item else ""


def tracking_uids(document: Dataset) -> set[str]:
    return {item.UID for item in items(document) if _code(item) == "112040"}


def test_all_groups_are_tracked_as_one_thing_under_any_model_and_job():
    record = made_record(taps={"dense": [1.0]})
    (uid,) = tracking_uids(reread(record))
    newer = replace(record, job_key="f6" * 32, model=replace(record.model, version="2", weights_sha256="b3" * 32))
    assert tracking_uids(reread(newer)) == {uid}


def test_another_part_series_or_place_is_tracked_as_another_thing():
    records = [
        made_record(),
        made_record(part=1),
        made_record(series_instance_uid="1.2.3"),
        made_record([ct_header(number) for number in range(1, 12)]),
    ]
    assert len(set.union(*(tracking_uids(reread(record)) for record in records))) == len(records)


# Headers as they are


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (None, "Plain^Name"),
    ],
)
def test_a_name_in_any_character_set_survives(terms, name, tmp_path):
    source = ct_header(PatientName=name)
    if terms:
        source.SpecificCharacterSet = terms
    file = BytesIO()
    pydicom.dcmwrite(file, source, implicit_vr=False, little_endian=True)
    header = pydicom.dcmread(BytesIO(file.getvalue()), force=True)
    content = sr_bytes(made_record([header], findings=(Finding("A", "b"),)))
    assert str(pydicom.dcmread(BytesIO(content)).PatientName) == name
    assert dciodvfy(content, tmp_path) == []


def test_text_that_the_source_character_set_cannot_hold_makes_it_utf_8():
    header = ct_header(PatientName="Müller^J", SpecificCharacterSet="ISO_IR 100")
    document = reread(made_record([header], findings=(Finding("GAP", "3 – 4 ≥"),)))
    assert (document.SpecificCharacterSet, str(document.PatientName)) == ("ISO_IR 192", "Müller^J")
    assert reread(made_record([header])).SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientSex": "X"},
        {"PatientSex": None, "PatientBirthDate": None, "PatientID": None, "PatientName": None},
        {
            "StudyTime": None,
            "StudyDate": None,
            "StudyID": None,
            "AccessionNumber": None,
            "ReferringPhysicianName": None,
        },
        {"StudyDate": "20241399", "StudyTime": "256199"},
        {"PatientBirthDate": "unknown", "StudyDate": "2024.01.31", "StudyTime": "10:11:12"},
        {"PatientID": "9" * 65, "AccessionNumber": "8" * 17, "StudyID": "7" * 17},
        {"PatientName": "N" * 200 + "^" * 9, "ReferringPhysicianName": "\x00\x1b^\t"},
        {"PatientID": ["A", "B"], "PatientName": ["A^B", "C^D"]},
        {"StudyDescription": "d" * 300, "IssuerOfPatientID": "i" * 99, "TimezoneOffsetFromUTC": "GMT"},
        {"PatientIdentityRemoved": "YES"},
        {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ["x" * 99, "ok"], "TimezoneOffsetFromUTC": "+0100"},
    ],
)
def test_missing_and_invalid_values_of_the_source_make_no_invalid_sr(elements, tmp_path):
    assert dciodvfy(sr_bytes(made_record([ct_header(**elements)])), tmp_path) == []


def test_an_identifier_that_is_too_long_is_left_out_rather_than_cut():
    document = reread(made_record([ct_header(PatientID="9" * 65, AccessionNumber="8" * 17)]))
    assert (document.PatientID, document.AccessionNumber) == ("", "")


def test_a_person_name_keeps_three_groups_of_64_characters_and_five_components():
    document = reread(made_record([ct_header(PatientName="N" * 70 + "=a^b^c^d^e^f=p=x")]))
    assert str(document.PatientName) == "N" * 64 + "=a^b^c^d^e=p"


def test_patient_and_study_are_those_of_the_source():
    header = ct_header()
    document = reread(made_record([header]))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert document[keyword].value == header[keyword].value
    for keyword in ("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        assert document[keyword].value == header[keyword].value


def test_content_date_falls_back_to_the_series_and_then_to_a_fixed_day():
    series = ct_header(StudyDate="", SeriesDate="20230102", SeriesTime="0304")
    assert (reread(made_record([series])).ContentDate, reread(made_record([series])).ContentTime) == (
        "20230102",
        "0304",
    )
    nothing = ct_header(StudyDate="bad")
    assert reread(made_record([nothing])).ContentDate == "19000101"


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["PatientName", "PatientID", "PatientSex", "StudyDate", "StudyTime", "StudyID", "SeriesNumber"]
        ),
        st.text(max_size=80),
    )
)
@pytest.mark.filterwarnings("ignore")
def test_no_text_in_a_header_stops_the_sr_or_changes_the_features(values):
    strings = {keyword: value for keyword, value in values.items() if keyword != "SeriesNumber"}
    record = made_record([ct_header(**strings)], taps={"mu": [0.5], "sigma": [0.25]}, quantities={})
    assert read_sr(reread(record)).taps["mu"] == [0.5]


# Validity and size


def test_dciodvfy_finds_no_error(tmp_path):
    record = made_record(
        taps={"dense": np.arange(256) / 3, "block1": np.zeros(4096)}, findings=(Finding("A", "b"),), part=1
    )
    assert dciodvfy(sr_bytes(record), tmp_path) == []


def test_thirty_two_dimensions_and_all_quantities_over_300_slices_take_at_most_80_kb():
    long = f"1.2.826.0.1.3680043.10.{'9' * 37}"
    headers = [ct_header(number, SOPInstanceUID=f"{long}.{number:03d}") for number in range(300)]
    assert {len(header.SOPInstanceUID) for header in headers} == {64}
    record = made_record(headers, quantities=dict.fromkeys(QUANTITIES, 0.12345679), series_instance_uid=long)
    assert len(sr_bytes(record)) <= 80_000


@pytest.mark.parametrize("sr_class", ["comprehensive_3d", "comprehensive"])
def test_both_sop_classes_hold_the_same_content(sr_class, tmp_path):
    record = made_record(findings=(Finding("A", "b"),))
    content = sr_bytes(record, sr_class)
    assert dciodvfy(content, tmp_path) == []
    other = pydicom.dcmread(BytesIO(content))
    assert other.SOPClassUID.name.replace(" ", "_").lower() == f"{sr_class}_sr_storage"
    assert other.ContentSequence == reread(record).ContentSequence
    assert len(hd.sr.srread(BytesIO(content)).content.get_image_measurement_groups()) == 2


@pytest.mark.parametrize("name", ["cip_chest/ct64_dicom", "crlm_1004/CT"])
def test_the_headers_of_a_real_series_make_a_valid_sr(shared_ct, name, tmp_path):
    files = sorted(file for file in shared_ct(name).iterdir() if file.is_file())
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    study, series = str(headers[0].StudyInstanceUID), str(headers[0].SeriesInstanceUID)
    content = sr_bytes(made_record(headers, study_instance_uid=study, series_instance_uid=series))
    assert dciodvfy(content, tmp_path) == []
    document = pydicom.dcmread(BytesIO(content))
    assert document.PatientID == headers[0].PatientID
    assert len(hd.sr.Comprehensive3DSR.from_dataset(document).get_evidence()) == len(headers)
