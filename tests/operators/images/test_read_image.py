"""NIfTI, NRRD and MetaImage are read as SimpleITK reads them, or not at all."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from app import encode
from app.cli import main as ctvae
from operators.build_volume import build_volume
from operators.errors import SeriesError
from operators.images.read_image import find_image, image_series, image_volume, is_image
from operators.images.voxels import PIECE_VOXELS
from operators.read_study import read_studies
from operators.results.write_json import features_schema
from operators.synthetic.write_ct import write_ct_series
from operators.types import Volume
from tests.support.checkout import SHARED_FAULTS, skip_or_fail

RAS = np.diag([-0.75, -0.5, 2.0, 1.0])
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def made_hu(depth: int = 6, rows: int = 5, columns: int = 4, seed: int = 0) -> np.ndarray:
    """int16 (D, H, W) with air and bone in it, whatever else."""
    hu = np.random.default_rng(seed).integers(-1000, 2000, (depth, rows, columns)).astype(np.int16)
    hu.flat[:2] = -1000, 1500
    return hu


def write_nifti(path: Path, hu: np.ndarray, affine: np.ndarray = RAS, **header: object) -> Path:
    """`hu` (D, H, W) as nibabel writes it; `header` is set last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(hu.T, affine)
    image.header.set_xyzt_units("mm")
    for field, value in header.items():
        image.header[field] = value
    nibabel.save(image, path)
    return path


def write_sitk(path: Path, hu: np.ndarray, *, direction: tuple[float, ...] = OBLIQUE, compressed: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((0.75, 0.5, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), compressed)
    return path


def read(path: Path, root: Path | None = None) -> Volume:
    instance = find_image(path, root or path.parent)
    assert instance
    return image_volume(image_series(instance, path.name))


def why_not(path: Path) -> tuple[str, str]:
    with pytest.raises(SeriesError) as caught:
        read(path)
    return caught.value.status, caught.value.reason


def codes(volume: Volume) -> set[str]:
    return {finding.code for finding in volume.findings}


def assert_as_simpleitk_reads(volume: Volume, path: Path) -> None:
    """Voxels identical, but for what lies below the scale of CT, and the eight corners to 1e-3 mm."""
    image = sitk.ReadImage(str(path))
    expected = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(volume.voxels(), np.where(expected < -1024, -1000, expected))
    last = np.array(volume.shape) - 1
    for corner in np.ndindex(2, 2, 2):
        d, h, w = (int(one) for one in corner * last)
        ours = (volume.affine_lps_mm @ [d, h, w, 1])[:3]
        np.testing.assert_allclose(ours, image.TransformIndexToPhysicalPoint((w, h, d)), atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "totalseg_nifti/example_ct.nii.gz",
        "derived/lidc_0314/ct_256.nii.gz",
        "innereye_scan_small/scan_small.nii.gz",
        "cip_chest/nrrd/ct-64.nrrd",
        "elastix_lung/3DCT_lung.mha",
        "lesionsizing/DataCropped.mha",
        "lesionsizing/PartSolidLesionCropped.mha",
    ],
)
def test_real_files_are_read_as_simpleitk_reads_them(shared_ct, name):
    path = shared_ct(name)

    assert_as_simpleitk_reads(read(path), path)


@pytest.mark.parametrize("name", ["totalseg_nifti/example_seg.nii.gz", "totalseg_nifti/aorta/aorta.nii.gz"])
def test_real_label_maps_are_skipped(shared_ct, name):
    assert why_not(shared_ct(name)) == ("skipped", "LABEL_MAP")


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_each_format_type_and_packing_is_read(tmp_path, name, compressed, kind):
    path = write_sitk(tmp_path / name, made_hu().astype(kind), compressed=compressed)

    assert_as_simpleitk_reads(read(path), path)


def test_unsigned_values_with_slope_and_intercept_are_read(tmp_path):
    stored = (made_hu().astype(int) + 1024).astype(np.uint16)
    image = nibabel.Nifti1Image(stored.T, RAS)
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    data = path.read_bytes()
    path.write_bytes(data[:112] + np.array([1, -1024], "<f4").tobytes() + data[120:])

    np.testing.assert_array_equal(read(path).voxels(), made_hu())


def test_big_endian_files_are_read(tmp_path):
    image = nibabel.Nifti1Image(made_hu().T, RAS, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "a.nii")

    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    assert_as_simpleitk_reads(read(tmp_path / "a.nii"), tmp_path / "a.nii")


def test_nifti_2_is_read(tmp_path):
    nibabel.save(nibabel.Nifti2Image(made_hu().T, RAS), tmp_path / "a.nii.gz")

    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz").voxels(), made_hu())


def test_a_volume_in_four_dimensions_of_one_is_read(tmp_path):
    nibabel.save(nibabel.Nifti1Image(made_hu().T[..., None], RAS), tmp_path / "a.nii")

    np.testing.assert_array_equal(read(tmp_path / "a.nii").voxels(), made_hu())


@settings(max_examples=40)
@given(order=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3), seed=st.integers(0, 99))
def test_however_the_axes_lie_each_voxel_keeps_its_place_and_slices_go_along_row_times_column(
    tmp_path_factory, order, signs, seed
):
    hu = made_hu(4, 5, 6, seed)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(np.array(signs) * (0.5, 0.75, 2.0)))[:, order]
    affine[:3, 3] = (10, -20, 30)
    path = write_nifti(tmp_path_factory.mktemp("axes") / "a.nii", hu, affine)

    volume = read(path)

    voxels, axes = volume.voxels(), volume.affine_lps_mm[:3, :3]
    assert axes[:, 0] @ np.cross(axes[:, 2], axes[:, 1]) > 0
    to_ras = np.diag([-1, -1, 1, 1]) @ volume.affine_lps_mm
    for index in np.ndindex(hu.shape):
        i, j, k, _ = np.rint(np.linalg.solve(affine, to_ras @ [*index, 1])).astype(int)
        assert voxels[index] == hu[k, j, i]


def test_a_left_handed_axial_file_still_goes_from_feet_to_head(tmp_path):
    volume = read(write_nifti(tmp_path / "a.nii", made_hu(), np.diag([-1.0, 1.0, 2.0, 1.0])))

    assert volume.affine_lps_mm[2, 0] == 2.0
    np.testing.assert_array_equal(volume.voxels(), made_hu()[:, ::-1])


def test_fractions_are_rounded_half_to_even_with_a_finding(tmp_path):
    hu = made_hu().astype(np.float32)
    hu[2, 2] = 0.5, 1.5, -0.5, -2.5

    volume = read(write_nifti(tmp_path / "a.nii", hu))

    assert volume.voxels()[2, 2].tolist() == [0, 2, 0, -2]
    assert "FRACTIONAL_HU" in codes(volume)


def test_values_beyond_int16_are_clipped_and_below_the_scale_become_air(tmp_path):
    hu = made_hu().astype(np.int32)
    hu[2, 2] = 40000, 32767, -3024, -1024

    volume = read(write_nifti(tmp_path / "a.nii", hu))

    assert volume.voxels()[2, 2].tolist() == [32767, 32767, -1000, -1024]
    assert {"HU_SATURATED", "BELOW_CT_SCALE"} <= codes(volume)


def made_labels() -> np.ndarray:
    """Organs of a few voxels, int16 (6, 8, 12): as small as they are in any label map."""
    return (np.indices((6, 8, 12)).sum(axis=0) // 4 * (np.indices((6, 8, 12))[1] > 2)).astype(np.int16)


def made_brain() -> np.ndarray:
    """A brain without its skull, int16 (6, 32, 32): whole numbers from 0 to 98, most of them 0."""
    brain = np.random.default_rng(2).normal(35, 9, (6, 32, 32)).clip(0, 98).astype(np.int16)
    brain[:, :12] = 0
    return brain


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_64_bit_integers_are_read(tmp_path, name, kind):
    stored = made_hu().astype(np.int64)
    if kind is np.uint64:
        stored = np.where(stored < 0, 0, stored).astype(np.uint64)
    path = write_sitk(tmp_path / name, stored)

    if kind is np.int64:
        assert_as_simpleitk_reads(read(path), path)
    else:
        assert why_not(path) == ("rejected", "NOT_HU")  # read, and without anything below zero


@pytest.mark.parametrize(
    "name", ["long long", "longlong", "long long int", "signed long long", "signed long long int", "int64", "int64_t"]
)
def test_every_name_of_64_bit_integers_in_nrrd_is_known(tmp_path, name):
    path = nrrd(tmp_path / "a.nrrd", *SPACE, "encoding: raw")
    header, data = path.read_bytes().replace(b"type: short", f"type: {name}".encode()).split(b"\n\n", 1)
    path.write_bytes(header + b"\n\n" + np.frombuffer(data, "<i2").astype("<i8").tobytes())
    np.testing.assert_array_equal(read(path).voxels(), made_hu())


@pytest.mark.parametrize(("slope", "intercept"), [(1, np.nan), (1, np.inf), (np.nan, -1024), (0, -1024), (0, np.nan)])
def test_a_rescale_of_nifti_that_is_no_number_is_none(tmp_path, slope, intercept):
    path = patch(tmp_path / "a.nii", 112, np.array([slope, intercept], "<f4").tobytes())
    np.testing.assert_array_equal(read(path).voxels(), made_hu())


@pytest.mark.parametrize("fault", ["mha-long-long", "nifti-intercept-nan"])
def test_the_made_faults_are_read_as_simpleitk_reads_them(fault):
    if not (SHARED_FAULTS / fault).exists():
        skip_or_fail(f"no ../shared/faults/{fault} beside this checkout")
    [path] = (SHARED_FAULTS / fault).iterdir()
    assert_as_simpleitk_reads(read(path), path)


def test_what_unfolds_more_than_a_hundred_times_is_refused_before_it_is_unpacked(tmp_path):
    hu = np.full((80, 512, 512), -1000.0)
    hu[::20] = 500
    path = write_nifti(tmp_path / "a.nii.gz", hu)
    instance = find_image(path, tmp_path)
    del hu

    tracemalloc.start()
    with pytest.raises(SeriesError, match="UNSAFE_COMPRESSION"):
        image_volume(image_series(instance, path.name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 40 * PIECE_VOXELS


def shear(path: Path) -> Path:
    affine = RAS.copy()
    affine[0, 1] = 0.01
    return write_nifti(path, made_hu(), affine)


def patch(path: Path, place: int, new: bytes) -> Path:
    data = write_nifti(path, made_hu()).read_bytes()
    path.write_bytes(data[:place] + new + data[place + len(new) :])
    return path


def cut(path: Path, keep: float) -> Path:
    write_nifti(path, made_hu(20, 40, 40))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    return path


def damage(path: Path) -> Path:
    """The same length, another value: only the checksum at the end of the stream can tell."""
    plain = bytearray(gzip.decompress(write_nifti(path, made_hu()).read_bytes()))
    packed = bytearray(gzip.compress(bytes(plain), 0))
    place = packed.index(bytes(plain[352:380]))
    packed[place + 8] ^= 1
    path.write_bytes(packed)
    return path


def text(path: Path, *lines: str, data: bytes = b"") -> Path:
    path.write_bytes("\n".join([*lines, ""]).encode() + data)
    return path


def nrrd(path: Path, *lines: str) -> Path:
    data = made_hu().tobytes()
    return text(
        path, "NRRD0004", "type: short", "dimension: 3", "sizes: 4 5 6", "endian: little", *lines, "", data=data
    )


SPACE = ("space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,2)", "space origin: (0,0,0)")


def mha(path: Path, *lines: str, data: bytes | None = None) -> Path:
    first = ("ObjectType = Image", "NDims = 3", "DimSize = 4 5 6", "ElementType = MET_SHORT")
    data = made_hu().tobytes() if data is None else data
    return text(path, *first, *lines, "ElementDataFile = LOCAL", data=data)


PLACE = ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 1 1 2")


def test_the_hand_made_files_below_are_good_but_for_their_fault(tmp_path):
    for path in (nrrd(tmp_path / "a.nrrd", *SPACE, "encoding: raw"), mha(tmp_path / "a.mha", *PLACE)):
        np.testing.assert_array_equal(read(path).voxels(), made_hu())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha"])
def test_whatever_is_in_a_file_it_is_a_volume_or_an_error_of_ours(tmp_path, name):
    good = bytearray(write_sitk(tmp_path / name, made_hu()).read_bytes())
    path = tmp_path / f"broken{''.join(Path(name).suffixes)}"
    random = np.random.default_rng(0)
    reasons = set()
    for _ in range(200):
        data = good.copy()
        for place in random.integers(0, min(len(good), 500), 3):
            data[place] = random.choice([random.integers(256), *b"0123456789- \n,()=:"])
        path.write_bytes(data)
        try:
            volume = read(path)
            assert np.isfinite(volume.affine_lps_mm).all() and volume.voxels().shape == volume.shape
        except SeriesError as error:
            reasons.add(error.reason)

    assert len(reasons) > 2


@pytest.mark.parametrize(
    "lines",
    [
        (*SPACE, "encoding: raw", "byte skip: -1"),
        ("space: RAS", *SPACE[1:], "encoding: raw"),
        ("space: left-anterior-superior", *SPACE[1:], "encoding: raw"),
        (SPACE[0], "space directions: (0.6,0.8,0) (-0.8,0.6,0) (0,0,2)", "space origin: (5,6,7)", "encoding: raw"),
    ],
)
def test_an_nrrd_file_is_placed_as_simpleitk_places_it(tmp_path, lines):
    volume, image = read(nrrd(tmp_path / "a.nrrd", *lines)), sitk.ReadImage(str(tmp_path / "a.nrrd"))

    place = image.TransformPhysicalPointToIndex((volume.affine_lps_mm @ [5, 1, 3, 1])[:3].tolist())
    assert volume.voxels()[5, 1, 3] == image.GetPixel(place)


def test_an_nrrd_axis_that_is_not_in_space_is_left_out_where_it_has_one_value(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", *SPACE, "encoding: raw")
    path.write_bytes(
        path.read_bytes()
        .replace(b"dimension: 3", b"dimension: 4")
        .replace(b"sizes: ", b"sizes: 1 ")
        .replace(b"directions: ", b"directions: none ")
    )

    np.testing.assert_array_equal(read(path).voxels(), made_hu())


def test_metaimage_voxels_at_the_end_of_the_file_and_big_endian_are_read(tmp_path):
    data = b"something else" + made_hu().astype(">i2").tobytes()
    path = mha(tmp_path / "a.mha", "HeaderSize = -1", "BinaryDataByteOrderMSB = True", *PLACE, data=data)

    np.testing.assert_array_equal(read(path).voxels(), made_hu())


def missing_data_file(path: Path) -> Path:
    outside = path.parent.parent / f"{path.parent.name}.raw"
    outside.write_bytes(made_hu().tobytes())
    return nrrd(path, *SPACE, "encoding: raw", f"data file: ../{outside.name}")


def linked_data_file(path: Path) -> Path:
    missing_data_file(path)
    (path.parent / "link.raw").symlink_to(path.parent.parent / f"{path.parent.name}.raw")
    return nrrd(path, *SPACE, "encoding: raw", "data file: link.raw")


BAD = {
    "sheared": (lambda p: shear(p / "a.nii"), "rejected", "SHEARED_AXES"),
    "no_place": (lambda p: write_nifti(p / "a.nii", made_hu(), None), "rejected", "MISSING_GEOMETRY"),
    "nan_place": (lambda p: patch(p / "a.nii", 280, np.float32(np.nan).tobytes()), "rejected", "MISSING_GEOMETRY"),
    "metres": (lambda p: write_nifti(p / "a.nii", made_hu(), xyzt_units=1), "rejected", "MISSING_GEOMETRY"),
    "spacing": (lambda p: write_nifti(p / "a.nii", made_hu(), RAS * 200), "rejected", "MISSING_GEOMETRY"),
    "two_places": (
        lambda p: write_nifti(p / "a.nii", made_hu(), qform_code=1, quatern_d=0.7),
        "rejected",
        "CONTRADICTORY_GEOMETRY",
    ),
    "four_volumes": (lambda p: write_nifti(p / "a.nii", np.stack([made_hu()] * 4)), "rejected", "NOT_3D"),
    "two_dimensions": (lambda p: write_nifti(p / "a.nii", made_hu()[0]), "rejected", "NOT_3D"),
    "three_slices": (lambda p: write_nifti(p / "a.nii", made_hu(3)), "rejected", "TOO_FEW_SLICES"),
    "nan": (lambda p: write_nifti(p / "a.nii", made_hu() * np.float32(np.nan)), "rejected", "NON_FINITE_VOXELS"),
    "complex": (lambda p: write_nifti(p / "a.nii", made_hu().astype("c8")), "rejected", "UNSUPPORTED_PIXELS"),
    "8_bit": (lambda p: write_nifti(p / "a.nii", made_hu().astype("u1")), "rejected", "NOT_HU"),
    "8_bit_labels": (lambda p: write_nifti(p / "a.nii", made_labels().astype("u1")), "skipped", "LABEL_MAP"),
    "skull_stripped": (lambda p: write_nifti(p / "a.nii", made_brain()), "rejected", "NOT_HU"),
    "labels": (lambda p: write_nifti(p / "a.nii", made_labels()), "skipped", "LABEL_MAP"),
    "float_labels": (lambda p: write_nifti(p / "a.nii", made_labels() * 1.0), "skipped", "LABEL_MAP"),
    "one_label": (lambda p: write_nifti(p / "a.nii", (made_labels() > 1) * 1.0), "skipped", "LABEL_MAP"),
    "said_labels": (lambda p: write_nifti(p / "a.nii", made_hu(), intent_code=1002), "skipped", "LABEL_MAP"),
    "stored_values": (lambda p: write_nifti(p / "a.nii", made_hu() + np.int16(1024)), "rejected", "NOT_HU"),
    "zero_to_one": (lambda p: write_nifti(p / "a.nii", made_hu() / 3000 + 0.4), "rejected", "NOT_HU"),
    "z_scores": (lambda p: write_nifti(p / "a.nii", made_hu() / 800), "rejected", "NOT_HU"),
    "swapped_bytes": (lambda p: write_nifti(p / "a.nii", made_hu(20).byteswap()), "rejected", "NOT_HU"),
    "cut_off": (lambda p: cut(p / "a.nii", 0.7), "rejected", "TRUNCATED_PIXELS"),
    "cut_off_packed": (lambda p: cut(p / "a.nii.gz", 0.7), "rejected", "TRUNCATED_PIXELS"),
    "damaged": (lambda p: damage(p / "a.nii.gz"), "rejected", "UNDECODABLE_PIXELS"),
    "no_nifti": (lambda p: text(p / "a.nii", "this is text"), "rejected", "UNREADABLE_FILE"),
    "no_gzip": (lambda p: text(p / "a.nii.gz", "this is text"), "rejected", "UNREADABLE_FILE"),
    "empty": (lambda p: text(p / "a.nii.gz"), "rejected", "UNREADABLE_FILE"),
    "pair": (lambda p: patch(p / "a.nii", 344, b"ni1"), "rejected", "UNSUPPORTED_IMAGE"),
    "no_nrrd": (lambda p: text(p / "a.nrrd", "this is text"), "rejected", "UNREADABLE_FILE"),
    "no_space": (lambda p: nrrd(p / "a.nrrd", "encoding: raw"), "rejected", "MISSING_GEOMETRY"),
    "inches": (lambda p: nrrd(p / "a.nrrd", *SPACE, 'space units: "in" "in" "in"'), "rejected", "MISSING_GEOMETRY"),
    "as_text": (lambda p: nrrd(p / "a.nrrd", *SPACE, "encoding: ascii"), "rejected", "UNSUPPORTED_IMAGE"),
    "outside": (lambda p: missing_data_file(p / "a.nhdr"), "rejected", "DATA_FILE_OUTSIDE"),
    "linked": (lambda p: linked_data_file(p / "a.nhdr"), "rejected", "DATA_FILE_OUTSIDE"),
    "absolute": (
        lambda p: nrrd(p / "a.nhdr", *SPACE, "encoding: raw", f"data file: {p}/a.nhdr"),
        "rejected",
        "DATA_FILE_OUTSIDE",
    ),
    "many_files": (
        lambda p: nrrd(p / "a.nhdr", *SPACE, "encoding: raw", "data file: a%d.raw 1 6 1"),
        "rejected",
        "UNSUPPORTED_IMAGE",
    ),
    "no_mha": (lambda p: text(p / "a.mha", "this is text"), "rejected", "UNREADABLE_FILE"),
    "no_matrix": (lambda p: mha(p / "a.mha", *PLACE[1:]), "rejected", "MISSING_GEOMETRY"),
    "mr": (lambda p: mha(p / "a.mha", "Modality = MET_MOD_MR", *PLACE), "skipped", "NOT_CT_IMAGE"),
    "function": (
        lambda p: mha(p / "a.mha", "ElementToIntensityFunctionSlope = 2", *PLACE),
        "rejected",
        "INVALID_RESCALE",
    ),
    "channels": (
        lambda p: mha(p / "a.mha", "ElementNumberOfChannels = 3", *PLACE),
        "rejected",
        "UNSUPPORTED_PIXELS",
    ),
    "short_mha": (lambda p: mha(p / "a.mha", *PLACE, data=b"12345"), "rejected", "TRUNCATED_PIXELS"),
    "no_zlib": (lambda p: mha(p / "a.mha", "CompressedData = True", *PLACE), "rejected", "UNDECODABLE_PIXELS"),
    "huge": (lambda p: mha(p / "a.mha", "DimSize = 8000 8000 80000", *PLACE), "rejected", "UNSUPPORTED_PIXELS"),
}


@pytest.mark.parametrize("fault", sorted(BAD))
def test_what_is_no_volume_in_hu_is_not_read(tmp_path, fault):
    make, status, reason = BAD[fault]
    (tmp_path / "in").mkdir()

    assert why_not(make(tmp_path / "in")) == (status, reason)


def test_an_offset_of_the_sform_alone_is_no_contradiction(tmp_path):
    affine = RAS.copy()
    affine[:3, 3] = 5
    path = write_nifti(tmp_path / "a.nii", made_hu(), affine, qform_code=1, qoffset_x=99)

    assert read(path).affine_lps_mm[:3, 3].tolist() == [-5, -5, 5]


def test_a_file_that_changes_after_it_was_found_fails(tmp_path):
    path = write_nifti(tmp_path / "a.nii", made_hu())
    series = image_series(find_image(path, tmp_path), "a.nii")
    os.utime(path, (1, 1))

    with pytest.raises(SeriesError) as caught:
        build_volume(series)

    assert (caught.value.status, caught.value.reason) == ("failed", "FILE_CHANGED")


def test_memory_is_bounded_whatever_is_packed_into_a_small_file(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((512, 512, 80), np.float64), RAS)  # 160 MiB, packed into 160 KiB
    nibabel.save(image, tmp_path / "a.nii.gz")
    path = tmp_path / "a.nii.gz"
    instance = find_image(path, tmp_path)
    del image

    tracemalloc.start()
    with pytest.raises(SeriesError, match="LABEL_MAP"):
        image_volume(image_series(instance, path.name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 40 * PIECE_VOXELS


def test_the_uid_is_of_the_content_and_not_of_the_name(tmp_path):
    first = write_nifti(tmp_path / "a.nii", made_hu())
    (tmp_path / "elsewhere").mkdir()
    second = tmp_path / "elsewhere" / "b.nii"
    second.write_bytes(first.read_bytes())
    third = write_nifti(tmp_path / "c.nii", made_hu(seed=1))

    uids = [find_image(path, tmp_path).sop_instance_uid for path in (first, second, third)]

    assert uids[0] == uids[1] != uids[2]
    assert uids[0].startswith("2.25.")


def test_the_uid_of_a_header_and_its_data_is_of_both(tmp_path):
    path = write_sitk(tmp_path / "a.nhdr", made_hu(), compressed=False)
    before = find_image(path, tmp_path).sop_instance_uid

    (data,) = tmp_path.glob("*.raw")
    data.write_bytes(made_hu(seed=1).tobytes())

    assert find_image(path, tmp_path).sop_instance_uid != before


def test_files_in_a_folder_are_series_of_their_own_beside_dicom(phantom_ct, tmp_path):
    (tmp_path / "dicom").symlink_to(phantom_ct)  # not followed: only what lies in the folder
    write_nifti(tmp_path / "a.nii", made_hu())
    write_sitk(tmp_path / "sub" / "b.mha", made_hu(seed=1))
    (tmp_path / "copy.nii").write_bytes((tmp_path / "a.nii").read_bytes())

    series = [series for study in read_studies(tmp_path).studies for series in study.series]

    assert sorted(one.folder for one in series) == ["a.nii", "copy.nii", "sub/b.mha"]
    assert len({one.series_instance_uid for one in series}) == 3, "a copy gets a UID of its own"
    assert all(one.image and one.derived_uids for one in series)


def test_a_file_without_its_extension_is_known_by_its_content(tmp_path):
    for number, path in enumerate(
        [write_nifti(tmp_path / "a.nii", made_hu()), nrrd(tmp_path / "b.nrrd"), mha(tmp_path / "c.mha")]
    ):
        assert is_image(path.rename(tmp_path / str(number)))
    assert not is_image(text(tmp_path / "notes", "ObjectType is a word"))


def test_a_nifti_made_from_dicom_gives_its_mu(shared_ct, tmp_path):
    source = shared_ct("cip_chest/ct64_dicom")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    hu = sitk.GetArrayFromImage(image).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii.gz", hu, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)

    (dicom,), (nifti,) = encode(source), encode(path)

    np.testing.assert_allclose(nifti.taps["mu"].values, dicom.taps["mu"].values, atol=1e-4)
    assert np.ptp(dicom.taps["mu"].values) > 0.1


def test_one_file_gives_json_that_its_schema_describes_and_no_sr(phantom_ct, tmp_path):
    (study,) = read_studies(phantom_ct).studies
    volume = build_volume(study.series[0])
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine_lps_mm[:, [2, 1, 0, 3]]
    path = write_nifti(tmp_path / "SECRET.nii.gz", volume.voxels(), ras)

    code = ctvae(["encode", str(path), "-o", str(tmp_path / "out")])

    assert code == 0
    (folder,) = (one for one in (tmp_path / "out").iterdir() if one.is_dir())
    assert [one.name for one in folder.iterdir()] == ["features.json"]
    features = json.loads((folder / "features.json").read_text())
    jsonschema.validate(features, json.loads(features_schema()))
    assert features["series"]["modality"] == "CT" and features["subject"]["sex"] is None
    assert {"RESEARCH_FORMAT", "UID_DERIVED"} <= {finding["code"] for finding in features["findings"]}
    assert "SECRET" not in (folder / "features.json").read_text()


def test_label_maps_beside_ct_are_named_and_do_not_stop_it(tmp_path, capsys):
    write_nifti(tmp_path / "ct.nii", made_hu())
    write_nifti(tmp_path / "labels.nii", (made_hu() > 0).astype(np.uint8))

    code = ctvae(["inspect", str(tmp_path), "--json"])

    lines = json.loads(capsys.readouterr().out)["series"]
    assert code == 0
    assert {line["folder"]: (line["status"], line["reason"]) for line in lines} == {
        "ct.nii": ("eligible", None),
        "labels.nii": ("skipped", "LABEL_MAP"),
    }


def test_dicom_in_the_same_folder_keeps_its_own_series(tmp_path):
    write_ct_series(made_hu(), np.diag([2.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], tmp_path)
    write_nifti(tmp_path / "a.nii", made_hu())

    series = [series for study in read_studies(tmp_path).studies for series in study.series]

    assert sorted(len(one.instances) for one in series) == [1, 6]
    assert not any(finding.code == "UNREADABLE_NEIGHBOUR" for one in series for finding in one.findings)
