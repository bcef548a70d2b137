"""The model card of a bundle, `docs/README.md`: what it was trained on, how, and what was measured. Nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from textwrap import fill

from app.research.data.scan import SPLITS
from models.from_json import from_json
from models.spec import Bundle
from models.training.settings import TrainingSettings
from models.training_record import Figures, TrainingRecord

BEGIN, END = "<!-- certificate -->", "<!-- end of certificate -->"
"""A card has its certificate between these marks, so that a later one replaces it even in an edited card."""

LICENCE = """\
The weights and files in this folder are under the Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0), as the project that made them.

They were trained on CT that others published. No image of it is contained here. Its origins, licences and
attributions:

"""


_LISTED_DIMENSIONS = 256


def licence_text(training: TrainingRecord) -> str:
    """Return `LICENSE` of the bundle, including the origins of the training data."""
    return LICENCE + "".join(f"- {source}\n" for source in training.sources)


def model_card(bundle: Bundle, certificate: str = "") -> str:
    """Return the card, from what the bundle states about itself and its training.

    Args:
        bundle: a bundle that `ctvae train` made.
        certificate: what was measured afterwards, a Markdown section, placed after the figures.
    """
    training, preprocessing = bundle.training, bundle.preprocessing
    figures, (low, high) = training.figures, preprocessing.window_hu
    assert figures is not None
    limits = [
        _UNSEEN,
        *([] if certificate else [_UNPROVEN]),
        *filter(None, [training.notes.strip()]),
    ]
    taps = "\n".join(
        f"| `{tap.name}` | {' × '.join(map(str, tap.shape))} | {tap.pooling} | {_millimetres(tap.receptive_field_mm)} |"
        for tap in bundle.taps
    )
    grid = " × ".join(map(str, preprocessing.window_voxels))
    alone = ", of the patient alone: all else is air" if preprocessing.outside == "air" else ""
    spacing = (
        "the whole scan resized to it" if preprocessing.spacing_mm is None else _millimetres(preprocessing.spacing_mm)
    )
    return f"""\
# {bundle.name} {bundle.version}

A variational autoencoder of CT; its posterior mean `mu` is meant as a description of a scan.
**For research only. Not for clinical use; not validated for any task.**

## What it takes and gives

A window of {grid} voxels (z, y, x; {spacing}), HU from {low:g} to {high:g} scaled to 0 to 1{alone}.
Architecture `{bundle.architecture}`. A field of view is that of the convolutions; normalisation sees the whole window.

| tap | shape | pooling | field of view (z × y × x) |
|---|---|---|---|
{taps}

## What it was trained on

{_data_table(training)}

{_sources_list(training)}{_splits_text(training)}

## How

    {training.command}

{_course(training)}

## Measured on the test patients

{_figures_table(figures)}

KL by dimension, nats: {_by_dimension(figures.kl)}.
{_section(certificate)}
## Limits

{chr(10).join(limits)}
"""


_SPLIT_FIRST = """\
Volumes are counted. Patients were split before anything was trained: those of `train` were learned from, `calibration`
was looked at while training, `test` once, at the end. No patient is in two of them. Every case is named in
`configs/metadata.json`."""
_SPLITS_WITH_REFERENCE = """\
Volumes are counted. Patients were split before anything was trained: those of `train` were learned from, `calibration`
was looked at while training, `reference` says which scans are unlike them and was used for nothing else, `test` was
measured once, at the end. No patient is in two of them. Every case is named in `configs/metadata.json`."""
_UNSEEN = "- What the features say of other scans, scanners, ages and diseases than those above was not measured."
_UNPROVEN = """\
- Whether `mu` predicts anything, how well it repeats under noise, kernel or position, and how it compares with simpler
  features, was not measured here; `ctvae bundle certify` measures it."""


def marked(certificate: str) -> str:
    """Return the section of a certificate between its marks."""
    return f"{BEGIN}\n{certificate.strip()}\n{END}\n"


def with_section(card: str, certificate: str) -> str:
    """Return a card with this section in place of the former one, or before its limits, or at its end."""
    block = marked(certificate)
    if BEGIN in card and END in card:
        before, rest = card.split(BEGIN, 1)
        return before + block + rest.split(END, 1)[1].removeprefix("\n")
    if "\n## Limits\n" in card:
        before, limits = card.split("\n## Limits\n", 1)
        return f"{before.rstrip()}\n\n{block}\n## Limits\n{limits}"
    return f"{card.rstrip()}\n\n{block}"


def _section(certificate: str) -> str:
    return f"\n{marked(certificate)}" if certificate.strip() else ""


def _course(training: TrainingRecord) -> str:
    settings = _settings(training)
    ended = ", ended early: the calibration windows got no better" if training.ended == "early" else ""
    lines = [
        f"{training.steps} steps of {settings.batch * settings.accumulate} windows in "
        f"{training.elapsed_s / 60:.1f} minutes{ended}, seed {settings.seed}, torch {training.torch}. "
        "Reading and preprocessing are those of inference.",
        f"- {_likelihood(settings)}; KL with weight {settings.beta:g} after a warm-up over "
        f"{settings.kl_warmup:.0%} of the training, free bits {settings.free_bits_nats:g} nats a dimension."
        f"{_terms(settings)}",
        f"- What the encoder saw was changed at random: {_augmentation(settings)}.",
    ]
    if settings.ema:
        lines.append(f"- The weights are a moving average over steps, decay {settings.ema:g}.")
    lines += _last_steps(settings)
    parent = training.init
    if parent is not None:
        name = f"{parent.name} {parent.version}"
        lines.append(f"- Fine-tuned from {name}, weights SHA-256 `{parent.weights_sha256}`.")
    wrapped = [fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines[1:]]
    return "\n".join([fill(lines[0], 120), "", *wrapped])


def _settings(training: TrainingRecord) -> TrainingSettings:
    """Return the settings of the training, as far as this version knows them."""
    known = {entry.name for entry in fields(TrainingSettings)}
    settings: TrainingSettings = from_json(TrainingSettings, {k: v for k, v in training.settings.items() if k in known})
    return settings


def _likelihood(settings: TrainingSettings) -> str:
    named = {"gaussian": "Gaussian", "laplace": "Laplace"}[settings.likelihood]
    if settings.scale == "learned":
        return f"{named} likelihood with a learned scale (arXiv:2006.13202)"
    return f"{named} likelihood of scale {settings.scale:g}"


def _terms(settings: TrainingSettings) -> str:
    """Return the other terms of the loss in words."""
    penalties = {"beta_tc": "β-TC (arXiv:1802.04942)", "dip_ii": "DIP-VAE-II (arXiv:1711.00848)"}
    penalties["mmd"] = "MMD, InfoVAE (arXiv:1706.02262)"
    parts = []
    if settings.penalty != "none":
        parts.append(f"{penalties[settings.penalty]} with weight {settings.penalty_weight:g}")
    if settings.invariance:
        parts.append(f"the difference of mu between two views of a window, with weight {settings.invariance:g}")
    if settings.feature_weight:
        what = "the likelihood of what a window holds, a soft histogram of HU, gradient and local standard deviation"
        parts.append(f"{what}, with weight {settings.feature_weight:g}")
    if settings.aggregate:
        what = "the distance of means, deviations and covariances of mu over many windows from the prior's"
        parts.append(f"{what}, with weight {settings.aggregate:g}")
    if settings.mmd:
        parts.append(f"{penalties['mmd']} over many windows, with weight {settings.mmd:g}")
    terms = f" Beside them {', '.join(parts)}." if parts else ""
    if settings.trunk_until < 1:
        terms += (
            f" After {settings.trunk_until:.0%} of the training the encoder's stages stayed, and the heads began anew;"
            f" what is asked of many windows began there, over {settings.bank + settings.batch} at once."
        )
    return terms


def _last_steps(settings: TrainingSettings) -> list[str]:
    """Return what was done once the weights were learned, a line each."""
    done = []
    if settings.parameters.get("clipped"):
        done.append("- What the heads read is clipped to the range that it has in windows of the training.")
    if settings.parameters.get("outlier"):
        how = "it tells windows of the training from what was made of them and from shapes"
        done.append(f"- `outlier` was fitted afterwards: {how} (outlier exposure, arXiv:1812.04606).")
    if settings.parameters.get("orientation"):
        what = "it tells chests of the training from the same upside down and back to front"
        done.append(f"- `orientation` was learned afterwards: {what}.")
    if settings.steadiness:
        what = f"from either view of a window, with weight {settings.steadiness:g} for what differs between them"
        done.append(f"- The head of mu was solved for afterwards: it predicts what was learned {what}.")
    if settings.axes:
        done.append(f"- Of the axes of mu the {settings.axes} longest remain.")
    if settings.decoder_steps:
        how = f"{settings.decoder_steps} steps, with a Laplace likelihood, from draws of the posterior"
        done.append(f"- The decoder went on alone for {how}.")
    return done


def _augmentation(settings: TrainingSettings) -> str:
    drawn = ("noise", "gain", "blur", "sharpen", "shift", "thickness", "field_of_view", "zoom", "offset", "turn")
    used = [f"{name.replace('_', ' ')} up to {getattr(settings, name):g}" for name in drawn if getattr(settings, name)]
    if settings.crop:
        used.append(f"a part of the plane instead of all of it in {settings.crop:.0%} of the windows")
    if settings.tile:
        used.append(f"a third to two thirds of height and width in {settings.tile:.0%} of the second views")
    return "; ".join(["windows cut at a random place", *used])


def _data_table(training: TrainingRecord) -> str:
    rows = ["| split | patients | volumes | windows |", "|---|---|---|---|"]
    for split in SPLITS:
        cases = [case for case in training.data if case.split == split]
        if split == "reference" and not cases:
            continue
        patients, windows = len({case.patient for case in cases}), sum(case.windows for case in cases)
        rows.append(f"| {split} | {patients} | {len(cases)} | {windows} |")
    return "\n".join(rows)


def _splits_text(training: TrainingRecord) -> str:
    return _SPLITS_WITH_REFERENCE if any(case.split == "reference" for case in training.data) else _SPLIT_FIRST


def _sources_list(training: TrainingRecord) -> str:
    volumes = Counter((case.source, case.split) for case in training.data)
    listed = "".join(
        f"- {source}: {_counted({split: volumes[source, split] for split in SPLITS})}\n" for source in training.sources
    )
    return f"{listed}\n" if listed else ""


def _by_dimension(kl: Sequence[float]) -> str:
    """Return every value; for the thousands of a dense latent, their distribution."""
    if len(kl) <= _LISTED_DIMENSIONS:
        return ", ".join(f"{one:.2f}" for one in kl)
    at = [sorted(kl)[round(part * (len(kl) - 1))] for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    least, low, middle, high, most = (f"{one:.2f}" for one in at)
    return f"least {least}, quartiles {low}, {middle}, {high}, most {most}, of {len(kl)} dimensions"


def _counted(volumes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in volumes.items() if count)


def _figures_table(figures: Figures) -> str:
    return f"""\
| | |
|---|---|
| windows | {figures.windows} |
| reconstruction from `mu`, mean absolute error, all voxels | {figures.mae_hu:.1f} HU |
| the same, voxels above -500 HU | {figures.mae_body_hu:.1f} HU |
| active units (variance of `mu` above 0.01) | {figures.active} of {len(figures.kl)} |
| KL of a window | {sum(figures.kl):.1f} nats |"""


def _millimetres(seen: tuple[float, float, float] | None) -> str:
    return "window" if seen is None else " × ".join(f"{length:g}" for length in seen) + " mm"
