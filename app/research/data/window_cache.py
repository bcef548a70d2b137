"""Windows of scans on disk: read and preprocessed once, then memory-mapped.

Each scan has two files: `NAME.npy`, float16 windows, and `NAME.json`, which states where in the scan they are and what
they were made from. Both are images of patients as much as the scans are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.research.data.reading import reading_digest
from app.research.data.scan import Scan
from models.spec import Preprocessing
from operators.preprocess import preprocess
from operators.types import Volume, Windows

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 24

MARGIN_VOXELS = (4, 8, 8)
"""(z, y, x) per side: cached windows are larger than the network's, which is cut out at a random place."""

MARGIN_OVERLAP = 0.75


@dataclass(frozen=True, slots=True)
class ScanWindows:
    """One scan as the network sees it.

    Attributes:
        voxels: float16 (n, d, h, w) in [0, 1], memory-mapped, read-only. Half precision rounds to at most 0.5 HU in a
            range of 2000.
        height: float32 (n,), position of each window's middle in its scan: 0 the foot end, 1 the head end.
        real_fraction: float32 (n,), share of each window that is voxels of the scan.
    """

    voxels: NDArray[np.float16]
    height: NDArray[np.float32]
    real_fraction: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.voxels)


def with_margin(preprocessing: Preprocessing) -> Preprocessing:
    """Return the same preprocessing with larger windows and overlap, from which to cut the network's own."""
    if preprocessing.fit == "resize":
        return preprocessing
    depth, height, width = (
        size + 2 * margin for size, margin in zip(preprocessing.window_voxels, MARGIN_VOXELS, strict=True)
    )
    return replace(preprocessing, window_voxels=(depth, height, width), overlap=MARGIN_OVERLAP)


def cached_windows(scan: Scan, preprocessing: Preprocessing, cache: Path) -> ScanWindows:
    """Return the scan's windows with their positions and real fractions; read and preprocessed only once.

    Raises:
        SeriesError: the scan was rejected.
    """
    return stored_windows(scan.key, scan.stamp, scan.open, preprocessing, cache)


def stored_windows(
    key: str, stamp: str, open_volume: Callable[[], Volume], preprocessing: Preprocessing, folder: Path
) -> ScanWindows:
    """Return windows from the cache; made, or made again, if they are missing, damaged or older than the scan's files.

    Args:
        key: digest of the scan's instances.
        stamp: digest of what the system knows about its files, or "" if that is unknown.
        open_volume: reads the scan; raises `SeriesError`.
        preprocessing: its digest, with that of the code that reads, is the other half of the name.
        folder: the cache; created if missing.
    """
    code = hashlib.sha256(f"{preprocessing.digest()} {reading_digest()}".encode()).hexdigest()
    voxels = folder / f"{key[:24]}-{code[:12]}.npy"
    if voxels.exists():
        found = _load(voxels, stamp)
        if found is not None:
            return found
        logger.info("windows of scan %s in the cache are damaged or older than its files; made again", key)
    _store(voxels, stamp, preprocess(open_volume(), preprocessing))
    made = _load(voxels, stamp)
    if made is None:
        raise OSError(f"the windows just written to the cache do not read back: {voxels.name}")
    return made


def window_heights(windows: Windows) -> NDArray[np.float32]:
    """Return the position of each window's middle along its scan, (n,): 0 the foot end, 1 the head end."""
    volume, affine = windows.volume, windows.affines_lps_mm
    middle = [(size - 1) / 2 for size in windows.voxels.shape[2:]]
    centres = affine @ np.array([*middle, 1.0])
    up = affine[0, :3, 0] / np.linalg.norm(affine[0, :3, 0])
    whole = volume.affine_lps_mm @ np.array([*((size - 1) / 2 for size in volume.shape), 1.0])
    along = np.abs(up @ volume.affine_lps_mm[:3, :3])  # mm along the body per step of each axis
    axis = int(np.argmax(along / np.linalg.norm(volume.affine_lps_mm[:3, :3], axis=0)))
    height = 0.5 + (centres[:, :3] - whole[:3]) @ up / (along[axis] * volume.shape[axis])
    return np.asarray(np.clip(height, 0, 1), np.float32)


def _store(file: Path, stamp: str, windows: Windows) -> None:
    """Write both files, each under its own name until it is complete: several processes may want the same scan."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, lambda path: np.save(path, windows.voxels[:, 0].astype(np.float16)))
    about = {
        "stamp": stamp,
        "crc32": _crc32(file),
        "height": window_heights(windows).tolist(),
        "real_fraction": windows.real_fraction.tolist(),
    }
    _replace(file.with_suffix(".json"), lambda path: path.write_text(json.dumps(about), encoding="utf-8"))


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=file.suffix, dir=file.parent)
    os.close(descriptor)
    unfinished = Path(name)
    try:
        write(unfinished)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _load(file: Path, stamp: str) -> ScanWindows | None:
    """Return the windows; None if the two files do not match what was written for these files of the scan."""
    try:
        about: Any = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        if about["stamp"] != stamp or about["crc32"] != _crc32(file):
            return None
        voxels = np.load(file, mmap_mode="r", allow_pickle=False)
        height, real = (np.array(about[name], np.float32) for name in ("height", "real_fraction"))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    good = voxels.ndim == 4 and voxels.dtype == np.float16 and height.shape == real.shape == voxels.shape[:1]
    return ScanWindows(voxels, height, real) if good else None


def _crc32(file: Path) -> int:
    """Return a checksum, which detects truncated files and lost blocks; it does not protect against an attacker."""
    found = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return found


def stamp_of(parts: Sequence[tuple[int, int] | None]) -> str:
    """Return a digest of sizes and modification times; "" if one of them is unknown."""
    known = sorted(part for part in parts if part is not None)
    return hashlib.sha256(repr(known).encode()).hexdigest() if len(known) == len(parts) else ""
