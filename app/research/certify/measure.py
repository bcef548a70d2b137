"""What a bundle makes of a scan, original and changed: features, targets and errors of each of its windows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    rows: list[dict[str, Any]] = []
    for done, scan in enumerate(scans):
        report(f"scan {done + 1} of {len(scans)}", done / len(scans))
        try:
            seen = see_scan(scan, bundle.preprocessing, names=names, cache=cache, seed=seed)
            row = _row(scan, seen, bundle, encoder, taps, decode)
            windows = seen.voxels[ORIGINAL][:, 0]
            row["rivals"] = {} if describe is None else describe(windows)
            row["windows"] = windows.astype(np.float16) if keep_windows else None
            rows.append(row)
        except SeriesError as error:
            logger.warning("a scan is left out: %s", error)
    return _joined(rows) if rows else None


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


def _row(
    scan: Scan, seen: SeenScan, bundle: Bundle, encoder: Encoder, taps: Mapping[str, TapSpec], decode: Decode | None
) -> dict[str, Any]:
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
    return {
        "features": features,
        "targets": targets,
        "unlike": {name: np.array([one[name] for one in unlike]) for name in unlike[0]},
        "sources": np.full(len(windows), scan.source),
        "cropped": cropped_tiles(windows[:, 0]),
        "errors": errors,
        "labels": labels,
        "patients": np.full(len(windows), scan.patient),
        "low_mm": seen.low_mm,
        "high_mm": seen.high_mm,
        "moved_mm": seen.moved_mm,
    }


def _joined(rows: Sequence[Mapping[str, Any]]) -> Measured:
    def column(*path: str) -> Any:
        found = []
        for row in rows:
            value: Any = row
            for key in path:
                value = value[key]
            found.append(value)
        return found

    first = rows[0]
    count = [len(row["patients"]) for row in rows]
    named = dict.fromkeys(label for row in rows for label in row["labels"])
    return Measured(
        features={
            change: {tap: np.concatenate(column("features", change, tap)) for tap in by_tap}
            for change, by_tap in first["features"].items()
        },
        unlike={name: np.concatenate(column("unlike", name)) for name in first["unlike"]},
        rivals={name: np.concatenate(column("rivals", name)) for name in first["rivals"]},
        sources=np.concatenate(column("sources")),
        cropped=np.concatenate(column("cropped")),
        windows=None if first["windows"] is None else np.concatenate(column("windows")),
        targets={name: np.concatenate(column("targets", name)) for name in first["targets"]},
        labels={
            label: np.repeat([str(row["labels"].get(label, "")) for row in rows], count) for label in sorted(named)
        },
        errors={name: np.concatenate(column("errors", name)) for name in first["errors"]},
        patients=np.concatenate(column("patients")),
        low_mm=np.concatenate(column("low_mm")),
        high_mm=np.concatenate(column("high_mm")),
        scans=len(rows),
        of_scan=np.repeat(np.arange(len(rows)), count),
        moved_mm={name: np.mean(column("moved_mm", name), axis=0) for name in first["moved_mm"]},
    )
