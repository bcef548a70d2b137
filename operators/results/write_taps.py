"""Long taps → separate files beside features.json, which names them; short ones are listed in features.json."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import numpy as np

from operators.record import FeatureRecord, TapValues
from operators.uids import values_sha256

LISTED_VALUES = 4096
"""A longer vector, or a grid, is not listed in features.json."""

ALWAYS_LISTED = ("mu", "sigma")
TAP_FILE = re.compile(r"features\.[a-z0-9_.]+\.npz")
"""Name of such a file."""


def tap_files(record: FeatureRecord) -> dict[str, bytes]:
    """Return file name → content for each tap that has a file: NumPy's .npz, float32.

    Its arrays are `values`, of the series, and `windows`, with one more axis in front; a grid keeps its shape
    (channels, d, h, w) in them. The same values give the same bytes.
    """
    return {tap_file_name(tap): _npz(tap) for tap in record.taps.values() if has_file(tap)}


def has_file(tap: TapValues) -> bool:
    """Return whether a tap is too long to be listed in features.json."""
    return tap.name not in ALWAYS_LISTED and (tap.shape is not None or tap.length > LISTED_VALUES)


def tap_file_name(tap: TapValues) -> str:
    """Return the name of the tap's file; the tap's name was checked when the bundle was read."""
    return f"features.{tap.name}.npz"


def file_entry(tap: TapValues) -> dict[str, Any]:
    """Return the entry of features.json for the file; the digest is that of the series' values, as in the SR."""
    shape = list(tap.shape or (tap.length,))
    return {"name": tap_file_name(tap), "shape": shape, "values_sha256": values_sha256(tap.values)}


def _npz(tap: TapValues) -> bytes:
    shape = tap.shape or (tap.length,)
    buffer = BytesIO()
    values, windows = tap.values.reshape(shape), tap.windows.reshape(-1, *shape)
    np.savez(buffer, allow_pickle=False, values=values.astype("<f4"), windows=windows.astype("<f4"))
    return buffer.getvalue()
