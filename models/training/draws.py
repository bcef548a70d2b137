"""What is drawn for a training window: its place, its gain, another scan made of it, its views.

All draws depend only on the seed and the window's number: a resumed training, and each of many processes, draws the
same as one uninterrupted process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.training.settings import TrainingSettings

Size = tuple[int, int, int]

_ORDER, _WINDOW, _NUISANCE = 1, 2, 3
_LEAST_PART = 1 / 3
_TILE = (1 / 3, 2 / 3)


@dataclass(frozen=True, slots=True)
class View:
    """What is drawn for one view: lengths in voxels, noise in the [0, 1] range.

    Attributes:
        window: voxels of its field of view, if the window has no air around it: y start and end, x start and end.
        offset: added to what is not air, in the [0, 1] range.
        turn: angle about the window's slice axis, in degrees.
    """

    shift: tuple[float, float, float]
    blur: float
    sharpen: float
    thickness: float
    noise: float
    noise_seed: int
    window: tuple[int, int, int, int]
    offset: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """Another scan made of a window: a part of its plane, moved to the middle, magnified, in air.

    Attributes:
        part: height and width of the part, as fractions of the window's.
        at: its position, 0 to 1 of the room it has within what is not air.
        zoom: magnification of the plane.
    """

    part: tuple[float, float]
    at: tuple[float, float]
    zoom: float


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is drawn for one window: place (0 to 1 of the room on each axis), gain, views, and the draw of z.

    `frame` is None where the window stays as it is.
    """

    index: int
    place: tuple[float, float, float]
    gain: float
    frame: Frame | None
    views: tuple[View, ...]
    epsilon: NDArray[np.float32]


def draw_augmentation(settings: TrainingSettings, size: Size, latents: int, windows: int, number: int) -> Augmentation:
    """Return everything drawn for the window that a training takes as its `number`-th, of `windows` in all."""
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, _WINDOW, number)))
    index = int(_order(settings.seed, windows, number // windows)[number % windows])
    place = (float(rng.random()), float(rng.random()), float(rng.random()))
    gain = 1 + settings.gain * float(rng.uniform(-1, 1))
    views = tuple(_view(settings, size, rng, second) for second in ((False, True) if settings.invariance else (False,)))
    views = _with_nuisances(settings, size, views, number)
    epsilon = rng.standard_normal(latents, np.float32)
    return Augmentation(index, place, gain, _frame(settings, rng), views, epsilon)


@lru_cache(maxsize=2)
def _order(seed: int, windows: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of the windows in an epoch, each once."""
    return np.random.default_rng(np.random.SeedSequence((seed, _ORDER, epoch))).permutation(windows)


def _frame(settings: TrainingSettings, rng: np.random.Generator) -> Frame | None:
    cropped, part, at, zoom = rng.random() < settings.crop, rng.random(2), rng.random(2), rng.uniform(-1, 1)
    if not cropped and settings.zoom == 0:
        return None
    height, width = (_LEAST_PART + (1 - _LEAST_PART) * part).tolist() if cropped else (math.inf, math.inf)
    return Frame((height, width), (float(at[0]), float(at[1])), math.exp(math.log1p(settings.zoom) * float(zoom)))


def _view(settings: TrainingSettings, size: Size, rng: np.random.Generator, second: bool) -> View:
    shift = tuple((settings.shift * rng.uniform(-1, 1, 3) * second).tolist())
    blur, sharpen = settings.blur * rng.random(), settings.sharpen * rng.random()
    smooth = settings.sharpen == 0 or (settings.blur > 0 and rng.random() < 0.5)
    thickness, noise, noise_seed = settings.thickness * rng.random(), settings.noise * rng.random(), rng.integers(2**32)
    kept = 1 - settings.field_of_view * rng.random()
    edges = [(math.floor(rng.random() * (length - (n := round(length * kept)) + 1)), n) for length in size[1:]]
    (top, height), (left, width) = edges
    return View(
        shift=shift,
        blur=blur if smooth else 0.0,
        sharpen=0.0 if smooth else sharpen,
        thickness=thickness,
        noise=noise,
        noise_seed=int(noise_seed),
        window=(top, top + height, left, left + width),
    )


def _with_nuisances(settings: TrainingSettings, size: Size, views: tuple[View, ...], number: int) -> tuple[View, ...]:
    """Add what another scanner or bed would change, drawn separately, so that recipes without it draw as before.

    The first view keeps its orientation and field of view, for the target is the window as it is.
    """
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, _NUISANCE, number)))
    changed = []
    for second, view in enumerate(views):
        offset, turn = settings.offset * rng.uniform(-1, 1), settings.turn * rng.uniform(-1, 1) * second
        tile = bool(second and rng.random() < settings.tile)
        edges: list[int] = []
        for length in size[1:]:
            kept = round(length * rng.uniform(*_TILE))
            start = math.floor(rng.random() * (length - kept + 1))
            edges += [start, start + kept]
        window = (edges[0], edges[1], edges[2], edges[3]) if tile else view.window
        changed.append(replace(view, offset=float(offset), turn=float(turn), window=window))
    return tuple(changed)
