"""What the geometry gate does with a series that is not quite one regular grid: the section `geometry` of app.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

MIN_SLICES: Final = 4
"""Among three gaps an odd one can be told from the usual one; among two it cannot."""


@dataclass(frozen=True, slots=True)
class GeometryPolicy:
    """What is repaired, with a finding, and what is rejected. By default nothing is invented.

    Attributes:
        gantry_tilt: slices on a slanted line: `resample` shifts each in its plane onto an upright grid.
        missing_slice: `interpolate` puts the mean of its neighbours where one slice is missing.
        irregular_spacing: `resample` interpolates between slices, onto the smallest distance of two.
        min_slices: fewer are rejected; below four, a slice that is missing cannot be told.
        missing_rescale: `assume_hu` takes a missing or zero slope for 1 and a missing intercept for 0, in all slices.
        truncated_pixels: `drop` leaves a slice out that is cut off; where it is not the last, it is a missing slice.
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
