"""The learning rate of a training, and of the decoder that goes on after it."""

from __future__ import annotations

import math


def learning_rate(fraction: float, peak: float) -> float:
    """Return the learning rate: rising linearly over the first twentieth, then a cosine down to 1 % of the peak."""
    if fraction < 0.05:
        return peak * (0.01 + 0.99 * fraction / 0.05)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (fraction - 0.05) / 0.95))))
