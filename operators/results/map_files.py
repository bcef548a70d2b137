"""Names of the Parametric Maps, known without loading what writes them."""

from __future__ import annotations

import re
from typing import Final

MAP_FILE: Final = re.compile(r"features\.[A-Za-z0-9_.-]+\.window\d+\.map\.dcm")


def map_file_name(tap: str, window: int) -> str:
    """Return the name of the file of a window, counted from 0; that of the tap was checked when the bundle was read."""
    return f"features.{tap}.window{window}.map.dcm"
