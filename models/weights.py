"""The weights of a network as safetensors: names and float32 tensors, nothing that could be executed.

The format (github.com/huggingface/safetensors, "Format"): the length of the header as a little-endian uint64, the
header, a JSON object, and then the tensors' bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.spec import BundleError

LARGEST_BYTES = 4 << 30

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of a ZIP archive, which `torch.save` writes, and of a bare pickle of protocol 2 or later."""


def is_pickle(start: bytes, size: int) -> bool:
    """Return whether a file begins like a pickle and does not have the form of safetensors.

    A safetensors file may begin with the same bytes: 0x80 is a header whose length is 128 modulo 256.

    Args:
        start: at least the first nine bytes of the file.
        size: size of the file in bytes.
    """
    length = int.from_bytes(start[:8], "little")
    safetensors = 2 <= length <= size - 8 and start[8:9] == b"{"
    return start.startswith(_PICKLE_STARTS) and not safetensors


def check_weights(file: Path) -> None:
    """Check that a file is safetensors of finite float32; only one tensor is in memory at a time.

    Raises:
        BundleError: it is not.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            names = sorted(tensors.keys())
            _check_types({name: tensors.get_slice(name).get_dtype() for name in names})
            for name in names:
                if not np.isfinite(tensors.get_tensor(name)).all():
                    raise BundleError(f"weights {name} hold NaN or infinity; train again or get an undamaged copy")
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"model.safetensors is damaged: {error}; get an undamaged copy") from error


def read_weights(weights: bytes) -> dict[str, NDArray[np.float32]]:
    """Return name → float32 tensor from the bytes of a safetensors file.

    Raises:
        BundleError: the file is not safetensors, or not float32.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(weights)
    except (SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise BundleError(f"model.safetensors is damaged or holds a type other than float32: {error}") from error
    _check_types({name: "F32" if tensor.dtype == np.float32 else str(tensor.dtype) for name, tensor in tensors.items()})
    return tensors


def _check_types(types: Mapping[str, str]) -> None:
    wrong = sorted(name for name, kind in types.items() if kind != "F32")
    if wrong:
        raise BundleError(f"model.safetensors has {', '.join(wrong[:3])} in another type; expected float32")
    if not types:
        raise BundleError("model.safetensors holds no tensor; expected the weights of a network in float32")
