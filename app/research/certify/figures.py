"""The figures of a certificate, as plain JSON values, from what was measured on windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.research.certify.measure import Measured
from app.research.data.changed_windows import ORIGINAL
from models.spec import TapSpec
from models.statistics.identity import METRICS, identity, non_overlapping, whiten
from models.statistics.label_probes import label_probe
from models.statistics.patients import Interval, mean_interval
from models.statistics.probes import Probe, mean_score, ridge_probes
from models.statistics.repeatability import Repeatability, repeatability
from models.statistics.tissues import TISSUES_HU
from models.statistics.units import ACTIVE_VARIANCE, active_units, correlation, kl_by_dimension

DIGITS = 4
FEWEST_VALUES = 6
"""A label of numbers with fewer different ones is taken for classes."""

LEAST_TO_WHITEN = 5
"""Patients."""

LONG = 1024
"""A longer vector is not whitened, and its ICC has no intervals: either would take minutes."""

ICC_RESAMPLES = 300


def figures_of_units(measured: Measured) -> dict[str, Any]:
    """Active units, KL and correlation of mu."""
    mu, sigma = (measured.features[ORIGINAL][tap] for tap in ("mu", "sigma"))
    return {
        "active_units": active_units(mu),
        "kl_by_dimension": kl_by_dimension(mu, sigma).tolist(),
        "variance_of_mu": mu.var(axis=0).tolist(),
        "correlation_of_mu": correlation(mu).tolist(),
    }


def figures_of_tap(measured: Measured, known: Measured | None, tap: str, spec: TapSpec, seed: int) -> dict[str, Any]:
    """Length, repeatability, information and identity of one tap; by dimension for mu alone.

    Args:
        measured: what all figures are of.
        known: windows of patients that the bundle was made with, which help: see `Roles`.
        tap: its name in `measured`.
        spec: what it is.
        seed: of all that is drawn.
    """
    features = {change: by_tap[tap] for change, by_tap in measured.features.items()}
    original, patients = features[ORIGINAL], measured.patients
    changed = {change: values for change, values in features.items() if change != ORIGINAL}
    threshold = ACTIVE_VARIANCE if tap == "mu" else 0.0
    resamples = ICC_RESAMPLES if original.shape[1] <= LONG else 0
    repeats = repeatability(original, changed, patients, dead_variance=threshold, resamples=resamples, seed=seed)
    return {
        "layer": spec.name,
        "pooling": spec.pooling,
        "length": int(original.shape[1]),
        "receptive_field_mm": None if spec.receptive_field_mm is None else list(spec.receptive_field_mm),
        "repeatability": _repeatability(repeats, by_dimension=tap == "mu"),
        "information": _information(measured, known, tap, seed),
        "identity": _identity(changed, measured, known, tap, seed),
    }


def reconstruction_figures(measured: Measured, seed: int) -> dict[str, Any] | None:
    """Errors on the windows as they are, means over windows; None without a decoder."""
    if not measured.errors:
        return None

    def mean(name: str) -> dict[str, Any] | None:
        values = measured.errors[name]
        there = np.isfinite(values)
        if not there.any():
            return None
        return _interval(mean_interval(values[there], measured.patients[there], seed=seed)) | {
            "windows": int(there.sum())
        }

    return {
        "mae_hu": mean("all"),
        "mae_by_tissue_hu": {name: mean(name) for name in TISSUES_HU},
        "psnr_db": mean("psnr_db"),
        "ssim": mean("ssim"),
    }


def rounded(value: Any) -> Any:
    """Plain JSON values: numbers with four digits, what is not finite as null, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    if isinstance(value, (float, np.floating)):
        # 0.0 + … makes -0.0 a plain zero; what is below a millionth is rounding, and would differ between machines.
        return 0.0 + float(f"{round(float(value), 6):.{DIGITS}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _information(measured: Measured, known: Measured | None, tap: str, seed: int) -> dict[str, Any]:
    """Probes, learned on the windows of both, scored on the windows that are measured."""
    parts = [measured] if known is None else [measured, known]
    features = np.concatenate([part.features[ORIGINAL][tap] for part in parts])
    # A name of one part is no patient of the other: Roles sees to it.
    patients = np.concatenate([part.patients for part in parts])
    scored = np.arange(len(patients)) < len(measured.patients)
    quantities = {name: np.concatenate([part.targets[name] for part in parts]) for name in measured.targets}
    labels = {name: _column(parts, name) for name in measured.labels}
    numbers = {name: parsed for name, values in labels.items() if (parsed := _numbers(values)) is not None}
    probes = ridge_probes(features, quantities | numbers, patients, scored=scored, seed=seed)
    told = {name: {"measure": "r2", **_probe(probes.get(name))} for name in numbers}
    for name in labels:
        if name not in numbers:
            found = label_probe(features, labels[name].tolist(), patients, scored=scored, seed=seed)
            told[name] = {"measure": "auc", **_probe(found)}
    of_voxels = {name: probes[name] for name in quantities if name in probes}
    return {
        "mean_r2": _interval(mean_score(of_voxels, seed=seed)) if of_voxels else None,
        "quantities": {name: _probe(probes.get(name)) for name in quantities},
        "labels": told,
    }


def _column(parts: Sequence[Measured], label: str) -> NDArray[np.str_]:
    return np.concatenate([part.labels.get(label, np.full(len(part.patients), "")) for part in parts])


def _numbers(values: NDArray[np.str_]) -> NDArray[np.float64] | None:
    """A label as numbers, NaN where there is none; None where it is one of classes."""
    parsed = np.array([_number(text) for text in values.tolist()])
    told = values != ""
    if not np.isfinite(parsed[told]).all() or len(np.unique(parsed[told])) < FEWEST_VALUES:
        return None
    return parsed


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _repeatability(found: Repeatability, *, by_dimension: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "mean_icc": _interval(found.mean),
        "median_icc": found.median,
        "dead_dimensions": int(found.dead.sum()),
        "by_change": {name: _interval(icc) for name, icc in found.mean_icc.items()},
    }
    if by_dimension:
        figures["by_dimension"] = {
            "icc": {name: values.tolist() for name, values in found.icc.items()},
            "within_sd": found.within_sd.tolist(),
            "between_sd": found.between_sd.tolist(),
            "minimal_detectable_change": found.minimal_detectable_change.tolist(),
        }
    return figures


def _probe(probe: Probe | None) -> dict[str, Any]:
    if probe is None:
        return {"value": None, "low": None, "high": None, "shuffled": None, "windows": 0, "patients": 0}
    counted = {"shuffled": probe.shuffled, "windows": probe.windows, "patients": probe.patients}
    return _interval(probe.score) | counted


def _identity(
    changed: Mapping[str, NDArray[Any]], measured: Measured, known: Measured | None, tap: str, seed: int
) -> dict[str, Any]:
    original = measured.features[ORIGINAL][tap]
    gallery = non_overlapping(measured.low_mm, measured.high_mm, measured.patients)
    distractors, whitening = None, None
    if known is not None:
        others = known.features[ORIGINAL][tap]
        distractors = others[non_overlapping(known.low_mm, known.high_mm, known.patients)]
        if len(np.unique(known.patients)) >= LEAST_TO_WHITEN and others.shape[1] <= LONG:
            whitening = whiten(others)
    metrics: dict[str, Any] = {}
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
        metrics[metric] = {
            "mean": float(np.mean(tops)),
            "lowest": min(tops),
            "by_change": {name: _interval(one.top1) for name, one in found.items()},
        }
    return {"looked_for": len(gallery), "gallery": size, "chance": 1 / size, "metrics": metrics}


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}
