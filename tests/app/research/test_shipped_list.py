"""The list of the shipped bundle: who is in which split, by the patient's id at its source, and under which licence."""

from __future__ import annotations

import csv
import re
from collections import defaultdict

import pydicom
import pytest

from app.research.data.scan import SPLITS
from app.research.data.splits import LEAST_REFERENCE
from tests.support.checkout import ROOT

with (ROOT / "app" / "research" / "shipped" / "ct_vae.csv").open(newline="", encoding="utf-8") as _lines:
    ROWS = list(csv.DictReader(_lines))


def splits_of(rows, key) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in rows:
        found[key(row)].add(row["split"])
    return found


def test_no_patient_of_the_list_is_in_two_splits():
    assert all(len(splits) == 1 for splits in splits_of(ROWS, lambda row: row["patient"]).values())
    assert len({row["path"] for row in ROWS}) == len(ROWS)


def test_each_split_has_enough_patients():
    count = {split: len({row["patient"] for row in ROWS if row["split"] == split}) for split in SPLITS}
    assert count["train"] >= 25
    assert count["calibration"] == 4
    assert count["reference"] >= max(10, LEAST_REFERENCE)
    assert count["test"] >= 12


def test_one_id_at_the_source_is_one_patient_of_the_list(shared_ct):
    """Across all folders, and also for scans without a header, whose notes name the patient."""
    names, ids = defaultdict(set), defaultdict(set)
    for row in ROWS:
        found = id_at_source(shared_ct(row["path"]), shared_ct(row["path"].split("/")[0]))
        names[found].add(row["patient"])
        ids[row["patient"]].add(found)
    assert {found: sorted(of) for found, of in names.items() if found and len(of) > 1} == {}
    assert {patient: sorted(of) for patient, of in ids.items() if len(of) > 1} == {}
    assert [row["path"] for row in ROWS if row["patient"] == "LIDC-IDRI-0001"] == [
        "lidc_partial/LIDC-IDRI-0001",
        "derived/lidc_0001/ct_256.nii.gz",
        "lidc_0001_slab/CT",
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["path"])
def test_a_row_names_the_licence_and_the_origin_of_its_source(row, shared_ct):
    said = source_of(shared_ct(row["path"]), shared_ct(row["path"].split("/")[0]))
    licence = re.search(r"CC BY \d\.\d|Apache-2\.0|BSD-style", re.search(r"licence: (.*)", said)[1])[0]
    origin = re.search(r"source: https://(\S+)", said)[1]
    assert licence in row["source"]
    assert row["source"].endswith(origin)


def source_of(path, top) -> str:
    """Return the text of the nearest SOURCE.txt at or above a scan."""
    there = next(folder for folder in (path, *path.parents) if (folder / "SOURCE.txt").is_file())
    assert there.is_relative_to(top)
    return (there / "SOURCE.txt").read_text(encoding="utf-8")


def id_at_source(path, top) -> str:
    """Return the PatientID; of a file without one, the patient that its notes name, or nothing."""
    if path.is_dir():
        file = min(file for file in path.rglob("*") if file.is_file())
        return str(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"]).PatientID)
    named = re.search(r"LIDC-IDRI-\d{4}|ACRIN-FLT-Breast_\d{3}", source_of(path, top))
    return named[0] if named else ""
