"""What all networks share: named stages, two heads, a decoder; and the receptive fields of stages.

An encoder is a sequence of named stages, each a tap, and two heads, mu and log-variance of the posterior q(z|x)
(Kingma and Welling 2014, arXiv:1312.6114). Tensors are (n, channels, d, h, w), axes (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.spec import BundleError

Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """The part of a layer that a receptive field depends on: kernel and stride (z, y, x), and the tap that it ends."""

    kernel: Size
    stride: Size
    tap: str | None = None


class Vae(nn.Module):
    """Encoder with named taps, and decoder.

    Attributes:
        decoder: None for an encoder without one.
        stages: name → module, one after the other; each name is a tap.
        layers: layers of the convolutional part, for the receptive fields.
        window_voxels: (d, h, w) of its input.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        heads: tuple[nn.Module, nn.Module],
        decoder: nn.Module | None,
        *,
        layers: Sequence[Layer],
        window_voxels: Size,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.mu, self.logvar = heads
        self.decoder = decoder
        self.layers = tuple(layers)
        self.window_voxels = window_voxels

    @property
    def tap_names(self) -> tuple[str, ...]:
        """All taps: `mu`, `sigma`, then the stages from input to heads."""
        return ("mu", "sigma", *self.stages)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mu, log-variance), (n, latents) each, of windows (n, 1, d, h, w) in [0, 1]."""
        return self.heads(self.trunk(x))

    def trunk(self, x: Tensor) -> Tensor:
        """Return what the heads read, (n, …), of windows (n, 1, d, h, w) in [0, 1]."""
        for stage in self.stages.values():
            x = stage(x)
        return x

    def heads(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mu, log-variance), (n, latents) each, from the output of `trunk`."""
        return self.mu(read), self.logvar(read)

    def taps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the named taps, all from one forward pass; sigma = exp(log-variance / 2)."""
        found: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            found[name] = x = stage(x)
        found["mu"] = self.mu(x)
        found["sigma"] = torch.exp(0.5 * self.logvar(x))
        return {name: found[name] for name in names}

    def decode(self, z: Tensor) -> Tensor:
        """Return windows (n, 1, d, h, w), not clipped, from latents (n, latents).

        Raises:
            BundleError: there is no decoder.
        """
        if self.decoder is None:
            raise BundleError("this network is an encoder without a decoder; it cannot reconstruct")
        decoded: Tensor = self.decoder(z)
        return decoded


def receptive_fields(layers: Sequence[Layer]) -> dict[str, Size]:
    """Return tap → number of input voxels (z, y, x) that one of its values sees through the convolutions.

    It follows the recursion r ← r + (k - 1)·j, j ← j·s. Normalisation is ignored: GroupNorm's mean and variance are
    taken over the whole window.
    """
    field, jump, found = [1, 1, 1], [1, 1, 1], {}
    for layer in layers:
        field = [seen + (kernel - 1) * step for seen, kernel, step in zip(field, layer.kernel, jump, strict=True)]
        jump = [step * stride for step, stride in zip(jump, layer.stride, strict=True)]
        if layer.tap is not None:
            found[layer.tap] = (field[0], field[1], field[2])
    return found


def halved(size: Size, times: int) -> Size:
    """Return the size of a grid after this number of halvings.

    Raises:
        BundleError: a length cannot be halved so often.
    """
    step = 2**times
    if any(length % step for length in size):
        raise BundleError(f"a grid of {size} cannot be halved {times} times; choose a window that can")
    return size[0] // step, size[1] // step, size[2] // step
