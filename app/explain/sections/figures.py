"""The pictures of the report, as PNG: no text smaller than a phone can show, no colour that carries meaning alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.explain.data.labels import Label
from app.explain.statistics.probes import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREY, RED = "#1f5fa8", "#8a8f98", "#b3361e"


def figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that no window is opened for."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", dpi=110)


def png(drawn: Figure) -> bytes:
    """Return the figure's bytes; the same figure gives the same bytes."""
    out = io.BytesIO()
    drawn.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def pair_histograms(pairs: Sequence[tuple[NDArray[Any], Label, str]]) -> bytes:
    """Draw features against labels: a 2-D histogram for numbers, boxes for classes."""
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    drawn = figure(3.2 * columns, 2.8 * rows)
    axes = np.atleast_1d(drawn.subplots(rows, columns)).reshape(-1)
    for ax, (values, label, name) in zip(axes, pairs, strict=False):
        there = label.there
        if label.kind == "number":
            y = np.asarray(label.values, np.float64)[there]
            bins = int(np.clip(np.sqrt(there.sum()), 5, 30))
            ax.hist2d(y, values[there], bins=bins, cmap="Blues")
        else:
            classes = label.classes
            ax.boxplot(
                [values[label.values == one] for one in classes],
                tick_labels=[_short(one, 14) for one in classes],
                widths=0.6,
            )
            ax.tick_params(axis="x", rotation=0 if len(classes) < 4 else 40)
        ax.set_xlabel(label.name)
        ax.set_ylabel(name)
    for ax in axes[len(pairs) :]:
        ax.axis("off")
    return png(drawn)


def correlation_map(matrix: NDArray[np.float64], name: str) -> bytes:
    """Draw a correlation matrix, similar dimensions beside each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    apart = np.clip(1 - np.abs(matrix), 0, None)
    np.fill_diagonal(apart, 0)
    order = leaves_list(linkage(squareform(apart, checks=False), "average"))
    drawn = figure(5.2, 4.4)
    ax = drawn.subplots()
    shown = ax.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
    if len(order) <= 40:
        ax.set_xticks(range(len(order)), [str(one) for one in order], fontsize=6, rotation=90)
    ax.set_yticks([])
    ax.set_xlabel(f"dimension of {name}")
    drawn.colorbar(shown, label="correlation")
    return png(drawn)


def score_chart(tap: str, probed: Sequence[tuple[str, Mapping[str, Score]]]) -> bytes:
    """Draw the scores of labels: the features in blue, their controls in grey, shuffled labels as a tick."""
    markers = "osD^v<>"
    drawn = figure(7.5, 1.2 + 0.5 * len(probed))
    ax = drawn.subplots()
    names: dict[str, int] = {}
    for row, (_, scores) in enumerate(reversed(probed)):
        for at, (name, score) in enumerate(scores.items()):
            y = row - 0.12 * at
            marker = names.setdefault(name, len(names))
            low, high = max(-1.0, score.score.low), score.score.high
            value = max(-1.0, score.score.value)
            colour = BLUE if name == tap else GREY
            seen = name in (text for text in ax.get_legend_handles_labels()[1])
            ax.plot([low, high], [y, y], color=colour, lw=2 if name == tap else 1)
            label = "_" if seen else name
            ax.plot([value], [y], markers[marker % len(markers)], color=colour, ms=7 if name == tap else 5, label=label)
        first = scores[tap]
        ax.plot([first.shuffled_high] * 2, [row - 0.25, row + 0.15], color=RED, lw=1)
    ax.plot([], [], color=RED, lw=1, label="95 of 100 shuffled labels are below")
    ax.set_yticks(range(len(probed)), [f"{name} ({scores[tap].measure})" for name, scores in reversed(probed)])
    ax.set_xlim(-1.05, 1.05)
    ax.grid(axis="x", color="#e4e7ec")
    ax.set_axisbelow(True)
    ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.4, -0.12 if len(probed) > 4 else -0.3))
    return png(drawn)


def two_histograms(within: NDArray[np.float64], between: NDArray[np.float64]) -> bytes:
    """Draw distances within and between patients."""
    drawn = figure(6, 2.8)
    ax = drawn.subplots()
    bins = np.histogram_bin_edges(np.concatenate([within, between]), 40).tolist()
    ax.hist(between, bins, density=True, color=GREY, alpha=0.7, label="two patients")
    ax.hist(within, bins, density=True, histtype="step", lw=2, color=BLUE, label="one patient")
    ax.set_xlabel("distance of two scans (standardised features)")
    ax.set_yticks([])
    ax.legend(fontsize=9)
    return png(drawn)


def picture_rows(
    rows: Sequence[tuple[str, Sequence[NDArray[Any]]]],
    heads: Sequence[str],
    overlays: Sequence[NDArray[Any]] | None = None,
) -> bytes:
    """Draw slices in rows with names at the left; an overlay belongs to the first slice of its row."""
    columns = max(len(pictures) for _, pictures in rows)
    shape = rows[0][1][0].shape
    width = 1.7 if columns > 1 else 4.0
    drawn = figure(0.8 + width * columns, 0.4 + sum(width * one[1][0].shape[0] / shape[1] for one in rows) + 0.3)
    ratios = [one[1][0].shape[0] for one in rows]
    axes = drawn.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for row, (name, pictures) in enumerate(rows):
        for at in range(columns):
            ax = axes[row, at]
            ax.set_xticks([])
            ax.set_yticks([])
            if at < len(pictures):
                ax.imshow(pictures[at], cmap="gray", vmin=0, vmax=1)
            if row == 0 and at < len(heads):
                ax.set_title(heads[at], fontsize=9)
        axes[row, 0].set_ylabel(name, fontsize=9)
        if overlays is not None:
            limit = max(float(np.quantile(np.abs(overlays[row]), 0.995)), 1e-12)
            strength = np.clip(np.abs(overlays[row]) / limit, 0, 1)
            axes[row, 0].imshow(overlays[row], cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.8 * strength)
    return png(drawn)


def atlas(places: Mapping[str, NDArray[Any]], labels: Sequence[Label]) -> bytes:
    """Draw maps of the rows, (n, 2) each, coloured by each label."""
    maps = [(name, xy, label) for label in labels or (None,) for name, xy in places.items()]
    columns = min(2, len(maps))
    rows = -(-len(maps) // columns)
    drawn = figure(4.6 * columns, 3.1 * rows)
    axes = drawn.subplots(rows, columns, squeeze=False).reshape(-1)
    for ax, (name, xy, label) in zip(axes, maps, strict=False):
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel(name)
        if label is None:
            ax.scatter(*xy.T, s=14, color=BLUE)
        else:
            _coloured(drawn, ax, xy, label)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    return png(drawn)


def _coloured(drawn: Figure, ax: Any, xy: NDArray[Any], label: Label) -> None:
    there = label.there
    ax.scatter(*xy[~there].T, s=10, color="#dddddd")
    ax.set_title(label.name, fontsize=10)
    if label.kind == "number":
        shown = ax.scatter(*xy[there].T, s=14, c=np.asarray(label.values, float)[there], cmap="viridis")
        drawn.colorbar(shown, ax=ax)
        return
    markers = "os^DvP*X<>"
    for at, one in enumerate(label.classes[:10]):
        ax.scatter(*xy[label.values == one].T, s=16, marker=markers[at], label=_short(one, 24))
    ax.legend(fontsize=7)


def _short(text: str, most: int) -> str:
    """Return a text of at most so many characters, with a sign where some were cut."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
