"""The rules of the MONAI Deploy SDK take what its own operator takes; what they cannot say stops the run."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from operators.errors import StartError
from operators.read_study import read_studies
from operators.select_series import Selection, select
from operators.series.sdk_rules import parse_sdk_rules
from operators.types import Series
from tests.support.tiny_series import CORONAL, SAGITTAL, Tiny, write

SDK_SERIES = (
    Tiny(1, says={"SeriesDescription": "Lung thin", "SliceThickness": "1.0", "BodyPartExamined": "CHEST"}),
    Tiny(2, says={"SeriesDescription": "lung", "SliceThickness": "3", "ConvolutionKernel": ["I70f", "2"]}),
    Tiny(3, orientation=CORONAL, says={"SeriesNumber": 7, "KVP": "120", "ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
    Tiny(4, study=2, says={"StudyDescription": "Spleen^routine", "RescaleIntercept": 0, "SeriesDescription": ""}),
    Tiny(5, study=2, orientation=SAGITTAL, says={"SliceThickness": "5.000", "StudyDescription": "Spleen^routine"}),
)
SDK_CONDITIONS: tuple[dict[str, object], ...] = (
    {"Modality": "ct"},
    {"Modality": "(?i)C"},
    {"Modality": "MR"},
    {"Modality": None, "SeriesDescription": ""},
    {"SeriesDescription": "^LUNG"},
    {"SeriesDescription": "(?i)^No series description|(.*?)"},
    {"StudyDescription": "(?i)^Spleen"},
    {"BodyPartExamined": "Chest"},
    {"SliceThickness": [2, ">"]},
    {"SliceThickness": ["3", ">="]},
    {"SliceThickness": [3, "<"]},
    {"SliceThickness": [3, "<="]},
    {"SliceThickness": [3, "!="]},
    {"SliceThickness": [1, 3]},
    {"SliceThickness": 3},
    {"SliceThickness": r"\d\.0"},
    {"SliceThickness": 0},
    {"SeriesNumber": 7},
    {"SeriesNumber": "[5-9]"},
    {"RescaleIntercept": [-1, 1]},
    {"KVP": [100, 120]},
    {"Rows": 6},
    {"ImageType": ["PRIMARY", "ORIGINAL", "AXIAL"]},
    {"ImageType": ["PRIM", "!SECONDARY"]},
    {"ImageType": "!mpr"},
    {"ImageType": "mpr"},
    {"ImageType": "original', 'p"},
    {"ConvolutionKernel": ["i70F", 2]},
    {"ConvolutionKernel": 2},
    {"PixelSpacing": 0.5},
    {"row_pixel_spacing": 0.5},
    {"col_pixel_spacing": [0.7, 0.8]},
    {"ImageOrientationPatient": "Axial"},
    {"ImageOrientationPatient": " coronal "},
    {"ImageOrientationPatient": "SAGITTAL"},
    {"PatientPosition": "HFS", "SeriesInstanceUID": "9.4$"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
)


def selected_by_the_sdk(folder: Path) -> list[set[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.deploy.core import Fragment
        from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
        from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

        fragment = Fragment()
        studies = DICOMDataLoaderOperator(fragment, name="load").load_data_to_studies(folder)
        selector = DICOMSeriesSelectorOperator(fragment, name="select")
        rules = ({"selections": [{"name": "x", "conditions": conditions}]} for conditions in SDK_CONDITIONS)
        chosen = (selector.filter(one, studies, all_matched=True) for one in rules)
        return [
            {str(one.series.SeriesInstanceUID) for study in each for one in study.selected_series} for each in chosen
        ]


def selected_by_us(folder: Path) -> list[set[str]]:
    studies = read_studies(folder).studies
    found = []
    for conditions in SDK_CONDITIONS:
        rules = parse_sdk_rules({"selections": [{"name": "x", "conditions": conditions}]})
        jobs = [job for study in studies for job in select(study, Selection(sdk_rules=rules))]
        found.append({job.series.series_instance_uid for job in jobs if isinstance(job.state, Series)})
    return found


def test_the_sdks_rules_take_what_the_sdks_operator_takes(tmp_path):
    write(tmp_path, *SDK_SERIES)
    theirs = selected_by_the_sdk(tmp_path)
    ours = selected_by_us(tmp_path)
    differing = [pair for pair in zip(SDK_CONDITIONS, ours, theirs, strict=True) if pair[1] != pair[2]]
    assert differing == []
    assert len(set(map(frozenset, ours))) > 10, "the conditions tell series apart"


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        ({"Laterality": "L"}, "Laterality"),
        ({"PatientName": "DOE"}, "PatientName"),
        ({"no_such": 1}, "no_such"),
        ({"SliceThickness": [2, "~"]}, "SliceThickness"),
        ({"SliceThickness": [1, 2, 3]}, "SliceThickness"),
        ({"SliceThickness": ["x", ">"]}, "SliceThickness"),
        ({"SeriesDescription": {"a": 1}}, "SeriesDescription"),
        ({"SeriesDescription": "(a+)+"}, "SeriesDescription"),
        ({"ImageOrientationPatient": "oblique"}, "ImageOrientationPatient"),
    ],
)
def test_an_sdk_condition_that_cannot_be_kept_stops_the_run_by_name(conditions, named):
    with pytest.raises(StartError, match=f"{named} in mine") as caught:
        parse_sdk_rules({"selections": [{"name": "mine", "conditions": conditions}]})
    assert caught.value.reason == "SETTINGS_INVALID"
    assert "DOE" not in caught.value.message


@pytest.mark.parametrize("document", [None, [], {}, {"selections": []}, {"selections": ["x"]}, {"selections": {}}])
def test_what_is_no_document_of_the_sdk_stops_the_run(document):
    with pytest.raises(StartError, match="sdk_rules"):
        parse_sdk_rules(document)
