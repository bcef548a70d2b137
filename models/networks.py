"""The architectures of this project: `question` and `ct_vae`."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from models.bundle import BundleError
from models.layers import ChannelsLastFlatten, Fold, Grid, ResidualBlock, SamePadConv3d, SoftBound, Unfold
from models.network import Layer, Size, Vae


def question(
    *,
    window_voxels: Size = (32, 256, 256),
    channels: tuple[int, ...] = (16, 32, 64, 32, 16),
    dense: int = 256,
    latents: int = 32,
) -> Vae:
    """The network of the question that started this project; 320,096 parameters in its encoder as it stands.

    Conv3D 2×2×2 `same` ReLU, each followed by a MaxPool of 2; flattened channels last; Dense ReLU; two linear heads.
    """
    stages: dict[str, nn.Module] = {}
    layers: list[Layer] = []
    before = 1
    for number, after in enumerate(channels, 1):
        stages[f"block{number}"] = nn.Sequential(SamePadConv3d(before, after, 2), nn.ReLU(), nn.MaxPool3d(2))
        layers += [Layer((2, 2, 2), (1, 1, 1)), Layer((2, 2, 2), (2, 2, 2), f"block{number}")]
        before = after
    grid = _halved(window_voxels, len(channels))
    flat = channels[-1] * math.prod(grid)
    stages["dense"] = nn.Sequential(ChannelsLastFlatten(), nn.Linear(flat, dense), nn.ReLU())
    up: list[nn.Module] = [nn.Linear(latents, dense), nn.ReLU(), nn.Linear(dense, flat), Grid(channels[-1], grid)]
    for before, after in zip(channels[::-1], (*channels[-2::-1], 1), strict=True):
        up += [nn.ReLU(), nn.ConvTranspose3d(before, after, 2, 2)]
    heads = nn.Linear(dense, latents), nn.Linear(dense, latents)
    return Vae(stages, heads, nn.Sequential(*up), layers=layers, window_voxels=window_voxels)


def ct_vae(
    *,
    window_voxels: Size = (32, 96, 96),
    fold: Size = (4, 4, 4),
    channels: tuple[int, ...] = (32, 64, 80),
    neck: int = 16,
    dense: int = 256,
    latents: int = 32,
) -> Vae:
    """Patches of voxels folded into channels, then residual blocks, each after the first at half the grid.

    Channels in multiples of 16 and a folding stem are what makes 3D convolutions fast on a CPU.
    """
    if any(width % 8 for width in channels):
        raise BundleError(f"ct_vae channels are {channels}; expected multiples of 8 (of 16 for speed)")
    if any(size % patch for size, patch in zip(window_voxels, fold, strict=True)):
        raise BundleError(f"ct_vae window {window_voxels} is no multiple of its fold {fold}; choose another of them")
    patch = math.prod(fold)
    folded = (window_voxels[0] // fold[0], window_voxels[1] // fold[1], window_voxels[2] // fold[2])
    grid = _halved(folded, len(channels) - 1)
    stages: dict[str, nn.Module] = {"stem": nn.Sequential(Fold(fold), nn.Conv3d(patch, channels[0], 1))}
    stages["block1"] = ResidualBlock(channels[0])
    layers = [Layer(fold, fold, "stem"), *_residual("block1")]
    for number, (before, after) in enumerate(pairwise(channels), 2):
        stages[f"block{number}"] = nn.Sequential(nn.Conv3d(before, after, 2, 2), ResidualBlock(after))
        layers += [Layer((2, 2, 2), (2, 2, 2)), *_residual(f"block{number}")]
    last, flat = channels[-1], neck * math.prod(grid)
    squeeze = nn.Sequential(nn.GroupNorm(8, last), nn.SiLU(), nn.Conv3d(last, neck, 1), ChannelsLastFlatten())
    stages["dense"] = nn.Sequential(squeeze, nn.Linear(flat, dense), nn.SiLU())
    up: list[nn.Module] = [nn.Linear(latents, dense), nn.SiLU(), nn.Linear(dense, flat), Grid(neck, grid)]
    up.append(nn.Conv3d(neck, last, 1))
    for before, after in pairwise(channels[::-1]):
        up += [nn.ConvTranspose3d(before, after, 2, 2), ResidualBlock(after)]
    up += [nn.Conv3d(channels[0], patch, 1), Unfold(fold)]
    heads = nn.Linear(dense, latents), nn.Sequential(nn.Linear(dense, latents), SoftBound(16.0))
    return Vae(stages, heads, nn.Sequential(*up), layers=layers, window_voxels=window_voxels)


def _residual(tap: str) -> tuple[Layer, Layer]:
    return Layer((3, 3, 3), (1, 1, 1)), Layer((3, 3, 3), (1, 1, 1), tap)


def _halved(size: Size, times: int) -> Size:
    """The grid after so many halvings."""
    step = 2**times
    if any(length % step for length in size):
        raise BundleError(f"a grid of {size} cannot be halved {times} times; choose a window that can")
    return size[0] // step, size[1] // step, size[2] // step
