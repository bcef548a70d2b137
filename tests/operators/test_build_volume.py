"""The gate: what passes is the volume that was written, in its place; what would be wrong has a reason."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from operators.build_volume import build_volume
from operators.errors import SeriesFailed, SeriesRejected
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from operators.types import Series, Volume
from tests.support.tiny_ct import AXIAL, CODECS, Change, compress, put, stored_values, write_tiny_ct

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
FACE_DOWN = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
FROM_HEAD = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
OBLIQUE = (*np.array([0.96, 0.28, 0.0]), *np.array([-0.168, 0.576, 0.8]))


def only_series(folder: Path) -> Series:
    [study] = read_studies(folder).studies
    [series] = study.series
    return series


def volume_of(folder: Path) -> Volume:
    return build_volume(keep_ct_images(only_series(folder)))


def rejected(folder: Path) -> SeriesRejected:
    with pytest.raises(SeriesRejected) as caught:
        volume_of(folder)
    return caught.value


def codes(volume: Volume) -> list[str]:
    return [finding.code for finding in volume.findings]


def shift(d_moved: int, by_mm: tuple[float, float, float]) -> Change:
    def change(dataset, d):
        if d == d_moved:
            put(dataset, ImagePositionPatient=np.array(dataset.ImagePositionPatient, float) + by_mm)

    return change


def one(d_changed: int = 2, **values: object) -> Change:
    return lambda dataset, d: put(dataset, **values) if d == d_changed else None


def all_slices(**values: object) -> Change:
    return lambda dataset, d: put(dataset, **values)


# What passes


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, FACE_DOWN, FROM_HEAD, OBLIQUE])
def test_voxels_and_affine_are_those_that_were_written(tmp_path, orientation):
    stored = stored_values()
    spacing_mm, origin_mm = (2.5, 0.4, 0.9), (-12.0, 34.0, -56.0)
    write_tiny_ct(tmp_path, stored, orientation=orientation, spacing_mm=spacing_mm, origin_mm=origin_mm)
    volume = volume_of(tmp_path)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    expected = np.eye(4)
    expected[:3] = np.stack([2.5 * np.cross(row, column), 0.4 * column, 0.9 * row, origin_mm], axis=1)
    np.testing.assert_array_equal(volume.voxels(), stored)
    np.testing.assert_allclose(volume.affine_lps_mm, expected, atol=1e-9)
    assert volume.shape == stored.shape and volume.spacing_mm == pytest.approx(spacing_mm)


def test_slices_are_sorted_by_place_and_not_by_instance_number_or_name(tmp_path):
    stored = stored_values(9)
    numbers = np.random.default_rng(1).permutation(9)
    write_tiny_ct(tmp_path, stored, change=lambda ds, d: put(ds, InstanceNumber=int(numbers[d])))
    np.testing.assert_array_equal(volume_of(tmp_path).voxels(), stored)


def test_the_slices_come_one_by_one_as_they_are_in_the_volume(tmp_path):
    stored = stored_values(9)
    write_tiny_ct(tmp_path, stored)
    for found, expected in zip(volume_of(tmp_path).slices(), stored, strict=True):
        np.testing.assert_array_equal(found.hu, expected)


@pytest.mark.parametrize("d", [-1, 5])
def test_there_is_no_slice_outside_the_volume(tmp_path, d):
    write_tiny_ct(tmp_path)
    with pytest.raises(IndexError):
        volume_of(tmp_path).read_slice(d)


def test_rows_and_columns_have_the_spacing_of_the_standard_where_the_sdk_swaps_it(tmp_path):
    """PixelSpacing is (between rows, between columns), PS3.3 10.7.1.3: a step along a row is the second."""
    write_tiny_ct(tmp_path, spacing_mm=(2.0, 0.5, 0.75))
    volume = volume_of(tmp_path)
    np.testing.assert_allclose(volume.affine_lps_mm[:3, 1], [0, 0.5, 0])
    np.testing.assert_allclose(volume.affine_lps_mm[:3, 2], [0.75, 0, 0])
    assert np.diag(sdk_image(tmp_path).metadata()["affine"])[:2].tolist() == [0.5, 0.75]  # x by y: the fault


def test_air_below_a_slice_without_air_stays_air_where_the_sdk_wraps_it(tmp_path):
    stored = np.full((5, 4, 4), 1064, np.uint16)
    stored[1:, 0, 0] = 24
    write_tiny_ct(tmp_path, stored, intercept=-1024)
    assert volume_of(tmp_path).voxels()[:, 0, 0].tolist() == [40, -1000, -1000, -1000, -1000]
    assert sdk_image(tmp_path).asnumpy()[:, 0, 0].tolist() == [40, 64536, 64536, 64536, 64536]  # the fault


def sdk_image(folder: Path):
    """What the SDK's own operators make of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.deploy.core import Fragment
        from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
        from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
        from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator

        fragment = Fragment()
        studies = DICOMDataLoaderOperator(fragment, name="load").load_data_to_studies(folder)
        chosen = DICOMSeriesSelectorOperator(fragment, name="select").filter(None, studies)
        convert = DICOMSeriesToVolumeOperator(fragment, name="convert", affine_lps_to_ras=False)
        return convert.convert_to_image(chosen)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, *CODECS]
)
def test_each_transfer_syntax_gives_the_same_volume(tmp_path, syntax):
    stored = stored_values(5, 16, 24)
    options = {"change": compress(syntax)} if syntax in CODECS else {"syntax": syntax}
    write_tiny_ct(tmp_path, stored, **options)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels(), stored)


def test_each_slice_has_its_own_slope_intercept_and_signedness(tmp_path):
    def change(dataset, d):
        put(dataset, RescaleSlope=d + 1, RescaleIntercept=-1000 + d, PixelRepresentation=d % 2)

    stored = np.full((4, 2, 2), 100, np.uint16)
    write_tiny_ct(tmp_path, stored, change=change)
    assert volume_of(tmp_path).voxels()[:, 0, 0].tolist() == [-900, -799, -698, -597]


def test_positions_that_are_rounded_to_a_tenth_of_a_millimetre_are_a_regular_grid(tmp_path):
    change = lambda ds, d: put(ds, ImagePositionPatient=[0, 0, round(0.625 * d, 1)])  # noqa: E731
    write_tiny_ct(tmp_path, stored_values(9), change=change)
    assert volume_of(tmp_path).spacing_mm[0] == pytest.approx(0.625)


# Findings


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"orientation": FACE_DOWN}, []),
        ({"orientation": CORONAL}, ["NOT_AXIAL"]),
        ({"orientation": SAGITTAL}, ["NOT_AXIAL"]),
        ({"orientation": OBLIQUE}, ["OBLIQUE", "NOT_AXIAL"]),
        ({"change": all_slices(SliceThickness=3)}, ["OVERLAPPING_SLICES"]),
        ({"change": all_slices(SliceThickness=1)}, ["GAPS_BETWEEN_SLICES"]),
        ({"change": one(SliceThickness=1.5)}, ["MIXED_THICKNESS", "MIXED_VALUES"]),
        ({"change": all_slices(SliceThickness=None)}, []),
        ({"slope": 0.5}, ["FRACTIONAL_RESCALE"]),
        ({"intercept": -1024.5}, ["FRACTIONAL_RESCALE"]),
        ({"change": all_slices(LossyImageCompression="01")}, ["LOSSY_COMPRESSION"]),
        ({"change": one(SOPInstanceUID="")}, ["INVALID_INSTANCE_UID"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_whoever_uses_the_numbers_should_know_is_a_finding(tmp_path, options, expected):
    write_tiny_ct(tmp_path, **options)
    assert codes(volume_of(tmp_path)) == expected


def test_an_oblique_series_says_by_how_much(tmp_path):
    turned = np.deg2rad(5)
    write_tiny_ct(tmp_path, orientation=(np.cos(turned), np.sin(turned), 0, -np.sin(turned), np.cos(turned), 0))
    [finding] = volume_of(tmp_path).findings
    assert finding.code == "OBLIQUE" and "5.0°" in finding.detail


def test_findings_of_reading_travel_on(tmp_path):
    write_tiny_ct(tmp_path, change=all_slices(StudyInstanceUID=None))
    assert codes(volume_of(tmp_path)) == ["UID_DERIVED"]


# What is rejected


def slanted(dataset, d):
    shift(d, (0, 2.0 * d, 0))(dataset, d)


def two_phases(dataset, d):
    put(dataset, ImagePositionPatient=[0, 0, 2.0 * (d // 2)], AcquisitionNumber=d % 2 + 1)


def no_matrix(dataset, d):
    put(dataset, Rows=65535, Columns=65535)


def smaller(dataset, d):
    if d == 2:
        put(dataset, Rows=dataset.Rows - 1)
        dataset.PixelData = dataset.PixelData[: 2 * dataset.Rows * dataset.Columns]


REJECTIONS: list[tuple[str, Change]] = [
    ("MISSING_GEOMETRY", one(ImagePositionPatient=None)),
    ("MISSING_GEOMETRY", one(ImagePositionPatient=["0", "0", "nan"])),
    ("MISSING_GEOMETRY", one(ImagePositionPatient=[0, 0])),
    ("MISSING_GEOMETRY", all_slices(ImagePositionPatient=[0, 0, 1e30])),
    ("MISSING_GEOMETRY", one(ImageOrientationPatient=None)),
    ("MISSING_GEOMETRY", all_slices(ImageOrientationPatient=[1, 0, 0, 0, 0.9, 0])),
    ("MISSING_GEOMETRY", all_slices(ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0])),
    ("MISSING_GEOMETRY", all_slices(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])),
    ("MISSING_GEOMETRY", one(PixelSpacing=None)),
    ("MISSING_GEOMETRY", all_slices(PixelSpacing=[0, 0.5])),
    ("MISSING_GEOMETRY", all_slices(PixelSpacing=[-0.5, 0.5])),
    ("MISSING_GEOMETRY", all_slices(PixelSpacing=[0.0005, 0.0005])),
    ("MIXED_ORIENTATION", one(ImageOrientationPatient=CORONAL)),
    ("MIXED_ORIENTATION", one(ImageOrientationPatient=[0.9998, 0.02, 0, -0.02, 0.9998, 0])),
    ("MIXED_MATRIX", smaller),
    ("MIXED_PIXEL_SPACING", one(PixelSpacing=[0.5, 0.751])),
    ("MIXED_FRAME_OF_REFERENCE", one(FrameOfReferenceUID="1.2.3")),
    ("MIXED_PATIENT", one(PatientID="P2")),
    ("DUPLICATE_INSTANCES", all_slices(SOPInstanceUID="1.2.3")),
    ("SINGLE_POSITION", all_slices(ImagePositionPatient=[0, 0, 0])),
    ("DUPLICATE_POSITIONS", two_phases),
    ("DUPLICATE_POSITIONS", shift(2, (0, 0, 2.0))),
    ("GANTRY_TILT", slanted),
    ("SHIFTED_SLICES", shift(2, (0, 0.4, 0))),
    ("MISSING_SLICE", shift(5, (0, 0, 2.0))),
    ("IRREGULAR_SPACING", shift(5, (0, 0, 0.9))),
    ("IRREGULAR_SPACING", shift(2, (0, 0, 0.3))),
    ("IRREGULAR_SPACING", lambda ds, d: put(ds, ImagePositionPatient=[0, 0, 2.0 * d + 0.1 * d * d])),
    ("MISSING_RESCALE", one(RescaleSlope=None)),
    ("MISSING_RESCALE", one(RescaleIntercept=None)),
    ("INVALID_RESCALE", one(RescaleSlope=0)),
    ("INVALID_RESCALE", one(RescaleSlope=-1)),
    ("INVALID_RESCALE", one(RescaleIntercept="inf")),
    ("UNSUPPORTED_PIXELS", one(SamplesPerPixel=3)),
    ("UNSUPPORTED_PIXELS", one(PhotometricInterpretation="MONOCHROME1")),
    ("UNSUPPORTED_PIXELS", one(NumberOfFrames=2)),
    ("UNSUPPORTED_PIXELS", one(BitsAllocated=64)),
    ("UNSUPPORTED_PIXELS", one(BitsStored=17)),
    ("UNSUPPORTED_PIXELS", one(HighBit=11)),
    ("UNSUPPORTED_PIXELS", one(PixelRepresentation=None)),
    ("UNSUPPORTED_PIXELS", one(Rows=0)),
    ("UNSUPPORTED_PIXELS", no_matrix),
    ("AMBIGUOUS_PADDING", all_slices(PixelPaddingValue=0)),
    ("TRUNCATED_PIXELS", all_slices(Rows=7)),
]


@pytest.mark.parametrize(
    ("expected", "change"), REJECTIONS, ids=[f"{n}-{code}" for n, (code, _) in enumerate(REJECTIONS)]
)
def test_what_would_give_a_wrong_volume_is_rejected(tmp_path, expected, change):
    write_tiny_ct(tmp_path, stored_values(6), change=change)
    assert rejected(tmp_path).reason == expected


@pytest.mark.parametrize("count", [1, 2, 3])
def test_three_slices_are_too_few(tmp_path, count):
    write_tiny_ct(tmp_path, stored_values(count))
    assert rejected(tmp_path).reason == "TOO_FEW_SLICES"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_ct_image_of_several_frames_is_rejected_for_that_and_not_for_its_few_files(tmp_path, count):
    write_tiny_ct(tmp_path, stored_values(count), change=all_slices(NumberOfFrames=20))
    error = rejected(tmp_path)
    assert error.reason == "UNSUPPORTED_PIXELS" and "found 20 frames" in error.message


@pytest.mark.parametrize(("apart_mm", "fits"), [(93.0, True), (94.0, False)])
def test_a_scan_longer_than_any_table_moves_is_rejected_before_a_grid_is_made_for_it(tmp_path, apart_mm, fits):
    """A few kilobytes of slices, 100 mm apart, would ask for gigabytes of windows."""
    write_tiny_ct(tmp_path, stored_values(32, 1, 1), spacing_mm=(apart_mm, 0.5, 0.5))
    if fits:
        assert volume_of(tmp_path).shape == (32, 1, 1)
    else:
        error = rejected(tmp_path)
        assert error.reason == "MISSING_GEOMETRY" and "a scan of 3008 mm" in error.message


def test_a_slice_that_is_missing_anywhere_is_found(tmp_path):
    for gone in range(1, 11):
        folder = tmp_path / str(gone)
        write_tiny_ct(folder, stored_values(12), spacing_mm=(0.1, 0.5, 0.5))[gone].unlink()
        error = rejected(folder)
        assert error.reason == "MISSING_SLICE" and f"after slice {gone} of 11" in error.message


def test_two_slices_that_are_missing_are_counted(tmp_path):
    paths = write_tiny_ct(tmp_path, stored_values(12))
    paths[4].unlink()
    paths[5].unlink()
    assert "2 missing in all" in rejected(tmp_path).message


def test_time_points_at_one_position_are_told_apart_in_the_message(tmp_path):
    write_tiny_ct(tmp_path, stored_values(6), change=two_phases)  # too short to be parts
    message = rejected(tmp_path).message
    assert "6 slices at 3 positions" in message and "AcquisitionNumber" in message


def test_a_tilt_tag_alone_moves_nothing(tmp_path):
    write_tiny_ct(tmp_path, change=all_slices(GantryDetectorTilt=15))
    assert volume_of(tmp_path).shape == (5, 6, 8)


def test_a_file_cut_off_in_its_header_rejects_its_series(tmp_path):
    path = write_tiny_ct(tmp_path)[4]
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\x28\x00\x02\x00")])
    assert rejected(tmp_path).reason == "MISSING_PIXELS"


def test_a_file_cut_off_in_its_pixels_is_rejected_before_anything_is_decoded(tmp_path):
    path = write_tiny_ct(tmp_path)[4]
    path.write_bytes(path.read_bytes()[:-1])
    assert rejected(tmp_path).reason == "TRUNCATED_PIXELS"


def test_an_unknown_transfer_syntax_is_rejected_by_name(tmp_path):
    def change(dataset, d):
        compress("1.2.840.10008.1.2.4.80")(dataset, d)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"

    write_tiny_ct(tmp_path, change=change)
    error = rejected(tmp_path)
    assert error.reason == "UNSUPPORTED_TRANSFER_SYNTAX" and "MPEG2" in error.message


def test_a_file_that_vanishes_while_it_is_read_fails_the_series(tmp_path):
    path = write_tiny_ct(tmp_path)[2]
    volume = volume_of(tmp_path)
    path.unlink()
    with pytest.raises(SeriesFailed, match="INPUT_OUTPUT_ERROR"):
        volume.voxels()


def test_no_message_names_the_patient_or_the_file(tmp_path):
    for n, (_, change) in enumerate(REJECTIONS):
        folder = tmp_path / f"Doe^Jane{n}"
        write_tiny_ct(
            folder, stored_values(6), change=lambda ds, d, change=change: (put(ds, PatientName="Doe"), change(ds, d))
        )
        message = rejected(folder).message
        assert "Doe" not in message and "\n" not in message and "P2" not in message


# Real CT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dicom2nifti_failing/missing_slice_ge", "MISSING_SLICE"),
        ("dcmqi_ct3slice/CT", "TOO_FEW_SLICES"),
        ("cip_chest/copdgene_2slices", "TOO_FEW_SLICES"),
    ],
)
def test_real_series_that_make_no_volume_are_rejected(shared_ct, name, expected):
    assert rejected(shared_ct(name)).reason == expected


def test_single_real_slices_are_too_few(shared_ct):
    reading = read_studies(shared_ct("pydicom_data_singles"))
    for series in (series for study in reading.studies for series in study.series):
        if series.first.SOPClassUID.name == "CT Image Storage":
            with pytest.raises(SeriesRejected, match="TOO_FEW_SLICES"):
                build_volume(keep_ct_images(series))
