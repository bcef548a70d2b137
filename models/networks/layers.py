"""The parts of the networks that torch lacks; each class describes the result of its `forward`."""

# ruff: noqa: D102

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Size = tuple[int, int, int]


class SamePadConv3d(nn.Module):
    """A convolution padded like TensorFlow's `same` at stride 1: the odd voxel goes to the end of each axis.

    Total padding is kernel - 1; TensorFlow puts half of it, rounded down, before (none for a kernel of 2) and the rest
    after. torch's own `padding="same"` does the same; it is written out here because the features depend on it.
    """

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, kernel)
        first = (kernel - 1) // 2
        self.padding = (first, kernel - 1 - first) * 3

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(functional.pad(x, self.padding))
        return convolved


class ChannelsLastFlatten(nn.Module):
    """(n, c, d, h, w) → (n, d·h·w·c): the order in which Keras flattens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 4, 1).flatten(1)


class Grid(nn.Module):
    """(n, d·h·w·c) → (n, c, d, h, w): undoes `ChannelsLastFlatten`."""

    def __init__(self, channels: int, grid: Size) -> None:
        super().__init__()
        self.shape = (*grid, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape).permute(0, 4, 1, 2, 3).contiguous()


class Fold(nn.Module):
    """(n, 1, d, h, w) → (n, patch voxels, d / pz, h / py, w / px): each patch of voxels becomes channels."""

    def __init__(self, patch: Size) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        (pz, py, px), (_, _, d, h, w) = self.patch, x.shape
        patches = x.reshape(x.shape[0], d // pz, pz, h // py, py, w // px, px)
        return patches.permute(0, 2, 4, 6, 1, 3, 5).reshape(x.shape[0], pz * py * px, d // pz, h // py, w // px)


class Unfold(nn.Module):
    """(n, patch voxels, d, h, w) → (n, 1, d·pz, h·py, w·px): undoes `Fold`."""

    def __init__(self, patch: Size) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        (pz, py, px), (_, _, d, h, w) = self.patch, x.shape
        patches = x.reshape(x.shape[0], pz, py, px, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
        return patches.reshape(x.shape[0], 1, d * pz, h * py, w * px)


class PatchStatistics(nn.Module):
    """(n, patch voxels, d, h, w), folded windows in [0, 1] → (n, levels + 1, d, h, w): the content of a patch.

    The first channels are how far the voxels of a patch fill each range between two levels, averaged over them: a
    cumulative histogram with soft edges, whose differences are the fractions of the patch in each range. Then follow
    the mean gradient length per voxel, from differences within the patch, and the patch's standard deviation, both
    times 10 to match the size of the others. Nothing here is learned.
    """

    def __init__(self, patch: Size, levels: Sequence[float]) -> None:
        super().__init__()
        self.patch, self.levels = patch, tuple(levels)
        self.channels = len(self.levels) + 1

    def forward(self, folded: Tensor) -> Tensor:
        # The order matters for what follows, which looks at small differences: means of 0 and 1 are exact everywhere.
        filled = [_filled(folded, low, high) for low, high in pairwise(self.levels)]
        spread = ((folded - folded.mean(1, keepdim=True)).square().mean(1) + 1e-6).sqrt()
        return torch.stack([*filled, 10 * self._gradient(folded), 10 * spread], 1)

    def _gradient(self, folded: Tensor) -> Tensor:
        grid = folded.reshape(folded.shape[0], *self.patch, *folded.shape[2:])
        corner = grid[:, :-1, :-1, :-1]
        squares = (grid[:, 1:, :-1, :-1] - corner).square()
        squares = squares + (grid[:, :-1, 1:, :-1] - corner).square() + (grid[:, :-1, :-1, 1:] - corner).square()
        return (squares + 1e-6).sqrt().mean((1, 2, 3))


def _filled(folded: Tensor, low: float, high: float) -> Tensor:
    """Return how much of the range a patch's voxels fill, in place after the first step: no array more is made."""
    return (folded - low).div_(high - low).clamp_(0.0, 1.0).mean(1)


def mean_and_spread(x: Tensor) -> Tensor:
    """Return mean and standard deviation of each channel over the window: (n, 2c) of (n, c, d, h, w)."""
    flat = x.flatten(2)
    mean = flat.mean(2)
    spread = ((flat - mean[:, :, None]).square().mean(2) + 1e-6).sqrt()
    return torch.cat([mean, spread], 1)


class ResidualBlock(nn.Module):
    """x + two of (GroupNorm, SiLU, convolution of 3×3×3): pre-activation (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.steps(x)
        return added


class Clip(nn.Module):
    """(n, values) → the same, each value clipped to a range of its own; any value until the ranges are set."""

    low: Tensor
    high: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.empty(values))
        self.register_buffer("high", torch.empty(values))
        self.open()

    def open(self) -> None:
        """Let any value through."""
        largest = torch.finfo(torch.float32).max
        self.low.fill_(-largest)
        self.high.fill_(largest)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.low), self.high)


class SoftBound(nn.Module):
    """limit · tanh(x / limit): keeps a log-variance within ±limit, and changes nothing near 0."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return self.limit * (x / self.limit).tanh()


class MixVariance(nn.Module):
    """(n, k) log-variances of a diagonal Gaussian → those of the marginals after a linear map A: log Σⱼ Aᵢⱼ² exp(lⱼ).

    It begins as the identity, and is set rather than learned: `squares` (latents, k) holds Aᵢⱼ².
    """

    def __init__(self, latents: int, before: int) -> None:
        super().__init__()
        self.squares: Tensor
        self.register_buffer("squares", torch.eye(latents, before))

    def forward(self, logvar: Tensor) -> Tensor:
        mixed: Tensor = (logvar.exp() @ self.squares.T).log()
        return mixed


class Arcsinh(nn.Module):
    """(n, k) → (asinh(1.5 x) - centre) / scale for each value: about straight near 0, a logarithm far out.

    Johnson's unbounded translation to a normal variable (1949, doi 10.1093/biomet/36.1-2.149): tails that are longer
    than a normal's become as short, and no two values become one. Centre and scale are set rather than learned.
    """

    STEEPNESS = 1.5
    """Of values of unit variance: what is within half a deviation stays about straight. Bundles depend on it."""

    centre: Tensor
    scale: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(values))
        self.register_buffer("scale", torch.ones(values))

    def forward(self, x: Tensor) -> Tensor:
        bent: Tensor = ((self.STEEPNESS * x).asinh() - self.centre) / self.scale
        return bent

    def log_variance(self, x: Tensor, logvar: Tensor) -> Tensor:
        """Return the log-variance of the result, from that of x: to first order, by the slope at x; all (n, k)."""
        steeper = 2 * (self.STEEPNESS / self.scale).log()
        return logvar - (1 + (self.STEEPNESS * x).square()).log() + steeper


class Orientation(nn.Module):
    """(n, 1, d, h, w) in [0, 1] → (n, 2): logarithm of the odds that a chest is upside down, and back to front.

    A small network of its own, on windows of half the resolution. It was shown chests, so its answer is multiplied by
    how much of the window is lung: 0 where there is none, and nothing is known.
    """

    LUNG, BLOCK, LEAST, ENOUGH = (0.02, 0.25), (2, 4, 4), 0.003, 0.01
    """Lung is -960 to -500 HU in a range from -1000 to 1000. A block counts where nine tenths of it are that, so that
    skin does not. Up to `LEAST` of a window's blocks it has none, from `ENOUGH` on it counts in full. On training and
    calibration windows, chests have 0.006 to 0.1, limbs and abdomens 0.002 at most."""

    def __init__(self, window_voxels: Size, channels: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in pairwise((1, *channels)):
            steps += [nn.Conv3d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        grid = [math.ceil(size // 2 / 2 ** len(channels)) for size in window_voxels]
        self.steps = nn.Sequential(*steps, nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels[-1] * math.prod(grid), 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.lung(x)[:, None] * self.odds(functional.avg_pool3d(x, 2))

    def odds(self, halved: Tensor) -> Tensor:
        """Return the logarithms, (n, 2), of windows of half the resolution, whatever they show."""
        found: Tensor = self.steps(halved)
        return found

    def lung(self, x: Tensor) -> Tensor:
        """Return how much the lung of each window counts, (n,), 0 to 1."""
        low, high = self.LUNG
        filled = functional.avg_pool3d(((x > low) & (x < high)).to(x.dtype), self.BLOCK)
        part = (filled > 0.9).to(x.dtype).mean((1, 2, 3, 4))
        return ((part - self.LEAST) / (self.ENOUGH - self.LEAST)).clamp(0.0, 1.0)
