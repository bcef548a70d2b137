"""The nouns that travel from a folder of CT to a feature record, and the errors that stop one on its way.

    folder → Study → Series → Volume → Windows → Encoding → FeatureRecord → JSON, SR → Outcome

Each noun is made once, checked when it is made, and holds the one it was made from, so that a number in a record can be
followed back to the files. Axes are DICOM's patient axes (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the
head (LPS), in mm. Arrays are indexed (z, y, x) and called (D, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.prefetch import map_ahead

Status = Literal["written", "eligible", "rejected", "skipped", "failed"]
Shape = tuple[int, int, int]
Millimetres = tuple[float, float, float]


class CtvaeError(Exception):
    """What went wrong, with a reason code that scripts can rely on and one line for a person.

    Attributes:
        reason: upper-case code, such as `MISSING_SLICE`.
        message: what was found, what was expected, what to do; no patient identity, no path outside the input.
    """

    def __init__(self, reason: str, message: str) -> None:
        # Some of it may come from a file, and would begin a line of its own in the log or steer a terminal.
        message = "".join(one if one.isprintable() else "?" for one in message)
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class StartError(CtvaeError):
    """The run could not start: usage, paths, settings or bundle. Exit code 3."""


class RunFailed(CtvaeError):
    """The run as a whole ended badly after its start. Exit code 1."""


class SeriesError(CtvaeError):
    """One series goes no further; the others do."""

    status: Status = "failed"


class SeriesRejected(SeriesError):
    """CT that failed the geometry gate: encoding it would give wrong numbers in silence."""

    status: Status = "rejected"


class SeriesSkipped(SeriesError):
    """Not a CT image, or dropped by a selection rule."""

    status: Status = "skipped"


class SeriesFailed(SeriesError):
    """An error of ours or of the machine."""

    status: Status = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a series that does not stop it and that whoever uses the numbers should know."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a multi-frame file has the pixels of one of its frames.

    Attributes:
        index: from 0, in the order of the file: Frame Number less one.
        spans: (offset, length) of its bytes in the file (after inflating, where it is deflated): plain numbers, or each
            fragment of a codestream.
    """

    index: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A volume in a research format, found and digested; its header is read by the geometry gate.

    Attributes:
        format: `NIfTI`, `NRRD` or `MetaImage`.
        root: folder that the file and the data that it may point to must not leave.
        voxels: the file that holds the voxels, which may be another one.
        stamp: size and time of change of the voxels' file when it was digested.
    """

    format: str
    root: Path
    voxels: Path
    stamp: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Instance:
    """One file's header; of a multi-frame file, once its frames are told apart, one frame's.

    Attributes:
        path: the file.
        header: the tags that ctvae needs, read once, without pixels.
        pixel_offset: where the tag of the pixels stands in the file (after inflating, where it is deflated); None
            where there are none.
        frame: which frame of a multi-frame file; None for the file as a whole.
        image: what it is, where it is no DICOM but a volume in a research format; the header is then all but empty.
        stamp: size and time of change of the file when its header was read; None where nobody looked.
        pixels_digest: SHA-256, in hex, of the file from its pixels on, taken when the header was read; None where the
            SOP Instance UID is valid, and identifies the file.
    """

    path: Path
    header: Dataset
    pixel_offset: int | None = None
    frame: Frame | None = None
    image: ImageFile | None = None
    stamp: tuple[int, int] | None = None
    pixels_digest: str | None = None

    @property
    def sop_instance_uid(self) -> str:
        """SOPInstanceUID as it stands in the file; empty where there is none."""
        return str(self.header.get("SOPInstanceUID", "") or "")

    @property
    def identity(self) -> str:
        """What identifies the file in a digest: the SOP Instance UID, or the digest of its pixels where that is bad."""
        found = self.pixels_digest or self.sop_instance_uid
        _check(bool(found), "an instance that nothing identifies")
        return found


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series, headers only, in no particular order.

    Attributes:
        series_instance_uid: the file's own where it is a valid UID, else derived from it (finding `UID_DERIVED`).
        study_instance_uid: likewise.
        folder: of the first file, relative to the input folder, `.` for the input folder itself; it may hold a name,
            so it is for `outcome.json` alone.
        instances: at least one.
        part: None for a whole series; 1, 2, … where the series had to be split.
        derived_uids: (keyword, original value) of each UID that was missing or invalid and replaced.
        findings: what was met while reading the headers.
    """

    series_instance_uid: str
    study_instance_uid: str
    folder: str
    instances: tuple[Instance, ...]
    part: int | None = None
    derived_uids: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        _check(bool(self.instances), "a series without instances")
        _check(self.part is None or self.part >= 1, f"part {self.part}; expected 1 or more")

    @property
    def volume(self) -> None:
        """None: its geometry is not known yet."""
        return

    @property
    def files(self) -> tuple[Instance, ...]:
        """One instance of each file: what is said of files is said once, however many frames they have."""
        first = {one.path: one for one in reversed(self.instances) if one.frame}
        return tuple(one for one in self.instances if one.frame is None or one is first[one.path])

    @property
    def first(self) -> Dataset:
        """Where what is the same in the whole series is read: the header of the instance of the smallest UID.

        Not of the first file: its name must not change what is written.
        """
        return min(self.instances, key=lambda instance: instance.sop_instance_uid).header

    @property
    def image(self) -> ImageFile | None:
        """The file in a research format that the series is; None where it is DICOM."""
        return self.instances[0].image


@dataclass(frozen=True, slots=True)
class Study:
    """What one StudyInstanceUID holds in the input folder."""

    study_instance_uid: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class HuSlice:
    """One decoded slice.

    Attributes:
        hu: int16 Hounsfield units, (H, W), rows and columns as stored.
        findings: what decoding met (saturation, padding, …).
        histogram: int64 (2048,) of a sample of its values as they were stored, see `operators.dicom.plausible_hu`; None
            where nobody asks whether they are HU.
    """

    hu: NDArray[np.int16]
    findings: tuple[Finding, ...] = ()
    histogram: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Volume:
    """A series that passed the geometry gate: its grid is known, its slices are decoded on demand.

    Attributes:
        series: where it came from.
        shape: (D, H, W): slices, rows, columns.
        affine_lps_mm: float64 (4, 4), from the index (d, h, w, 1) to the centre of that voxel in LPS mm (x, y, z, 1).
            Slices go along +normal = row direction × column direction, which for an axial series is from feet to head.
        spacing_mm: (between slices, between rows, between columns), centre to centre.
        findings: of the geometry gate, those of the series included.
        read_slice: d → the decoded slice; may be called from several threads; raises `SeriesRejected` or
            `SeriesFailed`.
        decode_threads: 2 where slices are compressed. Native ones are copied faster than threads hand over to another.
        implausible_hu: what becomes of values that cannot be HU, once all slices have been decoded.
    """

    series: Series
    shape: Shape
    affine_lps_mm: NDArray[np.float64]
    spacing_mm: Millimetres
    findings: tuple[Finding, ...]
    read_slice: Callable[[int], HuSlice] = field(repr=False, compare=False)
    decode_threads: int = 1
    implausible_hu: Literal["reject", "keep"] = "reject"

    def __post_init__(self) -> None:
        _check(len(self.shape) == 3 and min(self.shape) >= 1, f"a volume of shape {self.shape}")
        _check(min(self.spacing_mm) > 0, f"a spacing of {self.spacing_mm} mm")
        _check(self.affine_lps_mm.shape == (4, 4) and bool(np.isfinite(self.affine_lps_mm).all()), "no affine")

    @property
    def volume(self) -> Volume:
        """Itself, as of every noun after it."""
        return self

    def findings_with(self, of_slices: Sequence[tuple[Finding, ...]]) -> tuple[Finding, ...]:
        """Its findings, each once; then those of its slices, one per code, with the detail of the first slice."""
        first: dict[str, str] = {}
        slices: dict[str, int] = {}
        for findings in of_slices:
            details = {finding.code: finding.detail for finding in reversed(findings)}
            for code, detail in details.items():
                first.setdefault(code, detail)
                slices[code] = slices.get(code, 0) + 1
        merged = [
            Finding(code, f"{first[code]} (in {slices[code]} of {len(of_slices)} slices)") for code in sorted(first)
        ]
        return (*dict.fromkeys(self.findings), *merged)

    def slices(self) -> Iterator[HuSlice]:
        """The slices in order of d, one after the other; with `decode_threads` 2, two are decoded ahead."""
        return map_ahead(self.read_slice, range(self.shape[0]), self.decode_threads)

    def voxels(self) -> NDArray[np.int16]:
        """All slices gathered: int16 HU, (D, H, W)."""
        gathered = np.empty(self.shape, np.int16)

        def put(d: int) -> None:
            gathered[d] = self.read_slice(d).hu

        for _ in map_ahead(put, range(self.shape[0]), self.decode_threads):
            pass
        return gathered


@dataclass(frozen=True, slots=True)
class Windows:
    """What the encoder sees: the volume on the bundle's grid, in overlapping windows along z.

    Attributes:
        volume: where it came from.
        voxels: float32 (n, 1, d, h, w) in [0, 1], the bundle's HU range; axes (z, y, x) towards head, back and left.
        affines_lps_mm: float64 (n, 4, 4), for each window from its index (d, h, w, 1) to LPS mm (x, y, z, 1).
        spacing_mm: (z, y, x) of the windows.
        real_fraction: float32 (n,), how much of each window is voxels of the scan; the rest was padded with air.
        findings: the volume's and those of decoding.
    """

    volume: Volume
    voxels: NDArray[np.float32]
    affines_lps_mm: NDArray[np.float64]
    spacing_mm: Millimetres
    real_fraction: NDArray[np.float32]
    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        shape, count = self.voxels.shape, len(self.voxels)
        _check(self.voxels.dtype == np.float32 and len(shape) == 5 and shape[1] == 1 <= count, f"windows of {shape}")
        _check(self.affines_lps_mm.shape == (count, 4, 4), f"{len(self.affines_lps_mm)} affines of {count} windows")
        _check(self.real_fraction.shape == (count,), f"{len(self.real_fraction)} fractions of {count} windows")


@dataclass(frozen=True, slots=True)
class TapValues:
    """One tap of one series.

    Attributes:
        name: `mu`, `sigma` or a named layer of the bundle.
        pooling: how a layer's grid became a vector: `none` where it is a vector already, or is kept as the grid that it
            is; else `mean`, `max`, `std` or `flatten`.
        values: float32 (length,), the series' vector; a grid that is kept stands in it channels first, then z, y, x.
        windows: float32 (n, length), the same for each window.
        shape: (channels, d, h, w) of a grid that is kept; None for what is a vector.
    """

    name: str
    pooling: str
    values: NDArray[np.float32]
    windows: NDArray[np.float32]
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        found = f"tap {self.name} of {self.values.shape}, its windows of {self.windows.shape}"
        _check(self.values.ndim == 1 and self.windows.shape[1:] == self.values.shape and len(self.windows) > 0, found)
        _check(self.values.dtype == self.windows.dtype == np.float32, f"tap {self.name} is not float32")

    @property
    def length(self) -> int:
        """How many dimensions the vector has."""
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the encoder made of the windows: always `mu` and `sigma`, others on request."""

    windows: Windows
    taps: Mapping[str, TapValues]
    runtime: str

    def __post_init__(self) -> None:
        _check({"mu", "sigma"} <= self.taps.keys(), f"taps {', '.join(self.taps)}; expected mu and sigma among them")
        counts = {len(tap.windows) for tap in self.taps.values()}
        _check(counts == {len(self.windows.voxels)}, f"taps of {counts} windows, of {len(self.windows.voxels)}")

    @property
    def volume(self) -> Volume:
        """The volume that was encoded."""
        return self.windows.volume

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was met on the way, from the headers to the windows."""
        return self.windows.findings

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
    """Which series, part and files the numbers are of.

    Attributes:
        instances: how many files.
        instances_digest: SHA-256 of their sorted SOP Instance UIDs (digests of the pixels where those are missing).
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
    """Whose scan it is, without saying who: identifiers are None unless they were asked for.

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
    """How the scan was made, as its headers say; dates are None unless they were asked for."""

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
    """Which weights, run by what."""

    name: str
    version: str
    weights_sha256: str
    architecture: str
    runtime: str


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether the numbers of a series should be believed, as its bundle's reference patients say.

    Attributes:
        verdict: at alpha 0.1; `undetermined` where there are too few reference patients to tell.
        reasons: what led to it, one line each.
        n_reference: patients.
        p_conformal: by patient; None where `n_reference` is too small.
        mahalanobis: distance of mu from the reference population.
        reconstruction_mae_hu: mean absolute error of the decoder's reconstruction.
        percentiles: rank of each score in the reference population, in percent.
    """

    verdict: Literal["in_distribution", "out_of_distribution", "undetermined"]
    reasons: tuple[str, ...]
    n_reference: int
    p_conformal: float | None = None
    mahalanobis: float | None = None
    reconstruction_mae_hu: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """Everything that is written about one series: its features, and who, what and how.

    Attributes:
        encoding: the numbers, and through it the windows, the volume and the series.
        preprocessing: parameters as the bundle names them, plain JSON values.
        preprocessing_digest: SHA-256 of those parameters.
        config_digest: SHA-256 of all settings that can change what is written.
        quantities: what the voxels themselves say, None where it could not be measured.
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
        """The volume that it describes."""
        return self.encoding.volume

    @property
    def series(self) -> Series:
        """The series that it describes."""
        return self.volume.series

    @property
    def series_instance_uid(self) -> str:
        """UID of the series that it describes."""
        return self.series.series_instance_uid

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was met on the way, from the headers to the windows."""
        return self.encoding.findings

    @property
    def taps(self) -> Mapping[str, TapValues]:
        """Features by the tap's name; `taps["mu"].values` is the feature vector."""
        return self.encoding.taps


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended for one series or part of it: a line of `outcome.json`.

    Attributes:
        file: of an outcome that is of one file: its path relative to the input. It may hold a name, so it is for the
            user's own terminal alone.
    """

    series_instance_uid: str
    part: int | None
    folder: str
    status: Status
    reason: str | None = None
    message: str | None = None
    shape: Shape | None = None
    spacing_mm: Millimetres | None = None
    findings: tuple[Finding, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    file: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        good = self.status in ("written", "eligible")
        _check(good is (self.reason is None), f"{self.status} with the reason {self.reason}")


def _check(holds: bool, found: str) -> None:
    """Raise for a noun that contradicts itself: an error of ours, never of the input."""
    if not holds:
        raise ValueError(f"found {found}")
