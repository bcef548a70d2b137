"""The model card of a bundle, `docs/README.md`: what it was trained on, how, and what was measured. Nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from models.bundle import Bundle

LICENCE = """\
The weights and files in this folder are under the Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0), as the project that made them.

They were trained on CT that others published. No image of it is contained here. Its origins, licences and
attributions:

"""


def licence_text(training: Mapping[str, Any]) -> str:
    """`LICENSE` of the bundle, the origins of the training data included."""
    return LICENCE + "".join(f"- {source}\n" for source in _sources(training))


def model_card(bundle: Bundle, notes: str = "") -> str:
    """The card, from what the bundle says of itself and of its training; `notes` are more limits, a Markdown list."""
    training, preprocessing = bundle.training, bundle.preprocessing
    figures, low, high = training["figures"], *preprocessing.window_hu
    taps = "\n".join(
        f"| `{tap.name}` | {' × '.join(map(str, tap.shape))} | {tap.pooling} | {_millimetres(tap.receptive_field_mm)} |"
        for tap in bundle.taps
    )
    grid = " × ".join(map(str, preprocessing.window_voxels))
    spacing = (
        "the whole scan resized to it" if preprocessing.spacing_mm is None else _millimetres(preprocessing.spacing_mm)
    )
    return f"""\
# {bundle.name} {bundle.version}

A variational autoencoder of CT; its posterior mean `mu` is meant as a description of a scan.
**For research only. Not for clinical use; not validated for any task.**

## What it takes and gives

A window of {grid} voxels (z, y, x; {spacing}), HU from {low:g} to {high:g} scaled to 0 to 1. Architecture
`{bundle.architecture}`. A field of view is that of the convolutions; normalisation sees the whole window.

| tap | shape | pooling | field of view (z × y × x) |
|---|---|---|---|
{taps}

## What it was trained on

{_data_table(training)}

{_sources_list(training)}
Volumes are counted. Patients were split before anything was trained; no patient is in both parts. Every case is named
in `configs/metadata.json`.

## How

    {training["command"]}

{training["steps"]} steps of {training["settings"]["batch"]} windows in {training["elapsed_s"] / 60:.1f} minutes, seed \
{training["settings"]["seed"]}, torch {training["torch"]} on the CPU with {training["settings"]["threads"]} threads. \
Reading and preprocessing
are those of inference. Gaussian likelihood with a learned scale (arXiv:2006.13202), KL with warm-up and free bits;
windows cut at a random shift, with slight noise and gain.

## Measured on the held-out patients

{_figures_table(figures)}

KL by dimension, nats: {", ".join(f"{kl:.2f}" for kl in figures["kl"])}.

## Limits

- What the features say of other scans, scanners, ages and diseases than those above was not measured.
- Whether `mu` predicts anything, how well it repeats under noise, kernel or position, and how it compares with simpler
  features, was not measured here.
{notes.strip()}
"""


def _data_table(training: Mapping[str, Any]) -> str:
    rows = ["| part | patients | volumes | windows |", "|---|---|---|---|"]
    for split, label in (("train", "training"), ("held_out", "held out")):
        cases = [case for case in training["data"] if case["split"] == split]
        patients, windows = len({case["patient"] for case in cases}), sum(case["windows"] for case in cases)
        rows.append(f"| {label} | {patients} | {len(cases)} | {windows} |")
    return "\n".join(rows)


def _sources(training: Mapping[str, Any]) -> list[str]:
    return sorted({case["source"] for case in training["data"] if case["source"]})


def _sources_list(training: Mapping[str, Any]) -> str:
    volumes = Counter((case["source"], case["split"]) for case in training["data"])
    return "".join(
        f"- {source}: {volumes[source, 'train']} for training, {volumes[source, 'held_out']} held out\n"
        for source in _sources(training)
    )


def _figures_table(figures: Mapping[str, Any]) -> str:
    return f"""\
| | |
|---|---|
| windows | {figures["windows"]} |
| reconstruction from `mu`, mean absolute error, all voxels | {figures["mae_hu"]:.1f} HU |
| the same, voxels above -500 HU | {figures["mae_body_hu"]:.1f} HU |
| active units (variance of `mu` above 0.01) | {figures["active"]} of {len(figures["kl"])} |
| KL of a window | {sum(figures["kl"]):.1f} nats |"""


def _millimetres(seen: tuple[float, float, float] | None) -> str:
    return "window" if seen is None else " × ".join(f"{length:g}" for length in seen) + " mm"
