"""The body in a scan, and what is to be seen of a scan: the body with its gas and skin, without table and blankets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.statistics.tissues import TISSUES_HU

BODY_ABOVE_HU = -300.0
SKIN_MM = 4.0
"""Kept around the body: where a voxel is half skin and half air."""

LEAST_PIECE = 1 / 3
"""Of the largest piece. Of 52 patients the largest table had 0.14 of it, under a calf."""

LEAST_KEPT = 0.25
"""Of what is not air. Of 52 patients with and without a table, half of it was kept at least."""

Mask = NDArray[np.bool_]


def body_mask(hu: NDArray[Any]) -> Mask:
    """Return the body in a grid: bool (d, h, w), the largest piece above -300 HU, with what each slice encloses."""
    body = np.zeros(hu.shape, bool)
    pieces, sizes = _pieces(hu)
    if sizes.any():
        found = pieces == sizes.argmax()
        box = box_of(found)
        body[box] = _filled(found[box])
    return body


def patient_mask(hu: NDArray[Any], spacing_mm: tuple[float, float, float]) -> Mask:
    """Return the patient in a scan: bool (d, h, w); all of the scan where no patient is found.

    It is the largest piece above -300 HU and others that have at least a third of its voxels, such as a second leg;
    within each axial slice also what lies between it on at least three of the four sides, front, back, left and right:
    gas and lungs, even a lung that the edge of the scan cuts open; and a rim of 4 mm, at least a voxel, for the skin. A
    table has the body on one side alone, so it goes, but for what touches the body. No patient is found where nothing
    is above -300 HU, and where three quarters of all that is not air would go: in a small field of view within a lung.

    Args:
        hu: HU (d, h, w), axial slices along the first axis.
        spacing_mm: (z, y, x).
    """
    pieces, sizes = _pieces(hu)
    if not sizes.any():
        return np.ones(hu.shape, bool)
    piece: Mask = (sizes >= LEAST_PIECE * sizes.max())[pieces]
    mask: Mask = _sides(piece) + _sides(piece.transpose(0, 2, 1)).transpose(0, 2, 1) >= 3
    for axis in (1, 2):
        for _ in range(max(1, round(SKIN_MM / spacing_mm[axis]))):
            mask = _grown(mask, axis)
    matter = hu > TISSUES_HU["air"][1]
    if np.count_nonzero(matter & mask) < LEAST_KEPT * np.count_nonzero(matter):
        return np.ones(hu.shape, bool)
    return mask


def box_of(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """Return the smallest box around a non-empty mask, extended by up to `margin` voxels within the array."""
    across = [tuple({0, 1, 2} - {axis}) for axis in range(3)]
    held = [np.flatnonzero(mask.any(axis=axes)) for axes in across]
    return tuple(slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin) for at in held)


def _pieces(hu: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the pieces above -300 HU, joined over faces: each voxel's piece, 0 for none, and the voxels of each piece.

    Piece 0 counts as empty.
    """
    pieces, _ = ndimage.label(hu > BODY_ABOVE_HU)
    sizes = np.bincount(pieces.ravel(), minlength=1)
    sizes[0] = 0
    return pieces, sizes


def _sides(piece: Mask) -> NDArray[np.int8]:
    """Return on how many sides along the last axis, 0 to 2, each voxel has the piece, itself included."""
    n = piece.shape[-1]
    piece, place = np.ascontiguousarray(piece), np.arange(n, dtype=np.int32)
    held = piece.any(axis=-1)
    first = np.where(held, piece.argmax(axis=-1), n).astype(np.int32)[..., None]
    last = np.where(held, n - 1 - piece[..., ::-1].argmax(axis=-1), -1).astype(np.int32)[..., None]
    sides: NDArray[np.int8] = (place >= first).view(np.int8) + (place <= last).view(np.int8)
    return sides


def _grown(mask: Mask, axis: int) -> Mask:
    """Return the mask grown by a voxel to both sides along an axis."""
    made, before, after = mask.copy(), [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    made[tuple(after)] |= mask[tuple(before)]
    made[tuple(before)] |= mask[tuple(after)]
    return made


def _filled(body: Mask) -> Mask:
    """Return the body with its holes filled: all voxels that no path within the slice joins to the box's border."""
    in_slice = ndimage.generate_binary_structure(3, 1)
    in_slice[[0, 2]] = False
    outside, count = ndimage.label(~body, in_slice)
    closed = np.ones(count + 1, bool)
    for border in (outside[:, 0], outside[:, -1], outside[:, :, 0], outside[:, :, -1]):
        closed[border] = False
    closed[0] = True
    filled: Mask = closed[outside]
    return filled
