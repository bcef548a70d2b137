"""What a bundle makes of a scan, original and changed: features, targets and errors of each of its windows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.research.data.changed_windows import ORIGINAL, SeenScan, see_scan
from app.research.data.scan import Scan
from models.runtime import Encoder
from models.spec import Bundle, TapSpec
from models.statistics.cropped import cropped_tiles
from models.statistics.identity import non_overlapping
from models.statistics.image_error import absolute_errors, psnr, ssim
from operators.encode import pool
from operators.errors import SeriesError, SeriesFailed
from operators.measure.probe_targets import probe_targets
from operators.measure.quantities import window_quantities

logger = logging.getLogger(__name__)

HEIGHT = "height_in_scan"

Floats = NDArray[np.float64]
Decode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Describe = Callable[[NDArray[np.float32]], Mapping[str, Floats]]


@dataclass(frozen=True, slots=True)
class Measured:
    """The windows of many scans: arrays have one row per window.

    Attributes:
        features: change (or `original`) → tap → (n, length).
        targets: targets of the probes: quantities of the voxels, and the position in the scan; NaN where missing.
        labels: label → text of each window's scan, empty where missing.
        unlike: quantities that resemble no training target (`operators.measure.probe_targets`), as `targets`.
        rivals: method → (n, length): what needs no training, see `app.research.certify.rivals`.
        sources: (n,), source of each window's scan, as named in a list.
        cropped: bool (n,), whether a window is a tile cropped from a scan.
        windows: float16 (n, d, h, w) in [0, 1], if they were to be kept; else None.
        errors: name → (n,): absolute error in HU over all voxels and by tissue, `psnr_db`, `ssim`; empty without a
            decoder.
        patients: (n,), names in the list or folder, which must not be written anywhere.
        scans: number of scans read.
        of_scan: (n,), number of each window's scan.
        moved_mm: change → (z, y, x), mean over scans.
    """

    features: Mapping[str, Mapping[str, Floats]]
    targets: Mapping[str, Floats]
    unlike: Mapping[str, Floats]
    rivals: Mapping[str, Floats]
    labels: Mapping[str, NDArray[np.str_]]
    sources: NDArray[np.str_]
    cropped: NDArray[np.bool_]
    windows: NDArray[np.float16] | None
    errors: Mapping[str, Floats]
    patients: NDArray[np.str_]
    low_mm: Floats
    high_mm: Floats
    scans: int
    of_scan: NDArray[np.intp]
    moved_mm: Mapping[str, Floats]

    def places(self) -> NDArray[np.intp]:
        """Return the indices of windows of which no two of one patient overlap."""
        return non_overlapping(self.low_mm, self.high_mm, self.patients)


@dataclass(frozen=True, slots=True)
class Together:
    """The windows that are measured, followed by those that only help to learn.

    The two parts have no patient in common: `Roles` ensures it.

    Attributes:
        parts: the two, or only the first.
        patients: (n,), of all windows.
        scored: bool (n,), whether a window is measured.
    """

    parts: tuple[Measured, ...]
    patients: NDArray[np.str_]
    scored: NDArray[np.bool_]

    def tap(self, name: str) -> Floats:
        """Return a tap's vectors, (n, length), of all unchanged windows."""
        return np.concatenate([part.features[ORIGINAL][name] for part in self.parts])

    def targets(self) -> dict[str, Floats]:
        """Return the quantities of all windows."""
        return {name: np.concatenate([part.targets[name] for part in self.parts]) for name in self.parts[0].targets}


def put_together(measured: Measured, known: Measured | None) -> Together:
    """Return the windows that are measured and those that help, in this order."""
    parts = (measured,) if known is None else (measured, known)
    patients = np.concatenate([part.patients for part in parts])
    return Together(parts, patients, np.arange(len(patients)) < len(measured.patients))


def measure_scans(
    scans: Sequence[Scan],
    bundle: Bundle,
    encoder: Encoder,
    taps: Mapping[str, TapSpec],
    *,
    decode: Decode | None = None,
    describe: Describe | None = None,
    keep_windows: bool = False,
    names: Sequence[str] | None = None,
    cache: Path | None = None,
    seed: int = 0,
    report: Callable[[str, float], None] = lambda text, fraction: None,
) -> Measured | None:
    """Read, change, encode and measure scans, one after the other; what cannot be read is logged and left out.

    Args:
        scans: scans to measure on.
        bundle: the bundle with preprocessing and decoder.
        encoder: the open encoder of the bundle.
        taps: taps by the names used here.
        decode: `mu` (n, k) → windows (n, 1, d, h, w); None if the bundle has no decoder.
        describe: windows (n, d, h, w) → the rivals' features; None without rivals.
        keep_windows: whether to keep them in memory, at two bytes per voxel.
        names: names of changes; by default all.
        cache: folder for changed windows, which are images of patients.
        seed: seed of noise and directions.
        report: called with the current activity and the fraction done, 0 to 1.

    Returns:
            The windows; None if no scan could be read.
    """
    found: list[Measured] = []
    for done, scan in enumerate(scans):
        report(f"scan {done + 1} of {len(scans)}", done / len(scans))
        try:
            seen = see_scan(scan, bundle.preprocessing, names=names, cache=cache, seed=seed)
            windows = seen.voxels[ORIGINAL][:, 0]
            one = _measure_scan(scan, seen, bundle, encoder, taps, decode)
            rivals = {} if describe is None else describe(windows)
            kept = windows.astype(np.float16) if keep_windows else None
            found.append(replace(one, rivals=rivals, windows=kept))
        except SeriesError as error:
            logger.warning("a scan is left out: %s", error)
    return _joined(found) if found else None


def encode_windows(
    voxels: NDArray[np.float32], encoder: Encoder, taps: Mapping[str, TapSpec]
) -> dict[str, NDArray[np.float64]]:
    """Return each tap's vectors, (n, length), of windows (n, 1, d, h, w).

    Raises:
        SeriesFailed: `NON_FINITE_FEATURES`.
    """
    outputs = encoder.run(voxels, tuple(dict.fromkeys(spec.name for spec in taps.values())))
    for layer, values in outputs.items():
        if not np.isfinite(values).all():
            text = f"tap {layer} has NaN or infinity; expected finite numbers: check the bundle"
            raise SeriesFailed("NON_FINITE_FEATURES", text)
    return {name: pool(outputs[spec.name], spec.pooling) for name, spec in taps.items()}


def _measure_scan(
    scan: Scan, seen: SeenScan, bundle: Bundle, encoder: Encoder, taps: Mapping[str, TapSpec], decode: Decode | None
) -> Measured:
    """Return everything measured on one scan; its voxels are not kept."""
    low, high = bundle.preprocessing.window_hu
    features = {name: encode_windows(voxels, encoder, taps) for name, voxels in seen.voxels.items()}
    windows = seen.voxels[ORIGINAL]
    hu = low + windows[:, 0].astype(np.float64) * (high - low)
    quantities = [window_quantities(one, seen.spacing_mm) for one in hu]
    targets = {name: np.array([one[name] for one in quantities]) for name in quantities[0]} | {HEIGHT: seen.height}
    unlike = [probe_targets(one, seen.spacing_mm) for one in hu]
    errors: dict[str, Floats] = {}
    if decode is not None:
        made = np.clip(decode(features[ORIGINAL]["mu"].astype(np.float32)), 0, 1)[:, 0]
        errors = absolute_errors(hu, low + made.astype(np.float64) * (high - low))
        errors |= {"psnr_db": psnr(windows[:, 0], made, 1.0), "ssim": ssim(windows[:, 0], made, 1.0)}
    labels = ({"sex": seen.sex} if seen.sex else {}) | dict(scan.labels)
    count = len(windows)
    return Measured(
        features=features,
        targets=targets,
        unlike={name: np.array([one[name] for one in unlike]) for name in unlike[0]},
        rivals={},
        labels={name: np.full(count, str(value)) for name, value in labels.items()},
        sources=np.full(count, scan.source),
        cropped=cropped_tiles(windows[:, 0]),
        windows=None,
        errors=errors,
        patients=np.full(count, scan.patient),
        low_mm=seen.low_mm,
        high_mm=seen.high_mm,
        scans=1,
        of_scan=np.zeros(count, np.intp),
        moved_mm=seen.moved_mm,
    )


def _joined(scans: Sequence[Measured]) -> Measured:
    """Return the windows of all scans, one scan after the other."""
    first = scans[0]
    count = [len(scan.patients) for scan in scans]
    named = sorted({label for scan in scans for label in scan.labels})
    kept = [scan.windows for scan in scans if scan.windows is not None]
    return Measured(
        features={
            change: {tap: np.concatenate([scan.features[change][tap] for scan in scans]) for tap in by_tap}
            for change, by_tap in first.features.items()
        },
        targets=_columns([scan.targets for scan in scans]),
        unlike=_columns([scan.unlike for scan in scans]),
        rivals=_columns([scan.rivals for scan in scans]),
        labels={
            label: np.concatenate([scan.labels.get(label, np.full(len(scan.patients), "")) for scan in scans])
            for label in named
        },
        sources=np.concatenate([scan.sources for scan in scans]),
        cropped=np.concatenate([scan.cropped for scan in scans]),
        windows=np.concatenate(kept) if kept else None,
        errors=_columns([scan.errors for scan in scans]),
        patients=np.concatenate([scan.patients for scan in scans]),
        low_mm=np.concatenate([scan.low_mm for scan in scans]),
        high_mm=np.concatenate([scan.high_mm for scan in scans]),
        scans=len(scans),
        of_scan=np.repeat(np.arange(len(scans)), count),
        moved_mm={name: np.mean([scan.moved_mm[name] for scan in scans], axis=0) for name in first.moved_mm},
    )


def _columns(scans: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Return the columns of all scans, by the names that the first one has."""
    return {name: np.concatenate([columns[name] for columns in scans]) for name in scans[0]}
