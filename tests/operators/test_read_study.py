"""Every file below a folder is read once and accounted for: a series, a ledger entry, or not DICOM."""

from __future__ import annotations

import copy
import hashlib
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from operators import read_study
from operators.build_volume import build_volume
from operators.dicom import file_format as dicom_file
from operators.dicom.read_header import HEADER_TAGS, read_instance
from operators.errors import SeriesRejected, StartError
from operators.read_study import read_studies
from operators.synthetic.write_ct import affine_for, write_ct_series
from operators.types import Series
from operators.uids import uid_from_digest
from tests.support.tiny_ct import SERIES, STUDY, put, save, slice_dataset, stored_values, write_tiny_ct

DASHED = "0c6ba5f8-6b1c-4b0e-9f1e-1f2a3b4c5d6e"


def only_series(folder: Path) -> Series:
    [study] = read_studies(folder).studies
    [series] = study.series
    return series


def all_series(folder: Path) -> list[Series]:
    return [series for study in read_studies(folder).studies for series in study.series]


def codes(series: Series) -> list[str]:
    return [finding.code for finding in series.findings]


def with_uids(study: str | None, series: str | None, sop: str = ""):
    return lambda ds, d: put(ds, StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=f"1.2.3.{d + 1}{sop}")


def test_slices_in_nested_folders_without_extension_are_one_series(tmp_path):
    paths = write_tiny_ct(tmp_path / "a")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    paths[0].rename(tmp_path / "a" / "b" / "c" / "no extension")
    series = only_series(tmp_path)
    assert (series.series_instance_uid, series.study_instance_uid, len(series.instances)) == (SERIES, STUDY, 5)


def test_order_of_studies_and_series_comes_from_their_uids(tmp_path):
    for n, (study, series) in enumerate([("1.9", "1.2"), ("1.2", "1.9"), ("1.2", "1.5")]):
        write_tiny_ct(tmp_path / f"{9 - n}", change=with_uids(study, series))
    read = [
        (study.study_instance_uid, one.series_instance_uid)
        for study in read_studies(tmp_path).studies
        for one in study.series
    ]
    assert read == [("1.2", "1.5"), ("1.2", "1.9"), ("1.9", "1.2")]


def test_names_of_files_do_not_change_the_series(tmp_path):
    write_tiny_ct(tmp_path / "a")
    before = [instance.sop_instance_uid for instance in only_series(tmp_path / "a").instances]
    for n, path in enumerate(sorted((tmp_path / "a").iterdir())):
        path.rename(path.with_name(f"{999 - n}.dcm"))
    assert [instance.sop_instance_uid for instance in only_series(tmp_path / "a").instances] == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"DICM",
        b"a text\n" * 50,
        b"\x89PNG\r\n\x1a\n" + bytes(300),
        b"\x08\x00\x05\x00 and then a text" * 9,
        b"\x08\x00\x00\x00" + bytes(200),
        b"PK\x03\x04" + bytes(300),
    ],
    ids=["empty", "four letters", "text", "png", "text like group 8", "zeros like group 8", "zip"],
)
def test_a_file_that_is_not_dicom_is_passed_over(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    reading = read_studies(tmp_path)
    assert (reading.studies, reading.unreadable, reading.files, reading.not_dicom) == ((), (), 1, 1)


def test_a_dicomdir_is_passed_over_whatever_its_name(shared_ct):
    assert read_instance(shared_ct("dcmqact_philips_localizer_sc/sc_a/DIRFILE")) is None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_preamble_is_read(tmp_path, syntax):
    [path] = write_tiny_ct(tmp_path, stored_values(1), syntax=syntax)
    content = path.read_bytes()
    meta_length = struct.unpack_from("<I", content, 140)[0]
    path.write_bytes(content[144 + meta_length :])
    instance = read_instance(path)
    assert instance is not None and instance.header.Rows == 6
    assert instance.header.file_meta.TransferSyntaxUID == syntax


def test_a_file_without_preamble_but_with_meta_information_is_read(tmp_path):
    [path] = write_tiny_ct(tmp_path, stored_values(1))
    path.write_bytes(path.read_bytes()[132:])
    assert only_series(tmp_path).series_instance_uid == SERIES


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_the_header_is_the_same_in_each_native_syntax(tmp_path, syntax):
    write_tiny_ct(tmp_path, syntax=syntax)
    header = only_series(tmp_path).first
    assert (header.Rows, tuple(header.PixelSpacing), header.RescaleSlope) == (6, (0.5, 0.75), 1)
    assert header.file_meta.TransferSyntaxUID == syntax


def test_only_the_tags_that_are_needed_are_kept(tmp_path):
    write_tiny_ct(tmp_path, change=lambda ds, d: put(ds, InstitutionName="Somewhere", OperatorsName="Someone"))
    kept = {element.keyword for element in only_series(tmp_path).first}
    assert kept <= set(HEADER_TAGS) and "PixelData" not in kept and "InstitutionName" not in kept


def test_a_header_that_is_changed_changes_no_other(tmp_path):
    paths = write_tiny_ct(tmp_path)
    first = read_instance(paths[0])
    assert first is not None
    header = copy.copy(first.header)  # as for a result that takes over most of it
    header.PatientID, header.Rows, header.ImageType[0] = "another", 1, "DERIVED"
    for path in paths[1:]:
        other = read_instance(path)
        assert other is not None
        assert (other.header.PatientID, other.header.Rows, other.header.ImageType[0]) == ("P1", 6, "ORIGINAL")


def test_decimal_strings_of_more_than_16_characters_keep_their_value(tmp_path):
    position = ("-169.99999999999954", "0.1000000000000000055511", "1e-17")
    write_tiny_ct(tmp_path, stored_values(1), change=lambda ds, d: put(ds, ImagePositionPatient=position))
    assert list(only_series(tmp_path).first.ImagePositionPatient) == [float(one) for one in position]


def test_elements_of_vr_un_have_the_type_of_the_dictionary(shared_ct):
    [path] = [one for one in shared_ct("pydicom_data_singles").iterdir() if "VR-UN" in one.name]
    instance = read_instance(path)
    assert instance is not None and instance.header.Rows == 512 and len(instance.header.PixelSpacing) == 2
    assert all(isinstance(one, float) for one in instance.header.ImagePositionPatient)


def test_a_value_that_is_not_of_its_vr_is_empty(tmp_path):
    [path] = write_tiny_ct(tmp_path, stored_values(1), change=lambda ds, d: put(ds, KVP=1234, PatientName="A" * 99))
    path.write_bytes(path.read_bytes().replace(b"1234", b"many"))
    header = only_series(tmp_path).first
    assert header.KVP is None and str(header.PatientName) == "A" * 99


def test_names_in_other_alphabets_are_read(tmp_path):
    change = lambda ds, d: put(ds, SpecificCharacterSet="ISO_IR 192", PatientName="Ω^Ünal")  # noqa: E731
    write_tiny_ct(tmp_path, stored_values(1), change=change)
    assert str(only_series(tmp_path).first.PatientName) == "Ω^Ünal"


@pytest.mark.parametrize("cut", [140, 170, 300])
def test_a_file_cut_off_in_its_header_is_in_the_ledger_and_its_neighbours_say_so(tmp_path, cut):
    write_tiny_ct(tmp_path)
    content = (tmp_path / "003").read_bytes()[:cut]
    (tmp_path / "cut").write_bytes(content)
    reading = read_studies(tmp_path)
    [entry] = reading.unreadable
    digest = hashlib.sha256(content).hexdigest()
    assert (entry.status, entry.reason, entry.folder) == ("rejected", "UNREADABLE_FILE", ".")
    assert entry.series_instance_uid == uid_from_digest(digest) and digest[:16] in (entry.message or "")
    assert codes(reading.studies[0].series[0]) == ["UNREADABLE_NEIGHBOUR"]


@pytest.mark.parametrize("seed", range(20))
def test_a_file_of_noise_behind_the_prefix_is_an_entry_or_a_series_and_nothing_worse(tmp_path, seed):
    noise = np.random.default_rng(seed).bytes(4000)
    (tmp_path / "noise").write_bytes(bytes(128) + b"DICM" + noise)
    reading = read_studies(tmp_path)
    assert len(reading.unreadable) + sum(len(study.series) for study in reading.studies) == 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_header_with_errors_anywhere_is_an_entry_or_a_series_and_nothing_worse(tmp_path, syntax):
    [path] = write_tiny_ct(tmp_path, stored_values(1), syntax=syntax)
    content, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        for place in random.integers(132, len(content), 5):
            broken[place : place + random.integers(0, 3)] = random.bytes(random.integers(0, 5))
        path.write_bytes(broken)
        reading = read_studies(tmp_path)
        assert len(reading.unreadable) + len(reading.studies) + reading.not_dicom == 1


def test_sequences_nested_without_end_are_an_entry(tmp_path):
    item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    meta = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
    (tmp_path / "deep").write_bytes(meta + item * 5000)
    [entry] = read_studies(tmp_path).unreadable
    assert entry.reason == "UNREADABLE_FILE"


def test_a_length_beyond_the_file_allocates_nothing(tmp_path):
    meta = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0"
    (tmp_path / "long").write_bytes(meta + b"\x08\x00\x16\x00\xf0\xff\xff\xff1.2")
    assert read_studies(tmp_path).files == 1


def test_a_deflated_file_that_unfolds_without_bound_is_an_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_file, "MAX_INFLATED_BYTES", 1 << 16)
    [path] = write_tiny_ct(tmp_path, stored_values(1), syntax=DeflatedExplicitVRLittleEndian)
    meta = path.read_bytes()[: 144 + struct.unpack_from("<I", path.read_bytes(), 140)[0]]
    packer = zlib.compressobj(wbits=-15)
    path.write_bytes(meta + packer.compress(bytes(1 << 20)) + packer.flush())
    [entry] = read_studies(tmp_path).unreadable
    assert entry.reason == "UNREADABLE_FILE"


def test_links_are_not_followed_and_the_log_says_how_many_without_their_names(tmp_path, caplog):
    write_tiny_ct(tmp_path / "out")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "Doe^Jane").symlink_to(tmp_path / "out")
    (inside / "slice").symlink_to(tmp_path / "out" / "003")
    with caplog.at_level(logging.DEBUG):
        assert read_studies(inside).files == 0
    assert "2 symbolic links" in caplog.text and "Doe" not in caplog.text


def test_nothing_that_is_logged_names_a_file_or_a_patient(tmp_path, caplog):
    folder = tmp_path / "Doe^Jane"
    write_tiny_ct(folder, change=lambda ds, d: put(ds, PatientName="Doe^Jane", StudyInstanceUID="Doe^Jane"))
    (folder / "cut").write_bytes((folder / "003").read_bytes()[:300])
    with caplog.at_level(logging.DEBUG, logger=""):
        reading = read_studies(tmp_path)
    said = caplog.text + "".join(entry.message or "" for entry in reading.unreadable)
    said += "".join(finding.detail for finding in reading.studies[0].series[0].findings)
    assert "Doe" not in said


def test_a_file_that_the_system_will_not_open_has_failed_and_the_others_go_on(tmp_path, monkeypatch):
    paths = write_tiny_ct(tmp_path)

    def closed(path: Path, values):
        if path == paths[0]:
            raise PermissionError(13, "Permission denied", str(path))
        return read_instance(path, values)

    monkeypatch.setattr(read_study, "read_instance", closed)
    reading = read_studies(tmp_path)
    [entry] = reading.unreadable
    assert (entry.status, entry.reason) == ("failed", "FILE_NOT_OPENED") and str(tmp_path) not in (entry.message or "")
    assert len(reading.studies[0].series[0].instances) == 4


def test_every_file_is_reported_as_it_is_done(tmp_path):
    write_tiny_ct(tmp_path)
    (tmp_path / "text").write_text("text")
    done: list[tuple[int, int]] = []
    read_studies(tmp_path, lambda *progress: done.append(progress))
    assert done == [(n, 6) for n in range(1, 7)]


def test_a_folder_that_is_none_cannot_be_read(tmp_path):
    with pytest.raises(StartError, match="INPUT_NOT_A_FOLDER"):
        read_studies(tmp_path / "none")


def test_slices_without_series_uid_are_grouped_by_folder_and_get_a_uid_from_their_pixels(tmp_path):
    write_tiny_ct(tmp_path / "a", stored_values(seed=1), change=with_uids(STUDY, None))
    write_tiny_ct(tmp_path / "b", stored_values(seed=2), change=with_uids(STUDY, None, "0"))
    first, second = all_series(tmp_path)
    assert first.series_instance_uid != second.series_instance_uid
    assert first.series_instance_uid.startswith("2.25.") and codes(first) == ["UID_DERIVED"]
    assert first.derived_uids == (("SeriesInstanceUID", ""),) and first.study_instance_uid == STUDY


def test_a_derived_uid_depends_on_the_pixels_alone(tmp_path):
    write_tiny_ct(tmp_path / "a" / "x", change=with_uids(STUDY, None))
    write_tiny_ct(tmp_path / "b", change=lambda ds, d: put(ds, SeriesInstanceUID=None, PatientID="another", KVP=120))
    uids = {only_series(tmp_path / name).series_instance_uid for name in "ab"}
    assert len(uids) == 1


def test_a_dashed_uuid_is_replaced_and_kept_beside(tmp_path):
    write_tiny_ct(tmp_path, change=with_uids(DASHED, DASHED))
    series = only_series(tmp_path)
    assert series.derived_uids == (("SeriesInstanceUID", DASHED), ("StudyInstanceUID", DASHED))
    assert series.series_instance_uid.startswith("2.25.") and series.study_instance_uid.startswith("2.25.")


def test_series_of_one_study_with_an_invalid_uid_stay_together(tmp_path):
    write_tiny_ct(tmp_path / "a", change=with_uids(DASHED, "1.5"))
    write_tiny_ct(tmp_path / "b", change=with_uids(DASHED, "1.6", "0"))
    [study] = read_studies(tmp_path).studies
    assert len(study.series) == 2


def test_one_series_uid_in_two_studies_makes_two_series_with_uids_of_their_own(tmp_path):
    write_tiny_ct(tmp_path / "a", change=with_uids("1.5", SERIES))
    write_tiny_ct(tmp_path / "b", change=with_uids("1.6", SERIES))
    uids = {series.series_instance_uid for series in all_series(tmp_path)}
    assert len(uids) == 2 and SERIES not in uids
    assert all(codes(series) == ["UID_DERIVED"] for series in all_series(tmp_path))


def test_pixels_of_each_kind_are_found_where_they_begin(tmp_path):
    dataset = slice_dataset(np.zeros((2, 2), np.int16), 0)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    save(dataset, tmp_path / "a")
    instance = read_instance(tmp_path / "a")
    assert (
        instance is not None and instance.pixels and instance.pixels.offset == (tmp_path / "a").stat().st_size - 12 - 8
    )
    del dataset.PixelData
    save(dataset, tmp_path / "b")
    stripped = read_instance(tmp_path / "b")
    assert stripped is not None and stripped.pixels is None


@pytest.mark.parametrize("cut", range(0, 1600, 37))
def test_a_slice_cut_off_anywhere_before_its_pixels_is_never_lost_in_silence(tmp_path, cut):
    path = write_ct_series(np.zeros((5, 8, 8), np.int16), affine_for((5, 8, 8), (5, 2, 2)), tmp_path)[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 200)])

    reading = read_studies(tmp_path)

    if not reading.unreadable:
        ((series,),) = (study.series for study in reading.studies)
        with pytest.raises(SeriesRejected):
            build_volume(series)


def test_a_folder_that_holds_its_files_twice_is_read_once(tmp_path):
    for copy_of in ("a", "b"):
        write_tiny_ct(tmp_path / copy_of)
    once = only_series(tmp_path / "a")

    twice = only_series(tmp_path)

    assert codes(twice) == ["IDENTICAL_COPIES"]
    assert [one.sop_instance_uid for one in twice.instances] == [one.sop_instance_uid for one in once.instances]
    np.testing.assert_array_equal(build_volume(twice).voxels(), build_volume(once).voxels())


def test_two_files_of_one_uid_that_differ_both_stay_for_the_gate_to_reject(tmp_path):
    write_tiny_ct(tmp_path / "a")
    write_tiny_ct(tmp_path / "b", change=lambda dataset, d: put(dataset, PatientID="P1", SeriesDescription="other"))

    with pytest.raises(SeriesRejected, match="DUPLICATE"):
        build_volume(only_series(tmp_path))
