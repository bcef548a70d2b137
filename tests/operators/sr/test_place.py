"""Where the SR draws: on the middle slice, the windows' outline cut to the image, and text that crosses no line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from models.phantom import PhantomFactors, make_phantom
from models.spec import Preprocessing
from operators.build_volume import build_volume
from operators.preprocess import preprocess
from operators.read_study import read_studies
from operators.sr.place import TEXT_OFFSET, TEXT_SIZE, Place, place_of
from operators.synthetic.write_ct import affine_for, write_ct_series
from operators.synthetic.write_enhanced_ct import write_enhanced_ct
from tests.support.sr_records import ct_header, made_record

SHAPE, SPACING_MM = (9, 64, 96), (4.0, 2.0, 2.0)


def turned(affine: np.ndarray, degrees: float, axis: int) -> np.ndarray:
    """About a patient axis through the centre of the volume."""
    angle, (i, j) = math.radians(degrees), [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = math.cos(angle)
    turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
    centre = affine @ [*((n - 1) / 2 for n in SHAPE), 1.0]
    made = np.eye(4)
    made[:3, :3] = turn @ affine[:3, :3]
    made[:3, 3] = centre[:3] - made[:3, :3] @ [(n - 1) / 2 for n in SHAPE]
    return made


def encoded_windows(folder: Path, window_mm: tuple[float, float, float]):
    """The windows of the series in a folder, 2 mm wide voxels."""
    (study,) = read_studies(folder).studies
    volume = build_volume(study.series[0])
    voxels = tuple(round(mm / 2) for mm in window_mm)
    return preprocess(volume, Preprocessing("window", voxels, (2.0, 2.0, 2.0), (-1000.0, 1000.0)))


def written(folder: Path, affine: np.ndarray, enhanced: bool = False) -> Path:
    hu = make_phantom(PhantomFactors(), shape=SHAPE, spacing_mm=SPACING_MM, seed=1)
    (write_enhanced_ct if enhanced else write_ct_series)(hu, affine, folder)
    return folder


def corners(place: Place) -> tuple[list[float], list[float]]:
    points = place.outline.points
    return points.min(axis=0).tolist(), points.max(axis=0).tolist()


def crosses(place: Place, columns: int, rows: int) -> bool:
    """Whether the text beside the anchor would cross the outline; pixels are square."""
    (left, top), (right, bottom) = corners(place)
    first = place.anchor.points[0] + np.array(TEXT_OFFSET) * [columns, rows]
    last = first + np.array(TEXT_SIZE) * max(columns, rows)
    inside = (first >= [left, top]).all() and (last <= [right, bottom]).all()
    return not (inside or (last <= [left, top]).any() or (first >= [right, bottom]).any())


def test_a_window_larger_than_the_image_has_the_images_edge_as_its_outline(tmp_path):
    place = place_of(encoded_windows(written(tmp_path, affine_for(SHAPE, SPACING_MM)), (36, 400, 400)))
    assert corners(place) == ([0, 0], [96, 64])
    assert place.outline.points[0].tolist() == place.outline.points[-1].tolist()


def test_a_tight_window_is_outlined_where_it_lies(tmp_path):
    place = place_of(encoded_windows(written(tmp_path, affine_for(SHAPE, SPACING_MM)), (36, 96, 120)))
    assert corners(place) == ([18, 8], [78, 56])
    assert not crosses(place, 96, 64)


def test_the_image_is_the_middle_slice(tmp_path):
    windows = encoded_windows(written(tmp_path, affine_for(SHAPE, SPACING_MM)), (36, 96, 120))
    heights = {one.sop_instance_uid: one.header.ImagePositionPatient[2] for one in windows.volume.series.instances}
    assert heights[place_of(windows).image.sop_instance_uid] == sorted(heights.values())[4]
    assert place_of(windows).image.frame is None


def test_an_enhanced_ct_has_the_number_of_its_middle_frame(tmp_path):
    classic = written(tmp_path / "classic", affine_for(SHAPE, SPACING_MM))
    enhanced = written(tmp_path / "enhanced", affine_for(SHAPE, SPACING_MM), enhanced=True)
    one, other = (place_of(encoded_windows(folder, (36, 96, 120))) for folder in (classic, enhanced))
    assert other.image.frame == 5
    assert corners(one) == corners(other)


@pytest.mark.parametrize(("degrees", "axis"), [(90, 0), (-90, 0), (90, 1), (20, 0), (30, 2), (-35, 1)])
def test_coronal_sagittal_and_oblique_slices_have_the_outline_in_their_own_plane(tmp_path, degrees, axis):
    windows = encoded_windows(written(tmp_path, turned(affine_for(SHAPE, SPACING_MM), degrees, axis)), (96, 96, 96))
    place = place_of(windows)
    (left, top), (right, bottom) = corners(place)
    header = next(
        one.header for one in windows.volume.series.instances if one.sop_instance_uid == place.image.sop_instance_uid
    )
    across, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3) * 2.0
    points = header.ImagePositionPatient + (place.outline.points - 0.5) @ np.stack([across, down])
    index = (points - windows.affines_lps_mm[0][:3, 3]) @ np.linalg.inv(windows.affines_lps_mm[0][:3, :3]).T
    depth = windows.voxels.shape[2] + (windows.affines_lps_mm[-1] - windows.affines_lps_mm[0])[:3, 3].max() / 2
    assert (index >= -0.51).all() and (index <= np.array([depth, 48, 48]) - 0.49).all()
    assert left >= 0 and top >= 0 and right <= 96 and bottom <= 64
    assert (right - left) * (bottom - top) > 1000


@pytest.mark.parametrize("window_mm", [40, 80, 160, 320, 500])
def test_the_text_crosses_no_line_whatever_the_size_of_the_window(window_mm):
    assert not crosses(place_of(made_record(window_mm=window_mm).encoding.windows), 512, 512)


def test_the_order_of_the_files_does_not_matter():
    headers = [ct_header(number) for number in (1, 2, 3, 4)]
    one, other = (place_of(made_record(order).encoding.windows) for order in (headers, headers[::-1]))
    assert one.image == other.image


def test_without_a_valid_uid_nothing_can_be_drawn():
    assert place_of(made_record([ct_header(1, SOPInstanceUID="x")]).encoding.windows) is None
