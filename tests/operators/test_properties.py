"""What comes out of a series is what was drawn: HU and the place of every voxel, or a coded rejection.

A series is drawn whole (orientation, spacing, format, order, UIDs, phases, tilt), written by our writers, whose headers
are then changed, and read the whole way: read, split, select, build. Each expected value is calculated from the drawing
alone. SimpleITK reads the same files where it can.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate

from operators.build_volume import build_volume
from operators.errors import SeriesRejected
from operators.read_study import read_studies
from operators.series.ct_images import keep_ct_images
from operators.synthetic.write_ct import CtOptions, ct_datasets
from operators.synthetic.write_enhanced_ct import enhanced_ct
from operators.types import Volume
from tests.support.tiny_ct import CODECS, put, save


def _jpeg(plane: np.ndarray, predictor: int) -> bytes:
    return imagecodecs.jpeg8_encode(plane.view(np.uint16), lossless=True, predictor=predictor, bitspersample=16)


CODECS = CODECS | {
    # Its encoder says 12 bits whatever the values have, unless it is told.
    f"1.2.840.10008.1.2.4.{number}": partial(_jpeg, predictor=predictor)
    for number, predictor in ((57, 4), (70, 1))
}
GDCM_CANNOT = ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
"""RLE of slices as small as these, HTJ2K, deflated; and the value of big-endian padding."""
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
QUICK = settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
AIR_HU, LOWEST_HU = -1000, -1024


@dataclass(frozen=True)
class Drawn:
    """A series.

    Attributes:
        stored: (D, H, W), d along the normal.
        affine: float64 (4, 4), from (d, h, w, 1) to LPS mm, as the headers say it.
        slopes: one a slice; `intercepts` likewise.
        padding: the stored value that is declared as padding, if any.
        order: in which the slices are written; names are in this order too.
    """

    stored: np.ndarray
    affine: np.ndarray
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    bits: int
    syntax: str
    padding: int | None
    order: tuple[int, ...]
    uids: str
    enhanced: bool

    @property
    def hu(self) -> np.ndarray:
        """What must come out: rounded half to even, clipped, air for padding and below the scale of CT."""
        slopes, intercepts = (np.array(one)[:, None, None] for one in (self.slopes, self.intercepts))
        hu = np.clip(np.rint(self.stored * slopes + intercepts), -32768, 32767)
        hu[hu < LOWEST_HU] = AIR_HU
        if self.padding is not None:
            hu[self.stored == self.padding] = AIR_HU
        return hu


def rounded(value: Any) -> Any:
    """As a DS of 16 characters says it, so that the header is no less exact than the drawing."""
    return np.round(value, 6) + 0.0


@st.composite
def orientations(draw) -> np.ndarray:
    """Row, column and normal as the columns of a rotation: patient axes in any order and direction, or oblique."""
    axes = np.eye(3)[:, draw(st.permutations(range(3)))] * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    if draw(st.booleans()):
        angles = draw(st.tuples(*[st.floats(-60, 60)] * 3))
        for axis, angle in enumerate(np.radians(angles)):
            turn = np.eye(3)
            i, j = [one for one in range(3) if one != axis]
            turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
            axes = turn @ axes
    row, column = rounded(axes[:, 0]), rounded(axes[:, 1])
    return np.stack([row, column, np.cross(row, column)], axis=1)


@st.composite
def series(draw) -> Drawn:
    depth, rows, columns = draw(st.integers(4, 6)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
    signed, bits = draw(st.booleans()), draw(st.integers(10, 16))
    syntax = draw(st.sampled_from([*NATIVE, *CODECS]))
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    stored = rng.integers(lowest, highest, (depth, rows, columns), endpoint=True)
    stored = stored.astype(np.int16 if signed else np.uint16)
    numbers = st.sampled_from([1.0, 2.0, 0.5, 0.1, 1.25, 0.333333])
    starts = st.sampled_from([0.0, -1024.0, -1000.0, -0.5, 12.25, -8192.0])
    many = depth if draw(st.booleans()) else 1
    slopes, intercepts = ([draw(kind) for _ in range(many)] for kind in (numbers, starts))
    padding = None
    if draw(st.booleans()):
        padding = int(draw(st.sampled_from([lowest, highest])))
        ends = [padding * slope + start for slope, start in zip(slopes, intercepts, strict=True)]
        if any(AIR_HU < end <= 3071 for end in ends):
            padding = None  # declared where tissue is: a test of its own
    spacing = rounded(draw(st.tuples(st.floats(0.5, 8), st.floats(0.2, 3), st.floats(0.2, 3))))
    directions = draw(orientations())
    affine = np.eye(4)
    affine[:3, :3] = (directions / np.linalg.norm(directions, axis=0))[:, [2, 1, 0]] * spacing
    affine[:3, 3] = rounded(draw(st.tuples(*[st.floats(-500, 500)] * 3)))
    enhanced = syntax != "1.2.840.10008.1.2.2" and draw(st.booleans())
    return Drawn(
        stored,
        affine,
        tuple(slopes * (depth // many)),
        tuple(intercepts * (depth // many)),
        bits,
        syntax,
        padding,
        tuple(draw(st.permutations(range(depth)))),
        draw(st.sampled_from(["valid", "missing", "dashed", "instance"])),
        enhanced,
    )


# Writing


def datasets(drawn: Drawn) -> Iterator[FileDataset]:
    """Slices by our writer, in the order of d, then with what it does not write."""
    plain = np.zeros(drawn.stored.shape, np.int16)
    native = drawn.syntax if drawn.syntax in NATIVE else "1.2.840.10008.1.2.1"
    options = CtOptions(transfer_syntax=native, signed=drawn.stored.dtype.kind == "i", intercept=0.0)
    for d, dataset in enumerate(ct_datasets(plain, drawn.affine, options)):
        put(dataset, RescaleSlope=drawn.slopes[d], RescaleIntercept=drawn.intercepts[d])
        put(dataset, BitsStored=drawn.bits, HighBit=drawn.bits - 1, InstanceNumber=drawn.order[d] + 1)
        if drawn.padding is not None:
            put(dataset, PixelPaddingValue=drawn.padding)
            dataset["PixelPaddingValue"].VR = "SS" if options.signed else "US"
        _put_pixels(dataset, drawn.stored[d], drawn.syntax)
        yield dataset


def _put_pixels(dataset: FileDataset, plane: np.ndarray, syntax: str) -> None:
    if syntax in CODECS:
        dataset.PixelData = encapsulate([CODECS[syntax](plane)])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
        dataset.PixelData = plane.astype(order + plane.dtype.str[1:]).tobytes()
        dataset.PixelData += b"\0" * (len(dataset.PixelData) % 2)


def write(drawn: Drawn, folder: Path, change=None) -> None:
    """All slices, named in the order that was drawn; or one Enhanced CT with its frames in it."""
    slices = list(datasets(drawn))
    for d, one in enumerate(slices):
        if change:
            change(one, d)
    slices = [slices[d] for d in drawn.order]
    files = [enhanced_ct(slices)] if drawn.enhanced else slices
    if drawn.enhanced and drawn.padding is not None:
        put(files[0], PixelPaddingValue=drawn.padding)
        files[0]["PixelPaddingValue"].VR = "SS" if drawn.stored.dtype.kind == "i" else "US"
    for number, file in enumerate(files):
        if drawn.uids == "missing":
            put(file, StudyInstanceUID=None, SeriesInstanceUID=None)
        elif drawn.uids == "dashed":
            put(file, SeriesInstanceUID="3f2504e0-4f89-11d3-9a0c-0305e82c3301")
        elif drawn.uids == "instance":
            put(file, SOPInstanceUID=None)
        swapped = file["PixelData"].value
        if drawn.syntax == "1.2.840.10008.1.2.2":  # `save` swaps what is little-endian
            file["PixelData"].value = np.frombuffer(swapped, "<u2").byteswap().tobytes()
        save(file, folder / f"{number:03d}")


@contextmanager
def written(drawn: Drawn, change=None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write(drawn, Path(folder), change)
        yield Path(folder)


def volumes(folder: Path) -> list[Volume]:
    reading = read_studies(folder)
    assert not reading.unreadable
    found = [one for study in reading.studies for one in study.series]
    return [build_volume(keep_ct_images(one)) for one in sorted(found, key=lambda one: one.part or 0)]


def assert_is(volume: Volume, hu: np.ndarray, affine: np.ndarray) -> None:
    assert volume.shape == hu.shape
    np.testing.assert_array_equal(volume.voxels(), hu)
    corners = np.array([(d, h, w, 1) for d in (0, hu.shape[0]) for h in (0, hu.shape[1]) for w in (0, hu.shape[2])])
    np.testing.assert_allclose(corners @ volume.affine_lps_mm.T, corners @ affine.T, atol=2e-3)


# Properties


@QUICK
@given(series())
def test_the_volume_is_the_one_that_was_drawn(drawn):
    event(f"{'enhanced' if drawn.enhanced else 'classic'} {drawn.syntax}")
    with written(drawn) as folder:
        [volume] = volumes(folder)
        assert_is(volume, drawn.hu, drawn.affine)


@QUICK
@given(series())
def test_simpleitk_reads_the_same_values_at_the_same_places(drawn):
    """Where it can: one grid, integers within int16, no padding, a syntax that GDCM knows, valid UIDs."""
    import SimpleITK as sitk

    count = len(drawn.stored)
    plain = replace(drawn, slopes=(1.0,) * count, intercepts=(float(round(drawn.intercepts[0])),) * count, padding=None)
    syntax = "1.2.840.10008.1.2.1" if plain.syntax in GDCM_CANNOT else plain.syntax
    narrow = (plain.stored >> 4 if plain.bits > 12 else plain.stored).astype(plain.stored.dtype)
    plain = replace(plain, syntax=syntax, stored=narrow, uids="valid", enhanced=False)
    with written(plain) as folder:
        [volume] = volumes(folder)
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
        image = sitk.ReadImage(names)
        theirs = sitk.GetArrayFromImage(image)
        np.testing.assert_array_equal(volume.voxels(), np.where(theirs < LOWEST_HU, AIR_HU, theirs))
        for d, h, w in ((0, 0, 0), (volume.shape[0] - 1, volume.shape[1] - 1, volume.shape[2] - 1), (1, 0, 2)):
            place = image.TransformContinuousIndexToPhysicalPoint((float(w), float(h), float(d)))
            np.testing.assert_allclose((volume.affine_lps_mm @ (d, h, w, 1))[:3], place, atol=2e-3)


VOLUME_TAGS = ("AcquisitionNumber", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "TriggerTime")


@QUICK
@given(series(), st.integers(2, 4), st.sampled_from(VOLUME_TAGS), st.randoms(use_true_random=False))
def test_each_phase_of_a_series_is_the_volume_that_was_drawn(drawn, phases, keyword, random):
    drawn = replace(drawn, uids="valid", enhanced=False)
    drawings = [replace(drawn, stored=np.roll(drawn.stored, phase, axis=2)) for phase in range(phases)]
    with tempfile.TemporaryDirectory() as name:
        names = [f"{number:03d}" for number in range(phases * len(drawn.stored))]
        random.shuffle(names)
        for d, dataset in enumerate(datasets(drawn)):
            for phase, one in enumerate(drawings):
                _put_pixels(dataset, one.stored[d], drawn.syntax)
                put(dataset, SeriesInstanceUID="1.2.3", SOPInstanceUID=f"1.2.3.{phase}.{d}")
                put(dataset, InstanceNumber=random.randrange(1000), **{keyword: 10 * phase + 1})
                if drawn.syntax == "1.2.840.10008.1.2.2":
                    dataset["PixelData"].value = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
                save(dataset, Path(name) / names.pop())
        found = volumes(Path(name))
        assert [volume.series.part for volume in found] == list(range(1, phases + 1))
        for volume, one in zip(found, drawings, strict=True):
            assert_is(volume, one.hu, one.affine)


def scene(points: np.ndarray) -> np.ndarray:
    """HU at places in mm, (…, 3): linear, so that linear interpolation within a slice is exact."""
    return 40 + points @ np.array([1.5, -2.0, 0.7])


@QUICK
@given(series(), st.floats(1.5, 30), st.sampled_from([-1, 1]), st.booleans())
def test_a_tilted_gantry_is_straightened_to_where_everything_was(drawn, degrees, sign, along_columns):
    depth, rows, columns = drawn.stored.shape
    affine = drawn.affine.copy()
    aside = affine[:3, 1 if along_columns else 2]
    between = np.linalg.norm(affine[:3, 0])
    affine[:3, 0] += sign * np.tan(np.radians(degrees)) * between * aside / np.linalg.norm(aside)
    index = np.stack(np.meshgrid(*map(np.arange, (depth, rows, columns)), [1], indexing="ij"), axis=-1)[:, :, :, 0]
    hu = scene((index - (0, 0, 0, 0)) @ affine.T[:, :3] - drawn.affine[:3, 3])
    stored = np.rint(hu).astype(np.int16)
    tilted = replace(
        drawn,
        stored=stored,
        affine=affine,
        slopes=(1.0,) * depth,
        intercepts=(0.0,) * depth,
        padding=None,
        bits=16,
    )
    with written(tilted) as folder:
        [volume] = volumes(folder)
        shift_mm = (depth - 1) * between * np.tan(np.radians(degrees))
        pixel_mm = min(np.linalg.norm(affine[:3, 1]), np.linalg.norm(affine[:3, 2]))
        codes = {finding.code for finding in volume.findings}
        if "GANTRY_TILT" not in codes:
            assert shift_mm <= min(0.5 * pixel_mm, 0.5) + 1e-3
            assert_is(volume, stored, affine) if shift_mm < 1e-3 else None
            return
        found = volume.voxels().astype(float)
        grid = np.stack(np.meshgrid(*map(np.arange, volume.shape), [1], indexing="ij"), axis=-1)[:, :, :, 0]
        places = (grid @ volume.affine_lps_mm.T)[..., :3]
        expected = scene(places - drawn.affine[:3, 3])
        # Where the place lies within a scanned slice: there, and there alone, the scene was seen.
        back = np.linalg.solve(affine, np.concatenate([places, np.ones((*volume.shape, 1))], -1)[..., None])[..., 0]
        inside = ((back[..., 1:3] >= 0) & (back[..., 1:3] <= np.array([rows - 1, columns - 1]))).all(axis=-1)
        assert inside.any(axis=(1, 2)).all()
        np.testing.assert_allclose(found[inside], expected[inside], atol=1.2)


ILLEGAL = {
    "MISSING_RESCALE": {"RescaleSlope": None},
    "INVALID_RESCALE": {"RescaleSlope": 0},
    "MISSING_GEOMETRY": {"ImagePositionPatient": None},
    "MIXED_PIXEL_SPACING": {"PixelSpacing": (1.7, 0.9)},
    "MIXED_FRAME_OF_REFERENCE": {"FrameOfReferenceUID": "1.2.3"},
    "MIXED_PATIENT": {"PatientID": "another"},
    "UNSUPPORTED_PIXELS": {"SamplesPerPixel": 3},
}


@QUICK
@given(series(), st.sampled_from(sorted(ILLEGAL)), st.data())
def test_what_is_illegal_in_one_slice_has_its_code(drawn, code, data):
    # Of an end slice with pixels of its own the others are a whole stack without it: a part (see test_split_series).
    inner = code == "MIXED_PIXEL_SPACING"
    bad = data.draw(st.integers(int(inner), len(drawn.stored) - 1 - int(inner)))
    drawn = replace(drawn, enhanced=False, uids="valid")
    with written(drawn, lambda dataset, d: put(dataset, **ILLEGAL[code]) if d == bad else None) as folder:
        try:
            volumes(folder)
        except SeriesRejected as error:
            assert error.reason == code
        else:
            raise AssertionError("was read")


@QUICK
@given(series(), st.data())
def test_a_slice_that_is_lost_amid_the_stack_is_missed(drawn, data):
    lost = data.draw(st.integers(1, len(drawn.stored) - 2))
    drawn = replace(drawn, enhanced=False)
    with written(drawn) as folder:
        (folder / f"{drawn.order.index(lost):03d}").unlink()
        try:
            volumes(folder)
        except SeriesRejected as error:
            assert error.reason in ("MISSING_SLICE", "IRREGULAR_SPACING", "TOO_FEW_SLICES")
        else:
            raise AssertionError("was read")
