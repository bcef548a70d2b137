"""A VAE whose heads also see every stage pooled over the window, and which describes as well as reconstructs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.layers import Clip, Fold, Orientation, PatchStatistics, mean_and_spread
from models.networks.vae import Layer, Size, Vae
from models.spec import ORIENTATION, OUTLIER


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
    dense: nn.Module


class PooledVae(Vae):
    """Stages as in `Vae`, the first on folded patches and their statistics; then two more taps.

    `pooled` is the window's `composition`, with the mean and standard deviation over it of each stage but the first;
    `dense` is made of the last stage's grid and of `pooled`. The heads are linear in both, and so is `outlier`: the
    logarithm of the odds that a window is not of a patient like those learned from. `orientation` reads the window.

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
        layers: Sequence[Layer],
        window_voxels: Size,
    ) -> None:
        super().__init__(stages, heads, decoder, layers=layers, window_voxels=window_voxels)
        self.fold, self.patches, self.squeeze, self.dense = parts
        self.describer, self.clip, self.outlier, self.orientation = describer, clip, outlier, orientation

    @property
    def tap_names(self) -> tuple[str, ...]:
        """All taps: `mu`, `sigma`, the stages, `pooled`, `dense`; `outlier` and `orientation` where they are there."""
        there = {OUTLIER: self.outlier, ORIENTATION: self.orientation}
        return (*super().tap_names, "pooled", "dense", *(name for name, part in there.items() if part is not None))

    def trunk(self, x: Tensor) -> Tensor:
        """Return what the heads read, (n, values): `dense` and `pooled`, of windows (n, 1, d, h, w) in [0, 1]."""
        return self._read(self._seen(x))

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

    def _seen(self, x: Tensor) -> dict[str, Tensor]:
        folded = self.fold(x)
        statistics = self.patches(folded)
        h, pooled = torch.cat([folded, statistics], 1), [composition(statistics)]
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
