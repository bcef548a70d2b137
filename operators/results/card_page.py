"""The layout of the card: verdict, planes with windows, reconstruction, dimensions, and the text beside them.

The colours are those of Okabe and Ito, which colour-blind people can distinguish; colour is never the only signal.
"""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from operators import __version__
from operators.record import FeatureRecord
from operators.results.card_kinds import Reconstruct
from operators.results.card_planes import EDGES, PlaneView, middle_planes
from operators.results.card_words import Line, findings_of, model_of, quantities_of, reasons_of, scan_of, verdict_of

BLUE, ORANGE, VERMILION, YELLOW, GREY, INK = "#0072B2", "#E69F00", "#D55E00", "#F0E442", "#8a8a8a", "#1a1a1a"
TONES = {"good": BLUE, "bad": VERMILION, "unknown": "#5b5b5b"}

PAGE_IN = (13.5, 9.6)
DPI = 100
GREY_HU = (-1000.0, 600.0)
"""Black and white of the images, from air to bone, so that both lung and soft tissue are visible."""
DIFFERENCE_HU = 300.0
SCALE_MM = 100.0
_TITLE, _GAP, _WORDS_END = 0.024, 0.013, 0.205
"""Of the text at the right, as fractions of the page: below a title, below a part, and where it ends at the latest."""
_MOST_NUMBERED = 12
_MOST_LABELS = 40
_ON_IMAGE: dict[str, Any] = {
    "color": "white",
    "weight": "bold",
    "path_effects": [withStroke(linewidth=2.5, foreground="black")],
}

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "ctvae",
}


def draw_page(record: FeatureRecord, reconstruct: Reconstruct | None) -> Figure:
    """Return the whole page.

    Raises:
        SeriesRejected, SeriesFailed: from reading the slices again.
    """
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
        figure = Figure(figsize=PAGE_IN, dpi=DPI, facecolor="white")
        _header(figure, record)
        _planes(figure, record)
        _reconstruction(figure, record, reconstruct)
        _dimensions(figure, record)
        _words(figure, record)
        figure.draw_without_rendering()
    return figure


def _header(figure: Figure, record: FeatureRecord) -> None:
    verdict, length = verdict_of(record.reliability), record.taps["mu"].length
    figure.text(0.02, 0.971, "CT features by a variational autoencoder", fontsize=15, weight="bold", va="center")
    purpose = f"One CT series became {length} numbers: what went in, what they keep, and whether to believe them."
    figure.text(0.02, 0.948, purpose, fontsize=9.5, va="center")
    figure.text(0.98, 0.971, "Not for diagnosis", fontsize=12, weight="bold", ha="right", va="center")
    colour = TONES[verdict.tone]
    figure.add_artist(Rectangle((0.02, 0.885), 0.96, 0.05, transform=figure.transFigure, color=colour))
    figure.text(0.035, 0.91, verdict.mark, fontsize=19, weight="bold", color="white", va="center")
    figure.text(0.065, 0.91, verdict.headline, fontsize=14, weight="bold", color="white", va="center")
    figure.text(0.97, 0.91, verdict.detail, fontsize=9.5, color="white", va="center", ha="right")


def _planes(figure: Figure, record: FeatureRecord) -> None:
    windows = record.encoding.windows
    count = len(windows.voxels)
    _title(figure, 0.862, f"The scan, and the {_counted(count, 'window')} that the encoder saw")
    for column, view in enumerate(middle_planes(windows)):
        _plane(figure.add_axes((0.02 + column * 0.225, 0.565, 0.215, 0.255)), view, count // 2)


def _plane(axes: Axes, view: PlaneView, chosen: int) -> None:
    """Draw a middle plane with the box of all windows; beside it, if they differ, how far each reaches."""
    (height, width), boxes = view.size_mm, view.windows_mm
    axes.imshow(view.hu, cmap="gray", vmin=GREY_HU[0], vmax=GREY_HU[1], extent=(0, width, height, 0), aspect="equal")
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    axes.add_patch(Rectangle(tuple(low), *(high - low), fill=False, color=YELLOW, lw=1.6))
    right = max(width, high[0]) + 4
    if len(np.unique(np.round(boxes, 1), axis=0)) > 1:
        right = _brackets(axes, boxes, right + 6, chosen)
    axes.set(xlim=(min(low[0], 0) - 4, right), ylim=(max(high[1], height) + 4, min(low[1], 0) - 4))
    axes.set(xticks=(), yticks=(), facecolor="black", anchor="NW")
    axes.spines[:].set_visible(False)
    axes.set_title(f"{view.name}, {height:.0f} × {width:.0f} mm")
    at_left, at_right, upper, lower = EDGES[view.name]
    inset = 12
    for x, y, letter in (
        (inset, height / 2, at_left),
        (width - inset, height / 2, at_right),
        (width / 2, inset, upper),
        (width / 2, height - inset, lower),
    ):
        axes.text(x, y, letter, ha="center", va="center", **_ON_IMAGE)
    if width > 1.5 * SCALE_MM:
        axes.plot((10, 10 + SCALE_MM), (height - 10,) * 2, color="white", lw=3, solid_capstyle="butt")
        axes.text(10 + SCALE_MM / 2, height - 14, "10 cm", ha="center", va="bottom", fontsize=7, **_ON_IMAGE)


def _brackets(axes: Axes, boxes: np.ndarray[Any, Any], left: float, chosen: int) -> float:
    """Draw how far each window reaches down the picture, side by side where they overlap; return where they end."""
    step = 16.0
    lanes = 1 + max(int(((boxes[:, 1] <= box[1]) & (boxes[:, 3] > box[1])).sum()) - 1 for box in boxes)
    for number, (_, top, _, bottom) in enumerate(boxes):
        x = left + step * (number % lanes)
        axes.plot((x, x), (top + 2, bottom - 2), color=YELLOW, lw=3.5 if number == chosen else 1.4)
        if len(boxes) <= _MOST_NUMBERED:
            middle = (top + bottom) / 2
            axes.text(x, middle, f"{number + 1}", ha="center", va="center", fontsize=7.5, **_ON_IMAGE)
    return left + step * (lanes - 1) + 10


def _reconstruction(figure: Figure, record: FeatureRecord, reconstruct: Reconstruct | None) -> None:
    """Draw the middle slice of the middle window: the encoder's input, the decoder's output, the difference."""
    windows = record.encoding.windows
    chosen = len(windows.voxels) // 2
    which = "the window" if len(windows.voxels) == 1 else f"window {chosen + 1}"
    _title(figure, 0.53, f"What the features keep: the middle slice of {which}, and what comes back from its mu")
    low, high = (float(hu) for hu in record.preprocessing["window_hu"])
    given = low + (high - low) * windows.voxels[chosen, 0].astype(np.float64)
    middle, proportion = len(given) // 2, windows.spacing_mm[1] / windows.spacing_mm[2]
    axes = [figure.add_axes((0.02 + column * 0.225, 0.262, 0.215, 0.228)) for column in range(3)]
    for panel in axes:
        panel.set(xticks=(), yticks=(), anchor="NW")
        panel.spines[:].set_visible(False)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": GREY_HU[0], "vmax": GREY_HU[1], "aspect": proportion}
    axes[0].imshow(given[middle], **grey)
    axes[0].set_title("what the encoder got")
    if reconstruct is None:
        message = "This model came without a decoder,\nso nothing can be reconstructed."
        axes[1].text(0.1, 0.5, message, va="center", color="#5b5b5b", fontsize=11, transform=axes[1].transAxes)
        return
    (window,) = reconstruct(record.taps["mu"].windows[chosen : chosen + 1])
    decoded = low + (high - low) * window
    axes[1].imshow(decoded[middle], **grey)
    axes[1].set_title("what the decoder makes of mu")
    spread: dict[str, Any] = {"cmap": "PuOr_r", "vmin": -DIFFERENCE_HU, "vmax": DIFFERENCE_HU, "aspect": proportion}
    shown = axes[2].imshow(decoded[middle] - given[middle], **spread)
    axes[2].set_title(f"difference, mean {np.abs(decoded - given).mean():.0f} HU in the window")
    bar = figure.colorbar(shown, cax=figure.add_axes((0.636, 0.262, 0.008, 0.228)))
    bar.set_ticks((-DIFFERENCE_HU, 0, DIFFERENCE_HU), labels=("darker", "same", "brighter"))
    bar.ax.tick_params(labelsize=7)


def _dimensions(figure: Figure, record: FeatureRecord) -> None:
    """Draw each dimension of mu as a dot: its rank among the reference patients if there are any, else its value."""
    mu, found = record.taps["mu"].values, record.reliability
    axes, at = figure.add_axes((0.065, 0.075, 0.915, 0.125)), np.arange(len(mu))
    axes.set_xlim(-0.8, len(mu) - 0.2)
    axes.set_xticks(at if len(mu) <= _MOST_LABELS else at[:: len(mu) // 16])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("dimension", fontsize=8, labelpad=1)
    if found is None:
        axes.plot(at, mu, "o", color=BLUE, ms=5)
        axes.axhline(0, color=GREY, lw=0.8, zorder=1)
        _title(figure, 0.222, f"The {len(mu)} features (mu); this model has no reference patients to compare them with")
        return
    ranks = found.percentiles.mu
    beyond = (ranks <= 0) | (ranks >= 100)
    axes.axhspan(0, 100, color="#d4dbe2", zorder=0)
    axes.axhline(50, color=GREY, lw=0.8, zorder=1)
    axes.plot(at[~beyond], ranks[~beyond], "o", color=BLUE, ms=5)
    axes.plot(at[beyond], np.where(ranks[beyond] <= 0, -14, 114), "D", color=VERMILION, mfc="white", mew=1.8, ms=6)
    axes.set_ylim(-30, 130)
    axes.set_yticks((0, 50, 100), ("lowest", "median", "highest"))
    title = f"The {len(mu)} features (mu) among {_counted(found.n_reference, 'reference patient')}"
    _title(figure, 0.222, f"{title} (the band); {beyond.sum()} of them beyond all of these (◇)")


def _words(figure: Figure, record: FeatureRecord) -> None:
    """Write the text at the right; where there is much of it, its lines are closer, to end above the dimensions."""
    parts = {
        "Why this verdict": reasons_of(record.reliability),
        "Measured in the body": quantities_of(record),
        "Scan": scan_of(record),
        "Findings while reading": findings_of(record),
        "Model": model_of(record),
    }
    written = {title: [line for one in lines for line in _wrapped(one)] for title, lines in parts.items() if lines}
    left, y = 0.71, 0.862
    room = y - _WORDS_END - (_TITLE + _GAP) * len(written)
    step = min(0.0185, room / sum(map(len, written.values())))
    for title, lines in written.items():
        figure.text(left, y, title, fontsize=11, weight="bold", va="center")
        y -= _TITLE
        for name, value in lines:
            figure.text(left, y, name, fontsize=8.5, va="center")
            figure.text(0.98, y, value, fontsize=8.5, va="center", ha="right", weight="bold")
            y -= step
        y -= _GAP
    series = record.series
    part = "" if series.part is None else f", part {series.part}"
    footer = f"Series {series.series_instance_uid}{part}; job {record.job_key[:12]}; ctvae {__version__}"
    figure.text(0.02, 0.012, f"Computed by software, unverified. {footer}", fontsize=7.5, color="#5b5b5b")


def _wrapped(line: Line) -> list[Line]:
    """Return a sentence in up to three lines; a name with its value as it is."""
    name, value = line
    return [line] if value else [(part, "") for part in textwrap.wrap(name, 52, max_lines=3, placeholder=" …")]


def _title(figure: Figure, y: float, text: str) -> None:
    figure.text(0.02, y, text, fontsize=11, weight="bold", va="center")


def _counted(count: int, noun: str) -> str:
    return noun if count == 1 else f"{count} {noun}s"
