"""The windows of a scan, original and under each change that should not matter; cached if a cache is given."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from app.research.data.reading import reading_digest
from app.research.data.scan import Scan
from app.research.data.window_cache import window_heights
from models.spec import Preprocessing
from operators.errors import SeriesFailed
from operators.preprocess import preprocess
from operators.synthetic.perturbations import changes_for
from operators.types import HuSlice, Volume

logger = logging.getLogger(__name__)

ORIGINAL = "original"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeenScan:
    """One scan as the encoder sees it, original and under each change.

    Attributes:
        voxels: change (or `original`) → float32 (n, 1, d, h, w) in [0, 1].
        height: float64 (n,): 0 foot end, 1 head end.
        low_mm, high_mm: float64 (n,), each window's extent along its own z axis, in the patient.
        spacing_mm: (z, y, x) of the windows.
        moved_mm: change → (z, y, x), largest distance that windows moved.
        sex: from the header, `M`, `F` or empty.
    """

    voxels: Mapping[str, NDArray[np.float32]]
    height: Floats
    low_mm: Floats
    high_mm: Floats
    spacing_mm: tuple[float, float, float]
    moved_mm: Mapping[str, Floats]
    sex: str


def see_scan(
    scan: Scan, settings: Preprocessing, *, names: Sequence[str] | None = None, cache: Path | None = None, seed: int = 0
) -> SeenScan:
    """Return a scan's windows, original and under each of the named changes (all by default).

    Noise and directions of shifts depend only on the seed and the scan's own key, not on the other scans.

    Raises:
        SeriesError: the scan was rejected.
    """
    chosen = {name: change for name, change in changes_for(settings).items() if names is None or name in names}
    code = [scan.key, scan.stamp, settings.digest(), reading_digest(), str(seed), *chosen]
    file = cache / f"changed-{hashlib.sha256(chr(10).join(code).encode()).hexdigest()[:32]}.npz" if cache else None
    stored = _load(file, [ORIGINAL, *chosen]) if file else None
    if stored is not None:
        return stored
    volume = _held(scan.open())
    seen = _see(volume, scan.key, chosen, settings, seed)
    if file:
        _store(file, seen)
    return seen


def _see(volume: Volume, key: str, chosen: Mapping[str, Any], settings: Preprocessing, seed: int) -> SeenScan:
    original = preprocess(volume, settings)
    affines = original.affines_lps_mm
    up = affines[:, :3, 0] / np.linalg.norm(affines[:, :3, 0], axis=1, keepdims=True)
    low = ((affines @ [-0.5, *((count - 1) / 2 for count in original.voxels.shape[3:]), 1.0])[:, :3] * up).sum(axis=1)
    voxels, moved = {ORIGINAL: original.voxels}, {}
    for name, change in chosen.items():
        own = int.from_bytes(hashlib.sha256(f"{key} {name}".encode()).digest()[:8], "big")
        windows = preprocess(change(volume, np.random.default_rng((seed, own))), settings)
        if windows.voxels.shape != original.voxels.shape:
            raise SeriesFailed("CHANGE_MISPLACED", f"{name} gave windows that do not match the scan's; it is left out")
        voxels[name] = windows.voxels
        along = np.linalg.solve(affines[:, :3, :3] / _lengths(affines), (windows.affines_lps_mm - affines)[:, :3, 3:])
        moved[name] = np.abs(along[:, :, 0]).max(axis=0)
    sex = str(volume.series.first.get("PatientSex", "") or "").strip().upper()
    return SeenScan(
        voxels=voxels,
        height=window_heights(original).astype(np.float64),
        low_mm=low,
        high_mm=low + original.voxels.shape[2] * original.spacing_mm[0],
        spacing_mm=original.spacing_mm,
        moved_mm=moved,
        sex=sex if sex in ("F", "M") else "",
    )


def _lengths(affines: Floats) -> Floats:
    return np.asarray(np.linalg.norm(affines[:, :3, :3], axis=1, keepdims=True), np.float64)


def _held(volume: Volume) -> Volume:
    """Return the volume decoded once, for each change reads every slice."""
    hu = volume.voxels()
    return replace(volume, read_slice=lambda d: HuSlice(hu[d]), decode_threads=1)


def _store(file: Path, seen: SeenScan) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"voxels {name}": voxels for name, voxels in seen.voxels.items()}
    arrays |= {f"moved {name}": np.asarray(moved) for name, moved in seen.moved_mm.items()}
    places = {"height": seen.height, "low_mm": seen.low_mm, "high_mm": seen.high_mm}
    rest = {"spacing_mm": np.array(seen.spacing_mm), "sex": np.array(seen.sex)}
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".changed-") as folder:
        unfinished = Path(folder, "windows.npz")
        np.savez(unfinished, **arrays, **places, **rest)  # type: ignore[arg-type]
        unfinished.replace(file)


def _load(file: Path, names: Iterable[str]) -> SeenScan | None:
    """Return a cached scan; None if it is missing or damaged (a ZIP archive holds checksums)."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            z, y, x = found["spacing_mm"].tolist()
            return SeenScan(
                voxels={name: found[f"voxels {name}"] for name in names},
                height=found["height"],
                low_mm=found["low_mm"],
                high_mm=found["high_mm"],
                spacing_mm=(z, y, x),
                moved_mm={name: found[f"moved {name}"] for name in names if name != ORIGINAL},
                sex=str(found["sex"]),
            )
    except (OSError, ValueError, KeyError, BadZipFile, EOFError):
        logger.info("changed windows in the cache are damaged; made again")
        file.unlink(missing_ok=True)  # another process may have found it first
        return None
