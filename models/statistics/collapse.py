"""Whether the posterior has collapsed: the decoder has learned to do without some dimensions of z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.statistics.units import ACTIVE_VARIANCE

LEAST_WINDOWS, LEAST_PATIENTS = 32, 5
"""Fewer windows, or of fewer patients, hardly differ: their variance of mu says nothing of a dimension."""

UNUSED_NATS = 0.1
"""Above the free bits: a dimension whose KL is below this tells the decoder next to nothing."""


@dataclass(frozen=True, slots=True)
class Collapse:
    """What was measured of it.

    Attributes:
        unused: dimensions of low variance of mu and of low KL.
        units: all.
        windows: how many were looked at.
        patients: how many patients they are of.
    """

    unused: int
    units: int
    windows: int
    patients: int

    @property
    def collapsed(self) -> bool | None:
        """More than half of the dimensions are unused; None where windows or patients are too few to tell."""
        if self.windows < LEAST_WINDOWS or self.patients < LEAST_PATIENTS:
            return None
        return 2 * self.unused > self.units


def measure_collapse(
    kl: Sequence[float], mu_variance: Sequence[float], *, windows: int, patients: int, free_bits_nats: float
) -> Collapse:
    """Count the unused dimensions.

    Low variance of mu alone does not say it: where sigma is small, a mu of little variance still tells much, and its KL
    is high.

    Args:
        kl: mean over windows, nats, by dimension.
        mu_variance: over windows, by dimension.
        windows: how many were measured.
        patients: how many patients they are of.
        free_bits_nats: below which training did not push a dimension's KL.
    """
    low = free_bits_nats + UNUSED_NATS
    pairs = zip(kl, mu_variance, strict=True)
    unused = sum(nats <= low and variance <= ACTIVE_VARIANCE for nats, variance in pairs)
    return Collapse(unused, len(kl), windows, patients)
