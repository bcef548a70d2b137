"""Convolution, ReLU and max-pooling as one step that trains faster on a CPU; the values are the same.

A one-channel convolution of a full window writes sixteen times the window, the ReLU does so again, and the pooling
reads it: that was most of a training step of the question's network (batch 2: 1.9 s of processor time, 0.65 s since).
Here a cell of 2 × 2 × 2 voxels, with the voxels that its eight
convolutions reach, is a column of 27 values; one matrix product gives all eight, of which the largest is kept before
the next cells are begun. Nothing of the window's full size is ever stored.
"""

# ruff: noqa: D102

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.layers import SamePadConv3d

_CELLS = 8192
_PLACES = tuple(product((0, 1), repeat=3))
_TIE = -1e-6


class ConvReluPool(nn.Sequential):
    """A 2 × 2 × 2 `same` convolution, ReLU, and a max-pooling of 2; has the parameters of the three in a row.

    In eval mode, on a GPU and for ONNX it is the three in a row.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(SamePadConv3d(before, after, 2), nn.ReLU(), nn.MaxPool3d(2))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and x.device.type == "cpu"):
            found: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return found
        # The largest of eight, then bias and ReLU, is what bias, ReLU and then the largest is: both keep the order.
        conv = self[0].conv
        assert isinstance(conv, nn.Conv3d)
        if x.shape[1] == 1 and not x.requires_grad and all(length % 2 == 0 for length in x.shape[2:]):
            folded: Tensor = FoldedConvReluPool.apply(x, conv.weight, conv.bias)  # type: ignore[no-untyped-call]
            return folded
        # oneDNN's convolutions and torch's pooling are several times faster with channels last.
        convolved = self[0](x.contiguous(memory_format=torch.channels_last_3d))
        return functional.relu(functional.max_pool3d(convolved, 2), inplace=True)


class FoldedConvReluPool(torch.autograd.Function):
    """The three in a row for one channel, in float32.

    (n, 1, d, h, w), even → (n, c, d / 2, h / 2, w / 2), channels last.
    Where several values of a cell are the largest, as in even regions, they share the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, (d, h, w), c = len(x), x.shape[2:], len(weight)
        of_all, taps = _patches(x[:, 0]), _at_each_place(weight)
        largest, room = taps.new_empty(n, c, of_all.shape[2]), taps.new_empty(8 * c * _CELLS)
        out = taps.new_empty(n, of_all.shape[2], c)
        for window, patches in enumerate(of_all):
            for cells in _chunks(patches):
                kept = largest[window, :, cells]
                torch.amax(_values(taps, patches[:, cells], room), 0, out=kept)
                out[window, cells] = (kept + bias[:, None]).relu_().T
        ctx.save_for_backward(of_all, weight, bias, largest)
        return out.view(n, d // 2, h // 2, w // 2, c).permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        of_all, weight, bias, largest = ctx.saved_tensors
        c = len(weight)
        by_cell = gradient.permute(0, 2, 3, 4, 1).reshape(len(largest), -1, c)
        taps, threshold = _at_each_place(weight), -bias[:, None]
        summed, summed_bias, one = torch.zeros_like(taps), torch.zeros_like(threshold), taps.new_ones(())
        room, other = (taps.new_empty(8 * c * _CELLS) for _ in range(2))
        for window, patches in enumerate(of_all):
            for cells in _chunks(patches):
                kept = largest[window, :, cells]
                given = by_cell[window, cells].T * (kept > threshold)
                below = _values(taps, patches[:, cells], room).sub_(kept)
                hit = other[: below.numel()].view_as(below)
                torch.ops.aten.threshold_backward.grad_input(one.expand_as(below), below, _TIE, grad_input=hit)
                hit.mul_(given / hit.sum(0).clamp_min_(1))
                summed.addmm_(hit.view(8 * c, -1), patches[:, cells].T)
                summed_bias += given.sum(1, keepdim=True)
        by_place = summed.view(8, c, 1, 3, 3, 3)
        parts = [by_place[k, :, :, z : z + 2, y : y + 2, x : x + 2] for k, (z, y, x) in enumerate(_PLACES)]
        return None, torch.stack(parts).sum(0), summed_bias.squeeze(1)


class LastUp(nn.ConvTranspose3d):
    """A transposed convolution of 2 × 2 × 2 by steps of 2 to one channel; in training on a CPU a matrix product."""

    def __init__(self, before: int) -> None:
        super().__init__(before, 1, 2, 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and x.device.type == "cpu"):
            return super().forward(x, output_size)
        n, c, d, h, w = x.shape
        made = x.permute(0, 2, 3, 4, 1).reshape(-1, c) @ self.weight.reshape(c, 8)
        cells = made.reshape(n, d, h, w, 2, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
        assert self.bias is not None
        return cells.reshape(n, 1, 2 * d, 2 * h, 2 * w) + self.bias


def _chunks(patches: Tensor) -> list[slice]:
    """Cells at a time, so few that their values stay in the processor's cache."""
    return [slice(at, min(at + _CELLS, patches.shape[1])) for at in range(0, patches.shape[1], _CELLS)]


def _values(taps: Tensor, patches: Tensor, room: Tensor) -> Tensor:
    """(8, c, cells): the convolution at each place of the cells, written into `room`: new memory costs more."""
    values = room[: len(taps) * patches.shape[1]].view(len(taps), -1)
    return torch.mm(taps, patches, out=values).view(8, len(taps) // 8, -1)


def _patches(windows: Tensor) -> Tensor:
    """(n, 27, cells): of each cell of 2 × 2 × 2 its voxels and those after it, zeros beyond the end."""
    n, d, h, w = windows.shape
    padded = functional.pad(windows, (0, 1) * 3)
    patches = windows.new_empty(n, 27, d // 2, h // 2, w // 2)
    for row, (z, y, x) in enumerate(product(range(3), repeat=3)):
        patches[:, row] = padded[:, z : z + d : 2, y : y + h : 2, x : x + w : 2]
    return patches.view(n, 27, -1)


def _at_each_place(weight: Tensor) -> Tensor:
    """(8 · c, 27): the kernel (c, 1, 2, 2, 2) at each place of a cell."""
    taps = weight.new_zeros(8, len(weight), 3, 3, 3)
    for place, (z, y, x) in zip(taps, _PLACES, strict=True):
        place[:, z : z + 2, y : y + 2, x : x + 2] = weight[:, 0]
    return taps.view(8 * len(weight), 27)
