"""Keras' layers in torch, computed as TensorFlow does in inference. Each class describes the result of its `forward`.

A grid is (n, c, d, h, w) here and (n, d, h, w, c) in Keras; everything else is in Keras' order.
"""

# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.vae import Size

Pads = tuple[tuple[int, int], ...]

NO_PADS: Pads = ((0, 0), (0, 0), (0, 0))


def same_pads(size: Size, kernel: Size, stride: Size) -> Pads:
    """Return TensorFlow's `same` padding, (before, after) per axis: the output has ceil(size / stride); odd goes after.

    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """
    pads = []
    for length, width, step in zip(size, kernel, stride, strict=True):
        total = max((-(-length // step) - 1) * step + width - length, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


def pad_grid(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """Return a grid surrounded by voxels of one value."""
    if not any(side for pair in pads for side in pair):
        return x
    return functional.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


class Activation(nn.Module):
    """An activation under Keras' name, with its numbers; `affine` is Rescaling."""

    def __init__(self, name: str, numbers: Mapping[str, float | None]) -> None:
        super().__init__()
        self.name = name
        self.numbers = dict(numbers)

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "relu":
            return self._relu(x)
        if self.name == "elu":
            return functional.elu(x, float(self.numbers.get("alpha") or 0.0))
        if self.name == "gelu":
            return functional.gelu(x, approximate="tanh" if self.numbers.get("approximate") else "none")
        if self.name == "affine":
            return x * float(self.numbers.get("scale") or 0.0) + float(self.numbers.get("offset") or 0.0)
        return _PLAIN[self.name](x)

    def _relu(self, x: Tensor) -> Tensor:
        slope, threshold = float(self.numbers.get("negative_slope") or 0.0), float(self.numbers.get("threshold") or 0.0)
        largest = self.numbers.get("max_value")
        if threshold:
            y = torch.where(x > threshold, x, slope * (x - threshold))
        else:
            y = functional.leaky_relu(x, slope) if slope else functional.relu(x)
        return y if largest is None else y.clamp(max=largest)


_PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "selu": functional.selu,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "exponential": torch.exp,
}
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "relu": ("negative_slope", "threshold", "max_value"),
    "elu": ("alpha",),
    "gelu": ("approximate",),
    "affine": ("scale", "offset"),
    **dict.fromkeys(_PLAIN, ()),
}
"""Activations, and the numbers that each may have."""


class Convolution(nn.Module):
    """Conv3D and its activation."""

    def __init__(self, conv: nn.Conv3d, pads: Pads, activation: Activation) -> None:
        super().__init__()
        self.conv, self.pads, self.activation = conv, pads, activation

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.conv(pad_grid(x, self.pads)))
        return activated


class Linear(nn.Module):
    """Dense and its activation; on a grid, applied to the channels of each voxel."""

    def __init__(self, linear: nn.Linear, activation: Activation) -> None:
        super().__init__()
        self.linear, self.activation = linear, activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.movedim(1, -1)).movedim(-1, 1) if x.ndim == 5 else self.linear(x)
        activated: Tensor = self.activation(y)
        return activated


class Pool(nn.Module):
    """MaxPooling3D or AveragePooling3D; an average is over the voxels that exist, not over padding."""

    def __init__(self, mean: bool, kernel: Size, stride: Size, pads: Pads) -> None:
        super().__init__()
        self.mean, self.kernel, self.stride, self.pads = mean, kernel, stride, pads

    def forward(self, x: Tensor) -> Tensor:
        if not self.mean:
            return functional.max_pool3d(pad_grid(x, self.pads, float("-inf")), self.kernel, self.stride)
        pooled = functional.avg_pool3d(pad_grid(x, self.pads), self.kernel, self.stride)
        if self.pads == NO_PADS:
            return pooled
        real = pad_grid(torch.ones_like(x[:1, :1]), self.pads)
        return pooled / functional.avg_pool3d(real, self.kernel, self.stride)


class GlobalPool(nn.Module):
    """The mean or maximum of each channel."""

    def __init__(self, mean: bool, keepdims: bool) -> None:
        super().__init__()
        self.mean, self.keepdims = mean, keepdims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4), self.keepdims) if self.mean else x.amax((2, 3, 4), self.keepdims)


class Scale(nn.Module):
    """BatchNormalization in inference: (x - mean) · scale + shift, per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean, self.scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        form = (-1, 1, 1, 1) if x.ndim == 5 else (-1,)
        return (x - self.mean.view(form)) * self.scale.view(form) + self.shift.view(form)


class LayerNorm(nn.Module):
    """LayerNormalization over axes in Keras' order (the batch is 0), then scale and shift for each position."""

    def __init__(self, shape: Sequence[int], axes: Sequence[int], epsilon: float) -> None:
        super().__init__()
        normalised = [shape[axis - 1] for axis in axes]
        self.scale, self.shift = (nn.Parameter(torch.zeros(normalised)) for _ in range(2))
        self.axes, self.epsilon = tuple(axes), epsilon
        self.form = tuple(length if axis in self.axes else 1 for axis, length in enumerate(shape, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 4, 1) if x.ndim == 5 else x
        centred = y - y.mean(self.axes, keepdim=True)
        deviation = torch.sqrt(centred.square().mean(self.axes, keepdim=True) + self.epsilon)
        y = centred / deviation * self.scale.view(self.form) + self.shift.view(self.form)
        return y.permute(0, 4, 1, 2, 3) if y.ndim == 5 else y


class Prelu(nn.Module):
    """PReLU: a slope below 0 for each position, shared along some axes (Keras' order, the batch is 0)."""

    def __init__(self, shape: Sequence[int], shared_axes: Sequence[int]) -> None:
        super().__init__()
        form = [1 if axis in shared_axes else length for axis, length in enumerate(shape, 1)]
        self.slope = nn.Parameter(torch.zeros(form))

    def forward(self, x: Tensor) -> Tensor:
        slope = self.slope.permute(3, 0, 1, 2) if x.ndim == 5 else self.slope
        return x.clamp_min(0) + slope * x.clamp_max(0)


class Constant(nn.Module):
    """A constant value in the shape of the input."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


class Reshape(nn.Module):
    """Flatten and Reshape: the values in Keras' order, channels last, in a new shape."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 4, 1) if x.ndim == 5 else x
        y = x.reshape(x.shape[0], *self.shape)
        return y.permute(0, 4, 1, 2, 3).contiguous() if y.ndim == 5 else y


class Pad(nn.Module):
    """ZeroPadding3D."""

    def __init__(self, pads: Pads) -> None:
        super().__init__()
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        return pad_grid(x, self.pads)


class Sum(nn.Module):
    """Add."""

    def forward(self, *given: Tensor) -> Tensor:
        total = given[0]
        for other in given[1:]:
            total = total + other
        return total


class Join(nn.Module):
    """Concatenate, along an axis of Keras' order (the batch is 0)."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *given: Tensor) -> Tensor:
        axis = {4: 1}.get(self.axis, self.axis + 1) if given[0].ndim == 5 else self.axis
        return torch.cat(given, axis)
