"""A series that is not CT of the body in HU is skipped with a reason; nothing passes or goes in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import (
    EncapsulatedPDFStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    VLEndoscopicImageStorage,
)

from operators.errors import SeriesSkipped
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from operators.types import Series
from tests.support.tiny_ct import put, stored_values, write_tiny_ct


def read(folder: Path) -> list[Series]:
    return [series for study in read_studies(folder).studies for series in study.series]


def reason(series: Series) -> str:
    with pytest.raises(SeriesSkipped) as caught:
        keep_ct_images(series)
    return caught.value.reason


def changed(tmp_path: Path, **values: object) -> Series:
    write_tiny_ct(tmp_path, change=lambda ds, d: put(ds, **values))
    [series] = read(tmp_path)
    return series


def test_a_series_of_ct_images_is_handed_on_as_it_is(tmp_path):
    series = changed(tmp_path)
    assert keep_ct_images(series) is series


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"SOPClassUID": MRImageStorage}, "NOT_CT_IMAGE"),
        ({"SOPClassUID": EncapsulatedPDFStorage}, "NOT_CT_IMAGE"),
        ({"SOPClassUID": VLEndoscopicImageStorage}, "NOT_CT_IMAGE"),
        ({"SOPClassUID": "1.2.3.4"}, "NOT_CT_IMAGE"),
        ({"Modality": "PT"}, "NOT_CT_IMAGE"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "SECONDARY_CAPTURE"),
        ({"SOPClassUID": f"{SecondaryCaptureImageStorage}.3"}, "SECONDARY_CAPTURE"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "SECONDARY_CAPTURE"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "DERIVED_MAP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PERFUSION", "RCBF"]}, "DERIVED_MAP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "DERIVED_MAP"),
        ({"RescaleType": "MGML"}, "DERIVED_MAP"),
        ({"RescaleType": "US"}, "DERIVED_MAP"),
        ({"RescaleType": "HU_MOD"}, "DERIVED_MAP"),
        ({"RescaleType": "UNITS"}, "DERIVED_MAP"),
        ({"RescaleType": "PCT"}, "DERIVED_MAP"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "SUBTRACTION"]}, "DERIVED_MAP"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(str(one) for one in value.values()),
)
def test_what_is_not_ct_in_hu_is_skipped(tmp_path, values, expected):
    assert reason(changed(tmp_path, **values)) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"RescaleType": "HU"},
        {"RescaleType": "hu"},
        {"RescaleType": "H.U."},
        {"RescaleType": "Hounsfield"},
        {"RescaleType": "HOUNSFIELD UNIT"},
        {"RescaleType": "HOUNDSFIELD UNIT"},
        {"RescaleType": "HOUNSFIELD_UNITS"},
        {"RescaleType": "Houndfield Units (HU)"},
        {"RescaleType": "HOUNSFEILD UNITS"},
        {"RescaleType": ""},
        {"Modality": ""},
        {"ImageType": None},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MPR"]},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]},
    ],
    ids=lambda values: "-".join(str(one) for one in values.values()),
)
def test_what_is_ct_in_hu_is_kept(tmp_path, values):
    assert len(keep_ct_images(changed(tmp_path, **values)).instances) == 5


def test_the_message_names_the_class_that_was_found(tmp_path):
    with pytest.raises(SeriesSkipped, match="MR Image Storage"):
        keep_ct_images(changed(tmp_path, SOPClassUID=MRImageStorage))


def test_a_localizer_that_was_not_split_off_is_left_out_with_a_finding(tmp_path):
    """As it stands amid the slices, what remains has a gap, and the series is no two volumes."""

    def change(dataset, d):
        if d == 2:
            put(dataset, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    write_tiny_ct(tmp_path, stored_values(6), change=change)
    [series] = read(tmp_path)
    selected = keep_ct_images(series)
    assert len(selected.instances) == 5
    assert [(one.code, one.detail) for one in selected.findings] == [
        ("INSTANCES_LEFT_OUT", "1 × LOCALIZER, of 6 instances")
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dcmqact_philips_localizer_sc/localizer_a", {"LOCALIZER"}),
        ("dcmqact_philips_localizer_sc/sc_a", {"SECONDARY_CAPTURE"}),
        ("cptacsar_3slices", {"NOT_CT_IMAGE"}),
        ("sts/STS_001/RTSTRUCT", {"NOT_CT_IMAGE"}),
        ("panimg_toshiba4d_tinyheaders/dicom_4d", {"NOT_CT_IMAGE"}),
        ("panimg_toshiba4d_tinyheaders/dicom_4d_enhanced", {"SECONDARY_CAPTURE"}),
    ],
)
def test_real_series_that_are_no_ct_are_skipped(shared_ct, name, expected):
    assert {reason(series) for series in read(shared_ct(name))} == expected


def test_a_real_perfusion_map_in_an_enhanced_ct_is_skipped(shared_ct):
    [enhanced] = [one for one in read(shared_ct("pydicom_data_singles")) if one.series_instance_uid.endswith(".14401")]
    assert reason(enhanced) == "DERIVED_MAP"
