"""Which HU belong to which tissue: one definition for quantities, certificate and reconstruction errors."""

from __future__ import annotations

import math
from collections.abc import Mapping

TISSUES_HU: Mapping[str, tuple[float, float]] = {
    "air": (-math.inf, -950.0),
    "lung": (-950.0, -500.0),
    "mixed": (-500.0, -190.0),
    "fat": (-190.0, -30.0),
    "soft": (-30.0, 150.0),
    "bone": (150.0, math.inf),
}
"""low ≤ HU < high, so that every HU is in exactly one range. Within a lung, `air` is emphysema; `mixed` are mostly
voxels that hold an edge. Contrast agent counts as bone where it is as dense."""
