"""From HU on the scanner's grid to the windows that the encoder sees, slice by slice.

The definition that training and inference share, and that the bundle's digest covers:

1. Orientation. Each axis of the volume (slice, row, column) is assigned to the nearest patient axis, best aligned axis
   first, as in nibabel's `io_orientation` and therefore MONAI's `Orientation`; axes are flipped to point to the head,
   back and left. For an oblique series the grid stays parallel to the scanner's axes, and the affines record that.
2. Grid. With fit `window` voxels have `spacing_mm`. In plane the window is centred on the scan's extent
   (voxels' outer edges). Along z one canvas, centred on the extent and just long enough to cover it (to within a
   hundredth of a voxel at each end), holds the windows: the first starts at the end towards the feet, the last ends at
   the end towards the head, the others are evenly spread, rounded to whole voxels, and neighbours share at least
   `overlap` of a window. A scan that is shorter than a window gets one centred window. With fit `resize` the extent is
   divided into `window_voxels`.
3. Resampling, along each axis separately. Where the new spacing is larger than the old, the exact mean of the scan over
   the new voxel, taking old voxels as constant; elsewhere linear interpolation between voxel centres, constant in the
   outermost half voxel. At equal spacing the two agree. A new voxel partly outside the scan is the mean over the part
   inside; one entirely outside is air, the low end of `window_hu`.
4. Surroundings. With outside `air`, what lies outside of the patient becomes air: `models.statistics.body.patient_mask`
   of the new grid.
5. Intensity. HU are resampled first; then `window_hu` becomes [0, 1], clipped (`Spacing` before `ScaleIntensityRange`).

`real_fraction` counts each voxel by the part of its volume that is inside the scan.

The volume at full resolution is never held. Where slices get thicker, those of a few new slices are held and only their
mean is resampled in plane; otherwise each is resampled in plane at once. The weights fix the order of all sums, so the
result is the same, bit for bit, with any number of threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.spec import Preprocessing
from models.statistics.body import patient_mask
from operators.dicom.plausible_hu import why_not_hu
from operators.errors import SeriesFailed, SeriesRejected
from operators.geometry.windows import AxisWeights, TargetAxis, target_axes, window_affine, window_starts
from operators.prefetch import map_ahead
from operators.types import Finding, HuSlice, Volume, Windows

THREADS = 2
"""Threads that resample. They only divide the slices among them, so the result does not depend on their number."""

_OF_THREAD = threading.local()
_NOTHING = np.empty(0, np.float32)


def preprocess(volume: Volume, settings: Preprocessing) -> Windows:
    """Resample a volume to a bundle's windows; see the module for the exact definition.

    Args:
        volume: each of its slices is read once, in order.
        settings: the bundle's preprocessing.

    Returns:
        float32 windows (n, 1, d, h, w) in [0, 1], n ≥ 1, with their affines.

    Raises:
        SeriesRejected: `NOT_HU` and `GRID_TOO_LARGE`; and what reading a slice raises.
        SeriesFailed: `SLICE_SHAPE` where a slice differs in shape from the volume; and what reading a slice raises.
    """
    z, y, x = axes = target_axes(volume, settings)
    canvas, seen = _resample(volume, sorted(axes, key=lambda axis: axis.volume_axis), settings.window_hu[0])
    findings = seen.judged(volume)
    canvas = canvas.transpose(z.volume_axis, y.volume_axis, x.volume_axis)
    spacing_mm = (z.spacing_mm, y.spacing_mm, x.spacing_mm)
    if settings.outside == "air":
        canvas[~patient_mask(canvas, spacing_mm)] = settings.window_hu[0]
    _scale(canvas, settings.window_hu)
    depth = settings.window_voxels[0]
    starts = window_starts(z.n_target, depth, settings.overlap)
    inside_z = z.weights().inside
    in_plane = y.weights().inside.mean() * x.weights().inside.mean()
    return Windows(
        volume=volume,
        voxels=_cut(canvas, starts, depth),
        affines_lps_mm=np.stack([window_affine(volume, axes, start) for start in starts]),
        spacing_mm=spacing_mm,
        real_fraction=np.array([inside_z[start : start + depth].mean() * in_plane for start in starts], np.float32),
        findings=findings,
    )


def _resample(volume: Volume, axes: list[TargetAxis], air_hu: float) -> tuple[NDArray[np.float32], _Read]:
    """Return HU on the new grid, axes in the volume's order and patient direction, and the slices' findings."""
    along, rows, columns = (axis.weights() for axis in axes)
    in_plane, region = _in_plane(rows, columns)
    canvas = np.full([axis.n_target for axis in axes], air_hu, np.float32)
    seen = _Read()
    planes = _planes(volume, region, seen)
    if axes[0].step > 1:
        made = map_ahead(lambda slab: (slab.target, in_plane(_mean(slab))), _slabs(planes, along), THREADS)
    else:
        made = ((slab.target, _mean(slab)) for slab in _slabs(map_ahead(in_plane, planes, THREADS), along))
    for target, plane in made:
        canvas[target][rows.inner, columns.inner] = plane
    return canvas, seen


class _Read:
    """What the slices of a volume contained: their findings, and the histogram of their values."""

    def __init__(self) -> None:
        self.findings: list[tuple[Finding, ...]] = []
        self.histogram: NDArray[np.int64] | None = None

    def add(self, stored: HuSlice) -> None:
        self.findings.append(stored.findings)
        if stored.histogram is not None:
            self.histogram = stored.histogram if self.histogram is None else self.histogram + stored.histogram

    def judged(self, volume: Volume) -> tuple[Finding, ...]:
        """Return all findings, once every slice has been read.

        Raises:
            SeriesRejected: `NOT_HU`.
        """
        findings = volume.findings_with(self.findings)
        found = None if self.histogram is None else why_not_hu(self.histogram)
        if found is None:
            return findings
        if volume.implausible_hu == "keep":
            return (*findings, Finding("NOT_HU", f"{found}: the values cannot be HU"))
        raise SeriesRejected(
            "NOT_HU",
            f"found {found}; expected HU; correct the rescale, or set implausible_hu to keep to encode it as it is",
        )


def _planes(volume: Volume, region: tuple[slice, slice], seen: _Read) -> Iterator[NDArray[np.int16]]:
    """Yield the needed part of each slice, and record its findings in `seen`."""
    for stored in volume.slices():
        if stored.hu.shape != volume.shape[1:]:
            found = f"a slice is {stored.hu.shape}; expected {volume.shape[1:]}: read the series again"
            raise SeriesFailed("SLICE_SHAPE", found)
        seen.add(stored)
        yield stored.hu[region]


class _Slab(NamedTuple):
    """A new slice, the old ones (int16 HU, or float32 once resampled) that it is made of, and their weights."""

    target: int
    planes: tuple[NDArray[Any], ...]
    weights: tuple[np.float32, ...]


def _slabs(planes: Iterable[NDArray[Any]], along: AxisWeights) -> Iterator[_Slab]:
    """Yield each new slice once all of its old ones have arrived; old ones are held as long as they are needed."""
    needs = []
    for target, (sources, weights) in enumerate(zip(along.source, along.weight, strict=True), start=along.begin):
        given = sorted((int(source), weight) for source, weight in zip(sources, weights, strict=True) if weight > 0)
        needs.append((given[-1][0], given[0][0], target, tuple(weight for _, weight in given)))
    needs.sort()
    held: deque[NDArray[Any]] = deque()
    oldest, at = 0, 0
    for newest, plane in enumerate(planes):
        held.append(plane)
        while at < len(needs) and needs[at][0] == newest:
            _, first, target, weights = needs[at]
            while oldest < first:
                held.popleft()
                oldest += 1
            yield _Slab(target, tuple(islice(held, len(weights))), weights)
            at += 1


def _mean(slab: _Slab) -> NDArray[np.float32]:
    """Return the weighted sum of the planes, by ascending weight: one product per weight, not per plane.

    What is returned is the thread's own array, until it calls again: new memory for each costs as much as the sum.
    """
    (first, before), *others = sorted(zip(slab.planes, slab.weights, strict=True), key=lambda pair: pair[1])
    total: NDArray[np.float32] = getattr(_OF_THREAD, "total", _NOTHING)
    if total.shape != first.shape:
        total = _OF_THREAD.total = np.empty(first.shape, np.float32)
    np.copyto(total, first)
    for plane, weight in others:
        if weight != before:
            total *= before / weight
        total += plane
        before = weight
    total *= before
    return total


def _in_plane(
    rows: AxisWeights, columns: AxisWeights
) -> tuple[Callable[[NDArray[Any]], NDArray[np.float32]], tuple[slice, slice]]:
    """Return a function that resamples a slice in plane, and the part of the slice that it needs.

    By sparse matrices: each sum in the order of the weights, and no BLAS whose order would depend on threads.
    """
    region = slice(rows.source.min(), rows.source.max() + 1), slice(columns.source.min(), columns.source.max() + 1)
    down, across = _matrix(rows, region[0]), _matrix(columns, region[1])

    def resample(plane: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray((across @ (down @ plane).T).T)

    return resample, region


def _matrix(weights: AxisWeights, region: slice) -> Any:
    """Return the weights as a matrix, float32 (new voxels, old voxels of the region)."""
    m, taps = weights.source.shape
    content = weights.weight.ravel(), weights.source.ravel() - region.start, np.arange(m + 1) * taps
    matrix = sparse.csr_array(content, shape=(m, region.stop - region.start))
    matrix.eliminate_zeros()
    return matrix


def _scale(hu: NDArray[np.float32], window_hu: tuple[float, float]) -> None:
    """Scale `window_hu` to [0, 1], clipped, in place."""
    low, high = window_hu
    hu -= np.float32(low)
    hu /= np.float32(high - low)
    np.clip(hu, 0, 1, out=hu)


def _cut(canvas: NDArray[np.float32], starts: list[int], depth: int) -> NDArray[np.float32]:
    """Return the windows, (n, 1, d, h, w); a single one is the canvas itself."""
    if len(starts) == 1:
        return np.ascontiguousarray(canvas)[None, None]
    return np.stack([canvas[start : start + depth] for start in starts])[:, None]
