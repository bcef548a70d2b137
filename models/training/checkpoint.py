"""A training's state in one file: safetensors with the rest as JSON in its header. Nothing in it can be executed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FORMAT = 1
_KEY = "ctvae_training"


class CheckpointError(Exception):
    """A checkpoint that training cannot resume from; the message is one line and names no file."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; a kill at any moment leaves the previous checkpoint or the new one.

    Args:
        path: the file; its folder is created.
        tensors: tensors by name.
        state: JSON values.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, unfinished, {_KEY: json.dumps({"format": FORMAT, **state}, allow_nan=False)})
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    unfinished.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, state).

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError("the checkpoint is damaged or none of ctvae's; remove it to train anew") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"the checkpoint is not of format {FORMAT}, which this version reads; remove it")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise CheckpointError("the checkpoint holds values that are not finite; remove it to train anew")
    return tensors, state


def digest_of(scans: Sequence[NDArray[np.floating[Any]]], start: Mapping[str, Tensor] | None) -> str:
    """Return a digest of what a training starts from: number and size of each scan's windows, one window each, weights.

    It distinguishes lists of scans without reading them completely.
    """
    digest = hashlib.sha256()
    for windows in scans:
        digest.update(f"{windows.shape} {windows.dtype}".encode())
        if len(windows):
            digest.update(np.ascontiguousarray(windows[len(windows) // 2]).tobytes())
    for name, tensor in sorted((start or {}).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
