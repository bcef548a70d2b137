"""From windows in a .npy file to the taps of a bundle, for `ctvae bundle run`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.runtime import Encoder
from models.spec import Bundle
from operators.encode import check_taps, pool
from operators.errors import StartError
from operators.system_error import cannot_read
from operators.types import Shape

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
_ROUNDING = 0.01


def read_windows(file: Path, window_voxels: Shape) -> Floats:
    """Return float32 (n, 1, d, h, w) from a .npy of (d, h, w), (n, d, h, w), (n, 1, d, h, w) or (n, d, h, w, 1).

    The last is Keras' order of axes. If a window's own sizes leave two of these possible, the earlier one applies.

    Raises:
        StartError: `BAD_WINDOW`: the file is missing, not .npy, of another shape or type, or not finite.
    """
    voxels = ", ".join(map(str, window_voxels))
    expected = f"float32 ({voxels}), (n, {voxels}), (n, 1, {voxels}) or (n, {voxels}, 1)"
    try:
        made = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise StartError("BAD_WINDOW", cannot_read("the window", error, "a .npy file")) from error
    except (ValueError, EOFError) as error:
        raise StartError("BAD_WINDOW", f"the window is not a .npy file of numbers; expected {expected}") from error
    if not isinstance(made, np.ndarray):
        raise StartError("BAD_WINDOW", f"the file holds several arrays; expected one, {expected}, saved by numpy.save")
    of_each = (window_voxels, (1, *window_voxels), (*window_voxels, 1))
    good = made.shape == window_voxels or (made.size > 0 and made.shape[1:] in of_each)
    if made.dtype != np.float32 or not good:
        raise StartError("BAD_WINDOW", f"the window is {made.dtype} {made.shape}; expected {expected}")
    windows: Floats = np.array(made, np.float32).reshape(-1, 1, *window_voxels)
    if not np.isfinite(windows).all():
        raise StartError("BAD_WINDOW", "the window has NaN or infinity; expected finite numbers")
    low, high = float(windows.min()), float(windows.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        logger.warning("the window goes from %g to %g; networks here take HU scaled to [0, 1]", low, high)
    return windows


def pooled_taps(bundle: Bundle, encoder: Encoder, windows: Floats, requested: Sequence[str]) -> dict[str, Floats]:
    """Return name → float32 with one row per window: every tap as it is, or `mu`, `sigma` and the requested taps.

    Requested taps are pooled, except that a grid that is kept (`block3:none`) stays a grid.

    Raises:
        StartError: `UNKNOWN_TAP`.
    """
    if not requested:
        return encoder.run(windows, [tap.name for tap in bundle.taps])
    specs = check_taps(bundle, requested)
    outputs = encoder.run(windows, tuple(dict.fromkeys(spec.name for spec in specs.values())))
    return {
        name: outputs[spec.name]
        if spec.pooling == "none"
        else pool(outputs[spec.name], spec.pooling).astype(np.float32)
        for name, spec in specs.items()
    }
