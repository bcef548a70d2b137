"""A series of several volumes comes apart into exactly these; where nothing tells them apart it stays whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from app.encode_folder import encode
from operators.build_volume import build_volume
from operators.errors import SeriesError
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from operators.series.split import split_series
from operators.types import Outcome, Series
from tests.operators.test_build_volume import CORONAL, only_series
from tests.support.bundles import write_small_bundle
from tests.support.tiny_ct import SERIES, Change, put, stored_values, write_tiny_ct

Tell = Callable[[Dataset, int, int], None]
DEPTH = 5


def phases(count: int, depth: int = DEPTH, seed: int = 0) -> np.ndarray:
    """Stored values of several volumes: (phases, D, H, W)."""
    return stored_values(count * depth, seed=seed).reshape(count, depth, 6, 8)


def write_phases(folder: Path, volumes: np.ndarray, tell: Tell) -> None:
    """All at the same positions, in one series; `tell(dataset, phase, d)` is the last to touch each."""
    depth = volumes.shape[1]

    def change(dataset: Dataset, n: int) -> None:
        phase, d = divmod(n, depth)
        put(dataset, ImagePositionPatient=[0, 0, 2.0 * d], InstanceNumber=1)
        tell(dataset, phase, d)

    write_tiny_ct(folder, volumes.reshape(-1, *volumes.shape[2:]), change=change)


def parts_of(folder: Path) -> list[Series]:
    return [series for study in read_studies(folder).studies for series in study.series]


def voxels(series: Series) -> np.ndarray:
    return build_volume(keep_ct_images(series)).voxels()


def reason(series: Series) -> str:
    with pytest.raises(SeriesError) as caught:
        build_volume(keep_ct_images(series))
    return caught.value.reason


def told_by(series: Series) -> str:
    [finding] = [one for one in series.findings if one.code == "SPLIT_SERIES"]
    return finding.detail


VALUES: dict[str, tuple[object, ...]] = {
    "AcquisitionNumber": (9, 10, 11),
    "TemporalPositionIdentifier": (1, 2, 3),
    "TemporalPositionIndex": (1, 2, 3),
    "NominalPercentageOfCardiacPhase": (5, 40, 75),
    "ConvolutionKernel": ("B30f", "B70f", "STANDARD"),
    "SliceThickness": (1, 2, 10),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL", "B"], ["ORIGINAL", "PRIMARY"]),
    "KVP": (80, 100, 140),
    "TriggerTime": (-5, 0, 100),
    "ContentTime": ("235958", "235959.5", "235959.75"),
    "AcquisitionTime": ("0930", "093001", "101010.5"),
}


@pytest.mark.parametrize("keyword", VALUES)
def test_each_tag_of_a_volume_tells_volumes_apart(tmp_path, keyword):
    volumes = phases(3)
    write_phases(tmp_path, volumes, lambda ds, phase, d: put(ds, **{keyword: VALUES[keyword][phase]}))
    parts = parts_of(tmp_path)
    assert [series.part for series in parts] == [1, 2, 3]
    order = (
        sorted(range(3), key=lambda phase: "\\".join(VALUES[keyword][phase])) if keyword == "ImageType" else range(3)
    )
    for number, (series, phase) in enumerate(zip(parts, order, strict=True), 1):
        np.testing.assert_array_equal(voxels(series), volumes[phase])
        assert told_by(series) == f"part {number} of 3, distinguished by {keyword}: 5 of 15 images of the series"


RISING: dict[str, Tell] = {
    "InstanceNumber": lambda ds, phase, d: put(ds, InstanceNumber=1 + DEPTH * phase + d),
    "TriggerTime": lambda ds, phase, d: put(ds, TriggerTime=100 * phase + (7 * d) % 5),
    "AcquisitionTime": lambda ds, phase, d: put(ds, AcquisitionTime=f"1200{10 * phase + d:02d}.{d}"),
    "ContentTime": lambda ds, phase, d: put(
        ds, ContentDate=f"2020010{1 + phase}", ContentTime=("23595", "00000")[phase] + f"{d}"
    ),
    "AcquisitionNumber": lambda ds, phase, d: put(ds, AcquisitionNumber=1 + 10 * phase + d // 2),
}


@pytest.mark.parametrize("keyword", RISING)
def test_what_rises_from_one_volume_to_the_next_tells_them_apart(tmp_path, keyword):
    volumes = phases(2)
    write_phases(tmp_path, volumes, RISING[keyword])
    first, second = parts_of(tmp_path)
    np.testing.assert_array_equal(voxels(first), volumes[0])
    np.testing.assert_array_equal(voxels(second), volumes[1])
    assert f"distinguished by {keyword}:" in told_by(first)


def test_a_table_that_runs_back_and_forth_gives_one_volume_a_way(tmp_path):
    volumes = phases(3)

    def tell(dataset, phase, d):
        put(dataset, InstanceNumber=1 + DEPTH * phase + (DEPTH - 1 - d if phase % 2 else d))

    write_phases(tmp_path, volumes, tell)
    for series, volume in zip(parts_of(tmp_path), volumes, strict=True):
        np.testing.assert_array_equal(voxels(series), volume)


def test_two_kernels_of_two_phases_are_four_volumes(tmp_path):
    volumes = phases(4)

    def tell(dataset, phase, d):
        put(dataset, AcquisitionNumber=1 + phase // 2, ConvolutionKernel="AB"[phase % 2])

    write_phases(tmp_path, volumes, tell)
    parts = parts_of(tmp_path)
    assert "distinguished by AcquisitionNumber, ConvolutionKernel:" in told_by(parts[0])
    for series, volume in zip(parts, volumes, strict=True):
        np.testing.assert_array_equal(voxels(series), volume)


def test_rotations_of_one_phase_stay_together(tmp_path):
    """Four acquisitions: two rotations of four slices side by side, twice. They are two volumes and not four."""
    volumes = phases(2, 8)
    write_phases(tmp_path, volumes, lambda ds, phase, d: put(ds, AcquisitionNumber=1 + 2 * phase + d // 4))
    for series, volume in zip(parts_of(tmp_path), volumes, strict=True):
        np.testing.assert_array_equal(voxels(series), volume)


def test_a_second_pass_a_millimetre_off_is_a_volume_of_its_own(tmp_path):
    volumes = phases(2)

    def tell(dataset, phase, d):
        put(dataset, ImagePositionPatient=[0, 0, 2.0 * d + 0.7 * phase], AcquisitionNumber=phase)

    write_phases(tmp_path, volumes, tell)
    for series, volume in zip(parts_of(tmp_path), volumes, strict=True):
        np.testing.assert_array_equal(voxels(series), volume)


def test_a_phase_that_was_broken_off_is_a_part_that_the_gate_rejects(tmp_path):
    volumes = phases(3)
    write_phases(tmp_path, volumes, lambda ds, phase, d: put(ds, TemporalPositionIndex=phase + 1))
    for path in tmp_path.iterdir():
        header = dcmread(path)
        if header.TemporalPositionIndex == 3 and header.ImagePositionPatient[2] > 2:
            path.unlink()
    first, second, broken_off = parts_of(tmp_path)
    np.testing.assert_array_equal(voxels(first), volumes[0])
    np.testing.assert_array_equal(voxels(second), volumes[1])
    assert len(broken_off.instances) == 2 and reason(broken_off) == "TOO_FEW_SLICES"


# Of several kinds


def second_half(**values: object) -> Change:
    """The slices from 5 on are a stack of another kind."""
    return lambda dataset, d: put(dataset, **values) if d >= 5 else None


def coronal(dataset, d):
    if d >= 5:
        put(dataset, ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 2.0 * d, 0])


def smaller(dataset, d):
    if d >= 5:
        put(dataset, Rows=5)
        dataset.PixelData = dataset.PixelData[: 2 * 5 * 8]


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (coronal, "ImageOrientationPatient"),
        (smaller, "Rows and Columns"),
        (second_half(PixelSpacing=[1, 1]), "PixelSpacing"),
    ],
)
def test_stacks_that_lie_on_different_grids_are_parts(tmp_path, change, by):
    stored = stored_values(10)
    write_tiny_ct(tmp_path, stored, change=change)
    later, earlier = parts_of(tmp_path)  # InstanceNumber falls in these files
    np.testing.assert_array_equal(voxels(earlier), stored[:5])
    np.testing.assert_array_equal(voxels(later)[:, :5], stored[5:, :5])
    assert f"distinguished by {by}:" in told_by(earlier)


def test_a_localizer_beside_the_slices_is_a_part_that_is_skipped(tmp_path):
    stored = stored_values(6)
    change = second_half(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImagePositionPatient=None)
    write_tiny_ct(tmp_path, stored, change=change)
    scan, localizer = parts_of(tmp_path)
    np.testing.assert_array_equal(voxels(scan), stored[:5])
    assert (localizer.part, reason(localizer)) == (2, "LOCALIZER")


def test_phases_beside_a_localizer_are_told_apart_too(tmp_path):
    volumes = phases(3)

    def tell(dataset, phase, d):
        put(dataset, AcquisitionNumber=phase)
        if phase == 2:
            put(dataset, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    write_phases(tmp_path, volumes, tell)
    first, second, localizers = parts_of(tmp_path)
    np.testing.assert_array_equal(voxels(second), volumes[1])
    assert len(localizers.instances) == 5 and "kind of image, AcquisitionNumber" in told_by(first)


# What stays whole


def test_a_series_of_one_volume_is_returned_as_it_is(tmp_path):
    write_tiny_ct(tmp_path, change=lambda ds, d: put(ds, AcquisitionNumber=d, ContentTime=f"1200{d:02d}", KVP=100 + d))
    series = only_series(tmp_path)
    assert series.part is None and split_series(series) == (series,)


def test_one_scan_in_two_rotations_is_one_volume(tmp_path):
    stored = stored_values(10)
    write_tiny_ct(tmp_path, stored, change=second_half(AcquisitionNumber=2))
    np.testing.assert_array_equal(voxels(only_series(tmp_path)), stored)


UNTOLD: dict[str, Tell] = {
    "nothing": lambda ds, phase, d: None,
    "copies": lambda ds, phase, d: put(ds, InstanceNumber=d, ContentTime="120000"),
    "numbers go from position to position": lambda ds, phase, d: put(ds, InstanceNumber=2 * d + phase),
    "numbers that run into each other": lambda ds, phase, d: put(ds, InstanceNumber=3 * phase + d),
    "a value for each slice": lambda ds, phase, d: put(ds, KVP=100 + DEPTH * phase + d, InstanceNumber=None),
    "values that cross": lambda ds, phase, d: put(ds, AcquisitionNumber=phase if d else 0),
    "numbers that mix two kernels": lambda ds, phase, d: (
        put(
            ds,
            AcquisitionNumber=phase,
            ConvolutionKernel="AB"[phase if d < 2 else 1 - phase],
            ContentTime=f"1200{d:02d}",
        )
        or put(ds, KVP=100 + phase * (d < 3))
    ),
    "times of rotations that hold both": lambda ds, phase, d: put(ds, AcquisitionTime=f"12000{d}"),
    "times that are none": lambda ds, phase, d: put(ds, ContentTime=f"{phase}oclock"),
    "two patients": lambda ds, phase, d: put(ds, AcquisitionNumber=phase, PatientID=f"P{phase}"),
    "two frames of reference": lambda ds, phase, d: put(ds, AcquisitionNumber=phase, FrameOfReferenceUID=f"1.{phase}"),
    "one that says no place": lambda ds, phase, d: put(
        ds, AcquisitionNumber=phase, **({} if phase + d else {"ImagePositionPatient": None})
    ),
}


@pytest.mark.parametrize("tell", UNTOLD.values(), ids=UNTOLD)
def test_what_is_not_told_apart_wholly_stays_whole_and_is_rejected(tmp_path, tell):
    write_phases(tmp_path, phases(2), tell)
    series = only_series(tmp_path)
    assert series.part is None
    expected = {"DUPLICATE_POSITIONS", "MIXED_PATIENT", "MIXED_FRAME_OF_REFERENCE", "MISSING_GEOMETRY"}
    assert reason(series) in expected


def test_numbers_of_volumes_that_each_lack_a_slice_do_not_tell(tmp_path):
    """0 is lost from the first and 4 from the second: where one ends and the other begins, the numbers do not say."""
    write_phases(tmp_path, phases(2), lambda ds, phase, d: put(ds, InstanceNumber=10 * phase + d))
    for path in tmp_path.iterdir():
        if dcmread(path).InstanceNumber in (0, 14):
            path.unlink()
    assert reason(only_series(tmp_path)) == "DUPLICATE_POSITIONS"


def test_a_slice_of_another_orientation_amid_the_stack_splits_nothing(tmp_path):
    change = lambda ds, d: put(ds, ImageOrientationPatient=CORONAL) if d == 2 else None  # noqa: E731
    write_tiny_ct(tmp_path, stored_values(6), change=change)
    assert reason(only_series(tmp_path)) == "MIXED_ORIENTATION"


def test_a_hundred_orientations_are_no_hundred_parts(tmp_path):
    write_tiny_ct(
        tmp_path,
        stored_values(100, 1, 1),
        change=lambda ds, d: put(ds, ImageOrientationPatient=[np.cos(d / 50), np.sin(d / 50), 0, 0, 0, -1]),
    )
    assert reason(only_series(tmp_path)) == "MIXED_ORIENTATION"


def test_directions_beyond_all_bounds_and_an_image_type_that_is_a_number_are_met_at_the_gate(tmp_path):
    write_tiny_ct(tmp_path / "a", change=lambda ds, d: put(ds, ImageOrientationPatient=["1e308"] * 6))
    for path in write_tiny_ct(
        tmp_path / "b", change=lambda ds, d: put(ds, SeriesInstanceUID="1.5", ImageType="12345678")
    ):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"\x08\x00\x08\x00CS", b"\x08\x00\x08\x00FD"))
    first, second = parts_of(tmp_path)
    assert (reason(first), build_volume(keep_ct_images(second)).shape[0]) == ("MISSING_GEOMETRY", 5)


def test_an_error_while_splitting_fails_the_series_and_the_others_are_read(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("Doe^Jane")

    write_phases(tmp_path / "a", phases(2), lambda ds, phase, d: put(ds, AcquisitionNumber=phase))
    write_tiny_ct(tmp_path / "b", change=lambda ds, d: put(ds, SeriesInstanceUID="1.5", SOPClassUID="1.2.3.4"))
    monkeypatch.setattr("operators.series.split.divide", broken)
    reading = read_studies(tmp_path)
    [other] = [series for study in reading.studies for series in study.series]
    [failed] = reading.unreadable
    assert other.series_instance_uid == "1.5"
    assert (failed.series_instance_uid, failed.status, failed.reason) == (SERIES, "failed", "INTERNAL_ERROR")
    assert "RuntimeError" in str(failed.message) and "Doe" not in str(failed.message)


# Every instance in one part, whatever the series


@settings(max_examples=40)
@given(
    count=st.integers(1, 4),
    depth=st.integers(4, 7),
    tag=st.sampled_from(["AcquisitionNumber", "TemporalPositionIndex", "InstanceNumber", "TriggerTime"]),
    seed=st.integers(0, 1 << 16),
)
def test_the_parts_are_the_volumes_that_were_drawn(count, depth, tag, seed):
    random = np.random.default_rng(seed)
    volumes = phases(count, depth, seed)
    values = np.sort(random.choice(1000, count, replace=False)) * 10
    uids = random.permutation(count * depth)

    def tell(dataset, phase, d):
        inside = (d if tag == "InstanceNumber" else 0) + (int(random.integers(3)) if tag == "TriggerTime" else 0)
        put(dataset, **{tag: int(values[phase]) + inside, "SOPInstanceUID": f"1.2.{uids[phase * depth + d] + 1}"})

    with tempfile.TemporaryDirectory() as folder:
        write_phases(Path(folder), volumes, tell)
        parts = parts_of(Path(folder))
        assert [series.part for series in parts] == ([None] if count == 1 else list(range(1, count + 1)))
        for series, volume in zip(parts, volumes, strict=True):
            np.testing.assert_array_equal(voxels(series), volume)


@settings(max_examples=60)
@given(data=st.data(), slices=st.integers(1, 14))
def test_each_instance_is_in_one_part_and_no_part_has_a_position_twice(data, slices):
    """Series of a few values of everything at a few places: whatever they are, nothing is lost and nothing mixed."""
    draw = lambda most: data.draw(st.integers(0, most))  # noqa: E731

    def change(dataset, d):
        put(dataset, ImagePositionPatient=[0, 0, 2.0 * draw(6)], AcquisitionNumber=draw(1), InstanceNumber=draw(20))
        put(dataset, ConvolutionKernel="AB"[draw(1)], AcquisitionTime=f"1200{draw(3):02d}")
        put(dataset, PixelSpacing=[1 + draw(1), 1], ImageType=["ORIGINAL", "PRIMARY", ("AXIAL", "LOCALIZER")[draw(1)]])

    with tempfile.TemporaryDirectory() as folder:
        paths = write_tiny_ct(Path(folder), stored_values(slices), change=change)
        parts = parts_of(Path(folder))
        assert sorted(one.path.name for series in parts for one in series.instances) == sorted(p.name for p in paths)
        for series in parts if len(parts) > 1 else []:
            spots = [(float(one.header.ImagePositionPatient[2]), one.header.ImageType[2]) for one in series.instances]
            told = "Number" in told_by(series) or "Kernel" in told_by(series) or "Time" in told_by(series)
            assert not told or spots[0][1] == "LOCALIZER" or len(set(spots)) == len(spots)


# On the whole way


def test_parts_are_written_into_folders_of_their_own(tmp_path):
    write_phases(tmp_path / "in", phases(2), lambda ds, phase, d: put(ds, AcquisitionNumber=phase))
    write_small_bundle(tmp_path / "bundle")
    (tmp_path / "out").mkdir()
    outcomes: list[Outcome] = []
    records = list(encode(tmp_path / "in", tmp_path / "bundle", output=tmp_path / "out", on_outcome=outcomes.append))
    uid = records[0].series_instance_uid
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{uid}.part1", f"{uid}.part2"]
    assert [(outcome.status, outcome.part) for outcome in outcomes] == [("written", 1), ("written", 2)]
    assert len({record.job_key for record in records}) == 2
    assert all("SPLIT_SERIES" in {finding.code for finding in record.findings} for record in records)


def test_the_time_points_of_a_real_series_are_its_parts(shared_ct):
    """A Toshiba 4D head: 19 time points of 4 slices, anonymised into a private SOP class and a series each."""
    found = parts_of(shared_ct("panimg_toshiba4d_tinyheaders/dicom_4d"))
    instances = tuple(instance for series in found for instance in series.instances)
    for instance in instances:
        instance.header.SOPClassUID = CTImageStorage
    parts = split_series(replace(found[0], instances=instances))
    assert [series.part for series in parts] == list(range(1, 20))
    for number, series in enumerate(parts, 1):
        assert {one.header.TemporalPositionIndex for one in series.instances} == {number}
        assert build_volume(keep_ct_images(series)).shape[0] == 4


def test_two_real_scans_under_one_uid_come_apart_again(shared_ct, tmp_path):
    """Copies of a real series of 79 slices, the second with the time of another pass."""
    source = shared_ct("cip_chest/ct64_dicom")
    for n, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        header = dcmread(path, force=True)
        shutil.copy(path, tmp_path / f"a{n}")
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{n + 1}"
        header.AcquisitionNumber = 99
        header.save_as(tmp_path / f"b{n}")
    first, second = parts_of(tmp_path)
    np.testing.assert_array_equal(voxels(first), voxels(second))
    np.testing.assert_array_equal(voxels(first), voxels(only_series(source)))
