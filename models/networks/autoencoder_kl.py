"""MONAI's AutoencoderKL and MAISI's autoencoder as architectures, read at their posterior mean.

They are autoencoders of latent diffusion (Rombach et al. 2022, arXiv:2112.10752; Pinaya et al. 2022, arXiv:2209.07162;
MAISI: Guo et al. 2024, arXiv:2409.11169). Their latent is dense: a grid of a few channels. For training it is
flattened, and each of its values is a latent. For reading:

- `latent` and `latent_sigma` are the grid's posterior mean and standard deviation, MONAI's `encode()`;
- `mu` is the mean of `latent` over the grid, one number per channel, and `sigma` the standard deviation of the equal
  mixture of the grid's posteriors, √(mean(sigma²) + variance(mu)): positions form a window as windows form a series.

MONAI's own `forward` and `encode_stage_2_inputs` draw a sample; neither is used here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.vae import Layer, Size, Vae
from models.spec import BundleError

logger = logging.getLogger(__name__)

NATIVE_AXES = "SPL"
"""Axes of ctvae's windows: (z, y, x) towards the head (superior), the back (posterior) and the left."""

_SIDES = {"S": (0, False), "I": (0, True), "P": (1, False), "A": (1, True), "L": (2, False), "R": (2, True)}


def autoencoder_kl(
    *,
    window_voxels: Size = (32, 96, 96),
    channels: tuple[int, ...] = (32, 64, 64, 64),
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2),
    attention_levels: tuple[bool, ...] = (False, False, True, True),
    latent_channels: int = 3,
    norm_num_groups: int = 32,
    norm_eps: float = 1e-6,
    with_encoder_nonlocal_attn: bool = True,
    with_decoder_nonlocal_attn: bool = True,
    use_convtranspose: bool = False,
    include_fc: bool = True,
    use_combined_linear: bool = False,
    axes: str = NATIVE_AXES,
) -> DenseVae:
    """Return `monai.networks.nets.AutoencoderKL` in 3D with one channel; parameters and defaults are MONAI's.

    Only `axes` is added: the axes of the arrays it was trained on, in MONAI's letters. `SPL` are those of ctvae's
    windows, `RAS` those that `Orientationd(axcodes="RAS")` produces.
    """
    from monai.networks.nets.autoencoderkl import AutoencoderKL

    _check_levels(window_voxels, channels, num_res_blocks, attention_levels)
    net = AutoencoderKL(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=channels,
        num_res_blocks=num_res_blocks,
        attention_levels=attention_levels,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        norm_eps=norm_eps,
        with_encoder_nonlocal_attn=with_encoder_nonlocal_attn,
        with_decoder_nonlocal_attn=with_decoder_nonlocal_attn,
        use_convtranspose=use_convtranspose,
        include_fc=include_fc,
        use_combined_linear=use_combined_linear,
    )
    return _dense_vae(net, window_voxels, latent_channels, num_res_blocks, attention_levels, axes)


def autoencoder_kl_maisi(
    *,
    window_voxels: Size = (64, 128, 128),
    num_channels: tuple[int, ...] = (64, 128, 256),
    num_res_blocks: tuple[int, ...] = (2, 2, 2),
    attention_levels: tuple[bool, ...] = (False, False, False),
    latent_channels: int = 4,
    norm_num_groups: int = 32,
    norm_eps: float = 1e-6,
    with_encoder_nonlocal_attn: bool = False,
    with_decoder_nonlocal_attn: bool = False,
    use_convtranspose: bool = False,
    include_fc: bool = False,
    use_combined_linear: bool = False,
    axes: str = NATIVE_AXES,
) -> DenseVae:
    """Return `AutoencoderKlMaisi` of `monai.apps.generation.maisi`, one channel; defaults of MAISI's CT model.

    It is not split to save memory (`num_splits`), and its norms are not rounded to half precision (`norm_float16`):
    both concern where it runs, and the latter changes its numbers.
    """
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    _check_levels(window_voxels, num_channels, num_res_blocks, attention_levels)
    net = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_channels=num_channels,
        num_res_blocks=num_res_blocks,
        attention_levels=attention_levels,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        norm_eps=norm_eps,
        with_encoder_nonlocal_attn=with_encoder_nonlocal_attn,
        with_decoder_nonlocal_attn=with_decoder_nonlocal_attn,
        use_convtranspose=use_convtranspose,
        include_fc=include_fc,
        use_combined_linear=use_combined_linear,
        num_splits=1,
        save_mem=False,
    )
    return _dense_vae(net, window_voxels, latent_channels, num_res_blocks, attention_levels, axes)


@dataclass(frozen=True, slots=True)
class Axes:
    """Axes of the arrays a network was trained on, in MONAI's letters: `SPL`, `RAS` …; checked when made."""

    letters: str

    def __post_init__(self) -> None:
        known = [_SIDES[letter] for letter in self.letters if letter in _SIDES]
        if len(self.letters) != 3 or sorted(axis for axis, _ in known) != [0, 1, 2]:
            raise BundleError(f"axes are {self.letters!r}; expected three of R/L, A/P and S/I, such as SPL or RAS")

    def of_network(self, zyx: Size) -> Size:
        """Return sizes along (z, y, x) in the network's order."""
        first, second, third = (zyx[axis] for axis in self._order())
        return first, second, third

    def of_window(self, sizes: Size) -> Size:
        """Return sizes in the network's order along (z, y, x)."""
        order = self._order()
        z, y, x = (sizes[order.index(axis)] for axis in range(3))
        return z, y, x

    def to_network(self, windows: Tensor) -> Tensor:
        """Return windows (n, 1, z, y, x) in the network's axes."""
        turned = windows.permute(0, 1, *(axis + 2 for axis in self._order()))
        flipped = self._flipped()
        return turned.flip(flipped) if flipped else turned

    def from_network(self, decoded: Tensor) -> Tensor:
        """Return the network's output as windows (n, 1, z, y, x)."""
        order = self._order()
        return decoded.flip(self._flipped()).permute(0, 1, *(order.index(axis) + 2 for axis in range(3)))

    def _order(self) -> list[int]:
        """Return which of (z, y, x) each axis of the network is."""
        return [_SIDES[letter][0] for letter in self.letters]

    def _flipped(self) -> list[int]:
        """Return the network's dimensions that run in the opposite direction."""
        return [at for at, letter in enumerate(self.letters, 2) if _SIDES[letter][1]]


class DenseVae(Vae):
    """A VAE whose latent is a grid.

    Attributes:
        latent_shape: (channels, d, h, w), in the order of the network's own axes.
        axes: axes of the arrays that the network takes; windows are rearranged to them and back.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        heads: tuple[nn.Module, nn.Module],
        decoder: nn.Module,
        *,
        layers: Sequence[Layer],
        window_voxels: Size,
        latent_shape: tuple[int, int, int, int],
        axes: Axes,
    ) -> None:
        super().__init__(stages, heads, decoder, layers=layers, window_voxels=window_voxels)
        self.latent_shape = latent_shape
        self.axes = axes

    @property
    def tap_names(self) -> tuple[str, ...]:
        """All taps: `mu`, `sigma`, `latent`, `latent_sigma`, then the stages from input to latent."""
        return ("mu", "sigma", "latent", "latent_sigma", *self.stages)

    def trunk(self, x: Tensor) -> Tensor:
        """See `Vae`."""
        return super().trunk(self.axes.to_network(x))

    def heads(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mu, log-variance) of the dense latent, flattened: (n, channels × d × h × w) each."""
        return self.mu(read).flatten(1), self.logvar(read).flatten(1)

    def taps(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the named taps, all from one forward pass; the module describes them."""
        found: dict[str, Tensor] = {}
        x = self.axes.to_network(x)
        for name, stage in self.stages.items():
            found[name] = x = stage(x)
        mean, sigma = self.mu(x), torch.exp(0.5 * self.logvar(x))
        over_grid = (2, 3, 4)
        pooled = mean.mean(dim=over_grid, keepdim=True)
        variance = (sigma.square() + (mean - pooled).square()).mean(dim=over_grid)
        found |= {"latent": mean, "latent_sigma": sigma, "mu": pooled.flatten(1), "sigma": variance.sqrt()}
        return {name: found[name] for name in names}

    def decode(self, z: Tensor) -> Tensor:
        """Return windows (n, 1, d, h, w), not clipped, from latents flattened as in `encode`."""
        return self.axes.from_network(super().decode(z.reshape(len(z), *self.latent_shape)))

    def monai_names(self) -> dict[str, str]:
        """Return MONAI's name of each tensor → its name here."""
        found: dict[str, str] = {}
        block = 0
        for stage, modules in self.stages.items():
            assert isinstance(modules, nn.Sequential)
            for place, module in enumerate(modules):
                found |= {
                    f"encoder.blocks.{block}.{key}": f"stages.{stage}.{place}.{key}" for key in module.state_dict()
                }
                block += 1
        for ours, theirs in (
            ("mu", "quant_conv_mu"),
            ("logvar.0", "quant_conv_log_sigma"),
            ("decoder.0", "post_quant_conv"),
            ("decoder.1", "decoder"),
        ):
            found |= {f"{theirs}.{key}": f"{ours}.{key}" for key in self.get_submodule(ours).state_dict()}
        return found


def of_monai_generative(net_state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of monai-generative's AutoencoderKL under MONAI's names; other states stay as they are.

    It does what MONAI's own `AutoencoderKL.load_old_state_dict` does: attention blocks became a module `attn` with
    `out_proj` for `proj_attn`, and convolutions after an upsampling became `postconv`.

    Args:
        net_state: a state of either kind.
        expected: the tensors of MONAI's network, by its names.
    """
    state = dict(net_state)
    for block in [key.removesuffix(".attn.to_q.weight") for key in expected if key.endswith(".attn.to_q.weight")]:
        if f"{block}.to_q.weight" not in state:
            continue
        for part in ("to_q", "to_k", "to_v"):
            for kind in ("weight", "bias"):
                if f"{block}.{part}.{kind}" in state:
                    state[f"{block}.attn.{part}.{kind}"] = state.pop(f"{block}.{part}.{kind}")
        weight, bias = (state.pop(f"{block}.proj_attn.{kind}", None) for kind in ("weight", "bias"))
        if f"{block}.attn.out_proj.weight" in expected:
            like = expected[f"{block}.attn.out_proj.bias"]
            state[f"{block}.attn.out_proj.weight"] = torch.eye(len(like)) if weight is None else weight
            state[f"{block}.attn.out_proj.bias"] = torch.zeros(len(like)) if bias is None else bias
        elif weight is not None:
            logger.warning("%s.proj_attn is left out, as MONAI does: with include_fc false nothing uses it", block)
    for key in expected:
        before = key.replace(".postconv.", ".conv.")
        if key not in state and before != key and before in state:
            state[key] = state.pop(before)
    return state


def monai_state(net_state: Mapping[str, Tensor], vae: Vae, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the state of a MONAI network under the names that its weights have in the corresponding `Vae`.

    Args:
        net_state: tensors by MONAI's names.
        vae: the network to load.
        names: MONAI's name → name in `vae`.

    Raises:
        BundleError: keys are missing or superfluous, or a tensor has another shape.
    """
    own = vae.state_dict()
    net_state = of_monai_generative(net_state, {key: own[name] for key, name in names.items()})
    missing, unexpected = sorted(set(names) - set(net_state)), sorted(set(net_state) - set(names))
    if missing or unexpected:
        raise BundleError(
            f"the checkpoint lacks {_some(missing)} and has {_some(unexpected)} beyond the architecture; "
            "give the parameters that it was trained with"
        )
    for key, name in names.items():
        if own[name].shape != net_state[key].shape:
            raise BundleError(
                f"the checkpoint's {key} is {tuple(net_state[key].shape)}, the architecture's "
                f"{tuple(own[name].shape)}; give the parameters that it was trained with"
            )
    return {name: net_state[key] for key, name in names.items()}


def _dense_vae(
    net: Any,
    window_voxels: Size,
    latent_channels: int,
    num_res_blocks: tuple[int, ...],
    attention_levels: tuple[bool, ...],
    axes: str,
) -> DenseVae:
    """Return MONAI's network with its encoder cut into stages: one per level (`block1` …), and the rest as `neck`."""
    blocks = list(net.encoder.blocks)
    stages: dict[str, nn.Module] = {}
    layers = [Layer((3, 3, 3), (1, 1, 1))]
    at, local, levels = 0, True, len(num_res_blocks)
    for level, (count, attention) in enumerate(zip(num_res_blocks, attention_levels, strict=True), 1):
        last = level == levels
        end = max(at, 1) + count * (2 if attention else 1) + (not last)
        stages[f"block{level}"] = nn.Sequential(*blocks[at:end])
        at, local = end, local and not attention
        seen = [Layer((3, 3, 3), (1, 1, 1))] * (2 * count) + [Layer((3, 3, 3), (2, 2, 2))] * (not last)
        if local:  # from an attention layer on, each value sees the whole window
            layers += [*seen[:-1], Layer(seen[-1].kernel, seen[-1].stride, f"block{level}")]
    stages["neck"] = nn.Sequential(*blocks[at:])
    turned = Axes(axes)
    step = 2 ** (levels - 1)
    grid = [size // step for size in turned.of_network(window_voxels)]
    return DenseVae(
        stages,
        (net.quant_conv_mu, nn.Sequential(net.quant_conv_log_sigma, nn.Hardtanh(-30.0, 20.0))),
        nn.Sequential(net.post_quant_conv, net.decoder),
        layers=layers,
        window_voxels=window_voxels,
        latent_shape=(latent_channels, grid[0], grid[1], grid[2]),
        axes=turned,
    )


def _check_levels(
    window_voxels: Size, channels: tuple[int, ...], num_res_blocks: tuple[int, ...], attention: tuple[bool, ...]
) -> None:
    if not len(channels) == len(num_res_blocks) == len(attention):
        raise BundleError(
            f"channels {channels}, num_res_blocks {num_res_blocks} and attention_levels {attention} have different "
            "lengths; expected one of each per level"
        )
    step = 2 ** (len(channels) - 1)
    if any(size % step for size in window_voxels):
        raise BundleError(f"a window of {window_voxels} is not a multiple of {step}, as {len(channels)} levels require")


def _some(keys: Sequence[str]) -> str:
    named = ", ".join(keys[:2]) + (" …" if len(keys) > 2 else "")
    return f"{len(keys)} keys ({named})" if keys else "nothing"
