"""What the geometry gate does with a series that is not quite a regular grid: section `geometry` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

MIN_SLICES: Final = 4
"""With three gaps, an odd one can be distinguished from the usual one; with two it cannot."""


@dataclass(frozen=True, slots=True)
class GeometryPolicy:
    """What to repair, with a finding, and what to reject. By default nothing is invented.

    Attributes:
        gantry_tilt: for slices on a slanted line, `resample` shifts each in its plane onto an upright grid.
        missing_slice: `interpolate` fills in the mean of the neighbours where a single slice is missing.
        irregular_spacing: `resample` interpolates between slices, at the smallest distance between two.
        min_slices: fewer slices are rejected; below four, a missing slice cannot be detected.
        missing_rescale: `assume_hu` assumes slope 1 for a missing or zero slope and intercept 0 for a missing one, in
            all slices.
        truncated_pixels: `drop` leaves out a truncated slice; unless it is the last one, a slice is then missing.
        implausible_hu: `keep` encodes values that cannot be HU, with a finding.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # an unknown key in app.yaml is an error

    gantry_tilt: Literal["resample", "reject"] = "resample"
    missing_slice: Literal["reject", "interpolate"] = "reject"
    irregular_spacing: Literal["reject", "resample"] = "reject"
    min_slices: int = MIN_SLICES
    missing_rescale: Literal["reject", "assume_hu"] = "reject"
    truncated_pixels: Literal["reject", "drop"] = "reject"
    implausible_hu: Literal["reject", "keep"] = "reject"

    def __post_init__(self) -> None:
        if self.min_slices < 2:
            raise ValueError(f"min_slices {self.min_slices}; expected at least 2: one slice has no spacing")


NO_REPAIR: Final = GeometryPolicy()
"""The defaults."""
