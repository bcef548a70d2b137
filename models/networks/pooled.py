"""A VAE whose heads also see every stage pooled over the window, and which describes as well as reconstructs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.layers import Arcsinh, Clip, Fold, Orientation, PatchStatistics, mean_and_spread
from models.networks.vae import Layer, Size, Vae
from models.spec import ORIENTATION, OUTLIER

_LEAST_PATCHES = 0.16
"""What `moments` add of each tissue in the middle of a window, in patches: a little of it is not thought far out."""


class EncoderParts(NamedTuple):
    """The parts of an encoder beside its stages and heads.

    Attributes:
        fold: patches of voxels → channels, for the first stage.
        statistics: statistics of the folded patches, added to them in the first stage.
        squeeze: the last stage → (n, values), with positions.
        dense: these and the pooled values → (n, dense).
    """

    fold: Fold
    statistics: PatchStatistics
    squeeze: nn.Module
    dense: nn.Sequential


class PooledVae(Vae):
    """Stages as in `Vae`, the first on folded patches and their statistics; then two more taps.

    `pooled` is the window's `composition` and, where the network reads them, its `moments`, with the mean and standard
    deviation over it of each stage but the first; `dense` is made of the last stage's grid and of `pooled`. The heads
    are linear in both, and so is `outlier`: the logarithm of the odds that a window is not of a patient like those
    learned from. `orientation` reads the window.

    A decoder reconstructs the window. A second, linear one, used only in training, describes it: from z it predicts
    `composition`. Both are likelihoods of one generative model, p(x | z) · p(composition of x | z).
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        heads: tuple[nn.Module, nn.Module],
        decoder: nn.Module,
        *,
        parts: EncoderParts,
        describer: nn.Module,
        clip: Clip | None = None,
        outlier: nn.Linear | None = None,
        orientation: Orientation | None = None,
        moments: bool = False,
        arcsinh: Arcsinh | None = None,
        layers: Sequence[Layer],
        window_voxels: Size,
    ) -> None:
        super().__init__(stages, heads, decoder, layers=layers, window_voxels=window_voxels)
        self.fold, self.patches, self.squeeze, self.dense = parts
        self.describer, self.clip, self.outlier, self.orientation = describer, clip, outlier, orientation
        self.moments, self.arcsinh = moments, arcsinh

    @property
    def tap_names(self) -> tuple[str, ...]:
        """All taps: `mu`, `sigma`, the stages, `pooled`, `dense`; `outlier` and `orientation` where they are there."""
        there = {OUTLIER: self.outlier, ORIENTATION: self.orientation}
        return (*super().tap_names, "pooled", "dense", *(name for name, part in there.items() if part is not None))

    def trunk(self, x: Tensor) -> Tensor:
        """Return what the heads read, (n, values): `dense` and `pooled`, of windows (n, 1, d, h, w) in [0, 1]."""
        return self._read(self._seen(x))

    def heads(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mu, log-variance), (n, latents) each, from the output of `trunk`."""
        mu, logvar = super().heads(read)
        if self.arcsinh is None:
            return mu, logvar
        return self.arcsinh(mu), self.arcsinh.log_variance(mu, logvar)

    def taps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the named taps, all from one forward pass; sigma = exp(log-variance / 2)."""
        found = self._seen(x)
        read = self._read(found)
        mu, logvar = self.heads(read)
        found |= {"mu": mu, "sigma": torch.exp(0.5 * logvar)}
        if self.outlier is not None:
            found[OUTLIER] = self.outlier(read)
        if self.orientation is not None and ORIENTATION in names:
            found[ORIENTATION] = self.orientation(x)
        return {name: found[name] for name in names}

    def _read(self, seen: Mapping[str, Tensor]) -> Tensor:
        read = torch.cat([seen["dense"], seen["pooled"]], 1)
        return read if self.clip is None else self.clip(read)

    def describe(self, z: Tensor) -> Tensor:
        """Return the composition predicted from z, (n, values)."""
        described: Tensor = self.describer(z)
        return described

    def describable(self, x: Tensor) -> Tensor:
        """Return the target of `describe` for windows (n, 1, d, h, w): their composition, (n, values)."""
        return composition(self.patches(self.fold(x)))

    def content(self, x: Tensor) -> Tensor:
        """Return what the heads read of what a window holds, wherever it lies: (n, values) of (n, 1, d, h, w)."""
        return self.trunk(x)[:, self.content_readings]

    @property
    def content_readings(self) -> Tensor:
        """Which of what the heads read tell what a window holds: all but `dense` and the moments."""
        assert isinstance(self.mu, nn.Linear)
        untrained = self.untrained_readings
        composition = range(untrained.start, untrained.start + composed(self.patches.channels))
        return torch.tensor([*composition, *range(untrained.stop, self.mu.in_features)])

    @property
    def untrained_readings(self) -> slice:
        """Where among what the heads read the values are that no training makes: `untrained`."""
        linear = self.dense[0]
        assert isinstance(linear, nn.Linear)
        return slice(linear.out_features, linear.out_features + len(self.untrained_weights(1.0, 1.0)))

    def untrained_weights(self, composition: float, moments: float) -> Tensor:
        """Return a weight for each value of `untrained`, (values,)."""
        channels = self.patches.channels
        counts = [composed(channels), moment_values(channels) if self.moments else 0]
        return torch.tensor([composition, moments]).repeat_interleave(torch.tensor(counts))

    def untrained(self, x: Tensor) -> Tensor:
        """Return the readings that no training makes, (n, values), of windows (n, 1, d, h, w)."""
        return self._untrained(self.patches(self.fold(x)))

    def _untrained(self, statistics: Tensor) -> Tensor:
        found = composition(statistics)
        return torch.cat([found, moments(statistics)], 1) if self.moments else found

    def _seen(self, x: Tensor) -> dict[str, Tensor]:
        folded = self.fold(x)
        statistics = self.patches(folded)
        h, pooled = torch.cat([folded, statistics], 1), [self._untrained(statistics)]
        found: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            found[name] = h = stage(h)
            if name != "stem":
                pooled.append(mean_and_spread(functional.silu(h)))
        found["pooled"] = torch.cat(pooled, 1)
        found["dense"] = self.dense(torch.cat([self.squeeze(h), found["pooled"]], 1))
        return found


def composition(statistics: Tensor) -> Tensor:
    """Return the content of a window, (n, composed(c)), from its patches' `PatchStatistics` (n, c, d, h, w).

    It begins with square roots of the fractions of the window around each level (triangular bins of a soft histogram,
    which add up to 1): distances between square roots of fractions are Hellinger's, in which a little bone among much
    air counts properly. Then come mean and standard deviation over the patches of gradient and standard deviation. All
    are scaled to vary between windows by about as much as a latent.
    """
    filled, texture = statistics[:, :-2], statistics[:, -2:]
    ones, zeros = torch.ones_like(filled[:, :1]), torch.zeros_like(filled[:, :1])
    parts = (torch.cat([ones, filled], 1) - torch.cat([filled, zeros], 1)).mean((2, 3, 4))
    return torch.cat([10 * (parts.clamp_min(0.0) + 1e-3).sqrt(), 4 * mean_and_spread(texture)], 1)


def composed(channels: int) -> int:
    """Return the number of values of a composition, from the channels of the statistics."""
    return channels - 1 + 4


def moments(statistics: Tensor) -> Tensor:
    """Return where what lies above each level is, (n, moment_values(c)), from `PatchStatistics` (n, c, d, h, w).

    For each level: the centroid along slices, rows and columns, of all levels together; then half the logarithm of the
    variance about it, along the same axes: moments of first and second order (Hu 1962, doi 10.1109/TIT.1962.1057692) of
    how far the patches are filled. Positions run from -1 to 1 across the window. What is less than a few cm³ counts as
    if it lay in the middle. Scaled as a composition is.
    """
    filled = statistics[:, :-2]
    total = filled.sum((2, 3, 4)) + _LEAST_PATCHES
    centres, spreads = [], []
    for axis in (2, 3, 4):
        length = filled.shape[axis]
        along = filled.sum([other for other in (2, 3, 4) if other != axis])
        position = torch.linspace(-1.0, 1.0, length, dtype=filled.dtype, device=filled.device)
        centre = (along * position).sum(2) / total
        variance = (along * (position - centre[:, :, None]).square()).sum(2) / total
        centres.append(7.5 * centre)
        spreads.append(1.25 * (variance + 0.01).log())
    return torch.cat(centres + spreads, 1)


def moment_values(channels: int) -> int:
    """Return the number of values of `moments`, from the channels of the statistics."""
    return 6 * (channels - 2)
