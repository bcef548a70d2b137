"""What is written about a series: its features, and who, what and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.errors import check_noun
from operators.types import Finding, Series, Verdict, Volume, Windows


@dataclass(frozen=True, slots=True)
class TapValues:
    """One tap of one series.

    Attributes:
        name: `mu`, `sigma` or a named layer of the bundle.
        pooling: how a layer's grid became a vector: `none` where it is a vector already or stays a grid; else `mean`,
            `max`, `std` or `flatten`.
        values: float32 (length,), the vector of the series; a grid is flattened channels first, then z, y, x.
        windows: float32 (n, length), the vector of each window.
        shape: (channels, d, h, w) of a grid; None for a vector.
        seed: seed of a random draw; None for a tap of the encoder.
    """

    name: str
    pooling: str
    values: NDArray[np.float32]
    windows: NDArray[np.float32]
    shape: tuple[int, ...] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        found = f"tap {self.name} of {self.values.shape}, its windows of {self.windows.shape}"
        check_noun(
            self.values.ndim == 1 and self.windows.shape[1:] == self.values.shape and len(self.windows) > 0, found
        )
        check_noun(self.values.dtype == self.windows.dtype == np.float32, f"tap {self.name} is not float32")

    @property
    def length(self) -> int:
        """Number of dimensions of the vector."""
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoder's taps for the windows: always `mu` and `sigma`, others on request.

    Attributes:
        runtime: what computed them.
        outlier: outlier score of the series, a float32 value: logarithm of the odds that a window is not of a patient
            like those learned from, mean over the windows. None for a bundle that gives none.
        orientation: orientation score of the series, a float32 value: logarithm of the odds that the chest in a window
            is upside down, or that it is back to front; mean over the windows, the larger of the two. 0 where no window
            holds lung, so that nothing is known. None for a bundle that gives none.
    """

    windows: Windows
    taps: Mapping[str, TapValues]
    runtime: str
    outlier: float | None = None
    orientation: float | None = None

    def __post_init__(self) -> None:
        check_noun(
            {"mu", "sigma"} <= self.taps.keys(), f"taps {', '.join(self.taps)}; expected mu and sigma among them"
        )
        counts = {len(tap.windows) for tap in self.taps.values()}
        check_noun(counts == {len(self.windows.voxels)}, f"taps of {counts} windows, of {len(self.windows.voxels)}")
        for name, score in (("outlier", self.outlier), ("orientation", self.orientation)):
            check_noun(score is None or math.isfinite(score), f"an {name} score of {score}")

    @property
    def volume(self) -> Volume:
        """The volume that was encoded."""
        return self.windows.volume

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found on the way, from the headers to the windows."""
        return self.windows.findings

    @property
    def configured_taps(self) -> tuple[str, ...]:
        """The taps as they enter the configuration's digest; a draw includes its seed."""
        taps = self.taps.values()
        return tuple(tap.name if tap.seed is None else f"{tap.name}:{tap.seed}" for tap in taps)

    @property
    def sigma_parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(within, between) windows, float32 (length,) each, whose squares add up to that of sigma.

        The law of total variance: the root of the mean of the windows' sigma², which is the encoder's own uncertainty,
        and the standard deviation of their mu.
        """
        mu, sigma = (self.taps[name].windows.astype(np.float64) for name in ("mu", "sigma"))
        return np.sqrt(np.square(sigma).mean(axis=0)).astype(np.float32), mu.std(axis=0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """Identity of the series, part and files that the numbers describe.

    Attributes:
        instances: number of files.
        instances_digest: SHA-256 of their sorted SOP Instance UIDs (pixel digests where those are missing).
        derived_uids: keyword → what stood in the file, for each UID that was missing or invalid and replaced.
    """

    study_instance_uid: str
    series_instance_uid: str
    part: int | None
    frame_of_reference_uid: str | None
    modality: str
    instances: int
    instances_digest: str
    derived_uids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Subject:
    """The patient, without identity: identifiers are None unless they were requested.

    Attributes:
        patient_key: HMAC-SHA-256 of PatientID with the site's key; None without one.
    """

    patient_key: str | None
    sex: str | None
    age_years: float | None
    patient_name: str | None = None
    patient_id: str | None = None
    birth_date: str | None = None


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How the scan was acquired, according to its headers; dates are None unless they were requested."""

    manufacturer: str | None
    model: str | None
    kernel: str | None
    kvp: float | None
    mas: float | None
    thickness_mm: float | None
    contrast: str | None
    body_part: str | None
    image_type: tuple[str, ...]
    study_date: str | None = None
    series_date: str | None = None


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights produced the numbers, and with what they were run."""

    name: str
    version: str
    weights_sha256: str
    architecture: str
    runtime: str


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentile ranks of a series among the reference patients: how many of them have a smaller value, in percent.

    Attributes:
        combined: rank of the score on which the verdict rests.
        latent: rank of the Mahalanobis distance.
        reconstruction: rank of the reconstruction error; None for a bundle without a decoder.
        outlier: rank of the outlier score; None for a bundle that gives none.
        orientation: rank of the orientation score; likewise.
        mu, sigma: float32 (length,), rank of each dimension of the series' vectors.
    """

    combined: float
    latent: float
    reconstruction: float | None
    outlier: float | None
    orientation: float | None
    mu: NDArray[np.float32]
    sigma: NDArray[np.float32]

    def __post_init__(self) -> None:
        parts = (self.reconstruction, self.outlier, self.orientation)
        alone = self.combined, self.latent, *(part for part in parts if part is not None)
        shares = np.array([*alone, *self.mu, *self.sigma])
        check_noun(bool(((shares >= 0) & (shares <= 100)).all()), "a percentile that is not from 0 to 100")
        check_noun(
            self.mu.shape == self.sigma.shape and self.mu.ndim == 1, f"percentiles of {self.mu.shape} dimensions"
        )


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether to trust the numbers of a series, judged by the reference patients of its bundle.

    All numbers are float32 values.

    Attributes:
        verdict: at alpha 0.1; `undetermined` where there are too few reference patients to tell.
        reasons: what led to the verdict, one line each; at least one.
        n_reference: number of reference patients.
        p_conformal: by patient, from 1 / (n_reference + 1) to 1; None where `n_reference` is less than 9.
        mahalanobis: distance of the series' mu from the mean of the reference patients, in their covariance.
        reconstruction_mae_hu: mean absolute error of the decoder's reconstruction, over the real voxels of all windows;
            None for a bundle without a decoder.
        reconstruction_ratio: that error divided by the one of plain block means, which says how complex the scan is.
        outlier_score: logarithm of the odds that a window is not of a patient like those that the network learned from,
            mean over the windows; None for a bundle that gives none.
        orientation_score: logarithm of the odds that the chest in a window is upside down, or that it is back to
            front; mean over the windows, the larger of the two. 0 where no window holds lung, so that nothing is known.
            None for a bundle that gives none.
        real_fraction: share of the windows that is voxels of the scan, 0 to 1; the rest is padded with air.
        percentiles: rank of each value among the reference patients.
        reference_sha256: of the file that holds the reference population.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    n_reference: int
    p_conformal: float | None
    mahalanobis: float
    reconstruction_mae_hu: float | None
    reconstruction_ratio: float | None
    outlier_score: float | None
    orientation_score: float | None
    real_fraction: float
    percentiles: Percentiles
    reference_sha256: str

    def __post_init__(self) -> None:
        check_noun(
            (self.p_conformal is None) is (self.verdict == "undetermined"), f"{self.verdict} with {self.p_conformal}"
        )
        check_noun(bool(self.reasons), "a verdict without a reason")


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """Everything that is written about one series: its features, and who, what and how.

    Attributes:
        encoding: the numbers, and through it the windows, the volume and the series.
        preprocessing: parameters under the bundle's names, plain JSON values.
        preprocessing_digest: SHA-256 of those parameters.
        config_digest: SHA-256 of all settings that can change the results.
        quantities: measurements on the voxels themselves; None where one could not be measured.
        job_key: identity of the job: hex SHA-256 over instances, part, weights and configuration.
        reliability: None for a bundle without reference patients.
    """

    encoding: Encoding
    identity: SeriesIdentity
    subject: Subject
    acquisition: Acquisition
    model: ModelIdentity
    preprocessing: Mapping[str, Any]
    preprocessing_digest: str
    config_digest: str
    quantities: Mapping[str, float | None]
    job_key: str
    reliability: Reliability | None = None

    @property
    def volume(self) -> Volume:
        """The volume that the record describes."""
        return self.encoding.volume

    @property
    def series(self) -> Series:
        """The series that the record describes."""
        return self.volume.series

    @property
    def series_instance_uid(self) -> str:
        """UID of the series that the record describes."""
        return self.series.series_instance_uid

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found on the way, from the headers to the windows."""
        return self.encoding.findings

    @property
    def taps(self) -> Mapping[str, TapValues]:
        """Features by tap name; `taps["mu"].values` is the feature vector."""
        return self.encoding.taps


def shortest_double(value: float | np.float32) -> float:
    """Return a number as it is written: the shortest decimal that reads back to the same float32, as a double."""
    return float(str(np.float32(value)))
