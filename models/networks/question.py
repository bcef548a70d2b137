"""The architecture `question`: the network of the question that started this project."""

from __future__ import annotations

import math

from torch import nn

from models.networks.layers import ChannelsLastFlatten, Grid, SamePadConv3d
from models.networks.vae import Layer, Size, Vae, halved
from models.spec import BundleError


def question(
    *,
    window_voxels: Size = (32, 256, 256),
    channels: tuple[int, ...] = (16, 32, 64, 32, 16),
    dense: int = 256,
    latents: int = 32,
    heads: str = "linear",
    decoder: bool = True,
) -> Vae:
    """Return the network of the question that started this project; its encoder has 320,096 parameters by default.

    Conv3D 2×2×2 `same` ReLU, each followed by a MaxPool of 2; flattened channels last; Dense ReLU; two heads, linear or
    with a ReLU. The latter is a common mistake, kept for weights trained with it: mu cannot be below 0, nor sigma below
    1. Without a decoder it is an encoder imported from Keras.
    """
    if heads not in ("linear", "relu"):
        raise BundleError(f"question heads are {heads!r}; expected 'linear' or 'relu'")
    stages: dict[str, nn.Module] = {}
    layers: list[Layer] = []
    before = 1
    for number, after in enumerate(channels, 1):
        stages[f"block{number}"] = nn.Sequential(SamePadConv3d(before, after, 2), nn.ReLU(), nn.MaxPool3d(2))
        layers += [Layer((2, 2, 2), (1, 1, 1)), Layer((2, 2, 2), (2, 2, 2), f"block{number}")]
        before = after
    grid = halved(window_voxels, len(channels))
    flat = channels[-1] * math.prod(grid)
    stages["dense"] = nn.Sequential(ChannelsLastFlatten(), nn.Linear(flat, dense), nn.ReLU())
    up: list[nn.Module] = [nn.Linear(latents, dense), nn.ReLU(), nn.Linear(dense, flat), Grid(channels[-1], grid)]
    for before, after in zip(channels[::-1], (*channels[-2::-1], 1), strict=True):
        up += [nn.ReLU(inplace=True), nn.ConvTranspose3d(before, after, 2, 2)]
    mu, logvar = (nn.Linear(dense, latents) for _ in ("mu", "log-variance"))
    ends = (mu, logvar) if heads == "linear" else (nn.Sequential(mu, nn.ReLU()), nn.Sequential(logvar, nn.ReLU()))
    back = nn.Sequential(*up) if decoder else None
    return Vae(stages, ends, back, layers=layers, window_voxels=window_voxels)
