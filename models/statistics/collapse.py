"""Whether the posterior has collapsed: the decoder has learned to ignore some dimensions of z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.statistics.units import ACTIVE_VARIANCE

LEAST_WINDOWS, LEAST_PATIENTS = 32, 5
"""With fewer windows or patients, which hardly differ, the variance of mu says nothing about a dimension."""

UNUSED_NATS = 0.1
"""Margin above the free bits: a dimension whose KL is smaller tells the decoder next to nothing."""


@dataclass(frozen=True, slots=True)
class Collapse:
    """The measurement of a collapse.

    Attributes:
        unused: number of dimensions with both low variance of mu and low KL.
        units: number of all dimensions.
        windows: number of windows measured.
        patients: number of their patients.
    """

    unused: int
    units: int
    windows: int
    patients: int

    @property
    def collapsed(self) -> bool | None:
        """Whether more than half of the dimensions are unused; None with too few windows or patients to tell."""
        if self.windows < LEAST_WINDOWS or self.patients < LEAST_PATIENTS:
            return None
        return 2 * self.unused > self.units


def measure_collapse(
    kl: Sequence[float], mu_variance: Sequence[float], *, windows: int, patients: int, free_bits_nats: float
) -> Collapse:
    """Count the unused dimensions.

    Low variance of mu alone is not enough: where sigma is small, a mu of little variance is still informative, and its
    KL is high.

    Args:
        kl: mean over windows, in nats, by dimension.
        mu_variance: variance over windows, by dimension.
        windows: number of windows measured.
        patients: number of their patients.
        free_bits_nats: KL below which training did not push a dimension.
    """
    low = free_bits_nats + UNUSED_NATS
    pairs = zip(kl, mu_variance, strict=True)
    unused = sum(nats <= low and variance <= ACTIVE_VARIANCE for nats, variance in pairs)
    return Collapse(unused, len(kl), windows, patients)
