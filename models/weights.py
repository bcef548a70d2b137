"""The weights of a network as safetensors: names and float32 tensors, nothing that could be executed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.spec import BundleError


def read_weights(weights: bytes) -> dict[str, NDArray[np.float32]]:
    """Name → float32 tensor, of the bytes of a safetensors file.

    Raises:
        BundleError: not safetensors, or not float32.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(weights)
    except (SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise BundleError(f"model.safetensors is damaged or holds a type other than float32: {error}") from error
    wrong = sorted(name for name, tensor in tensors.items() if tensor.dtype != np.float32)
    if wrong or not tensors:
        raise BundleError(f"model.safetensors has {', '.join(wrong[:3]) or 'nothing'} not in float32; expected float32")
    return tensors
