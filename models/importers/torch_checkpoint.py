"""A torch checkpoint of one of MONAI's autoencoders → a bundle's network. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.networks.autoencoder_kl import NATIVE_AXES, Axes, DenseVae, monai_state
from models.networks.registry import all_parameters, build_vae
from models.networks.var_autoencoder import VarAutoEncoderVae
from models.spec import BundleError
from models.weights import read_weights

ARCHITECTURES = ("autoencoder_kl", "autoencoder_kl_maisi", "var_autoencoder")

_ANCHORS = ("quant_conv_mu.conv.weight", "decodeL.weight")
"""A tensor that each network has; its name shows the prefix of the network's tensors."""

_STATES = ("state_dict", "unet_state_dict", "autoencoder_state_dict", "model_state_dict", "model", "net")
_PARAMETERS_BYTES = 1 << 20

# Arguments on how and where the network runs rather than what it computes, or that ctvae sets itself.
_NOT_NEEDED = {
    "_target_",
    "spatial_dims",
    "in_channels",
    "out_channels",
    "use_checkpoint",
    "use_checkpointing",
    "use_flash_attention",
    "num_splits",
    "dim_split",
    "norm_float16",
    "print_info",
    "save_mem",
    "dropout",
    "use_mean_at_inference",
}


def read_parameters(file: Path, architecture: str, axes: str = NATIVE_AXES) -> dict[str, Any]:
    """Return the network's parameters under MONAI's names, from a JSON object; `in_shape` becomes `window_voxels`.

    Args:
        file: a JSON file.
        architecture: one of `ARCHITECTURES`.
        axes: axes of the arrays it was trained on, which `in_shape` refers to.

    Raises:
        BundleError: it is not a JSON object, has other dimensions or channels, or an unknown parameter.
        OSError: the file cannot be opened.
    """
    try:
        if file.stat().st_size > _PARAMETERS_BYTES:
            raise ValueError("too large")
        given = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError("the parameters are not JSON; expected an object of the network's arguments") from error
    if not isinstance(given, dict):
        raise BundleError("the parameters are not a JSON object; expected the network's arguments by their names")
    for name, expected in (("spatial_dims", 3), ("in_channels", 1), ("out_channels", 1)):
        if given.get(name, expected) != expected:
            raise BundleError(f"{name} is {given[name]!r}; expected {expected}: a window of CT is 3D with one channel")
    needed = {name: value for name, value in given.items() if name not in _NOT_NEEDED}
    if "in_shape" in needed:
        needed.setdefault("window_voxels", _window(needed.pop("in_shape"), axes))
    channels = needed.get("channels", needed.get("num_channels"))
    if isinstance(needed.get("num_res_blocks"), int) and isinstance(channels, list):
        needed["num_res_blocks"] = [needed["num_res_blocks"]] * len(channels)
    known = all_parameters(architecture, {})
    unknown = sorted(set(needed) - set(known))
    if unknown:
        raise BundleError(f"{architecture} has no parameter {', '.join(unknown[:3])}; it has {', '.join(known)}")
    return needed


def _window(in_shape: Any, axes: str) -> list[int]:
    """Return (z, y, x) from MONAI's (channel, …), in the axes of the network."""
    good = isinstance(in_shape, list) and len(in_shape) == 4 and all(type(length) is int for length in in_shape)
    if not good or in_shape[0] != 1:
        raise BundleError(
            f"in_shape is {repr(in_shape)[:60]}; expected [1, …] and three sizes: a window has one channel"
        )
    return list(Axes(axes).of_window((in_shape[1], in_shape[2], in_shape[3])))


def import_checkpoint(
    file: Path, architecture: str, parameters: Mapping[str, Any]
) -> tuple[DenseVae | VarAutoEncoderVae, str]:
    """Return the network with the checkpoint's weights in float32 and eval mode, and the checkpoint's SHA-256.

    Raises:
        BundleError: the file holds something other than tensors, or they do not fit the architecture.
        OSError: the file cannot be opened.
    """
    if architecture not in ARCHITECTURES:
        raise BundleError(f"architecture is {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    state = _state(_loaded(file))
    with torch.device("meta"):
        vae = build_vae(architecture, parameters)
    assert isinstance(vae, (DenseVae, VarAutoEncoderVae))
    vae.load_state_dict(monai_state(state, vae, vae.monai_names()), assign=True)
    with file.open("rb") as opened:
        return vae.eval(), hashlib.file_digest(opened, "sha256").hexdigest()


def _loaded(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return {name: torch.from_numpy(tensor) for name, tensor in read_weights(file.read_bytes()).items()}
    file.open("rb").close()  # else the reason of the system would be lost among torch's
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's errors have no common base but Exception
        raise BundleError(
            f"the checkpoint cannot be read without executing it, or is damaged ({type(error).__name__}); "
            "save its state_dict alone: torch.save(net.state_dict(), file)"
        ) from error


def _state(loaded: Any) -> dict[str, Tensor]:
    """Return the network's tensors by MONAI's names, without the wrapping and additions of training scripts.

    Raises:
        BundleError: there is something other than tensors, two networks, or a tensor that is not finite.
    """
    for key in _STATES:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        kind = type(loaded).__name__
        raise BundleError(f"the checkpoint holds a {kind} with more than tensors; expected a state_dict")
    prefix = _prefix([str(key) for key in loaded])
    state: dict[str, Tensor] = {}
    for key, tensor in loaded.items():
        if not str(key).startswith(prefix):
            continue
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"the checkpoint's {key} holds NaN or infinity; train again or get an undamaged copy")
        state[str(key).removeprefix(prefix)] = tensor.detach().to(torch.float32).contiguous()
    return state


def _prefix(keys: list[str]) -> str:
    """Return the prefix of the network's tensors: `module.`, or `autoencoder.` beside a `discriminator.`."""
    found = sorted({key.removesuffix(anchor) for anchor in _ANCHORS for key in keys if key.endswith(anchor)})
    usable = [prefix for prefix in found if not prefix or prefix.endswith(".")]
    if len(usable) > 1:
        named = ", ".join(repr(prefix) for prefix in usable[:4])
        raise BundleError(f"the checkpoint holds {len(usable)} networks, below {named}; save only the one to import")
    return usable[0] if usable else ""
