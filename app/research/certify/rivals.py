"""What mu has to be better than: descriptions of the same windows that need no training, and probes to hold them to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.research.certify.measure import Describe, Measured
from app.research.data.changed_windows import ORIGINAL
from models.certified_figures import Estimate, RivalFigures
from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.statistics.probe_scores import FeatureScore, feature_score
from models.statistics.probes import ridge_probes
from models.statistics.rivals import composition_and_components, hu_histogram, principal_components
from operators.measure.probe_targets import SEEDS

Floats = NDArray[np.float64]

MOST_WINDOWS = 1500
"""Of other patients, that components and probes learn from, at even distances: at two bytes a voxel they are held at
once."""


def windows_to_learn_from(known: Measured) -> Measured:
    """Return at most `MOST_WINDOWS` of them."""
    n = len(known.patients)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_WINDOWS)).round().astype(int))
    assert known.windows is not None
    return replace(
        known,
        features={ORIGINAL: {"mu": known.features[ORIGINAL]["mu"][chosen]}},
        unlike={name: values[chosen] for name, values in known.unlike.items()},
        patients=known.patients[chosen],
        windows=known.windows[chosen],
    )


def learn_rivals(known: Measured, vae: Vae, latents: int) -> Describe:
    """Return what describes windows (n, d, h, w): `histogram`, `components`; of a `PooledVae` its `composition` too.

    Args:
        known: windows of other patients, kept; the components are learned from them.
        vae: the composition is untrained: counts of a soft histogram that its first layer makes.
        latents: length of mu; so many components there are, and so many values has composition with components.
    """
    assert known.windows is not None
    components = principal_components(known.windows, latents)

    def describe(windows: NDArray[Any]) -> dict[str, Floats]:
        loadings = components(windows)
        found = {"components": loadings, "histogram": hu_histogram(windows)}
        if isinstance(vae, PooledVae):
            composed = composition_of(vae, windows)
            found["composition"] = composed
            if composed.shape[1] < latents <= composed.shape[1] + loadings.shape[1]:
                found["composition and components"] = composition_and_components(composed, loadings, latents)
        return found

    return describe


def composition_of(vae: PooledVae, windows: NDArray[Any]) -> Floats:
    """Return the composition of windows (n, d, h, w), one window at a time."""
    import torch

    with torch.inference_mode():
        made = [vae.describable(torch.from_numpy(one[None, None].astype(np.float32))).numpy() for one in windows]
    return np.concatenate(made).astype(np.float64)


def rival_figures(measured: Measured, known: Measured, described: Mapping[str, Floats]) -> RivalFigures | None:
    """Return mu and its rivals, each by ridge probes learned on the windows of both and scored on those measured.

    Args:
        measured: with `rivals`.
        known: of `windows_to_learn_from`.
        described: of its windows, by method.
    """
    patients = np.concatenate([measured.patients, known.patients])
    scored = np.arange(len(patients)) < len(measured.patients)
    targets = {name: np.concatenate([values, known.unlike[name]]) for name, values in measured.unlike.items()}
    mu = np.concatenate([part.features[ORIGINAL]["mu"] for part in (measured, known)])
    methods = {"mu": mu} | {name: np.concatenate([values, described[name]]) for name, values in measured.rivals.items()}
    scores: dict[str, FeatureScore] = {}
    for name, features in methods.items():
        by_seed = [
            ridge_probes(features, targets, patients, scored=scored, shuffles=0, resamples=1, seed=seed)
            for seed in SEEDS
        ]
        found = feature_score(by_seed)
        if found is None:
            return None
        scores[name] = found
    strongest = max((name for name in scores if name != "mu"), key=lambda name: scores[name].value)
    over, low_80 = scores["mu"].above(scores[strongest])
    return RivalFigures(
        scores={name: Estimate(*found.interval) for name, found in scores.items()},
        by_probe={name: dict(found.by_probe) for name, found in scores.items()},
        strongest=strongest,
        over_strongest=Estimate(*over),
        over_strongest_80=low_80,
    )
