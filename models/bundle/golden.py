"""Golden values: what encoder and decoder gave for a self-test input when the bundle was written.

They stand in `configs/golden.json`. A machine that gives other numbers for the same input must not be trusted with
patients' scans, whatever the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.spec import Bundle, BundleError

if TYPE_CHECKING:
    from models.runtime import Decoder

GOLDEN = "configs/golden.json"
TOLERANCE = 1e-4
"""Tolerance of mu, times the largest absolute value of mu where that exceeds 1."""

_LARGEST_FILE = 4 << 20
_VOXELS = 64


@dataclass(frozen=True, slots=True)
class Golden:
    """The output of a bundle's encoder for `golden_input`, and of its decoder for that mu.

    Attributes:
        input_sha256: digest of the input as little-endian float32.
        mu, sigma: float32 (length,).
        runtime: what computed them.
        reconstruction: float32 (n,), some voxels of the decoder's window, see `some_voxels`; None without a decoder.
    """

    input_sha256: str
    mu: NDArray[np.float32]
    sigma: NDArray[np.float32]
    runtime: str
    reconstruction: NDArray[np.float32] | None = None

    @property
    def tolerance(self) -> float:
        """Largest difference from `mu` and `sigma` allowed on another machine."""
        return TOLERANCE * max(1.0, float(np.abs(self.mu).max()))

    def difference(self, mu: NDArray[np.float32], sigma: NDArray[np.float32]) -> float:
        """Return the largest absolute difference; infinite where a length differs or a value is not finite."""
        if mu.shape != self.mu.shape or sigma.shape != self.sigma.shape:
            return math.inf
        largest = max(float(np.abs(mu - self.mu).max()), float(np.abs(sigma - self.sigma).max()))
        return largest if math.isfinite(largest) else math.inf


def golden_input(window_voxels: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return the self-test input, (1, 1, d, h, w) in [0, 1]: cosines of the voxel's indices, no random numbers.

    It is rounded to multiples of 1/4096, so that the last bit of a machine's cosine does not matter.
    """
    z, y, x = (np.arange(size, dtype=np.float64) for size in window_voxels)
    coarse = np.cos(0.21 * z)[:, None, None] * np.cos(0.09 * y + 1.0)[:, None] * np.cos(0.11 * x + 2.0)
    fine = np.cos(1.3 * z + 0.5)[:, None, None] * np.cos(0.83 * y)[:, None] * np.cos(0.71 * x + 0.3)
    made = np.round((0.5 + 0.35 * coarse + 0.15 * fine) * 4096) / 4096
    return made.astype(np.float32)[None, None]


def input_sha256(windows: NDArray[np.float32]) -> str:
    """Return the SHA-256 of the values as little-endian float32, in hex."""
    return hashlib.sha256(windows.astype("<f4").tobytes()).hexdigest()


def make_golden(bundle: Bundle) -> bytes:
    """Return `golden.json` of a bundle, made with ONNX Runtime on this machine's CPU.

    Raises:
        BundleError: the ONNX graph cannot be run, or gives numbers that are not finite.
    """
    from models.runtime import OnnxEncoder, open_decoder

    encoder = OnnxEncoder(bundle)
    windows = golden_input(bundle.preprocessing.window_voxels)
    given = encoder.run(windows, ("mu", "sigma"))
    if not all(np.isfinite(values).all() for values in given.values()):
        raise BundleError("the encoder gives NaN or infinity for the self-test input; train it again")
    document = {
        "input": "models.bundle.golden.golden_input: cosines of the voxel's indices, rounded to 1/4096",
        "input_shape": list(windows.shape),
        "input_sha256": input_sha256(windows),
        "runtime": encoder.runtime,
        "mu": [float(str(value)) for value in given["mu"][0]],
        "sigma": [float(str(value)) for value in given["sigma"][0]],
    }
    decoder = open_decoder(bundle)
    return _dump(document if decoder is None else document | _of_decoder(decoder, given["mu"][0]))


def with_decoder(bundle: Bundle) -> bytes:
    """Return `golden.json` of a bundle with the values of its decoder, made here; the encoder's values stay.

    Raises:
        BundleError: there are no golden values, or the decoder cannot be run.
    """
    from models.runtime import Decoder

    golden = read_golden(bundle)
    if golden is None:
        raise BundleError("the bundle has no golden values to add the decoder's to; write the bundle again")
    document = json.loads((bundle.path / GOLDEN).read_bytes())
    return _dump(document | _of_decoder(Decoder(bundle), golden.mu))


def _of_decoder(decoder: Decoder, mu: NDArray[np.float32]) -> dict[str, Any]:
    (window,) = decoder.run(mu[None])
    voxels = some_voxels(window)
    if not np.isfinite(voxels).all():
        raise BundleError("the decoder gives NaN or infinity for the self-test input; train it again")
    return {"decoder_runtime": decoder.runtime, "reconstruction": [float(str(value)) for value in voxels]}


def some_voxels(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 64 voxels of a window, evenly spread in the order of the array; all where there are fewer."""
    return window.ravel()[:: max(1, window.size // _VOXELS)][:_VOXELS]


def _dump(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def read_golden(bundle: Bundle) -> Golden | None:
    """Return the golden values of the bundle; None for one written before golden values existed.

    Raises:
        BundleError: the file is damaged, or was made for another input or another length of mu.
    """
    file = bundle.path / GOLDEN
    if not file.is_file():
        return None
    if file.stat().st_size > _LARGEST_FILE:
        raise BundleError(f"golden.json has {file.stat().st_size} bytes; expected at most {_LARGEST_FILE}")
    length = bundle.latents
    voxels = min(_VOXELS, math.prod(bundle.preprocessing.window_voxels))
    try:
        document = json.loads(file.read_bytes())
        golden = Golden(
            input_sha256=str(document["input_sha256"]),
            mu=_vector(document["mu"], length),
            sigma=_vector(document["sigma"], length),
            runtime=str(document["runtime"]),
            reconstruction=_vector(document["reconstruction"], voxels) if "reconstruction" in document else None,
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"golden.json is damaged ({type(error).__name__}); get an undamaged copy") from error
    made = input_sha256(golden_input(bundle.preprocessing.window_voxels))
    if made != golden.input_sha256:
        raise BundleError(
            f"the self-test input has SHA-256 {made[:12]}… here and {golden.input_sha256[:12]}… in golden.json; "
            "the bundle was written by another version of ctvae, or this machine's cosine is wrong"
        )
    return golden


def _vector(values: Any, length: int) -> NDArray[np.float32]:
    vector = np.array(values, np.float64)
    if vector.shape != (length,) or not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise ValueError("not a vector of the length that is expected")
    return vector.astype(np.float32)
