"""Figures of a certificate on all windows together: redundancy, prior, groups, rivals. Frozen values, as in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """A figure, and the mean that independent draws of N(0, I) give with as many windows."""

    value: float
    null: float


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Whether the dimensions of mu carry different information (`models.statistics.redundancy`, `group_variance`).

    Attributes:
        windows, patients: numbers of windows and patients measured.
        mean_abs_r, participation_ratio: from the correlation matrix over all windows.
        mean_abs_r_by_patient, participation_ratio_by_patient: with one window per patient, mean of 200 draws.
        crop_share: share of the variance of standardised mu between cropped tiles and whole fields of view; None where
            all windows are of one kind.
        best_split: share of the best split in two.
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
    """How far mu and sigma, over windows, are from the prior (`models.statistics.aggregate`).

    Attributes:
        aggregate_kl_nats: KL(N(mean, covariance of z) ‖ N(0, I)).
        near_unit_variance: number of dimensions whose variance of mu is 0.5 to 2.
    """

    aggregate_kl_nats: BesideNull
    near_unit_variance: int


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The same measures within one source of scans or one kind of crop.

    Attributes:
        steady_dimensions: number of dimensions whose ICC, mean over changes, is at least 0.95.
        median_icc: median over dimensions, by change; None where nothing varies.
        found: how many of `looked_for` windows were found again by Euclidean distance, by change.
        mean_r2: mean R² of the probes to quantities, on this group's windows alone; None where none varies here.
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
    """Probes to quantities that resemble no training target: mu compared with methods that need no training.

    Attributes:
        scores: for `mu` and each rival, max(R², 0), mean over probes and over the seeds of their folds.
        by_probe: method → probe → the same for one probe.
        strongest: the rival with the highest score.
        over_strongest: difference between mu and this rival, with its 95 % interval over patients.
        over_strongest_80: the lower end of the 80 % interval.
        over, over_80: the same for each rival; certificates before 0.7.0 have them for the strongest alone.
    """

    scores: Mapping[str, Estimate]
    by_probe: Mapping[str, Mapping[str, Number]]
    strongest: str
    over_strongest: Estimate
    over_strongest_80: Number
    over: Mapping[str, Estimate] = field(default_factory=dict)
    over_80: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DrawFigures:
    """What two random draws of z from one posterior share, for comparison with mu, which is not drawn.

    Attributes:
        mean_icc, median_icc: over dimensions, between two draws of the same window.
        found: fraction of windows whose second draw is nearest to their own first one, by Euclidean distance.
        looked_for: number of windows.
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
