"""How a network is trained: plain values, checked when made. Does not import torch, so a recipe is checked at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Likelihood = Literal["gaussian", "laplace"]
Penalty = Literal["none", "beta_tc", "dip_ii", "mmd"]
InvarianceScale = Literal["posterior", "between", "whitened"]
KlScale = Literal["voxel", "latent"]
Precision = Literal["32-true", "bf16-mixed"]
Accelerator = Literal["auto", "cpu", "cuda"]

FEATURE_BINS = (0.0, 0.05, 0.2, 0.45, 0.525, 0.575, 0.7, 1.0)
"""In the range -1000 to 1000 HU: air, emphysema, lung, fat, soft tissue, contrast and spongy bone, bone, metal."""

CHANGES = (
    "noise",
    "gain",
    "blur",
    "sharpen",
    "shift",
    "thickness",
    "field_of_view",
    "crop",
    "zoom",
    "offset",
    "turn",
    "tile",
)
"""The settings of what is changed in windows and their views; 0 leaves them as they are."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a network is trained.

    Augmentations are drawn anew for each window, each view of it and each step; 0 switches one off. If a window of the
    training data is larger than the network's, that is cut out at a random place.

    Attributes:
        architecture: one of `models.networks.registry.ARCHITECTURES`.
        parameters: parameters of that architecture that differ from its defaults.
        seed: seed of the weights, the order of the windows, and every draw.
        minutes: training time by the clock, including the earlier part of a resumed training; or else
        steps: number of optimiser steps. The learning rate and the KL's weight follow whichever of the two is given.
        batch: windows in one pass, over all processes together.
        trunk_until: part of the training after which what lies before the heads stays as it is, and the heads begin
            anew (`models.training.settled`): `aggregate`, `mmd` and `invariance_scale: whitened`, which until then is
            `between`, begin there. 1: all of it learns to the end.
        bank: windows of earlier passes whose codes the terms on all codes together see beside the batch's once the
            trunk stays (`models.training.bank`). Codes should be many times the latents.
        accumulate: passes whose gradients are averaged for one step of the optimiser.
        learning_rate: at its peak.
        kl_warmup: part of the training over which the KL's weight rises from 0 to `beta`.
        free_bits_nats: a dimension's KL is not pushed below it.
        beta: weight of the KL (Higgins et al. 2017); 1 is the VAE, with `kl_scale: voxel`.
        kl_scale: what KL and penalty are divided by, beside a likelihood per voxel: the voxels of a window, or its
            latents.
        aggregate: weight of the divergence from the prior of mean and covariance of mu over the batch, per dimension
            (`models.training.aggregate_losses`). It keeps dimensions from being redundant.
        mmd: weight of the maximum mean discrepancy between the z of the batch and the prior.
        likelihood: likelihood of the voxels.
        scale: scale of the likelihood in the [0, 1] range: standard deviation, or b of Laplace; `learned` is the best
            fit.
        penalty: penalty on the aggregate posterior, in addition to the KL.
        penalty_weight: its weight: β - 1 of β-TC, λ of DIP-VAE-II, α + λ - 1 of InfoVAE (whose 1 - α is `beta`).
        invariance: weight of the squared difference of mu between two views of a window over the posterior variance,
            mean over dimensions, beside a likelihood per voxel. Above 0 each window is seen twice.
        invariance_scale: `posterior`; or `between`: over the variance between the windows of the batch, half the log of
            that, so that shrinking mu or the posterior's variance gains nothing; or `whitened`: the same on the axes of
            the batch's codes within their group (tile, whole field of view), so that copying the axis that repeats best
            gains nothing. That needs `aggregate` to fix the scale.
        steadiness: weight of what differs between two views of a window when the head of mu is solved for anew at the
            end (`models.training.steady`) of a network that can be whitened; 0 leaves it as it was learned.
        axes: number of axes of mu that remain at the end, the longest, of a network that can be whitened; 0: all. What
            is hardly anything after `steadiness` would be stretched to the length of the others.
        decoder_steps: steps in which at the end the decoder goes on alone (`models.training.finished_decoder`).
        feature_weight: weight of the likelihood of block-wise statistics per value, beside a likelihood per voxel:
            those that the network describes from z (`models.networks.pooled`), or else the reconstruction's.
        feature_block: edge of those blocks in voxels; a remainder at a window's edge is not counted.
        feature_bins: centres of the soft histogram's bins in the [0, 1] range, ascending.
        noise: maximum standard deviation, in the [0, 1] range, of noise added to the encoder's input.
        gain: all views and the target of a window are scaled by 1 ± at most this.
        blur: maximum standard deviation in voxels of a Gaussian that smooths the encoder's input.
        sharpen: maximum amount of unsharp masking along each axis of the encoder's input; instead of a blur.
        shift: maximum offset in voxels, on each axis, of the second view from the first.
        thickness: maximum number of voxels over which slices of the encoder's input are averaged along z.
        field_of_view: maximum fraction of height and width of what is not air that the encoder's view lacks, replaced
            by air.
        crop: fraction of the windows of which only a third to all of the plane is used, moved to the middle, for all
            views and the target, as in a scan of a smaller field of view. It adds variety to few patients.
        offset: maximum shift of what is not air in a view, in the [0, 1] range: 0.01 is 20 HU in 2000.
        turn: maximum angle in degrees by which the second view is turned about its slice axis.
        tile: fraction of the second views that show only a third to two thirds of height and width, with the same
            target.
        zoom: all views and the target of a window are magnified in plane by 1 + at most this, or by the inverse.
        precision: `bf16-mixed`: on a GPU the network runs in bfloat16, with weights and losses in float32. On a CPU
            training is always in float32.
        ema: decay of the moving average of the weights, which is then measured and returned; 0: none.
        patience: number of checks on the calibration windows (50 in a training) without improvement before it ends; 0:
            no early end.
        threads: torch threads on the CPU, per process.
        devices: processes on this machine, each with a GPU where there are GPUs.
        nodes: number of machines.
        accelerator: `auto` uses a GPU where there is one.
    """

    architecture: str = "ct_vae"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    batch: int = 16
    trunk_until: float = 1.0
    bank: int = 0
    accumulate: int = 1
    learning_rate: float = 2e-3
    kl_warmup: float = 0.1
    free_bits_nats: float = 0.05
    beta: float = 1.0
    kl_scale: KlScale = "voxel"
    aggregate: float = 0.0
    mmd: float = 0.0
    likelihood: Likelihood = "gaussian"
    scale: float | Literal["learned"] = "learned"
    penalty: Penalty = "none"
    penalty_weight: float = 0.0
    invariance: float = 0.0
    invariance_scale: InvarianceScale = "posterior"
    steadiness: float = 0.0
    axes: int = 0
    decoder_steps: int = 0
    feature_weight: float = 0.0
    feature_block: int = 8
    feature_bins: tuple[float, ...] = FEATURE_BINS
    noise: float = 0.02
    gain: float = 0.02
    blur: float = 0.0
    sharpen: float = 0.0
    shift: float = 0.0
    thickness: float = 0.0
    field_of_view: float = 0.0
    crop: float = 0.0
    zoom: float = 0.0
    offset: float = 0.0
    turn: float = 0.0
    tile: float = 0.0
    precision: Precision = "32-true"
    ema: float = 0.0
    patience: int = 0
    threads: int = 2
    devices: int = 1
    nodes: int = 1
    accelerator: Accelerator = "auto"

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            both = "both were given" if self.steps is not None else "neither was given"
            raise ValueError(f"training needs either minutes or steps; {both}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value < 2**63):
                raise ValueError(f"{name} is {value!r}; expected a whole number, {least} or more")
        for name, (low, high) in _REAL.items():
            value = getattr(self, name)
            if value is not None and not _between(value, low, high):
                raise ValueError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")
        if self.invariance and self.invariance_scale == "between" and self.batch < 2:
            raise ValueError("invariance_scale is 'between' and batch 1; expected two windows a batch or more")
        if (self.bank > 0) != (self.trunk_until < 1):
            given = f"bank is {self.bank} and trunk_until {self.trunk_until:g}"
            raise ValueError(f"{given}; expected a bank and a part below 1, or 0 and 1")
        if self.steadiness and not self.invariance:
            raise ValueError(f"steadiness is {self.steadiness:g} and invariance 0; expected two views of a window")
        if self.scale != "learned" and not (_between(self.scale, 1e-4, 1.0)):
            raise ValueError(f"scale is {self.scale!r}; expected 'learned' or a number from 0.0001 to 1")
        if (self.penalty == "none") != (self.penalty_weight == 0):
            raise ValueError(f"penalty {self.penalty} has the weight {self.penalty_weight:g}; give both or neither")
        object.__setattr__(self, "feature_bins", tuple(self.feature_bins))
        bins = self.feature_bins
        if not (2 <= len(bins) <= 32 and all(_between(b, 0, 1) for b in bins) and list(bins) == sorted(set(bins))):
            raise ValueError(f"feature_bins are {bins!r}; expected 2 to 32 ascending numbers from 0 to 1")
        if self.batch % (self.devices * self.nodes) != 0:
            raise ValueError(
                f"a batch of {self.batch} cannot be shared by {self.devices} devices on {self.nodes} nodes"
            )

    @property
    def unchanged(self) -> TrainingSettings:
        """The settings for windows that are seen once and as they are, at a random place alone."""
        as_they_are: dict[str, Any] = dict.fromkeys(CHANGES, 0.0)
        return replace(self.of_one_view, **as_they_are)

    @property
    def of_one_view(self) -> TrainingSettings:
        """The settings for windows that are seen once: without what compares two views."""
        return replace(self, invariance=0.0, steadiness=0.0)


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "likelihood": ("gaussian", "laplace"),
    "penalty": ("none", "beta_tc", "dip_ii", "mmd"),
    "invariance_scale": ("posterior", "between", "whitened"),
    "kl_scale": ("voxel", "latent"),
    "precision": ("32-true", "bf16-mixed"),
    "accelerator": ("auto", "cpu", "cuda"),
}
_WHOLE: Mapping[str, int] = {
    "seed": 0,
    "steps": 1,
    "batch": 1,
    "bank": 0,
    "axes": 0,
    "decoder_steps": 0,
    "accumulate": 1,
    "feature_block": 2,
    "patience": 0,
    "threads": 1,
    "devices": 1,
    "nodes": 1,
}
_REAL: Mapping[str, tuple[float, float]] = {
    "trunk_until": (0.0, 1.0),
    "minutes": (1e-4, 1e6),
    "learning_rate": (1e-8, 1.0),
    "kl_warmup": (0.0, 1.0),
    "free_bits_nats": (0.0, 100.0),
    "beta": (0.0, 1e4),
    "penalty_weight": (0.0, 1e6),
    "aggregate": (0.0, 1e6),
    "mmd": (0.0, 1e6),
    "invariance": (0.0, 1e6),
    "steadiness": (0.0, 1e6),
    "feature_weight": (0.0, 1e6),
    "noise": (0.0, 1.0),
    "gain": (0.0, 0.5),
    "blur": (0.0, 8.0),
    "sharpen": (0.0, 4.0),
    "shift": (0.0, 16.0),
    "thickness": (0.0, 16.0),
    "field_of_view": (0.0, 0.9),
    "crop": (0.0, 1.0),
    "zoom": (0.0, 1.0),
    "offset": (0.0, 0.5),
    "turn": (0.0, 45.0),
    "tile": (0.0, 1.0),
    "ema": (0.0, 0.99999),
}


def _between(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and low <= value <= high
