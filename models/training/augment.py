"""What a training step sees of its windows: cut out at a random place, as if made by another scanner.

Nothing here has state, and nothing is drawn here: see `models.training.draws`.

MONAI's transforms take one window at a time: on two cores 5 ms for GaussianSmooth and 5 for RandGaussianNoise, 160 for
a batch of 16 windows of 32 × 96 × 96, against 28 for shifting, smoothing, sharpening and averaging slices here (one
matrix per axis) and 11 for the noise. The tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.statistics.cropped import PLAIN_AIR
from models.training.draws import Augmentation, Frame, Size, View
from models.training.settings import TrainingSettings

WindowArray = NDArray[np.floating[Any]]
Held = tuple[tuple[int, int], tuple[int, int]]
"""Start and end, along y and along x, of what is not air in a window."""

_SHARPEN_SD = 1.0


def margin_voxels(settings: TrainingSettings) -> Size:
    """Return how many voxels (z, y, x) around the network's window the drawn changes may reach."""
    plane = math.ceil(settings.shift) + math.ceil(3 * max(settings.blur, _SHARPEN_SD if settings.sharpen else 0))
    return plane + (math.ceil(settings.thickness / 2) if settings.thickness > 1 else 0), plane, plane


def window_places(scans: Sequence[WindowArray]) -> list[tuple[int, int]]:
    """Return every window of all scans: its scan, and its number there."""
    return [(scan, window) for scan, windows in enumerate(scans) for window in range(len(windows))]


def cut_windows(
    scans: Sequence[WindowArray],
    places: Sequence[tuple[int, int]],
    draws: Sequence[Augmentation],
    size: Size,
    around: Size,
) -> Tensor:
    """Return the part of each drawn window at its drawn place with surroundings: (n, d, h, w), float16 or float32.

    Where a window has no surroundings, its edge is repeated.

    Args:
        scans: windows, (m, D, H, W) each.
        places: index of a window → its scan, and its number there.
        draws: what was drawn for each.
        size: size of the network's window.
        around: result of `margin_voxels`, added on both sides.
    """
    depth, height, width = (length + 2 * edge for length, edge in zip(size, around, strict=True))
    cut_out = np.empty((len(draws), depth, height, width), scans[0].dtype)
    for row, drawn in zip(cut_out, draws, strict=True):
        scan, number = places[drawn.index]
        whole, inside, beyond = scans[scan][number], [], []
        for have, want, edge, at in zip(whole.shape, size, around, drawn.place, strict=True):
            start = math.floor(at * (have - want + 1)) - edge
            end = start + want + 2 * edge
            inside.append(slice(max(start, 0), min(end, have)))
            beyond.append((max(-start, 0), max(end - have, 0)))
        row[:] = whole[tuple(inside)] if not np.any(beyond) else np.pad(whole[tuple(inside)], beyond, mode="edge")
    return torch.from_numpy(cut_out)


def make_views(
    cut_out: Tensor, draws: Sequence[Augmentation], size: Size, settings: TrainingSettings
) -> tuple[Tensor, Tensor]:
    """Return (seen, target): the encoder's input, (views · n, 1, d, h, w), first views first; and the expected output.

    Args:
        cut_out: result of `cut_windows`, on the network's device.
        draws: the same as there.
        size: size of the network's window.
        settings: the settings drawn from.
    """
    around = margin_voxels(settings)
    gains = cut_out.new_tensor([drawn.gain for drawn in draws], dtype=torch.float32)
    wide = (cut_out.float() * gains[:, None, None, None]).clamp_(0, 1)
    frames = {number: drawn.frame for number, drawn in enumerate(draws) if drawn.frame is not None}
    if framed := list(frames):
        rows, columns = _frames(list(frames.values()), wide[framed], size)
        wide[framed] = rows[:, None] @ wide[framed] @ columns[:, None].mT
    inner = tuple(slice(edge, edge + length) for edge, length in zip(around, size, strict=True))
    target = wide[:, inner[0], inner[1], inner[2]].contiguous()
    held = _held(target) if settings.field_of_view or settings.tile else []
    views = zip(*(drawn.views for drawn in draws), strict=True)
    seen = [_seen(view, wide, target, held, settings) for view in views]
    return torch.cat(seen)[:, None], target[:, None]


def axis_operator(start: Tensor, size: int, have: int, blur: Tensor, sharpen: Tensor, thickness: Tensor) -> Tensor:
    """Return the matrices (n, size, have) that read values along an axis from `start` on, after the other changes.

    Args:
        start: (n,); fractional where a window is shifted by part of a voxel: then linear between two voxels.
        size: number of output values.
        have: number of input values.
        blur: (n,), standard deviation of a Gaussian in voxels, integrated over each voxel.
        sharpen: (n,), amount a of unsharp masking: (1 + a) · input - a · input smoothed by one voxel.
        thickness: (n,), number of voxels averaged; 1 or less averages nothing.
    """
    index = torch.arange(have, device=start.device, dtype=torch.float32)
    apart = index[None, None] - index[None, :, None]
    identity = torch.eye(have, device=start.device)[None]
    smoothed = _gaussian(apart, blur[:, None, None])
    edged = identity - _gaussian(apart, torch.full_like(blur, _SHARPEN_SD)[:, None, None])
    wide = thickness.clamp_min(1)[:, None, None]
    averaged = (torch.minimum(wide / 2, apart + 0.5) - torch.maximum(-wide / 2, apart - 0.5)).clamp_min(0)
    position = (start[:, None] + torch.arange(size, device=start.device)).clamp(0, have - 1)
    taken = (1 - (index[None, None] - position[:, :, None]).abs()).clamp_min(0)
    return taken @ (smoothed + sharpen[:, None, None] * edged) @ (averaged / averaged.sum(2, keepdim=True))


def _frames(frames: Sequence[Frame], whole: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Return the matrices (n, h, h) and (n, w, w) that make of each window (n, d, h, w) the scan that its frame names.

    They are linear between voxels. A part lies within what is not air; a mere zoom is about the centre.
    """
    held = _held(whole) if any(math.isfinite(frame.part[0]) for frame in frames) else None
    zoom = whole.new_tensor([frame.zoom for frame in frames])[:, None]
    matrices = []
    for axis in (0, 1):
        have = whole.shape[2 + axis]
        ends = [(0, have)] * len(frames)
        for number, frame in enumerate(frames):
            if held is not None and math.isfinite(frame.part[axis]):
                ends[number] = _part(held[number][axis], round(frame.part[axis] * size[1 + axis]), frame.at[axis])
        first, last = whole.new_tensor(ends).unbind(1)
        index = torch.arange(have, device=whole.device, dtype=torch.float32)
        position = ((first + last - 1) / 2)[:, None] + (index - (have - 1) / 2) / zoom
        inside = (position > first[:, None] - 0.5) & (position < last[:, None] - 0.5)
        nearest = torch.minimum(torch.maximum(position, first[:, None]), last[:, None] - 1)
        near = (1 - (index[None, None] - nearest[:, :, None]).abs()).clamp_min(0)
        matrices.append(near * inside[:, :, None])
    return matrices[0], matrices[1]


def _part(held: tuple[int, int], length: int, at: float) -> tuple[int, int]:
    """Return start and end of a part of this length, or shorter, within what is not air."""
    first, last = held
    start = first + math.floor(at * (max(0, last - first - length) + 1))
    return start, min(start + length, last)


def _held(windows: Tensor) -> list[Held]:
    """Return start and end along y and x of what is not air in each (d, h, w) of a batch; all of it if all is air."""
    seen = windows.amax(1) > PLAIN_AIR
    rows, columns = (held.cpu().numpy() for held in (seen.any(2), seen.any(1)))
    return [(_ends(row), _ends(column)) for row, column in zip(rows, columns, strict=True)]


def _ends(held: NDArray[np.bool_]) -> tuple[int, int]:
    places = np.flatnonzero(held)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, len(held))


def _seen(
    views: Sequence[View], wide: Tensor, target: Tensor, held: Sequence[Held], settings: TrainingSettings
) -> Tensor:
    """Return one view of each window, (n, d, h, w), from the window and its surroundings."""
    seen = target.clone()
    if any(margin_voxels(settings)):
        seen = _resampled(views, wide, target.shape[1:], settings)
    if any(view.turn for view in views):
        seen = _turned(seen, [view.turn for view in views])
    if settings.offset:
        seen = seen + (seen > 0) * seen.new_tensor([view.offset for view in views])[:, None, None, None]
    if settings.noise:
        generator, spread = torch.Generator(wide.device), torch.empty_like(seen[0])
        for row, view in zip(seen, views, strict=True):
            row.add_(spread.normal_(generator=generator.manual_seed(view.noise_seed)), alpha=view.noise)
    seen.clamp_(0, 1)
    if settings.field_of_view or settings.tile:
        for axis, shape in ((0, (-1, 1, target.shape[2], 1)), (1, (-1, 1, 1, target.shape[3]))):
            length = target.shape[2 + axis]
            kept = [
                _within(ends[axis], view.window[2 * axis : 2 * axis + 2], length)
                for ends, view in zip(held, views, strict=True)
            ]
            start, end = torch.tensor(kept, device=seen.device)[:, :, None].unbind(1)
            index = torch.arange(length, device=seen.device)
            seen.mul_(((index >= start) & (index < end)).view(shape))
    return seen


def _turned(seen: Tensor, degrees: Sequence[float]) -> Tensor:
    """Return (n, d, h, w), each turned about its slice axis by its angle, bilinear; air fills the corners."""
    angle = torch.deg2rad(seen.new_tensor(list(degrees)))
    ratio = seen.shape[2] / seen.shape[3]  # the grid runs from -1 to 1 on both axes, whatever their lengths
    zero = torch.zeros_like(angle)
    rows = [torch.stack([angle.cos(), -angle.sin() * ratio, zero], 1)]
    rows.append(torch.stack([angle.sin() / ratio, angle.cos(), zero], 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(seen.shape), align_corners=False)
    return functional.grid_sample(seen, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _within(held: tuple[int, int], kept: Sequence[int], length: int) -> tuple[int, int]:
    """Return the part of a window of this length to keep, within what it holds; to its edge if it ends there."""
    first, last = (held[0] + round(edge / length * (held[1] - held[0])) for edge in kept)
    return (0 if kept[0] == 0 else first), (length if kept[1] == length else last)


def _resampled(views: Sequence[View], wide: Tensor, size: Sequence[int], settings: TrainingSettings) -> Tensor:
    drawn = wide.new_tensor([(*view.shift, view.blur, view.sharpen, view.thickness) for view in views])
    (*shifts, blur, sharpen, thickness), none = drawn.unbind(1), torch.zeros(len(views), device=wide.device)
    around = margin_voxels(settings)
    z, y, x = (
        axis_operator(edge + shift, length, have, blur, sharpen, thickness if axis == 0 else none)
        for axis, (edge, shift, length, have) in enumerate(zip(around, shifts, size, wide.shape[1:], strict=True))
    )
    (n, deep, high, _), (depth, height, width) = wide.shape, size
    seen = wide
    if around[1]:
        seen = y[:, None] @ (wide.reshape(n, deep * high, -1) @ x.mT).reshape(n, deep, high, width)
    resampled: Tensor = (z @ seen.reshape(n, deep, height * width)).reshape(n, depth, height, width)
    return resampled


def _gaussian(apart: Tensor, deviation: Tensor) -> Tensor:
    """Return a Gaussian of each row's index, integrated over voxels and normalised, as MONAI's GaussianFilter (erf)."""
    scale = 1 / (math.sqrt(2) * deviation.clamp_min(1e-3))
    weights = torch.erf((apart + 0.5) * scale) - torch.erf((apart - 0.5) * scale)
    return weights / weights.sum(2, keepdim=True)
