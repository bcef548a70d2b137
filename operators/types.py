"""The nouns that travel from a folder of CT to windows, and how each series ended.

    folder → Study → Series → Volume → Windows → Encoding → FeatureRecord → JSON, SR → Outcome

Each noun is made once, checked when it is made, and holds the noun it was made from, so that a number in a record can
be traced back to the files. Axes are DICOM's patient axes (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the
head (LPS), in mm. Arrays are indexed (z, y, x) and called (D, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from operators.errors import Status, check_noun
from operators.instance import ImageFile, Instance
from operators.prefetch import map_ahead

Shape = tuple[int, int, int]
Millimetres = tuple[float, float, float]
Verdict = Literal["in_distribution", "out_of_distribution", "undetermined"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact about a series that does not stop it but that a user of the numbers should know."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series, headers only, in no particular order.

    Attributes:
        series_instance_uid: from the file where it is valid, else derived from the pixels (finding `UID_DERIVED`).
        study_instance_uid: likewise.
        folder: of the first file, relative to the input folder (`.` for the input folder itself); it may hold a name,
            so it appears only in `outcome.json`.
        instances: at least one.
        part: None for a whole series; 1, 2, … where the series had to be split.
        derived_uids: (keyword, original value) of each UID that was missing or invalid and replaced.
        findings: what was found while reading the headers.
    """

    series_instance_uid: str
    study_instance_uid: str
    folder: str
    instances: tuple[Instance, ...]
    part: int | None = None
    derived_uids: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        check_noun(bool(self.instances), "a series without instances")
        check_noun(self.part is None or self.part >= 1, f"part {self.part}; expected 1 or more")

    @property
    def volume(self) -> None:
        """None, for its geometry is not known yet."""
        return

    @property
    def files(self) -> tuple[Instance, ...]:
        """One instance per file, however many frames the file has: for statements that are made once per file."""
        first = {instance.path: instance for instance in reversed(self.instances) if instance.frame}
        return tuple(
            instance for instance in self.instances if instance.frame is None or instance is first[instance.path]
        )

    @property
    def first(self) -> Dataset:
        """The header to read series-wide values from: that of the instance with the smallest UID.

        It is not that of the first file: file names must not change the results.
        """
        return min(self.instances, key=lambda instance: instance.sop_instance_uid).header

    @property
    def image(self) -> ImageFile | None:
        """The series' file in a research format; None for DICOM."""
        return self.instances[0].image


@dataclass(frozen=True, slots=True)
class Study:
    """The series with one StudyInstanceUID in the input folder."""

    study_instance_uid: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class HuSlice:
    """One decoded slice.

    Attributes:
        hu: int16 Hounsfield units, (H, W), rows and columns as stored.
        findings: what was found while decoding (saturation, padding, …).
        histogram: int64 (2048,), from a sample of its stored values, see `operators.dicom.plausible_hu`; None
            where they need not be checked for being HU.
    """

    hu: NDArray[np.int16]
    findings: tuple[Finding, ...] = ()
    histogram: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Volume:
    """A series that passed the geometry gate: its grid is known, its slices are decoded on demand.

    Attributes:
        series: the series it was made from.
        shape: (D, H, W): slices, rows, columns.
        affine_lps_mm: float64 (4, 4), from the index (d, h, w, 1) to the centre of that voxel in LPS mm (x, y, z, 1).
            Slices go along +normal = row direction × column direction, which for an axial series is from feet to head.
        spacing_mm: (between slices, between rows, between columns), centre to centre.
        findings: those of the geometry gate and of the series.
        read_slice: from d to the decoded slice; may be called from several threads; raises `SeriesRejected` or
            `SeriesFailed`.
        decode_threads: 2 where slices are compressed; native slices are copied faster than threads can hand them over.
        implausible_hu: what to do with values that cannot be HU, once all slices have been decoded.
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
        check_noun(len(self.shape) == 3 and min(self.shape) >= 1, f"a volume of shape {self.shape}")
        check_noun(min(self.spacing_mm) > 0, f"a spacing of {self.spacing_mm} mm")
        check_noun(self.affine_lps_mm.shape == (4, 4) and bool(np.isfinite(self.affine_lps_mm).all()), "no affine")

    @property
    def volume(self) -> Volume:
        """The volume itself; every later noun has the same property."""
        return self

    def findings_with(self, of_slices: Sequence[tuple[Finding, ...]]) -> tuple[Finding, ...]:
        """Return its findings, each once; then those of its slices, one per code with the first slice's detail."""
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
        """Yield the slices in order of d; with `decode_threads` 2, two are decoded ahead."""
        return map_ahead(self.read_slice, range(self.shape[0]), self.decode_threads)

    def voxels(self) -> NDArray[np.int16]:
        """Return all slices as one array: int16 HU, (D, H, W)."""
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
        volume: the volume it was made from.
        voxels: float32 (n, 1, d, h, w) in [0, 1], the bundle's HU range; axes (z, y, x) towards head, back and left.
        affines_lps_mm: float64 (n, 4, 4), for each window from its index (d, h, w, 1) to LPS mm (x, y, z, 1).
        spacing_mm: (z, y, x) of the windows.
        real_fraction: float32 (n,), share of each window that is voxels of the scan; the rest is padded with air.
        findings: those of the volume and of decoding.
    """

    volume: Volume
    voxels: NDArray[np.float32]
    affines_lps_mm: NDArray[np.float64]
    spacing_mm: Millimetres
    real_fraction: NDArray[np.float32]
    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        shape, count = self.voxels.shape, len(self.voxels)
        check_noun(
            self.voxels.dtype == np.float32 and len(shape) == 5 and shape[1] == 1 <= count, f"windows of {shape}"
        )
        check_noun(self.affines_lps_mm.shape == (count, 4, 4), f"{len(self.affines_lps_mm)} affines of {count} windows")
        check_noun(self.real_fraction.shape == (count,), f"{len(self.real_fraction)} fractions of {count} windows")

    @property
    def starts(self) -> NDArray[np.int_]:
        """First voxel of each window along z, on the grid that the windows were cut from: int (n,), from 0."""
        origins = self.affines_lps_mm[:, :3, 3]
        along_mm = np.linalg.norm(origins - origins[0], axis=1)
        starts: NDArray[np.int_] = np.rint(along_mm / self.spacing_mm[0]).astype(int)
        return starts


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one series or part ended: a line of `outcome.json`.

    Attributes:
        file: path relative to the input, where the outcome concerns one file. It may hold a name, so it is shown only
            on the user's own terminal.
        verdict: reliability of what was written; None where it was not assessed.
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
    verdict: Verdict | None = None

    def __post_init__(self) -> None:
        good = self.status in ("written", "eligible")
        check_noun(good is (self.reason is None), f"{self.status} with the reason {self.reason}")
