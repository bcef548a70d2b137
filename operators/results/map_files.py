"""Names of the Parametric Maps, known without loading what writes them."""

from __future__ import annotations

import re
from typing import Final

MAP_FILE: Final = re.compile(r"features\.[A-Za-z0-9_.-]+\.window\d+\.map\.dcm")


def map_file_name(tap: str, window: int) -> str:
    """Return the name of the file of a window; that of the tap was checked when the bundle was read.

    Args:
        tap: name of the layer.
        window: index, from 0. Names count windows from 1, as those of `ctvae export --windows` do.
    """
    return f"features.{tap}.window{window + 1}.map.dcm"
