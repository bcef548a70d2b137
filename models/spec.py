"""The nouns of a bundle: what it states about itself, checked when it is made."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from models.training_record import TrainingRecord

POOLINGS = ("none", "mean", "max", "std", "flatten")
ARRAYS_ONLY: Final = "array"

LARGEST_VALUES = 1 << 27
"""Limit for the values of a window or tap; as float32 512 MiB. A bundle with more would use up all memory."""
SPACING_MM = (0.01, 1000.0)
"""Least and largest spacing of a window's voxels, in mm: that of micro-CT, and a body in one voxel."""


OUTLIER: Final = "outlier"
"""Tap of one value of a `ct_vae`: logarithm of the odds that a window is not of a patient like those learned from."""

ORIENTATION: Final = "orientation"
"""Tap of two values of a `ct_vae`: logarithm of the odds that a chest is upside down, and that it is back to front."""


class BundleError(Exception):
    """A bundle that cannot be used: one line that says what was found, what was expected, what to do."""

    reason: ClassVar[str] = "BUNDLE_INVALID"


def one_line(error: Exception) -> str:
    """Return the text of another library's error in one line of at most 200 characters, to be quoted in ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class InTheWayError(BundleError):
    """Something that ctvae did not write stands where a bundle, or a file of one, is to be written."""

    reason: ClassVar[str] = "OUTPUT_IN_THE_WAY"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How HU on the scanner's grid become what the network was trained on; the same for training and inference.

    A network whose preprocessing nobody recorded has fit `array` (made by `arrays_only(window_voxels)`): `ctvae bundle
    run` gives it arrays that are windows already, and `encode` refuses it.

    Attributes:
        fit: `window`: the scan is resampled to `spacing_mm` and covered by overlapping windows along z, centred in
            plane; `resize`: the whole scan is resized to one window, whatever its extent; `array`: not known.
        window_voxels: (d, h, w) of a window; axes (z, y, x) towards head, back and left.
        spacing_mm: (z, y, x) of a window's voxels; None except with `window`.
        window_hu: (low, high): mapped to 0 and 1, clipped outside; meaningless with `array`.
        overlap: minimum fraction of a window that the next one along z covers too, 0 ≤ overlap < 1.
        outside: what lies outside of the patient (`models.statistics.body.patient_mask`), such as the table: `kept`, or
            `air`, the low end of `window_hu`.
    """

    fit: Literal["window", "resize", "array"]
    window_voxels: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    window_hu: tuple[float, float]
    overlap: float = 0.5
    outside: Literal["kept", "air"] = "kept"

    def __post_init__(self) -> None:
        if self.fit not in ("window", "resize", ARRAYS_ONLY):
            raise BundleError(f"preprocessing fit is {self.fit!r}; expected 'window', 'resize' or 'array'")
        if (self.fit == "window") != (self.spacing_mm is not None):
            raise BundleError(f"preprocessing needs spacing_mm with fit 'window' and none with fit {self.fit!r}")
        if len(self.window_voxels) != 3 or min(self.window_voxels) < 1:
            raise BundleError(f"preprocessing window_voxels is {self.window_voxels}; expected three positive integers")
        if math.prod(self.window_voxels) > LARGEST_VALUES:
            raise BundleError(
                f"preprocessing window_voxels is {self.window_voxels}; expected at most {LARGEST_VALUES} in all"
            )
        low, high = SPACING_MM
        if self.spacing_mm is not None and not (
            len(self.spacing_mm) == 3 and low <= min(self.spacing_mm) and max(self.spacing_mm) <= high
        ):
            raise BundleError(
                f"preprocessing spacing_mm is {self.spacing_mm}; expected three lengths from {low:g} to {high:g} mm"
            )
        if len(self.window_hu) != 2 or not self.window_hu[0] < self.window_hu[1]:
            raise BundleError(f"preprocessing window_hu is {self.window_hu}; expected (low, high) with low < high")
        if not 0 <= self.overlap < 1:
            raise BundleError(f"preprocessing overlap is {self.overlap}; expected 0 <= overlap < 1")
        if self.outside not in ("kept", "air"):
            raise BundleError(f"preprocessing outside is {self.outside!r}; expected 'kept' or 'air'")

    def parameters(self) -> dict[str, Any]:
        """Return all parameters as plain JSON values; `outside` only where it is not kept.

        Bundles of before there was `outside` keep their digests.
        """
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if self.outside == "kept":
            del plain["outside"]
        return plain

    def digest(self) -> str:
        """Return the SHA-256 of the parameters, in hex."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()


def arrays_only(window_voxels: tuple[int, int, int]) -> Preprocessing:
    """Return the preprocessing of a network of which only the input size is known."""
    return Preprocessing(ARRAYS_ONLY, window_voxels, None, (0.0, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class TapSpec:
    """A place in the encoder from which features can be read.

    Attributes:
        name: `mu`, `sigma` or a layer; also the name of the ONNX output.
        shape: shape of its output for one window: (length,) or (channels, d, h, w).
        pooling: how it becomes a vector by default: `none` for a vector; for a grid `mean`, `max` or `std` of each
            channel, `flatten` (all values, channels first), or `none`, which keeps the grid.
        receptive_field_mm: (z, y, x) that one of its values sees through the convolutions; None where that is the whole
            window, or where the bundle fixes no spacing.
    """

    name: str
    shape: tuple[int, ...]
    pooling: str
    receptive_field_mm: tuple[float, float, float] | None = None

    @property
    def length(self) -> int:
        """Number of values after pooling."""
        return math.prod(self.shape) if self.pooling in ("none", "flatten") else self.shape[0]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was found, read and checked against its digests; no weights are loaded yet.

    Attributes:
        weights_sha256: digest of `model.safetensors`: the identity of the model.
        onnx_sha256: digest of `encoder.onnx`.
        training: what is on record about how it was made.
        decoder_sha256: digest of `decoder.onnx`; None for a bundle without one.
        reference_sha256: digest of `configs/reference.json`; None for a bundle without reference patients.
    """

    path: Path
    name: str
    version: str
    architecture: str
    architecture_parameters: Mapping[str, Any]
    preprocessing: Preprocessing
    taps: tuple[TapSpec, ...]
    weights_sha256: str
    onnx_sha256: str = ""
    training: TrainingRecord = field(default_factory=TrainingRecord, repr=False)
    decoder_sha256: str | None = None
    reference_sha256: str | None = None

    @property
    def arrays_only(self) -> bool:
        """Whether nobody recorded how a scan becomes a window: the bundle accepts arrays, not scans."""
        return self.preprocessing.fit == ARRAYS_ONLY

    @property
    def latents(self) -> int:
        """Length of mu."""
        return next(tap.length for tap in self.taps if tap.name == "mu")

    @property
    def scores_outliers(self) -> bool:
        """Whether windows get an outlier score; a layer of an imported network may have the tap's name by chance."""
        return self._gives(OUTLIER, 1)

    @property
    def scores_orientation(self) -> bool:
        """Whether windows get an orientation score; as for `scores_outliers`."""
        return self._gives(ORIENTATION, 2)

    def _gives(self, name: str, length: int) -> bool:
        return self.architecture == "ct_vae" and any((tap.name, tap.shape) == (name, (length,)) for tap in self.taps)

    @property
    def weights_path(self) -> Path:
        """File of encoder and decoder, safetensors; of the encoder alone where there is no decoder."""
        return self.path / "models" / "model.safetensors"

    @property
    def onnx_path(self) -> Path:
        """File of the encoder, with every tap as an output."""
        return self.path / "models" / "encoder.onnx"

    @property
    def decoder_path(self) -> Path:
        """File of the decoder, from mu to a window."""
        return self.path / "models" / "decoder.onnx"

    @property
    def reference_path(self) -> Path:
        """File of the reference population."""
        return self.path / "configs" / "reference.json"
