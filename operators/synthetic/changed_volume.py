"""How a changed volume is derived from a volume: lazily, with a finding that describes the change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.types import Finding, HuSlice, Volume

Plane = NDArray[np.int16]


def of_each_slice(volume: Volume, change: Callable[[int, Plane], Plane], text: str) -> Volume:
    """Return the volume with each slice changed by `change(d, hu)` when it is read."""

    def read(d: int) -> HuSlice:
        whole = volume.read_slice(d)
        return replace(whole, hu=change(d, whole.hu))

    return replace(volume, read_slice=read, findings=(*volume.findings, Finding("CHANGED", text)))


def rounded(hu: NDArray[Any]) -> Plane:
    """Return HU as int16, rounded to the nearest and clipped to its range."""
    return np.asarray(np.clip(np.rint(hu), -32768, 32767), np.int16)
