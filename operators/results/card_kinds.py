"""The formats and inputs of a card; nothing here draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

CardFormat = Literal["png", "sc", "pdf"]
"""PNG, DICOM Secondary Capture, DICOM Encapsulated PDF."""

CARD_FILES: Final[dict[CardFormat, str]] = {"png": "card.png", "sc": "card.sc.dcm", "pdf": "card.pdf.dcm"}

Reconstruct = Callable[[NDArray[np.float32]], Iterable[NDArray[np.float32]]]
"""From mu of the windows, float32 (n, length), to the decoder's output for each, float32 (d, h, w) in [0, 1]."""
