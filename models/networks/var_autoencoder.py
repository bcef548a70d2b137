"""MONAI's `VarAutoEncoder` as an architecture, read at its posterior mean.

In eval mode MONAI's own `forward` decodes mu + std unless `use_mean_at_inference` is set; neither is used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from models.networks.autoencoder_kl import NATIVE_AXES, Axes
from models.networks.vae import Layer, Size, Vae
from models.spec import BundleError


def var_autoencoder(
    *,
    window_voxels: Size = (32, 96, 96),
    latent_size: int = 32,
    channels: tuple[int, ...] = (16, 32, 64),
    strides: tuple[int, ...] = (2, 2, 2),
    kernel_size: int = 3,
    up_kernel_size: int = 3,
    num_res_units: int = 0,
    inter_channels: tuple[int, ...] = (),
    inter_dilations: tuple[int, ...] = (),
    num_inter_units: int = 2,
    act: str = "PRELU",
    norm: str = "INSTANCE",
    bias: bool = True,
    use_sigmoid: bool = True,
    axes: str = NATIVE_AXES,
) -> VarAutoEncoderVae:
    """Return `monai.networks.nets.VarAutoEncoder` in 3D, one channel; parameters are MONAI's, `axes` as for MAISI."""
    from monai.networks.nets import VarAutoEncoder

    turned = Axes(axes)
    _check(window_voxels, channels, strides, inter_channels, inter_dilations)
    net = VarAutoEncoder(
        spatial_dims=3,
        in_shape=(1, *turned.of_network(window_voxels)),
        out_channels=1,
        latent_size=latent_size,
        channels=channels,
        strides=strides,
        kernel_size=kernel_size,
        up_kernel_size=up_kernel_size,
        num_res_units=num_res_units,
        inter_channels=list(inter_channels),
        inter_dilations=list(inter_dilations),
        num_inter_units=num_inter_units,
        act=act,
        norm=norm,
        bias=bias,
        use_sigmoid=use_sigmoid,
    )
    stages: dict[str, nn.Module] = {f"block{number}": block for number, block in enumerate(net.encode, 1)}
    layers: list[Layer] = []
    for number, stride in enumerate(strides, 1):
        layers += _seen(kernel_size, stride, 1, max(1, num_res_units), f"block{number}")
    if inter_channels:
        stages["inter"] = net.intermediate
        for number, dilation in enumerate(inter_dilations or [1] * len(inter_channels), 1):
            tap = "inter" if number == len(inter_channels) else None
            layers += _seen(kernel_size, 1, dilation, max(1, num_inter_units), tap)
    deepest = (inter_channels or channels)[-1], *(int(size) for size in net.final_size)
    decoder = [net.decodeL, nn.ReLU(), nn.Unflatten(1, deepest), net.decode, *([nn.Sigmoid()] if use_sigmoid else [])]
    heads = nn.Sequential(nn.Flatten(), net.mu), nn.Sequential(nn.Flatten(), net.logvar)
    return VarAutoEncoderVae(
        stages, heads, nn.Sequential(*decoder), layers=layers, window_voxels=window_voxels, axes=turned
    )


class VarAutoEncoderVae(Vae):
    """A VAE that takes windows in its own axes."""

    def __init__(
        self,
        stages: dict[str, nn.Module],
        heads: tuple[nn.Module, nn.Module],
        decoder: nn.Module,
        *,
        layers: Sequence[Layer],
        window_voxels: Size,
        axes: Axes,
    ) -> None:
        super().__init__(stages, heads, decoder, layers=layers, window_voxels=window_voxels)
        self._axes = axes

    def trunk(self, x: Tensor) -> Tensor:
        """See `Vae`."""
        return super().trunk(self._axes.to_network(x))

    def taps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """See `Vae`."""
        return super().taps(self._axes.to_network(x), names)

    def decode(self, z: Tensor) -> Tensor:
        """See `Vae`."""
        return self._axes.from_network(super().decode(z))

    def monai_names(self) -> dict[str, str]:
        """Return MONAI's name of each tensor → its name here."""
        theirs = {f"stages.{stage}": f"encode.encode_{number}" for number, stage in enumerate(self.stages)}
        theirs |= {"stages.inter": "intermediate", "mu.1": "mu", "logvar.1": "logvar"}
        theirs |= {"decoder.0": "decodeL", "decoder.3": "decode"}
        found = {}
        for name in self.state_dict():
            ours = next(part for part in theirs if name.startswith(f"{part}."))
            found[theirs[ours] + name.removeprefix(ours)] = name
        return found


def _seen(kernel: int, stride: int, dilation: int, convolutions: int, tap: str | None) -> list[Layer]:
    """Return the layers of consecutive convolutions, the first of them strided, for the receptive field."""
    wide = (kernel - 1) * dilation + 1
    rows = [(wide, stride)] + [(wide, 1)] * (convolutions - 1)
    layers = [Layer((k, k, k), (s, s, s)) for k, s in rows]
    return [*layers[:-1], Layer(layers[-1].kernel, layers[-1].stride, tap)]


def _check(
    window_voxels: Size,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
    inter_channels: tuple[int, ...],
    inter_dilations: tuple[int, ...],
) -> None:
    if len(channels) != len(strides):
        raise BundleError(f"channels {channels} and strides {strides} have different lengths; expected one of each")
    step = math.prod(strides)
    if any(size % step for size in window_voxels):
        raise BundleError(f"a window of {window_voxels} is not a multiple of {step}, the product of the strides")
    for name, values in (("inter_channels", inter_channels), ("inter_dilations", inter_dilations)):
        if len(values) > 16 or not all(type(value) is int and 1 <= value <= 4096 for value in values):
            raise BundleError(f"{name} is {values}; expected at most 16 integers from 1 to 4096")
    if inter_dilations and len(inter_dilations) != len(inter_channels):
        raise BundleError(f"{len(inter_dilations)} inter_dilations; expected {len(inter_channels)}, as inter_channels")
