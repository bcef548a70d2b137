"""Scans for training: found, told apart by patient, split, labelled, and their windows kept."""

from __future__ import annotations

import ast
import gc
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from app.research.data import find_scans as finding
from app.research.data.find_scans import find_scans
from app.research.data.join_labels import join_labels
from app.research.data.scan import SPLITS, Scan
from app.research.data.splits import split_by_patient
from app.research.data.window_cache import MARGIN_VOXELS, cached_windows, window_heights, with_margin
from app.settings import Settings
from operators.errors import SeriesError, StartError
from operators.geometry.policy import GeometryPolicy
from operators.preprocess import preprocess
from operators.select_series import Selection
from operators.series.rule import Range, Rule
from tests.support.bundles import SMALL_WINDOWS
from tests.support.checkout import ROOT
from tests.support.cohorts import SHAPE, write_cohort, write_list, write_nifti, write_patient


def scan(patient: str, split=None, **more) -> Scan:
    return Scan(patient, split, "", patient, lambda: None, **more)


def patients(scans) -> set[str]:
    return {one.patient for one in scans}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two patients as DICOM, one as NIfTI; and a label map."""
    folder = tmp_path_factory.mktemp("cohort")
    write_patient(folder / "dicom1", 1)
    write_patient(folder / "dicom2", 2)
    write_nifti(folder / "case3.nii.gz")
    write_nifti(folder / "case3_labels.nii.gz", mask=True)
    return folder


def test_dicom_and_nifti_are_found_and_a_label_map_is_not(cohort):
    found = find_scans(cohort)
    assert len(found) == 3
    assert len(patients(found)) == 3


def test_a_patients_name_in_training_is_a_digest(cohort):
    assert all("SECRET" not in repr(found) for found in find_scans(cohort))


def test_two_series_of_one_patient_id_are_one_patient(tmp_path):
    write_patient(tmp_path / "a", 1, "P", series_number=1)
    write_patient(tmp_path / "b", 2, "P", series_number=2)
    assert [len(found := find_scans(tmp_path)), len(patients(found))] == [2, 1]


def test_two_rows_of_one_patient_id_are_one_patient(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / f"p{number}", number, "P", series_number=number)
    write_patient(tmp_path / "q", 3, "Q")
    found = find_scans(write_list(tmp_path / "list.csv", ("path",), ("p1",), ("p2",), ("q",)))
    assert [one.patient == found[0].patient for one in found] == [True, True, False]
    assert patients(found) == patients(find_scans(tmp_path))


@pytest.fixture
def same_id(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / f"p{number}", number, "SECRET", series_number=number)
    return tmp_path


def test_one_patient_id_with_a_name_and_without_is_refused(same_id):
    listed = write_list(same_id / "list.csv", ("path", "patient"), ("p1", "a"), ("p2", ""))
    with pytest.raises(StartError, match=r"BAD_SPLIT: one PatientID .* a and without a name; give it one") as met:
        find_scans(listed)
    assert "SECRET" not in met.value.message


def test_one_patient_id_under_two_names_is_two_patients_with_a_warning(same_id, caplog):
    listed = write_list(same_id / "list.csv", ("path", "patient"), ("p1", "a"), ("p2", "b"))
    assert [scan.patient for scan in find_scans(listed)] == ["a", "b"]
    assert "1 PatientIDs of DICOM have several names" in caplog.text and "SECRET" not in caplog.text


@pytest.mark.parametrize("row", [None, "p0"])
def test_a_nifti_beside_its_dicom_is_of_the_same_patient(tmp_path, row):
    write_patient(tmp_path / "p0" / "dicom", 1)
    write_nifti(tmp_path / "p0" / "copy.nii.gz", 1)
    found = find_scans(write_list(tmp_path / "list.csv", ("path",), (row,)) if row else tmp_path)
    assert [len(found), len(patients(found))] == [2, 1]
    assert [one.known_as["patient"] for one in found] == ["SECRET1", "SECRET1"]


def test_a_nifti_beside_dicom_of_two_patients_has_to_be_listed(tmp_path):
    write_cohort(tmp_path / "both", 2)
    write_nifti(tmp_path / "both" / "copy.nii.gz", 1)
    with pytest.raises(StartError, match=r"BAD_SPLIT: a volume lies beside DICOM of 2 patients.*; give a list"):
        find_scans(tmp_path)
    rows = [("path", "patient"), ("both/p1", "a"), ("both/p2", "b"), ("both/copy.nii.gz", "a")]
    assert [one.patient for one in find_scans(write_list(tmp_path / "list.csv", *rows))] == ["a", "b", "a"]


def test_no_patient_is_in_two_splits():
    parts = split_by_patient([scan(patient) for patient in "aabbccddeeff"], calibration=0.2, test=0.3)
    train, calibration, test = (patients(parts[name]) for name in ("train", "calibration", "test"))
    assert train | calibration | test == set("abcdef")
    assert (len(train), len(calibration), len(test)) == (3, 1, 2)


def test_reference_patients_are_drawn_after_the_others():
    scans = [scan(f"patient {number}") for number in range(90)]
    parts, without = split_by_patient(scans), split_by_patient(scans, reference=0)
    assert [len(parts[split]) for split in SPLITS] == [54, 9, 9, 18]
    assert (without["reference"], len(without["train"])) == ((), 63)
    assert all(parts[split] == without[split] for split in ("calibration", "test"))


def test_too_few_reference_patients_are_not_drawn():
    parts = split_by_patient([scan(f"patient {number}") for number in range(80)])
    assert parts["reference"] == ()
    listed = [scan("a", "reference"), *(scan(f"patient {number}") for number in range(90))]
    assert patients(split_by_patient(listed)["reference"]) == {"a"}


def test_one_more_patient_moves_hardly_anyone_to_another_split():
    names = [f"patient {number}" for number in range(40)]
    of = {
        one.patient: split for split, part in split_by_patient([scan(name) for name in names]).items() for one in part
    }
    more = split_by_patient([scan(name) for name in [*names, "one more"]])
    moved = [one.patient for split, part in more.items() for one in part if of.get(one.patient, split) != split]
    assert len(moved) <= 2


def test_the_draw_is_the_seeds_and_not_the_order_of_the_scans():
    scans = [scan(patient) for patient in "abcdefgh"]
    assert patients(split_by_patient(scans)["test"]) == patients(split_by_patient(scans[::-1])["test"])
    draws = {frozenset(patients(split_by_patient(scans, seed=seed)["test"])) for seed in range(8)}
    assert len(draws) > 1


def test_a_patient_in_two_splits_is_refused_by_its_key():
    with pytest.raises(StartError, match="patient a is in train and test"):
        split_by_patient([scan("a", "train"), scan("a", "test"), scan("b", "calibration")])


def test_a_split_that_the_list_fills_gets_no_one_else():
    listed = [scan("a", "test"), *(scan(patient) for patient in "bcdefg")]
    parts = split_by_patient(listed, calibration=0.2, test=0.9)
    assert patients(parts["test"]) == {"a"}
    assert len(parts["calibration"]) == 1


def test_a_scan_without_a_split_follows_its_patient():
    parts = split_by_patient([scan("a", "test"), scan("a"), scan("b", "train"), scan("c", "calibration")])
    assert len(parts["test"]) == 2


def test_two_patients_cannot_fill_three_splits():
    with pytest.raises(StartError, match="BAD_SPLIT: no patient of 2 is in train"):
        split_by_patient([scan("a"), scan("b")])


def test_a_list_names_patients_splits_sources_and_labels(cohort, tmp_path):
    listed = write_list(
        tmp_path / "list.csv",
        ("path", "patient", "split", "source", "age", "site"),
        ("dicom1", "one", "train", "made up, CC0", "61", ""),
        ("case3.nii.gz", "three", "test", "", "", "north"),
    )
    found = find_scans(listed, root=cohort)
    assert [(s.patient, s.split, s.source, dict(s.labels)) for s in found] == [
        ("one", "train", "made up, CC0", {"age": "61"}),
        ("three", "test", "", {"site": "north"}),
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("nowhere,a,train", "no path that exists"),
        (",a,train", "no path that exists"),
        ("dicom1,a,held_out", "'held_out'; expected train, calibration, reference, test"),
        ("case3_labels.nii.gz,a,train", "names no CT"),
        ("dicom1,a", "more or fewer cells"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(cohort, tmp_path, row, says):
    listed = tmp_path / "list.csv"
    listed.write_text(f"path,patient,split\n{row}\n")
    with pytest.raises(StartError, match=says) as met:
        find_scans(listed, root=cohort)
    assert "line 2" in met.value.message


def test_one_scan_under_two_patients_is_refused(cohort, tmp_path):
    listed = write_list(
        tmp_path / "l.csv", ("path", "patient", "split"), ("case3.nii.gz", "a", "train"), ("case3.nii.gz", "b", "test")
    )
    with pytest.raises(StartError, match="BAD_SPLIT: one scan is listed for patient a and for b"):
        find_scans(listed, root=cohort)


def test_a_folder_without_ct_is_one_clear_line(tmp_path):
    with pytest.raises(StartError, match="no CT among the data"):
        find_scans(tmp_path)
    with pytest.raises(StartError, match="neither a folder nor a list"):
        find_scans(tmp_path / "nowhere")


def test_labels_are_joined_by_series_patient_or_path(cohort, tmp_path):
    found = find_scans(cohort)
    uid = next(one.known_as["series_instance_uid"] for one in found if one.known_as["patient"] == "SECRET1")
    for name, value in (("series_instance_uid", uid), ("patient", "SECRET1"), ("path", "dicom1")):
        labelled = join_labels(found, write_list(tmp_path / f"{name}.csv", (name, "stage"), (value, "II"), ("x", "I")))
        assert [dict(one.labels) for one in labelled if one.labels] == [{"stage": "II"}], name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("series_instance_uid,stage\n1.2.3,II\n", "none of 1 labelled series_instance_uid is among 3 scans"),
        ("patient,stage\nSECRET1,I\nSECRET1,II\n", "line 3 of the labels has a patient for the second time"),
        ("name,stage\nSECRET1,I\n", "first column of the labels is 'name'"),
        ("", "first column of the labels is ''"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used_is_one_clear_line(cohort, tmp_path, text, says):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(StartError, match=says) as met:
        join_labels(find_scans(cohort), tmp_path / "labels.csv")
    assert met.value.reason == "BAD_LABELS"
    assert "SECRET" not in met.value.message


def test_the_cache_gives_what_preprocessing_gives_to_half_precision(cohort, tmp_path):
    found = find_scans(cohort)[0]
    windows = preprocess(found.open(), SMALL_WINDOWS)
    cached = cached_windows(found, SMALL_WINDOWS, tmp_path)
    np.testing.assert_allclose(cached.voxels, windows.voxels[:, 0], atol=5e-4)
    np.testing.assert_array_equal(cached.real_fraction, windows.real_fraction)
    np.testing.assert_array_equal(cached.height, window_heights(windows))


def test_heights_go_from_feet_to_head(cohort):
    windows = preprocess(find_scans(cohort)[0].open(), replace(SMALL_WINDOWS, spacing_mm=(5.0, 16.0, 16.0)))
    # 120 mm in windows of 40 mm at half overlap: their middles are 20, 40, … 100 mm above the scan's foot end.
    np.testing.assert_allclose(window_heights(windows), np.arange(20, 101, 20) / 120, atol=1e-6)


def test_what_is_in_the_cache_is_not_read_again(cohort, tmp_path, monkeypatch):
    dicom = [one for one in find_scans(cohort) if "dicom" in one.known_as["path"]]
    first = [np.array(cached_windows(one, SMALL_WINDOWS, tmp_path).voxels) for one in dicom]
    monkeypatch.setattr(finding, "build_volume", lambda series: pytest.fail("read again"))
    again = [cached_windows(one, SMALL_WINDOWS, tmp_path).voxels for one in dicom]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(isinstance(one, np.memmap) for one in again)


@pytest.mark.parametrize("damage", ["cut", "changed", "no_places", "other_files"])
def test_windows_that_are_damaged_or_of_changed_files_are_made_again(cohort, tmp_path, damage):
    found = find_scans(cohort)[0]
    expected = np.array(cached_windows(found, SMALL_WINDOWS, tmp_path).voxels)
    (voxels,), (places,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    if damage == "cut":
        voxels.write_bytes(voxels.read_bytes()[:-100])
    elif damage == "changed":
        voxels.write_bytes(voxels.read_bytes()[:-2] + b"\x00\x3c")
    elif damage == "no_places":
        places.unlink()
    else:
        places.write_text(json.dumps(json.loads(places.read_text()) | {"stamp": "of other files"}))
    np.testing.assert_array_equal(cached_windows(found, SMALL_WINDOWS, tmp_path).voxels, expected)
    assert json.loads(places.read_text())["stamp"] == found.stamp


def test_another_preprocessing_has_windows_of_its_own(cohort, tmp_path):
    found, wider = find_scans(cohort)[0], with_margin(SMALL_WINDOWS)
    assert cached_windows(found, SMALL_WINDOWS, tmp_path).voxels.shape[1:] == (8, 16, 16)
    expected = tuple(size + 2 * margin for size, margin in zip((8, 16, 16), MARGIN_VOXELS, strict=True))
    assert cached_windows(found, wider, tmp_path).voxels.shape[1:] == expected


def test_archives_are_read_and_their_folders_are_gone_with_the_scans(tmp_path, monkeypatch):
    cohort = write_cohort(tmp_path / "plain", 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    shutil.make_archive(str(tmp_path / "data" / "all"), "zip", cohort)
    listed = write_list(tmp_path / "list.csv", ("path", "patient"), ("data/all.zip", "a"))

    plain = find_scans(cohort)
    scans = find_scans(tmp_path / "data")
    of_list = find_scans(listed)

    assert [one.key for one in scans] == [one.key for one in of_list] == [one.key for one in plain]
    assert {one.patient for one in of_list} == {"a"}
    assert np.array_equal(scans[0].open().voxels(), plain[0].open().voxels())
    del scans, of_list
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_the_settings_say_which_scans_are_read_and_how(tmp_path):
    write_patient(tmp_path / "whole", 1)
    for path in sorted(write_patient(tmp_path / "short", 2).iterdir())[3:]:
        path.unlink()
    repairs = Settings(geometry=GeometryPolicy(min_slices=3))
    none = Settings(selection=Selection((Rule("thick", thickness_mm=Range(min=1000)),)))

    strict, lenient = find_scans(tmp_path), find_scans(tmp_path, settings=repairs)

    [broken] = [one for one in strict if one.known_as["path"] == "short"]
    [mended] = [one for one in lenient if one.key == broken.key]
    with pytest.raises(SeriesError, match="TOO_FEW_SLICES"):
        broken.open()
    assert mended.open().shape == (3, *SHAPE[1:])
    assert mended.stamp != broken.stamp, "windows of one are not those of the other in the cache"
    with pytest.raises(StartError, match="NO_DATA"):
        find_scans(tmp_path, settings=none)


def test_the_repairs_are_part_of_the_cache_whether_or_not_the_files_have_stamps(cohort):
    repairs = Settings(geometry=GeometryPolicy(min_slices=3))

    pairs = list(zip(find_scans(cohort), find_scans(cohort, settings=repairs), strict=True))

    assert {one.known_as["path"].endswith(".nii.gz") for one, _ in pairs} == {True, False}
    assert all(one.key == other.key and one.stamp != other.stamp for one, other in pairs)


def test_windows_are_made_again_when_the_code_that_reads_them_changed(cohort, tmp_path, monkeypatch):
    found = next(one for one in find_scans(cohort) if one.stamp)
    cached_windows(found, SMALL_WINDOWS, tmp_path)
    monkeypatch.setattr("app.research.data.window_cache.reading_digest", lambda: "of a mended decoder")
    cached_windows(found, SMALL_WINDOWS, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_the_digest_of_reading_is_of_every_file_that_reads():
    from app.research.data import reading

    assert reading.reading_digest() == reading.reading_digest.__wrapped__()
    places = ["/".join(place) for place in reading._CODE]
    read = {path for place in places for path, _ in reading._sources(ROOT / place, place)}
    assert {"operators/dicom/read_pixels.py", "operators/preprocess.py", "models/statistics/body.py"} <= read
    assert imported_by(read) - read == TOUCH_NO_VOXEL


TOUCH_NO_VOXEL = {
    *("models/from_json.py", "models/spec.py", "models/training_record.py"),
    *(f"operators/{name}.py" for name in ("errors", "instance", "job", "prefetch", "printable", "record", "uids")),
    *(f"operators/{name}.py" for name in ("system_error", "temporary_folder")),
}
"""What the code that reads imports beside itself. Before a name is added here: can a change there change a voxel?"""


def imported_by(modules: set[str]) -> set[str]:
    """Our modules that these import, those that these import, and so on; as paths from the root."""
    seen, ahead = set(modules), list(modules)
    while ahead:
        for node in ast.walk(ast.parse((ROOT / ahead.pop()).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            else:
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for path in (f"{name.replace('.', '/')}.py" for name in names):
                if path.startswith(("app/", "operators/", "models/")) and (ROOT / path).is_file() and path not in seen:
                    seen.add(path)
                    ahead.append(path)
    return seen
