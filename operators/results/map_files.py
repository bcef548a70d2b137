"""Names of the Parametric Maps, known without loading what writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAP_FILE: Final = re.compile(r"features\.[A-Za-z0-9_.-]+\.(?:window|channel)\d+\.map\.dcm")


@dataclass(frozen=True, slots=True)
class Overlay:
    """A channel of a layer, to be drawn over the CT.

    Attributes:
        tap: name of the layer among the results, kept as a grid.
        channel: index, from 0.
    """

    tap: str
    channel: int


def map_file_name(tap: str, window: int) -> str:
    """Return the name of the file of a window; that of the tap was checked when the bundle was read.

    Args:
        tap: name of the layer.
        window: index, from 0. Names count windows from 1, as those of `ctvae export --windows` do.
    """
    return f"features.{tap}.window{window + 1}.map.dcm"


def overlay_file_name(overlay: Overlay) -> str:
    """Return the name of the file of a channel over the CT; channels count from 0, as dimensions do."""
    return f"features.{overlay.tap}.channel{overlay.channel}.map.dcm"
