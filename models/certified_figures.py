"""Figures of a certificate on all windows together: redundancy, prior, groups, rivals. Frozen values, as in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Number = float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval over bootstrap samples of patients."""

    value: Number
    low: Number
    high: Number

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"an interval is from {self.low:g} to {self.high:g}; expected the lower end first")


@dataclass(frozen=True, slots=True)
class BesideNull:
    """A figure, and what independent draws of N(0, I) give in the mean with as many windows."""

    value: float
    null: float


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Whether the dimensions of mu say different things (`models.statistics.redundancy`, `group_variance`).

    Attributes:
        windows, patients: that it was measured on.
        mean_abs_r, participation_ratio: of the correlation matrix over all windows.
        mean_abs_r_by_patient, participation_ratio_by_patient: with one window per patient, mean of 200 draws.
        crop_share: of the variance of standardised mu, what lies between cropped tiles and whole fields of view; None
            where the windows are all of one kind.
        best_split: the share of the best split in two.
    """

    windows: int
    patients: int
    mean_abs_r: BesideNull
    participation_ratio: BesideNull
    mean_abs_r_by_patient: BesideNull
    participation_ratio_by_patient: BesideNull
    crop_share: Number
    best_split: BesideNull


@dataclass(frozen=True, slots=True)
class PriorFigures:
    """How far mu and sigma are, over windows, from the prior (`models.statistics.aggregate`).

    Attributes:
        aggregate_kl_nats: KL(N(mean, covariance of z) ‖ N(0, I)).
        near_unit_variance: dimensions whose variance of mu is 0.5 to 2.
    """

    aggregate_kl_nats: BesideNull
    near_unit_variance: int


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The same measures within one source of scans, or within one kind of crop.

    Attributes:
        steady_dimensions: whose ICC, mean over changes, is 0.95 or more.
        median_icc: by change, over dimensions; None where nothing varies.
        found: by change, how many of `looked_for` windows were found again by Euclidean distance.
        mean_r2: of the probes to quantities, on this group's windows alone; None where none varies here.
    """

    windows: int
    patients: int
    steady_dimensions: int
    median_icc: Mapping[str, Number]
    looked_for: int
    found: Mapping[str, int]
    mean_r2: Number

    def __post_init__(self) -> None:
        if any(not 0 <= count <= self.looked_for for count in self.found.values()):
            raise ValueError(f"more windows were found again than the {self.looked_for} that were looked for")


@dataclass(frozen=True, slots=True)
class RivalFigures:
    """Probes to quantities that no training target resembles: mu beside what needs no training.

    Attributes:
        scores: of `mu` and of each rival: max(R², 0), mean over probes and over the seeds of their folds.
        by_probe: method → probe → the same of one probe.
        strongest: the rival with the highest score.
        over_strongest: how much mu is above it, with its 95 % interval over patients.
        over_strongest_80: the lower end of the 80 % interval.
    """

    scores: Mapping[str, Estimate]
    by_probe: Mapping[str, Mapping[str, Number]]
    strongest: str
    over_strongest: Estimate
    over_strongest_80: Number


@dataclass(frozen=True, slots=True)
class DrawFigures:
    """What two random draws of z from one posterior have in common, beside mu, which has no draw.

    Attributes:
        mean_icc, median_icc: over dimensions, of two draws of the same window.
        found: part of the windows whose second draw is nearest to their own first one, by Euclidean distance.
        looked_for: how many windows.
    """

    mean_icc: float
    median_icc: float
    found: float
    looked_for: int


@dataclass(frozen=True, slots=True)
class RepeatFigures:
    """Scans of patients with two or more of them; the mu of a scan is the mean over its windows.

    Attributes:
        scans, patients: of which this is measured; distances are to all other scans.
        patient_share, acquisition_share: of the variance of standardised mu, what lies between patients, and between
            scans of one patient (`models.statistics.variance_shares`); None for fewer than three patients.
        nearest: part of the scans whose nearest other scan is of the same patient.
        mutual: part of the scans of which that is so and which are their nearest one's nearest.
        chance: what guessing would give for `nearest`.
    """

    scans: int
    patients: int
    patient_share: Estimate | None
    acquisition_share: Estimate | None
    nearest: Estimate
    mutual: Estimate
    chance: float
