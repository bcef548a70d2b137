"""From HU on the scanner's grid to the windows that the encoder sees, slice by slice.

The definition, which training and inference share and which the bundle's digest stands for:

1. Orientation. Each axis of the volume (slice, row, column) is assigned to the patient axis nearest to it, the best
   aligned first, as nibabel's `io_orientation` and so MONAI's `Orientation` do it; axes are flipped to go towards head,
   back and left. Of an oblique series the grid stays parallel to the scanner's axes, and the affines say so.
2. Grid. With fit `window` voxels have `spacing_mm`. In plane the window's centre is the centre of the scan's extent
   (voxels' outer edges). Along z one canvas, centred on the extent and just long enough to cover it (to within a
   hundredth of a voxel at each end), holds the windows: the first is flush with the feet's end, the last with the
   head's, the others are evenly spread, rounded to whole voxels, and neighbours share at least `overlap` of a window. A
   scan that is shorter than a window gets one window, centred. With fit `resize` the extent is divided into
   `window_voxels`.
3. Resampling, along each axis for itself. Where the new spacing is larger than the old, the exact mean of the scan, its
   voxels taken as constant, over the new voxel; elsewhere linear interpolation between voxels' centres, the outermost
   half voxel constant. At equal spacing the two agree. A new voxel that is partly outside of the scan is the mean over
   the part inside; one that is entirely outside is air, the low end of `window_hu`.
4. Intensity. HU are resampled first; then `window_hu` becomes [0, 1], clipped (`Spacing` before `ScaleIntensityRange`).

`real_fraction` counts each voxel by the part of its volume that is inside of the scan.

The volume at full resolution is never held: where slices get thicker, they are summed up into the one or two new
slices that are open, and only those are resampled in plane; otherwise each is resampled in plane at once. All sums are
element by element, in the order of the slices: the result is the same, bit for bit, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Preprocessing
from operators.types import Finding, SeriesFailed, Volume, Windows
from operators.window_grid import AxisWeights, TargetAxis, target_axes, window_affine, window_starts


def preprocess(volume: Volume, settings: Preprocessing) -> Windows:
    """Resample a volume to a bundle's windows; see the module for the exact definition.

    Args:
        volume: each of its slices is read once, in order.
        settings: of the bundle.

    Returns:
        float32 windows (n, 1, d, h, w) in [0, 1], n ≥ 1, with their affines.

    Raises:
        SeriesRejected, SeriesFailed: from reading the slices; `SLICE_SHAPE` where one isn't of the volume's shape.
    """
    z, y, x = axes = target_axes(volume, settings)
    canvas, met = _resample(volume, sorted(axes, key=lambda axis: axis.volume_axis), settings.window_hu[0])
    canvas = canvas.transpose(z.volume_axis, y.volume_axis, x.volume_axis)
    _scale(canvas, settings.window_hu)
    depth = settings.window_voxels[0]
    starts = window_starts(z.n_target, depth, settings.overlap)
    inside_z = z.weights().inside
    in_plane = y.weights().inside.mean() * x.weights().inside.mean()
    return Windows(
        volume=volume,
        voxels=_cut(canvas, starts, depth),
        affines_lps_mm=np.stack([window_affine(volume, axes, start) for start in starts]),
        spacing_mm=(z.spacing_mm, y.spacing_mm, x.spacing_mm),
        real_fraction=np.array([inside_z[start : start + depth].mean() * in_plane for start in starts], np.float32),
        findings=merge_findings(volume, met),
    )


def _resample(
    volume: Volume, axes: list[TargetAxis], air_hu: float
) -> tuple[NDArray[np.float32], list[tuple[Finding, ...]]]:
    """HU on the new grid, axes in the volume's order and each in its patient direction; and each slice's findings."""
    along, rows, columns = (axis.weights() for axis in axes)
    thicker = axes[0].step > 1
    in_plane, region = _in_plane(rows, columns)
    inner = rows.inner, columns.inner
    canvas = np.full([axis.n_target for axis in axes], air_hu, np.float32)
    open_sums: dict[int, NDArray[np.float32]] = {}
    part = np.empty((0, 0), np.float32)
    met = []
    for stored, contributions in zip(volume.slices(), _schedule(along, volume.shape[0]), strict=True):
        if stored.hu.shape != volume.shape[1:]:
            found = f"a slice is {stored.hu.shape}; expected {volume.shape[1:]}: read the series again"
            raise SeriesFailed("SLICE_SHAPE", found)
        met.append(stored.findings)
        plane = stored.hu[region] if thicker or not contributions else in_plane(stored.hu[region])
        for target, weight, last in contributions:
            total = open_sums.pop(target, None)
            if total is None:
                total = plane * weight
            else:
                part = np.multiply(plane, weight, out=part) if part.shape == plane.shape else plane * weight
                total += part
            if not last:
                open_sums[target] = total
            else:
                canvas[target][inner] = in_plane(total) if thicker else total
    return canvas, met


def _schedule(along: AxisWeights, n_slices: int) -> list[list[tuple[int, np.float32, bool]]]:
    """For each slice: to which new slices it goes, with what weight, and whether it is their last."""
    steps: list[list[tuple[int, np.float32, bool]]] = [[] for _ in range(n_slices)]
    for target, (sources, weights) in enumerate(zip(along.source, along.weight, strict=True), start=along.begin):
        given = [(int(source), weight) for source, weight in zip(sources, weights, strict=True) if weight > 0]
        last = max(source for source, _ in given)
        for source, weight in given:
            steps[source].append((target, weight, source == last))
    return steps


def _in_plane(
    rows: AxisWeights, columns: AxisWeights
) -> tuple[Callable[[NDArray[Any]], NDArray[np.float32]], tuple[slice, slice]]:
    """How a slice becomes a new one, and the part of it that this needs."""
    region = slice(rows.source.min(), rows.source.max() + 1), slice(columns.source.min(), columns.source.max() + 1)
    row_source, column_source = rows.source - region[0].start, columns.source - region[1].start

    def resample(plane: NDArray[Any]) -> NDArray[np.float32]:
        across = _combine_rows(plane, row_source, rows.weight)
        return _combine_rows(np.ascontiguousarray(across.T), column_source, columns.weight).T

    return resample, region


def _combine_rows(plane: NDArray[Any], source: NDArray[np.intp], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted sums of whole rows, float32: contiguous reads, and no BLAS whose order would depend on threads."""
    total = plane.take(source[:, 0], axis=0) * weight[:, :1]
    part = np.empty_like(total)
    for tap in range(1, source.shape[1]):
        total += np.multiply(plane.take(source[:, tap], axis=0), weight[:, tap : tap + 1], out=part)
    return np.asarray(total)


def _scale(hu: NDArray[np.float32], window_hu: tuple[float, float]) -> None:
    """Window to [0, 1], clipped, in place."""
    low, high = window_hu
    hu -= np.float32(low)
    hu /= np.float32(high - low)
    np.clip(hu, 0, 1, out=hu)


def _cut(canvas: NDArray[np.float32], starts: list[int], depth: int) -> NDArray[np.float32]:
    """The windows, (n, 1, d, h, w); a single one is the canvas itself."""
    if len(starts) == 1:
        return np.ascontiguousarray(canvas)[None, None]
    return np.stack([canvas[start : start + depth] for start in starts])[:, None]


def merge_findings(volume: Volume, met: list[tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """Those of the volume, each once; then those of the slices, one a code, with the detail of the first slice."""
    first: dict[str, str] = {}
    slices: dict[str, int] = {}
    for findings in met:
        details = {finding.code: finding.detail for finding in reversed(findings)}
        for code, detail in details.items():
            first.setdefault(code, detail)
            slices[code] = slices.get(code, 0) + 1
    merged = [Finding(code, f"{first[code]} (in {slices[code]} of {len(met)} slices)") for code in sorted(first)]
    return (*dict.fromkeys(volume.findings), *merged)
