"""The images behind the rows of a table: what needs no network is measured on them, and they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.cohort.indexed_series import index_folder, open_indexed
from app.explain.data.question import Question
from app.read_input import open_series
from app.settings import Settings, check_input
from models.runtime import Encoder, open_encoder
from models.spec import Bundle
from models.statistics.body import BODY_ABOVE_HU
from models.statistics.rivals import hu_histogram, principal_components
from operators.build_volume import build_volume
from operators.encode import encode
from operators.errors import SeriesError, StartError
from operators.job import Job
from operators.preprocess import preprocess
from operators.types import Outcome, Series, Windows

COMPONENTS: Final = 32
BLOCK: Final = 4
"""Voxels of a window that are averaged along each axis before principal components are learned."""

CONTROLS: Final = ("body voxels shuffled", "body voxels random")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of the windows of one series.

    Attributes:
        histogram: float64 (32,): shares of HU, the mean over windows.
        small: float32 (v,): the mean window in blocks.
        window: float32 (d, h, w) in [0, 1]: the middle one.
        controls: features of the same windows whose voxels in the body were shuffled, or drawn at random.
    """

    histogram: NDArray[np.float64]
    small: NDArray[np.float32]
    window: NDArray[np.float32]
    controls: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a question's rows.

    Attributes:
        bundle: that made the features.
        seen: for each row, None where the data do not have it.
        problems: why, one line each.
    """

    bundle: Bundle
    seen: tuple[Seen | None, ...]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every row has its images; rivals are compared on all rows or not at all."""
        return all(self.seen)

    def rivals(self) -> dict[str, NDArray[Any]]:
        """Return what the features must be better than: name → (n, k); empty unless all rows have images."""
        known = [one for one in self.seen if one]
        if not self.complete or len(known) < 3:
            return {}
        found: dict[str, NDArray[Any]] = {"HU histogram": np.stack([one.histogram for one in known])}
        small = np.stack([one.small for one in known])
        found["PCA of the windows"] = principal_components(small, COMPONENTS)(small)
        for name in known[0].controls:
            found[name] = np.stack([one.controls[name] for one in known])
        return found


def look_at(
    question: Question, data: Path, bundle: Bundle, settings: Settings, on_scan: Callable[[int, int], None]
) -> Images:
    """Read and preprocess the images of a question's rows, as in encoding.

    Args:
        question: its rows are looked for by series and part.
        data: the folder or archive that was encoded; or the output of `ctvae cohort`, or its index.
        bundle: that made the features.
        settings: which series are selected and what is repaired.
        on_scan: called with (rows done, rows in all).

    Raises:
        StartError: `MIXED_MODELS`: the bundle did not make the features; `NO_DATA`: none of the rows is there.
    """
    digest = str(question.table.texts("model_digest")[0])
    if digest and digest != bundle.weights_sha256:
        text = f"the features are of model {digest[:12]}…, the bundle is {bundle.weights_sha256[:12]}…"
        raise StartError("MIXED_MODELS", f"{text}; give the bundle that encoded them with --model")
    encoder, problems = open_encoder(bundle), list[str]()
    keys = {key: at for at, key in enumerate(_keys(question))}
    seen: list[Seen | None] = [None] * len(keys)
    with _open(data, settings, {uid for uid, _ in keys}) as jobs:
        for job in jobs:
            if not keys:
                break
            if isinstance(job.state, Outcome):
                continue
            series = job.state
            at = keys.pop((series.series_instance_uid, "" if series.part is None else str(series.part)), None)
            if at is None:
                continue
            on_scan(len(seen) - len(keys), len(seen))
            try:
                windows = preprocess(build_volume(series, settings.geometry), bundle.preprocessing)
                seen[at] = _seen(windows, bundle, encoder, question)
            except SeriesError as error:
                problems.append(f"{series.series_instance_uid}: {error.reason}")
    problems += [f"{uid}: not among the data" for uid, _ in keys]
    if not any(seen):
        text = f"none of {len(seen)} series of the table is among the data"
        raise StartError("NO_DATA", f"{text}; give the folder that was encoded with --data")
    return Images(bundle, tuple(seen), tuple(problems))


def _open(data: Path, settings: Settings, wanted: Set[str]) -> AbstractContextManager[Iterator[Job[Series]]]:
    if folder := index_folder(data):
        return open_indexed(folder, settings, wanted)
    return open_series(check_input(data), settings, lambda inventory: None)


def _keys(question: Question) -> Iterator[tuple[str, str]]:
    """Yield the series and part of each row."""
    yield from zip(question.table.texts("series_instance_uid").tolist(), question.table.parts, strict=True)


def _seen(windows: Windows, bundle: Bundle, encoder: Encoder, question: Question) -> Seen:
    voxels = windows.voxels[:, 0]
    mean = voxels.mean(axis=0)
    d, h, w = (size // BLOCK * BLOCK for size in mean.shape)
    blocks = mean[:d, :h, :w].reshape(d // BLOCK, BLOCK, h // BLOCK, BLOCK, w // BLOCK, BLOCK).mean(axis=(1, 3, 5))
    return Seen(
        histogram=hu_histogram(voxels).mean(axis=0),
        small=blocks.reshape(-1).astype(np.float32),
        window=voxels[len(voxels) // 2].copy(),
        controls=_controls(windows, bundle, encoder, question),
    )


def _controls(windows: Windows, bundle: Bundle, encoder: Encoder, question: Question) -> dict[str, NDArray[np.float32]]:
    """Return the features of windows whose body voxels are shuffled, and of windows where they are random."""
    tap = question.tap
    if tap not in {spec.name for spec in bundle.taps}:
        return {}
    low, high = bundle.preprocessing.window_hu
    rng = np.random.default_rng(question.seed)
    body = windows.voxels > (BODY_ABOVE_HU - low) / (high - low)
    shuffled, drawn = windows.voxels.copy(), windows.voxels.copy()
    for window, random, inside in zip(shuffled, drawn, body, strict=True):
        window[inside] = rng.permutation(window[inside])
        random[inside] = rng.random(int(inside.sum()), np.float32)
    made = (replace(windows, voxels=one) for one in (shuffled, drawn))
    taps = () if tap in ("mu", "sigma") else (tap,)
    found = (encode(one, encoder, bundle, taps).taps[tap].values for one in made)
    return dict(zip(CONTROLS, found, strict=True))
