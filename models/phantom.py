"""CT of known factors: a chest in Hounsfield units, drawn from a few numbers, in numpy alone.

It gives tests and the demo a scan that looks real, and the disentanglement measures (MIG, DCI) a truth to compare with:
two phantoms with the same seed differ only in their `PhantomFactors`. Everything is placed in mm about the centre of
the grid, so that factors mean the same on any grid. Edges have partial volume in plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.phantom_canvas import Canvas, Floats, Zyx, convolve, gaussian

AIR_HU, LUNG_HU, EMPHYSEMA_HU, FAT_HU, SOFT_HU, BLOOD_HU = -1000.0, -850.0, -975.0, -100.0, 45.0, 40.0
LIVER_HU, DISC_HU, CANAL_HU, MARROW_HU, CORTEX_HU, SHELL_HU, FOAM_HU = 60.0, 90.0, 20.0, 190.0, 650.0, -500.0, -920.0
ENDLESS_MM = 1e5


@dataclass(frozen=True, slots=True)
class PhantomFactors:
    """The factors of one phantom.

    Attributes:
        body_width_mm: from right to left, without the subcutaneous fat; the depth is 0.66 of it.
        fat_mm: thickness of the subcutaneous fat.
        lung_scale: size of the lungs in each direction, relative to the body.
        emphysema_fraction: fraction of the lungs' parenchyma at about -975 HU, 0 to 1.
        nodule_diameter_mm: diameter of a solid nodule in the left upper lobe; 0 for none.
        spine_offset_mm: lateral offset of the spine, to the left.
        contrast_hu: HU that contrast medium adds to blood; a quarter of it goes to the liver.
        noise_hu: standard deviation of the image noise, after the kernel.
        kernel_mm: standard deviation of the Gaussian that smooths in plane; 0 for none.
        table: whether there is a couch below the back.
        table_gap_mm: distance between the back and the couch.
        lung_asymmetry: relative amount by which the left lung is larger than the right; negative if it is smaller.
        position_mm: how far the patient, with the couch, lies below and to the left of the middle of the field.
    """

    body_width_mm: float = 340.0
    fat_mm: float = 16.0
    lung_scale: float = 1.0
    emphysema_fraction: float = 0.05
    nodule_diameter_mm: float = 14.0
    spine_offset_mm: float = 0.0
    contrast_hu: float = 120.0
    noise_hu: float = 18.0
    kernel_mm: float = 0.8
    table: bool = True
    table_gap_mm: float = 0.0
    lung_asymmetry: float = 0.0
    position_mm: tuple[float, float] = (0.0, 0.0)


FACTOR_RANGES = {
    "body_width_mm": (290.0, 380.0),
    "fat_mm": (4.0, 30.0),
    "lung_scale": (0.8, 1.1),
    "emphysema_fraction": (0.0, 0.4),
    "nodule_diameter_mm": (4.0, 30.0),
    "spine_offset_mm": (-18.0, 18.0),
    "contrast_hu": (0.0, 250.0),
    "noise_hu": (4.0, 40.0),
    "kernel_mm": (0.3, 2.0),
}


def sample_factors(rng: np.random.Generator) -> PhantomFactors:
    """Return factors drawn uniformly from `FACTOR_RANGES`, independent of each other."""
    drawn: dict[str, Any] = {name: float(rng.uniform(*bounds)) for name, bounds in FACTOR_RANGES.items()}
    return replace(PhantomFactors(), **drawn)


def sample_varied_factors(rng: np.random.Generator) -> PhantomFactors:
    """Return sampled factors with varied position and asymmetry: phantoms to train on."""
    position_mm = (float(rng.uniform(-30, 30)), float(rng.uniform(-40, 40)))
    return replace(
        sample_factors(rng),
        table=bool(rng.random() < 0.7),
        table_gap_mm=float(rng.uniform(0, 40)),
        lung_asymmetry=float(rng.uniform(-0.35, 0.35)),
        position_mm=position_mm,
    )


def make_phantom(
    factors: PhantomFactors | None = None,
    shape: tuple[int, int, int] = (60, 256, 256),
    spacing_mm: Zyx = (5.0, 1.7, 1.7),
    seed: int = 0,
) -> NDArray[np.int16]:
    """Return a chest, from the liver to the apices of the lungs.

    Args:
        factors: by default those of an adult with a nodule.
        shape: (D, H, W).
        spacing_mm: (z, y, x).
        seed: seed of the vessels, the place of the emphysema, and the noise.

    Returns:
        int16 HU (D, H, W); D from feet to head, H from front to back, W from right to left. Equal arguments give equal
        arrays.
    """
    return np.stack(list(phantom_slices(factors or PhantomFactors(), shape, spacing_mm, seed)))


def phantom_slices(
    factors: PhantomFactors, shape: tuple[int, int, int], spacing_mm: Zyx, seed: int = 0
) -> Iterator[NDArray[np.int16]]:
    """Yield the slices of `make_phantom` one by one, so that a large phantom need not be held."""
    rng = np.random.default_rng(seed)
    lungs = (_lung(-1, factors, rng), _lung(1, factors, rng))
    z, y, x = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True))
    y, x = (axis - np.float32(moved) for axis, moved in zip((y, x), factors.position_mm, strict=True))
    down, across = gaussian(factors.kernel_mm / spacing_mm[1]), gaussian(factors.kernel_mm / spacing_mm[2])
    # The kernel smooths the noise as well, so it starts stronger to end with the stated deviation.
    noise_hu = factors.noise_hu / float(np.sqrt(np.sum(down**2) * np.sum(across**2)))
    for height in z:
        canvas = Canvas(float(height), y, x, np.full((y.size, x.size), AIR_HU, np.float32))
        _draw_chest(canvas, factors, lungs)
        noisy = canvas.hu + np.float32(noise_hu) * rng.standard_normal(canvas.hu.shape, np.float32)
        smooth = convolve(convolve(noisy, down).T, across).T
        yield np.clip(np.rint(smooth), -1024, 3071).astype(np.int16)


def phantom_windows(
    window_voxels: tuple[int, int, int], window_hu: tuple[float, float], spacing_mm: Zyx | None = None
) -> Floats:
    """Return windows of four very different chests, to see what a network makes of them.

    Args:
        window_voxels: (d, h, w).
        window_hu: (low, high), mapped to 0 and 1.
        spacing_mm: (z, y, x); by default a whole chest fits the window.

    Returns:
        float32 (4, 1, d, h, w) in [0, 1].
    """
    z, y, x = (mm / voxels for mm, voxels in zip(_WHOLE_CHEST_MM, window_voxels, strict=True))
    low, high = window_hu
    chests = [np.stack(list(phantom_slices(factors, window_voxels, spacing_mm or (z, y, x)))) for factors in _UNLIKE]
    windows: Floats = np.clip((np.stack(chests)[:, None] - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return windows


_WHOLE_CHEST_MM = (300.0, 360.0, 360.0)
_UNLIKE = (
    PhantomFactors(),
    PhantomFactors(body_width_mm=290.0, fat_mm=4.0, lung_scale=0.8, noise_hu=40.0),
    PhantomFactors(body_width_mm=380.0, fat_mm=30.0, emphysema_fraction=0.4, contrast_hu=0.0),
    PhantomFactors(lung_scale=1.1, nodule_diameter_mm=30.0, spine_offset_mm=20.0, noise_hu=5.0, table=False),
)


class _Lung(NamedTuple):
    """One lung; vessels and emphysema have their places in its unit ball, and keep them as it grows."""

    at: Zyx
    half: Zyx
    vessels: NDArray[np.float64]  # (n, 6): centre in the ball, half axes in mm
    waves: NDArray[np.float64]  # (k, 4): wave numbers and phase of a random field, emphysema where it is high
    threshold: float

    def draw(self, canvas: Canvas, blood_hu: float) -> None:
        """Draw parenchyma above the diaphragm, emphysema in it, and vessels through it."""
        place, share = canvas.ellipsoid(self.at, self.half)
        u = (canvas.z - self.at[0]) / self.half[0]
        v = (canvas.y[place[0], None] - self.at[1]) / self.half[1]
        w = (canvas.x[None, place[1]] - self.at[2]) / self.half[2]
        # cos(a + b) = cos a cos b - sin a sin b: each wave is two outer products.
        a = self.waves[:, :1] * u + self.waves[:, 1:2] * v.T + self.waves[:, 3:]
        b = self.waves[:, 2:3] * w
        field = np.einsum("kh,kw->hw", np.cos(a), np.cos(b)) - np.einsum("kh,kw->hw", np.sin(a), np.sin(b))
        emphysema = np.clip(0.5 + 6 * (field - self.threshold), 0, 1)
        parenchyma = LUNG_HU + 35 * v + 5 * field
        above_dome = np.clip(0.5 + (u + 0.8 - 0.5 * (1 - v * v - w * w)) * 30, 0, 1)
        hu = parenchyma + emphysema * (EMPHYSEMA_HU - parenchyma)
        canvas.blend(place, (share * above_dome).astype(np.float32), hu.astype(np.float32))
        for z, y, x, a_mm, b_mm, c_mm in self.vessels.tolist():
            canvas.paint(self.inside(z, y, x), (a_mm, b_mm, c_mm), blood_hu)

    def inside(self, z: float, y: float, x: float) -> Zyx:
        """Return the position of a point of the unit ball, in mm."""
        return self.at[0] + z * self.half[0], self.at[1] + y * self.half[1], self.at[2] + x * self.half[2]


def _lung(side: int, factors: PhantomFactors, rng: np.random.Generator) -> _Lung:
    """Return the right (-1) or left (1) lung. What is drawn from `rng` does not depend on the factors."""
    width, scale = factors.body_width_mm, factors.lung_scale * (1 + side * factors.lung_asymmetry / 2)
    ball = rng.uniform(-1, 1, (20000, 3))
    ball = ball[(ball**2).sum(1) < 1]
    centres = (0.2, 0, 0) + (0.4, 0.8, 0.8) * ball[:90]
    half_mm = rng.uniform(0.9, 2.2, (90, 1)) * (1 + 9 * np.eye(3)[rng.integers(0, 3, 90)])  # each along one axis
    waves = rng.standard_normal((16, 3))
    waves *= rng.uniform(6, 14, (16, 1)) / np.linalg.norm(waves, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, (16, 1))
    high = np.quantile(np.cos(ball @ waves.T + phases.T).sum(1), 1 - factors.emphysema_fraction)
    half = (118 * scale, 0.215 * width * scale, 0.175 * width * scale)
    at = (22, -4, side * 0.225 * width)
    return _Lung(at, half, np.hstack([centres, half_mm]), np.hstack([waves, phases]), float(high))


def _draw_chest(canvas: Canvas, factors: PhantomFactors, lungs: tuple[_Lung, _Lung]) -> None:
    """Draw every tissue, from the outside to the inside."""
    width, depth, fat = factors.body_width_mm / 2, factors.body_width_mm * 0.33, factors.fat_mm
    blood, aside = BLOOD_HU + factors.contrast_hu, factors.spine_offset_mm
    if factors.table:
        couch = depth + fat + 20 + factors.table_gap_mm
        canvas.paint((0, couch, 0), (ENDLESS_MM, 18, 205), SHELL_HU)
        canvas.paint((0, couch, 0), (ENDLESS_MM, 15, 201), FOAM_HU)
    canvas.paint((0, 0, 0), (ENDLESS_MM, depth + fat, width + fat), FAT_HU)
    canvas.paint((0, 0, 0), (ENDLESS_MM, depth, width), SOFT_HU)
    canvas.paint((-95, -8, -0.2 * width), (95, 0.72 * depth, 0.66 * width), LIVER_HU + factors.contrast_hu / 4)
    for lung in lungs:
        lung.draw(canvas, blood)
    _draw_ribs(canvas, depth, width)
    canvas.paint((70, 0, 0), (ENDLESS_MM, 0.62 * depth, 26), SOFT_HU)
    canvas.paint((100, 0, 0), (130, 0.4 * depth, 18), FAT_HU + 60)
    canvas.paint((-12, -24, 24), (66, 48, 62), FAT_HU)
    canvas.paint((-12, -24, 24), (62, 44, 58), blood)
    canvas.paint((75, -20, 8), (48, 30, 17), blood)
    canvas.paint((140, -2, 0), (105, 8, 8), AIR_HU)
    _draw_spine(canvas, 0.45 * depth, aside)
    canvas.paint((0, 0.3 * depth, 26 + aside / 2), (ENDLESS_MM, 12, 12), blood)
    radius = factors.nodule_diameter_mm / 2
    if radius > 0:
        canvas.paint(lungs[1].inside(0.4, -0.2, 0.25), (radius, radius, radius), SOFT_HU)


def _draw_ribs(canvas: Canvas, depth: float, width: float) -> None:
    """Draw about twelve slanting bands in a shell within the chest wall, and the sternum."""
    a, b = depth - 9, width - 9
    place, _ = canvas.ellipsoid((0, 0, 0), (ENDLESS_MM, depth, width))
    y, x = canvas.y[place[0], None], canvas.x[None, place[1]]
    shell = np.clip(4.5 / canvas.pixel_mm - np.abs(np.hypot(y / a, x / b) - 1) * min(a, b) / canvas.pixel_mm, 0, 1)
    turn = (canvas.z + 0.5 * y + 300) / 27
    band = np.clip((0.22 - np.abs(turn - np.floor(turn) - 0.5)) * 20, 0, 1) * (np.abs(x) > 26)
    canvas.blend(place, (shell * band).astype(np.float32), CORTEX_HU - 200)
    canvas.paint((60, 9 - depth, 0), (85, 7, 17), CORTEX_HU - 250)
    canvas.paint((60, 9 - depth, 0), (83, 5, 15), MARROW_HU)


def _draw_spine(canvas: Canvas, y: float, x: float) -> None:
    """Draw a vertebra of cortex and marrow, or a disc, every 26 mm; behind it arch, canal and spinous process."""
    turn = canvas.z / 26
    between = abs(turn - np.floor(turn) - 0.5) > 0.38
    canvas.paint((0, y + 8, x), (ENDLESS_MM, 42, 34), SOFT_HU)
    if not between:
        canvas.paint((0, y + 38, x), (ENDLESS_MM, 10, 4), CORTEX_HU - 150)
        canvas.paint((0, y + 20, x), (ENDLESS_MM, 13, 17), CORTEX_HU)
    canvas.paint((0, y + 20, x), (ENDLESS_MM, 9, 11), CANAL_HU)
    canvas.paint((0, y, x), (ENDLESS_MM, 15, 19), DISC_HU if between else CORTEX_HU)
    if not between:
        canvas.paint((0, y, x), (ENDLESS_MM, 12.5, 16.5), MARROW_HU)
