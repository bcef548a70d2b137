"""What mu has to beat: descriptions of the same windows that need no training, and probes to compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.research.certify.encode_scans import Describe, Measured, put_together
from app.research.data.changed_windows import ORIGINAL
from models.certified_figures import Estimate, RivalFigures
from models.networks.pooled import PooledVae, composed
from models.networks.vae import Vae
from models.statistics.probe_scores import FeatureScore, feature_score
from models.statistics.probes import ridge_probes
from models.statistics.rivals import (
    PrincipalComponents,
    composition_and_components,
    hu_histogram,
    principal_components,
)
from operators.measure.probe_targets import SEEDS

Floats = NDArray[np.float64]

LEAST_LENGTH = 32

MOST_WINDOWS = 1500
"""Limit for windows of other patients that components and probes learn from, evenly spaced: they are in memory at
once, at two bytes per voxel."""


@dataclass(frozen=True, slots=True)
class Rivals:
    """What was learned from windows of other patients.

    Attributes:
        learned: codes, targets and patients of those windows.
        describe: windows (n, d, h, w) → each rival's features.
        described: these features of the windows that were learned from.
    """

    learned: Measured
    describe: Describe
    described: Mapping[str, Floats]


def rivals_from(known: Measured, vae: Vae, latents: int) -> Rivals:
    """Return the rivals learned from the windows kept in `known`, at most `MOST_WINDOWS` of them."""
    assert known.windows is not None
    n = len(known.patients)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_WINDOWS)).round().astype(int))
    windows = known.windows[chosen]
    learned = replace(
        known,
        features={ORIGINAL: {"mu": known.features[ORIGINAL]["mu"][chosen]}},
        unlike={name: values[chosen] for name, values in known.unlike.items()},
        patients=known.patients[chosen],
        windows=None,
    )
    describe = describing(windows, vae, rival_length(latents))
    return Rivals(learned, describe, describe(windows.astype(np.float32)))


def rival_length(latents: int) -> int:
    """Return the number of values that a rival of a mu of this length has: as many, and `LEAST_LENGTH` at least."""
    return max(latents, LEAST_LENGTH)


def describing(known: NDArray[Any], vae: Vae, length: int) -> Describe:
    """Return a function of windows (n, d, h, w): `histogram`, `components`; for a `PooledVae` also `composition`.

    Where the network reads moments too, `composition and moments` are the principal components of both.

    Args:
        known: windows of other patients, which components are learned from.
        vae: its composition and moments need no training: they count a soft histogram that its first layer makes.
        length: number of components, and of values of the composition with components.
    """
    components = principal_components(known, length)
    of_untrained: PrincipalComponents | None = None
    if isinstance(vae, PooledVae) and vae.moments:
        of_untrained = principal_components(_untrained(vae, known), length)

    def describe(windows: NDArray[Any]) -> dict[str, Floats]:
        loadings = components(windows)
        found = {"components": loadings, "histogram": hu_histogram(windows)}
        if isinstance(vae, PooledVae):
            untrained = _untrained(vae, windows)
            composition = untrained[:, : composed(vae.patches.channels)]
            found["composition"] = composition
            if composition.shape[1] < length <= composition.shape[1] + loadings.shape[1]:
                found["composition and components"] = composition_and_components(composition, loadings, length)
            if of_untrained is not None:
                found["composition and moments"] = of_untrained(untrained)
        return found

    return describe


def _untrained(vae: PooledVae, windows: NDArray[Any]) -> Floats:
    """Return what the heads read of windows (n, d, h, w) that no training makes, one window at a time."""
    import torch

    with torch.inference_mode():
        made = [vae.untrained(torch.from_numpy(one[None, None].astype(np.float32))).numpy() for one in windows]
    return np.concatenate(made).astype(np.float64)


def rival_figures(measured: Measured, rivals: Rivals) -> RivalFigures | None:
    """Return mu and its rivals, by ridge probes learned on the windows of both and scored on those measured.

    Args:
        measured: windows with the features from `rivals.describe`.
        rivals: learned from other patients' windows.
    """
    known = rivals.learned
    both = put_together(measured, known)
    targets = {name: np.concatenate([values, known.unlike[name]]) for name, values in measured.unlike.items()}
    described = {name: np.concatenate([values, rivals.described[name]]) for name, values in measured.rivals.items()}
    scores = score_features({"mu": both.tap("mu")} | described, targets, both.patients, both.scored)
    if scores is None:
        return None
    apart = {name: scores["mu"].above(found) for name, found in scores.items() if name != "mu"}
    strongest = max(apart, key=lambda name: scores[name].value)
    over = {name: Estimate(*difference) for name, (difference, _) in apart.items()}
    over_80 = {name: low for name, (_, low) in apart.items()}
    return RivalFigures(
        scores={name: Estimate(*found.interval) for name, found in scores.items()},
        by_probe={name: dict(found.by_probe) for name, found in scores.items()},
        strongest=strongest,
        over_strongest=over[strongest],
        over_strongest_80=over_80[strongest],
        over=over,
        over_80=over_80,
    )


def score_features(
    methods: Mapping[str, Floats], targets: Mapping[str, Floats], patients: NDArray[Any], scored: NDArray[np.bool_]
) -> dict[str, FeatureScore] | None:
    """Return the score of each method's features, over the seeds of the folds; None if nothing can be probed.

    Args:
        methods: name → (n, length).
        targets: name → (n,), NaN where missing.
        patients: (n,).
        scored: bool (n,), as for `ridge_probes`.
    """
    found: dict[str, FeatureScore] = {}
    for name, features in methods.items():
        by_seed = [
            ridge_probes(features, targets, patients, scored=scored, shuffles=0, resamples=1, seed=seed)
            for seed in SEEDS
        ]
        score = feature_score(by_seed)
        if score is None:
            return None
        found[name] = score
    return found
