"""The figures of a certificate, computed from what was measured on windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.research.certify.encode_scans import Measured, put_together
from app.research.data.changed_windows import ORIGINAL
from models.certificate import (
    DimensionRepeatability,
    FoundAgain,
    IdentityFigures,
    InformationFigures,
    LabelScore,
    MeanError,
    ProbeScore,
    ReconstructionFigures,
    RepeatabilityFigures,
    TapFigures,
)
from models.certified_figures import Estimate
from models.spec import TapSpec
from models.statistics.identity import METRICS, identity, whiten
from models.statistics.label_probes import label_probe
from models.statistics.patients import mean_interval
from models.statistics.probes import Probe, mean_score, ridge_probes
from models.statistics.repeatability import Repeatability, repeatability
from models.statistics.tissues import TISSUES_HU
from models.statistics.units import ACTIVE_VARIANCE

DIGITS = 4
FEWEST_VALUES = 6
"""A numeric label with fewer distinct values is treated as classes."""

LEAST_TO_WHITEN = 5
"""Patients."""

LONG = 1024
"""A longer vector is not whitened, and its ICC has no intervals: both would take minutes."""

ICC_RESAMPLES = 300


def figures_of_tap(measured: Measured, known: Measured | None, tap: str, spec: TapSpec, seed: int) -> TapFigures:
    """Return length, repeatability, information and identity of one tap; by dimension only for mu.

    Args:
        measured: the windows that the figures describe.
        known: windows of patients that the bundle was made with, which help: see `Roles`.
        tap: its name in `measured`.
        spec: description of the tap.
        seed: seed of all draws.
    """
    features = {change: by_tap[tap] for change, by_tap in measured.features.items()}
    original, patients = features[ORIGINAL], measured.patients
    changed = {change: values for change, values in features.items() if change != ORIGINAL}
    threshold = ACTIVE_VARIANCE if tap == "mu" else 0.0
    resamples = ICC_RESAMPLES if original.shape[1] <= LONG else 0
    repeats = repeatability(original, changed, patients, dead_variance=threshold, resamples=resamples, seed=seed)
    return TapFigures(
        layer=spec.name,
        pooling=spec.pooling,
        length=int(original.shape[1]),
        receptive_field_mm=spec.receptive_field_mm,
        repeatability=_repeatability(repeats, by_dimension=tap == "mu"),
        information=_information(measured, known, tap, seed),
        identity=_identity(changed, measured, known, tap, seed),
    )


def reconstruction_figures(measured: Measured, seed: int) -> ReconstructionFigures | None:
    """Return errors on the unchanged windows, means over windows; None without a decoder."""
    if not measured.errors:
        return None

    def mean(name: str) -> MeanError | None:
        values = measured.errors[name]
        there = np.isfinite(values)
        if not there.any():
            return None
        return MeanError(*mean_interval(values[there], measured.patients[there], seed=seed), int(there.sum()))

    return ReconstructionFigures(
        mae_hu=mean("all"),
        mae_by_tissue_hu={name: mean(name) for name in TISSUES_HU},
        psnr_db=mean("psnr_db"),
        ssim=mean("ssim"),
    )


def rounded(value: Any) -> Any:
    """Return plain JSON values: numbers with four digits, non-finite numbers as null, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    if isinstance(value, (float, np.floating)):
        # Adding 0.0 turns -0.0 into 0.0; anything below a millionth is rounding, which would differ between machines.
        return 0.0 + float(f"{round(float(value), 6):.{DIGITS}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _information(measured: Measured, known: Measured | None, tap: str, seed: int) -> InformationFigures:
    """Return probes learned on the windows of both, and scored on the windows that are measured."""
    both = put_together(measured, known)
    features, patients, scored, quantities = both.tap(tap), both.patients, both.scored, both.targets()
    labels = {name: _column(both.parts, name) for name in measured.labels}
    numbers = {name: parsed for name, values in labels.items() if (parsed := _numbers(values)) is not None}
    probes = ridge_probes(features, quantities | numbers, patients, scored=scored, seed=seed)
    scores = {name: _label("r2", probes.get(name)) for name in numbers}
    for name in labels:
        if name not in numbers:
            found = label_probe(features, labels[name].tolist(), patients, scored=scored, seed=seed)
            scores[name] = _label("auc", found)
    of_voxels = {name: probes[name] for name in quantities if name in probes}
    return InformationFigures(
        mean_r2=Estimate(*mean_score(of_voxels, seed=seed)) if of_voxels else None,
        quantities={name: _probe(probes.get(name)) for name in quantities},
        labels=scores,
    )


def _column(parts: Sequence[Measured], label: str) -> NDArray[np.str_]:
    return np.concatenate([part.labels.get(label, np.full(len(part.patients), "")) for part in parts])


def _numbers(values: NDArray[np.str_]) -> NDArray[np.float64] | None:
    """Return a label as numbers, NaN where missing; None for a label of classes."""
    parsed = np.array([_number(text) for text in values.tolist()])
    present = values != ""
    if not np.isfinite(parsed[present]).all() or len(np.unique(parsed[present])) < FEWEST_VALUES:
        return None
    return parsed


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _repeatability(found: Repeatability, *, by_dimension: bool) -> RepeatabilityFigures:
    dimensions = DimensionRepeatability(
        icc={name: tuple(values.tolist()) for name, values in found.icc.items()},
        within_sd=tuple(found.within_sd.tolist()),
        between_sd=tuple(found.between_sd.tolist()),
        minimal_detectable_change=tuple(found.minimal_detectable_change.tolist()),
    )
    return RepeatabilityFigures(
        mean_icc=Estimate(*found.mean),
        median_icc=found.median,
        dead_dimensions=int(found.dead.sum()),
        by_change={name: Estimate(*icc) for name, icc in found.mean_icc.items()},
        by_dimension=dimensions if by_dimension else None,
    )


def _probe(probe: Probe | None) -> ProbeScore:
    if probe is None:
        return ProbeScore(None, None, None, None, 0, 0)
    return ProbeScore(*probe.score, probe.shuffled, probe.windows, probe.patients)


def _label(measure: Literal["auc", "r2"], probe: Probe | None) -> LabelScore:
    score = _probe(probe)
    return LabelScore(measure, score.value, score.low, score.high, score.shuffled, score.windows, score.patients)


def _identity(
    changed: Mapping[str, NDArray[Any]], measured: Measured, known: Measured | None, tap: str, seed: int
) -> IdentityFigures:
    original = measured.features[ORIGINAL][tap]
    gallery = measured.places()
    distractors, whitening = None, None
    if known is not None:
        others = known.features[ORIGINAL][tap]
        distractors = others[known.places()]
        if len(np.unique(known.patients)) >= LEAST_TO_WHITEN and others.shape[1] <= LONG:
            whitening = whiten(others)
    metrics: dict[str, FoundAgain] = {}
    size = 0
    for metric in METRICS if whitening else METRICS[:2]:
        found = {
            name: identity(
                original,
                values,
                measured.patients,
                gallery=gallery,
                distractors=distractors,
                metric=metric,
                whitening=whitening,
                seed=seed,
            )
            for name, values in changed.items()
        }
        tops = [one.top1.value for one in found.values()]
        size = next(iter(found.values())).gallery
        metrics[metric] = FoundAgain(
            mean=float(np.mean(tops)),
            lowest=min(tops),
            by_change={name: Estimate(*one.top1) for name, one in found.items()},
        )
    return IdentityFigures(looked_for=len(gallery), gallery=size, chance=1 / size, metrics=metrics)
