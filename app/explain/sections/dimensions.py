"""What a dimension looks like: moved through the decoder, traced back to voxels, and in its most extreme series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.explain.data.images import Images
from app.explain.data.question import Question
from app.explain.report.section import Cell, Figure, Section, Table
from app.explain.sections.figures import picture_rows
from app.explain.statistics.associations import Association
from models.spec import Bundle, BundleError

KEY, TITLE = "dimensions", "What does a dimension look like?"

EXTREMES: Final = 10
SHOWN: Final = 6
STEPS: Final = (-2.0, -1.0, 0.0, 1.0, 2.0)
_IG_STEPS: Final = 24


def dimensions_section(
    question: Question,
    found: Sequence[Association],
    images: Images | None,
    bundle: Bundle | None,
    on_step: Callable[[str], None],
) -> Section:
    """Return the section; parts whose inputs are missing say so in its notes.

    Args:
        question: what is asked.
        found: the dimensions shown first are those with the strongest associations.
        images: with `--data`.
        bundle: with `--model`, for the decoder and for tracing back.
        on_step: called with what is being drawn.
    """
    chosen = _chosen(question, found)
    figures: list[Figure] = []
    notes: list[str] = []
    vae = _network(bundle, question, notes)
    if vae is not None:
        on_step("traversal")
        figures += _traversal(question, vae, chosen, notes)
    if images:
        on_step("extremes")
        figures.append(_extremes(question, images, chosen))
        if vae is not None:
            on_step("attribution")
            figures += _attribution(question, vae, images, chosen)
        notes += [f"Without images: {one}" for one in images.problems[:20]]
    else:
        notes.append("Pictures of series and attribution need the images: give --data.")
    names = ", ".join(f"{question.tap}_{k:03d}" for k in chosen)
    text = f"The {EXTREMES} most extreme series of each dimension are listed"
    text += f"; {len(figures)} pictures show {names}." if figures else "; pictures need --data and --model."
    return Section(
        KEY,
        TITLE,
        text,
        "A name that fits ten extreme series is a guess: the same ten may share something else. Test it as a label on "
        "series that you did not look at.",
        mood="calm",
        notes=tuple(notes),
        tables=(_extreme_table(question),),
        figures=tuple(figures),
    )


def _chosen(question: Question, found: Sequence[Association]) -> list[int]:
    """Return the strongest dimension of each label, the surest first; then those that vary most."""
    ordered = sorted(found, key=lambda one: (float(one.raw.p_maxt.min()), -float(np.abs(one.raw.statistic).max())))
    strongest = [int(np.abs(one.raw.statistic).argmax()) for one in ordered]
    varied = np.argsort(-question.features.std(axis=0)).tolist()
    return list(dict.fromkeys([*strongest, *varied]))[:SHOWN]


def _network(bundle: Bundle | None, question: Question, notes: list[str]) -> Any:
    from importlib.util import find_spec

    if bundle is None:
        notes.append("Moving a dimension through the decoder needs the network: give --model.")
    elif question.tap != "mu":
        notes.append(f"The decoder takes mu; {question.tap} cannot be moved through it or traced back.")
    elif find_spec("torch") is None or find_spec("captum") is None:
        notes.append("Moving a dimension through the decoder needs torch: install ctvae[train] and ctvae[explain].")
    else:
        from models.runtime import load_vae

        return load_vae(bundle)
    return None


def _traversal(question: Question, vae: Any, chosen: Sequence[int], notes: list[str]) -> list[Figure]:
    import torch

    centre, deviation = question.features.mean(axis=0), question.features.std(axis=0)
    z = np.repeat(centre[None], len(chosen) * len(STEPS), axis=0)
    for row, k in enumerate(chosen):
        z[row * len(STEPS) : (row + 1) * len(STEPS), k] += np.array(STEPS) * deviation[k]
    try:
        with torch.inference_mode():
            made = vae.decode(torch.from_numpy(z.astype(np.float32)))[:, 0].numpy()
    except BundleError:
        notes.append("The bundle has no decoder, so no dimension can be moved through it.")
        return []
    pictures = [_coronal(one) for one in made]
    rows = [
        (f"{question.tap}_{k:03d}", pictures[row * len(STEPS) : (row + 1) * len(STEPS)]) for row, k in enumerate(chosen)
    ]
    caption = (
        "Each row moves one dimension from 2 standard deviations below its mean to 2 above, all others at their mean, "
        "and decodes it (a coronal slice). What changes along a row is what the network draws for it; where nothing "
        "changes, the decoder does not use it alone."
    )
    return [Figure("traversal", picture_rows(rows, [f"{step:+g} SD" if step else "mean" for step in STEPS]), caption)]


def _extremes(question: Question, images: Images, chosen: Sequence[int]) -> Figure:
    rows = []
    for k in chosen[:4]:
        order = [at for at in np.argsort(question.features[:, k]).tolist() if images.seen[at]]
        half = min(EXTREMES // 2, len(order) // 2)
        for end, listed in (("lowest", order[:half]), ("highest", order[::-1][:half])):
            pictures = [_coronal(seen.window) for at in listed if (seen := images.seen[at])]
            rows.append((f"{question.tap}_{k:03d}\n{end}", pictures))
    caption = (
        "For each dimension the series with the lowest values above, those with the highest below, one coronal slice "
        "each. Name what tells the two rows apart, then test it on other series."
    )
    return Figure("extremes", picture_rows(rows, []), caption)


def _attribution(question: Question, vae: Any, images: Images, chosen: Sequence[int]) -> list[Figure]:
    import torch
    from captum.attr import IntegratedGradients

    k = chosen[0]
    order = [at for at in np.argsort(-question.features[:, k]).tolist() if images.seen[at]]
    seen = images.seen[order[0]]
    assert seen is not None
    window = torch.from_numpy(seen.window[None, None])
    traced = IntegratedGradients(lambda x: vae.encode(x)[0][:, k]).attribute(
        window, baselines=torch.zeros_like(window), n_steps=_IG_STEPS, internal_batch_size=4
    )
    voxels: NDArray[np.float32] = traced.detach().numpy()[0, 0]
    d, h, _ = np.unravel_index(int(np.abs(_smoothed(voxels)).argmax()), voxels.shape)
    axial, coronal = (seen.window[d], voxels[d]), (seen.window[:, h][::-1], voxels[:, h][::-1])
    caption = (
        f"Which voxels move {question.tap}_{k:03d} in the series where it is highest (integrated gradients from "
        "air): red raises it, blue lowers it. An axial and a coronal slice through the strongest place. It shows what "
        "this network uses in this scan, not what is medically there."
    )
    drawn = picture_rows([("axial", [axial[0]]), ("coronal", [coronal[0]])], [""], [axial[1], coronal[1]])
    return [Figure("attribution", drawn, caption, wide=False)]


def _smoothed(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy import ndimage

    return np.asarray(ndimage.uniform_filter(voxels, 5), np.float32)


def _coronal(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the middle coronal slice, head up, seen from the front: the patient's right is on the left."""
    return np.clip(window[::-1, window.shape[1] // 2], 0, 1)


def _extreme_table(question: Question) -> Table:
    rows: list[tuple[Cell, ...]] = []
    uids = question.table.texts("series_instance_uid")
    for k in range(question.features.shape[1]):
        values = question.features[:, k]
        order = np.argsort(values, kind="stable")
        half = min(EXTREMES // 2, len(order) // 2)
        for end, listed in (("lowest", order[:half]), ("highest", order[::-1][:half])):
            for rank, at in enumerate(listed.tolist(), 1):
                rows.append((f"{question.tap}_{k:03d}", end, rank, float(values[at]), str(uids[at])))
    columns = ("feature", "end", "rank", "value", "series_instance_uid")
    return Table("extremes", "The most extreme series of each dimension", columns, tuple(rows), most=10)
