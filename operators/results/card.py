"""One page about a series that a person understands at a glance: where, what, and whether to trust it.

It names no patient and shows no text from the scan's headers.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from operators.record import FeatureRecord
from operators.results.card_kinds import Reconstruct
from operators.results.card_page import draw_page


class Card:
    """The page of one series, drawn once and written in any format. The same record gives the same bytes."""

    def __init__(self, record: FeatureRecord, reconstruct: Reconstruct | None = None) -> None:
        self._figure = draw_page(record, reconstruct)

    def png(self) -> bytes:
        """Return the page as PNG."""
        buffer = BytesIO()
        self._figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def pdf(self) -> bytes:
        """Return the page as PDF, with text as text."""
        buffer = BytesIO()
        nothing = dict.fromkeys(("CreationDate", "Producer", "Creator"))
        self._figure.savefig(buffer, format="pdf", metadata=nothing)
        return buffer.getvalue()

    def pixels(self) -> NDArray[np.uint8]:
        """Return the page as uint8 (rows, columns, 3), RGB."""
        canvas: Any = FigureCanvasAgg(self._figure)
        canvas.draw()
        return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
