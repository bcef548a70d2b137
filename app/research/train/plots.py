"""Plots of a training: what it reconstructs, which dimensions it uses, how it went. They name no patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from models.statistics.units import ACTIVE_VARIANCE

Floats = NDArray[np.floating[Any]]

SHOWN_HU = (-1000.0, 500.0)
DIFFERENCE_HU = 300.0

USED, UNUSED, LINE, SECOND = "#2b6ca3", "#c9c9c9", "#b3403a", "#c77c11"
_DPI = 110
_SMOOTH = 30
_MARKED = 3
_COLUMN_IN, _GAP_IN, _EDGE_IN, _ABOVE_IN, _BELOW_IN, _BAR_IN = 2.4, 0.08, 0.3, 0.55, 0.65, 0.12
"""Width of the reconstructions, which are placed by hand, for each picture has the proportions of the body."""
_FLAT = 20
"""Factor by which the first values may stretch the panel's range before they are left above it."""
_MOST_BARS = 512
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def plot_reconstruction(
    file: Path,
    windows: Floats,
    reconstructed: Floats,
    *,
    window_hu: tuple[float, float],
    spacing_mm: tuple[float, float, float] | None,
    title: str,
) -> None:
    """Draw each window's middle axial and coronal slice: original, decoded, and the difference.

    Args:
        file: PNG to write.
        windows: (n, d, h, w) in [0, 1], axes (z, y, x).
        reconstructed: the same, from mu.
        window_hu: (low, high), the HU of the values 0 and 1.
        spacing_mm: (z, y, x), for the proportions; None if the windows have no common spacing.
        title: what is shown, with the step.
    """
    low, high = window_hu
    shown = max(low, SHOWN_HU[0]), min(high, SHOWN_HU[1])
    hu = [np.asarray(part, np.float32) * (high - low) + low for part in (windows, np.clip(reconstructed, 0, 1))]
    z, y, x = spacing_mm or (1.0, 1.0, 1.0)
    _, depth, height, width = windows.shape
    tall = {"axial": height * y / (width * x), "coronal": depth * z / (width * x) if spacing_mm else 0.6}
    with mpl.rc_context(_STYLE):
        rows = [_COLUMN_IN * tall[plane] + _GAP_IN for plane in tall] * len(windows)
        size = (3 * (_COLUMN_IN + _GAP_IN) + 2 * _EDGE_IN, sum(rows) + _ABOVE_IN + _BELOW_IN)
        figure, top = Figure(figsize=size), size[1] - _ABOVE_IN
        figure.suptitle(title, fontsize=10, ha="left", x=_EDGE_IN / size[0], y=1 - 0.1 / size[1])
        pictures: list[AxesImage] = []
        for row, (before, after) in enumerate(zip(*hu, strict=True)):
            for plane in tall:
                views = [_slice(one, plane) for one in (before, after, after - before)]
                for column, view in enumerate(views):
                    left = _EDGE_IN + column * (_COLUMN_IN + _GAP_IN)
                    axis = _place(figure, left, top - _COLUMN_IN * tall[plane], _COLUMN_IN, _COLUMN_IN * tall[plane])
                    pictures.append(_show(axis, view, shown, difference=column == 2))
                    if column == 0:
                        axis.set_ylabel(plane)
                    if row == 0 and plane == "axial":
                        axis.set_title(("input", "from mu", "difference")[column])
                top -= _COLUMN_IN * tall[plane] + _GAP_IN
        bar = _BELOW_IN - _BAR_IN - 0.05
        wide = 2 * _COLUMN_IN + _GAP_IN
        _scale(figure, pictures[0], _place(figure, _EDGE_IN, bar, wide, _BAR_IN), "HU")
        beside = _place(figure, _EDGE_IN + wide + _GAP_IN, bar, _COLUMN_IN, _BAR_IN)
        _scale(figure, pictures[2], beside, "HU, from mu less input")
        _save(figure, file)


def plot_latents(
    file: Path, kl: Floats, mu: Floats, patients: Sequence[str], *, title: str, free_bits_nats: float = 0.0
) -> None:
    """Draw which dimensions are used, and the windows in the two directions in which mu varies most.

    Args:
        file: PNG to write.
        kl: (k,), mean over windows, nats.
        mu: (n, k).
        patients: (n,), patient of each window, shown only as a colour.
        title: what is shown, with the step.
        free_bits_nats: KL below which a dimension is not pushed.
    """
    variance = mu.var(axis=0)
    order = np.argsort(kl)[::-1]
    active = variance > ACTIVE_VARIANCE
    colours = [USED if active[k] else UNUSED for k in order]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 6.2), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1))
        figure.suptitle(title, fontsize=11, ha="left", x=0.01)
        axis = figure.add_subplot(grid[0, 0])
        _bars(axis, kl[order], colours)
        if free_bits_nats > 0:
            axis.axhline(free_bits_nats, color=LINE, lw=1, ls="--", label=f"free bits, {free_bits_nats:g} nats")
            axis.legend(loc="upper right")
        axis.set_title(f"KL by dimension, {kl.sum():.1f} nats a window in all")
        axis.set_ylabel("nats")
        _dimensions(axis, order)
        axis = figure.add_subplot(grid[1, 0])
        _bars(axis, np.maximum(variance[order], 1e-6), colours)
        axis.set_yscale("log")
        axis.axhline(ACTIVE_VARIANCE, color=LINE, lw=1, ls="--", label=f"active above {ACTIVE_VARIANCE:g}")
        axis.legend(loc="upper right")
        axis.set_title(f"variance of mu: {int(active.sum())} of {len(kl)} units active")
        _dimensions(axis, order)
        axis.set_xlabel("dimension, by KL")
        _scatter(figure.add_subplot(grid[:, 1]), mu, patients)
        _save(figure, file)


def plot_curve(file: Path, history: Sequence[Any], window_hu: tuple[float, float], *, title: str) -> None:
    """Draw how a training went: loss, error of the reconstruction, KL and active units over the steps.

    Args:
        file: PNG to write.
        history: `models.training.train.Progress`, in order.
        window_hu: (low, high), the HU of the values 0 and 1.
        title: what is shown.
    """
    steps = [at.step for at in history]
    span = window_hu[1] - window_hu[0]
    panels = (
        ("loss, nats a voxel", [at.loss for at in history]),
        ("reconstruction with a drawn z, RMSE in HU", [at.rmse * span for at in history]),
        ("KL, nats a window", [at.kl for at in history]),
        ("active units", [at.active for at in history]),
    )
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 6.2), layout="constrained")
        figure.suptitle(title, fontsize=11, ha="left", x=0.01)
        for axis, (what, values) in zip(figure.subplots(2, 2, sharex=True).ravel(), panels, strict=True):
            smooth = len(values) >= 2 * _SMOOTH and what != "active units"
            width, alpha = (0.8, 0.35) if smooth else (1.4, 1.0)
            label = None if smooth else "training"
            axis.plot(steps, values, color=USED, lw=width, alpha=alpha, marker=_marker(values), label=label)
            if smooth:
                axis.plot(steps, _smoothed(values), color=USED, lw=1.6, label="training")
            measured = [(at.step, at.calibration) for at in history if at.calibration is not None]
            with_calibration = measured if what.startswith("loss") else []
            left_out = _limits(axis, [*values, *(value for _, value in with_calibration)])
            axis.set_title(f"{what}{left_out}")
            axis.grid(alpha=0.25)
            if with_calibration:
                style: dict[str, Any] = {"color": SECOND, "lw": 1.4, "marker": _marker(measured)}
                axis.plot(*zip(*measured, strict=True), **style, label="calibration patients")
                axis.legend(loc="upper right")
            if what == "active units":
                axis.set_ylim(0, history[-1].latents * 1.08)
                axis.axhline(history[-1].latents / 2, color=LINE, lw=1, ls="--", label="half of them")
                axis.legend(loc="lower right")
            axis.set_xlim(*((steps[0], steps[-1]) if len(steps) >= _MARKED else (None, None)))
        for axis in figure.axes[2:]:
            axis.set_xlabel("step")
        _save(figure, file)


def _marker(points: Sequence[Any]) -> str:
    """Return a marker for few points, for a line through one point is invisible."""
    return "o" if len(points) < _MARKED else ""


def _show(axis: Axes, view: Floats, shown_hu: tuple[float, float], *, difference: bool) -> AxesImage:
    low, high = (-DIFFERENCE_HU, DIFFERENCE_HU) if difference else shown_hu
    picture = axis.imshow(view, cmap="RdBu_r" if difference else "gray", vmin=low, vmax=high)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_aspect("auto")
    return picture


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return axes at a position in inches."""
    whole_width, whole_height = figure.get_size_inches()
    rectangle = (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    return figure.add_axes(rectangle)


def _scale(figure: Figure, picture: AxesImage, axis: Axes, label: str) -> None:
    figure.colorbar(picture, cax=axis, orientation="horizontal", label=label)


def _slice(volume: Floats, plane: str) -> Floats:
    """Return the middle slice as radiologists view it: the patient's right on the left, front or head at the top."""
    if plane == "axial":
        return np.asarray(volume[volume.shape[0] // 2])
    return np.asarray(volume[::-1, volume.shape[1] // 2])


def _bars(axis: Axes, values: Floats, colours: Sequence[str]) -> None:
    """Draw bars, or an outline for the thousands of a dense latent, for which bars would take minutes."""
    if len(values) <= _MOST_BARS:
        axis.bar(range(len(values)), values, color=colours)
    else:
        axis.plot(values, color=USED, lw=0.8)


def _dimensions(axis: Axes, order: NDArray[np.intp]) -> None:
    axis.set_xlim(-0.7, len(order) - 0.3)
    if len(order) <= 40:
        axis.set_xticks(range(len(order)), [str(k) for k in order], fontsize=7)


def _scatter(axis: Axes, mu: Floats, patients: Sequence[str]) -> None:
    centred = np.asarray(mu, np.float64) - mu.mean(axis=0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    place = centred @ directions[:2].T if len(directions) > 1 else np.column_stack([centred[:, 0], 0 * centred[:, 0]])
    part = strength**2 / max(float((strength**2).sum()), 1e-12)
    names = sorted(set(patients))
    colours = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    for name, colour in zip(names, colours, strict=True):
        own = np.array([patient == name for patient in patients])
        axis.scatter(place[own, 0], place[own, 1], s=14, color=colour, alpha=0.8, lw=0)
    axis.set_title(f"mu of {len(mu)} windows; a colour a patient, {len(names)} patients")
    axis.set_xlabel(f"first principal direction, {part[0]:.0%} of the variance")
    axis.set_ylabel(f"second, {part[1] if len(part) > 1 else 0:.0%}")
    axis.grid(alpha=0.25)


def _smoothed(values: Sequence[float]) -> Floats:
    """Return the mean over `_SMOOTH` neighbours; over fewer at the ends."""
    kernel = np.ones(_SMOOTH)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _limits(axis: Axes, values: Sequence[float]) -> str:
    """Set limits that hold all values; if a few huge ones would flatten the rest, state how many lie above."""
    finite = np.asarray(values)[np.isfinite(values)]
    if not len(finite):
        return ""
    low, usual, high = float(finite.min()), float(np.quantile(finite, 0.97)), float(finite.max())
    above = ""
    if high - low > _FLAT * (usual - low) > 0:
        high, above = usual, f" ({int((finite > usual).sum())} values up to {high:.3g} lie above)"
    room = 0.06 * (high - low) or 1.0
    axis.set_ylim(low - room, high + room)
    return above


def _save(figure: Figure, file: Path) -> None:
    """Write the whole file or nothing: somebody may be viewing the previous one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}")
    figure.savefig(unfinished, dpi=_DPI, format="png")
    unfinished.replace(file)
