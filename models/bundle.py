"""A model bundle: weights, and all that is needed to use them in the same way twice.

The layout is MONAI's (docs.monai.io, "MONAI Bundle Specification"):

    ct_vae/
      configs/metadata.json      MONAI's metadata, and under "ctvae" what this module reads
      models/model.safetensors   encoder and decoder; its SHA-256 is the identity of the model
      models/encoder.onnx        the encoder alone, every tap an output, for the CPU
      docs/README.md             the model card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

FORMAT_VERSION = 1


class BundleError(Exception):
    """A bundle that cannot be used: one line that says what was found, what was expected, what to do."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From HU on the scanner's grid to what the network was trained on. The same for training and inference.

    Attributes:
        fit: `window`: the scan is resampled to `spacing_mm` and covered by overlapping windows along z, centred in
            plane; `resize`: the whole scan is resized to one window, whatever its extent.
        window_voxels: (d, h, w) of a window; axes (z, y, x) towards head, back and left.
        spacing_mm: (z, y, x) of a window's voxels; None with `resize`.
        window_hu: (low, high): mapped to 0 and 1, clipped outside.
        overlap: part of a window that the next one along z covers too, 0 ≤ overlap < 1, at the least.
    """

    fit: Literal["window", "resize"]
    window_voxels: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    window_hu: tuple[float, float]
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if self.fit not in ("window", "resize"):
            raise BundleError(f"preprocessing fit is {self.fit!r}; expected 'window' or 'resize'")
        if (self.fit == "window") != (self.spacing_mm is not None):
            raise BundleError("preprocessing needs spacing_mm with fit 'window' and none with fit 'resize'")
        if len(self.window_voxels) != 3 or min(self.window_voxels) < 1:
            raise BundleError(f"preprocessing window_voxels is {self.window_voxels}; expected three positive integers")
        if self.spacing_mm is not None and (len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0):
            raise BundleError(f"preprocessing spacing_mm is {self.spacing_mm}; expected three positive lengths")
        if len(self.window_hu) != 2 or not self.window_hu[0] < self.window_hu[1]:
            raise BundleError(f"preprocessing window_hu is {self.window_hu}; expected (low, high) with low < high")
        if not 0 <= self.overlap < 1:
            raise BundleError(f"preprocessing overlap is {self.overlap}; expected 0 <= overlap < 1")

    def parameters(self) -> dict[str, Any]:
        """All parameters as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def digest(self) -> str:
        """SHA-256 of the parameters, in hex."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TapSpec:
    """A place in the encoder from which features can be read.

    Attributes:
        name: `mu`, `sigma` or a layer; also the name of the ONNX output.
        shape: of its output for one window: (length,) or (channels, d, h, w).
        pooling: how it becomes a vector: `none` for a vector, `mean` over the grid for a layer.
        receptive_field_mm: (z, y, x) that one value of it sees; None where that is the whole window.
    """

    name: str
    shape: tuple[int, ...]
    pooling: str
    receptive_field_mm: tuple[float, float, float] | None = None

    @property
    def length(self) -> int:
        """Length of the pooled vector."""
        return self.shape[0]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was found, read and checked against its digests; no weights are loaded yet."""

    path: Path
    name: str
    version: str
    architecture: str
    architecture_parameters: Mapping[str, Any]
    preprocessing: Preprocessing
    taps: tuple[TapSpec, ...]
    weights_sha256: str

    @property
    def weights_path(self) -> Path:
        """Encoder and decoder, safetensors."""
        return self.path / "models" / "model.safetensors"

    @property
    def onnx_path(self) -> Path:
        """The encoder, every tap an output."""
        return self.path / "models" / "encoder.onnx"
