"""A torch checkpoint of MONAI's AutoencoderKL or AutoencoderKlMaisi → a bundle's network. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.networks.autoencoder_kl import DenseVae, monai_state
from models.networks.registry import all_parameters, build_vae
from models.spec import BundleError
from models.weights import read_weights

ARCHITECTURES = ("autoencoder_kl", "autoencoder_kl_maisi")

_STATES = ("state_dict", "unet_state_dict", "autoencoder_state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "autoencoder.", "model.", "net.")
_PARAMETERS_BYTES = 1 << 20

# Of how and where it runs, and not of what it computes; or what we say ourselves.
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
}


def read_parameters(file: Path, architecture: str) -> dict[str, Any]:
    """The network's parameters as MONAI names them, of a JSON object.

    Raises:
        BundleError: no JSON object, another number of dimensions or channels, or a parameter that is not known.
    """
    try:
        if file.stat().st_size > _PARAMETERS_BYTES:
            raise ValueError("too large")
        given = json.loads(file.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read the parameters ({error.strerror}); expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise BundleError("the parameters are not JSON; expected an object of the network's arguments") from error
    if not isinstance(given, dict):
        raise BundleError("the parameters are no JSON object; expected the network's arguments by their names")
    for name, expected in (("spatial_dims", 3), ("in_channels", 1), ("out_channels", 1)):
        if given.get(name, expected) != expected:
            raise BundleError(f"{name} is {given[name]!r}; expected {expected}: a window of CT is 3D with one channel")
    needed = {name: value for name, value in given.items() if name not in _NOT_NEEDED}
    channels = needed.get("channels", needed.get("num_channels"))
    if isinstance(needed.get("num_res_blocks"), int) and isinstance(channels, list):
        needed["num_res_blocks"] = [needed["num_res_blocks"]] * len(channels)
    known = all_parameters(architecture, {})
    unknown = sorted(set(needed) - set(known))
    if unknown:
        raise BundleError(f"{architecture} has no parameter {', '.join(unknown[:3])}; it has {', '.join(known)}")
    return needed


def import_checkpoint(file: Path, architecture: str, parameters: Mapping[str, Any]) -> tuple[DenseVae, str]:
    """The network with the checkpoint's weights in float32 and eval mode, and the checkpoint's SHA-256.

    Raises:
        BundleError: the file holds something else than tensors, or they do not fit the architecture.
    """
    if architecture not in ARCHITECTURES:
        raise BundleError(f"architecture is {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    state = _state(_loaded(file))
    with torch.device("meta"):
        vae = build_vae(architecture, parameters)
    assert isinstance(vae, DenseVae)
    vae.load_state_dict(monai_state(state, vae), assign=True)
    return vae.eval(), hashlib.sha256(file.read_bytes()).hexdigest()


def _loaded(file: Path) -> Any:
    if not file.is_file():
        raise BundleError("no such checkpoint; expected a file that torch.save wrote, or safetensors")
    if file.suffix == ".safetensors":
        return {name: torch.from_numpy(tensor) for name, tensor in read_weights(file.read_bytes()).items()}
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's errors have no common base but Exception
        raise BundleError(
            f"the checkpoint cannot be read without executing it, or is damaged ({type(error).__name__}); "
            "save its state_dict alone: torch.save(net.state_dict(), file)"
        ) from error


def _state(loaded: Any) -> dict[str, Tensor]:
    """The tensors by MONAI's names: out of the dictionary that training scripts wrap them in, without prefixes."""
    for key in _STATES:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        kind = type(loaded).__name__
        raise BundleError(f"the checkpoint holds a {kind} with other things than tensors; expected a state_dict")
    state = {str(key): tensor for key, tensor in loaded.items()}
    while True:
        prefix = next((one for one in _PREFIXES if all(key.startswith(one) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return {key: tensor.detach().to(torch.float32).contiguous() for key, tensor in state.items()}
