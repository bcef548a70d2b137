"""The architecture `ct_vae`: patches of voxels and their statistics, residual blocks, heads that see every stage."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from models.networks.layers import (
    Arcsinh,
    ChannelsLastFlatten,
    Clip,
    Fold,
    Grid,
    MixVariance,
    Orientation,
    PatchStatistics,
    ResidualBlock,
    SoftBound,
    Unfold,
)
from models.networks.pooled import EncoderParts, PooledVae, composed, moment_values
from models.networks.vae import Layer, Size, halved
from models.spec import BundleError

LEVELS = (0.025, 0.075, 0.2, 0.375, 0.45, 0.485, 0.525, 0.575, 0.7)
"""Thresholds between which a patch's voxels are counted, in the range -1000 to 1000 HU: -950, -850, -600, -250, -100,
-30, 50, 150 and 400: edges of air, lung, fat, soft tissue, contrast and bone. 0 and 1 are added to them."""


def ct_vae(
    *,
    window_voxels: Size = (32, 96, 96),
    fold: Size = (4, 8, 8),
    channels: tuple[int, ...] = (48, 64, 64),
    neck: int = 32,
    dense: int = 256,
    latents: int = 32,
    learned_latents: int = 0,
    levels: tuple[float, ...] = LEVELS,
    whitened: bool = False,
    clipped: bool = False,
    outlier: bool = False,
    orientation: bool = False,
    moments: bool = False,
    arcsinh: bool = False,
) -> PooledVae:
    """Return a VAE of patches folded into channels beside their statistics, then residual blocks on ever coarser grids.

    The heads learn where things are from the last grid, flattened, and how much of them there is from values pooled
    over the window, which a shift hardly changes and which few patients suffice to learn.

    `learned_latents` is above `latents` where the training ended with the longest axes of so many latents
    (`models.training.whitening`): the log-variance's head still gives theirs.

    `whitened` gives the log-variance's head room for the change of axes at the end of a training
    (`models.training.whitening`); without it sigma cannot follow mu.

    `clipped` keeps what the heads read within the range that training saw (`models.training.reading_range`): a channel
    that was silent in training, and is loud in a scan unlike any, would else take mu anywhere.

    `outlier` adds a tap of one value, which the end of a training makes tell windows of patients from others
    (`models.training.outliers`).

    `orientation` adds a tap of two values, which the end of a training makes tell chests from the same upside down and
    back to front (`models.training.orientation`).

    `moments` lets the heads also read where each tissue lies in the window and how far it spreads, which no training is
    needed for (`models.networks.pooled.moments`).

    `arcsinh` bends each latent, which the end of a training sets (`models.training.bending`): few patients have long
    tails, and how far they reach is another thing in other patients.

    Channels in multiples of 16 and a folding stem make 3D convolutions fast on a CPU.
    """
    if any(width % 8 for width in channels):
        raise BundleError(f"ct_vae channels are {channels}; expected multiples of 8 (of 16 for speed)")
    if any(size % patch for size, patch in zip(window_voxels, fold, strict=True)):
        raise BundleError(f"ct_vae window {window_voxels} is not a multiple of its fold {fold}; change one of them")
    if learned_latents and not (whitened and learned_latents >= latents):
        raise BundleError(f"ct_vae learned_latents is {learned_latents}; expected whitened, and {latents} at least")
    if not all(low < high for low, high in pairwise((0.0, *levels, 1.0))):
        raise BundleError(f"ct_vae levels are {levels}; expected ascending numbers between 0 and 1")
    statistics = PatchStatistics(fold, (0.0, *levels, 1.0))
    folded = (window_voxels[0] // fold[0], window_voxels[1] // fold[1], window_voxels[2] // fold[2])
    grid = halved(folded, len(channels) - 1)
    patch, last, flat = math.prod(fold), channels[-1], neck * math.prod(grid)
    stages: dict[str, nn.Module] = {"stem": nn.Conv3d(patch + statistics.channels, channels[0], 1)}
    stages["block1"] = ResidualBlock(channels[0])
    layers = [Layer(fold, fold, "stem"), *_residual("block1")]
    for number, (before, after) in enumerate(pairwise(channels), 2):
        stages[f"block{number}"] = nn.Sequential(nn.Conv3d(before, after, 2, 2), ResidualBlock(after))
        layers += [Layer((2, 2, 2), (2, 2, 2)), *_residual(f"block{number}")]
    squeeze = nn.Sequential(nn.GroupNorm(8, last), nn.SiLU(), nn.Conv3d(last, neck, 1), ChannelsLastFlatten())
    untrained = composed(statistics.channels) + (moment_values(statistics.channels) if moments else 0)
    pooled = untrained + 2 * sum(channels)
    up: list[nn.Module] = [nn.Linear(latents, dense), nn.SiLU(), nn.Linear(dense, flat), Grid(neck, grid)]
    up.append(nn.Conv3d(neck, last, 1))
    for before, after in pairwise(channels[::-1]):
        up += [nn.ConvTranspose3d(before, after, 2, 2), ResidualBlock(after)]
    up += [nn.Conv3d(channels[0], patch, 1), Unfold(fold)]
    together = nn.Sequential(nn.Linear(flat + pooled, dense), nn.SiLU())
    seen = dense + pooled
    learned = learned_latents or latents
    mixed = (MixVariance(latents, learned),) if whitened else ()
    mu, logvar = nn.Linear(seen, latents), nn.Sequential(nn.Linear(seen, learned), SoftBound(16.0), *mixed)
    # mu begins as projections of what needs no training, with about the prior's variance; the rest is learned in
    # addition.
    nn.init.normal_(mu.weight[:, dense : dense + untrained], std=0.15 if moments else 0.3)
    return PooledVae(
        stages,
        (mu, logvar),
        nn.Sequential(*up),
        parts=EncoderParts(Fold(fold), statistics, squeeze, together),
        describer=nn.Linear(latents, composed(statistics.channels)),
        clip=Clip(seen) if clipped else None,
        outlier=nn.Linear(seen, 1) if outlier else None,
        orientation=Orientation(window_voxels) if orientation else None,
        moments=moments,
        arcsinh=Arcsinh(latents) if arcsinh else None,
        layers=layers,
        window_voxels=window_voxels,
    )


def _residual(tap: str) -> tuple[Layer, Layer]:
    return Layer((3, 3, 3), (1, 1, 1)), Layer((3, 3, 3), (1, 1, 1), tap)
