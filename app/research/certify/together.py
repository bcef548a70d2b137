"""Figures of mu over all windows together: redundancy, prior, draws; and the same measures within groups of windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from app.research.certify.encode_scans import Measured, put_together
from app.research.data.changed_windows import ORIGINAL
from models.certified_figures import (
    BesideNull,
    DrawFigures,
    Estimate,
    GroupFigures,
    PriorFigures,
    Redundancy,
    RepeatFigures,
)
from models.statistics.aggregate import aggregate_kl, aggregate_kl_null
from models.statistics.group_variance import best_split_share, flag_share, split_null
from models.statistics.identity import found_again
from models.statistics.patients import firsts, sums_by_patient
from models.statistics.probes import STEADY, Probe, pooled_r2, ridge_probes
from models.statistics.redundancy import null_redundancy, redundancy, redundancy_by_patient
from models.statistics.repeat_scans import repeat_scans
from models.statistics.repeatability import icc_a1
from models.statistics.variance_shares import variance_shares

Floats = NDArray[np.float64]

STEADY_ICC = 0.95
FEWEST_PATIENTS, FEWEST_WINDOWS = 2, 5
"""Minimum for a group to be measured on its own."""


def redundancy_figures(measured: Measured, seed: int) -> Redundancy | None:
    """Return whether the dimensions of mu carry different information; None for a single dimension."""
    mu = measured.features[ORIGINAL]["mu"]
    n, k = mu.shape
    if k < 2:
        return None
    patients = len(np.unique(measured.patients))
    found, null = redundancy(mu), null_redundancy(n, k, seed=seed)
    by_patient = redundancy_by_patient(mu, measured.patients, seed=seed)
    null_by_patient = null_redundancy(patients, k, seed=seed)
    both = 0 < measured.cropped.sum() < n
    return Redundancy(
        windows=n,
        patients=patients,
        mean_abs_r=BesideNull(found.mean_abs_r, null.mean_abs_r),
        participation_ratio=BesideNull(found.participation_ratio, null.participation_ratio),
        mean_abs_r_by_patient=BesideNull(by_patient.mean_abs_r, null_by_patient.mean_abs_r),
        participation_ratio_by_patient=BesideNull(by_patient.participation_ratio, null_by_patient.participation_ratio),
        crop_share=flag_share(mu, measured.cropped) if both else None,
        best_split=BesideNull(best_split_share(mu, seed=seed), split_null(n, k, seed=seed)),
    )


def prior_figures(measured: Measured, seed: int) -> PriorFigures:
    """Return how far the aggregate posterior is from N(0, I)."""
    mu, sigma = (measured.features[ORIGINAL][tap] for tap in ("mu", "sigma"))
    within = np.minimum(np.square(sigma).mean(axis=0), 1.0)
    variance = mu.var(axis=0)
    return PriorFigures(
        aggregate_kl_nats=BesideNull(aggregate_kl(mu, sigma), aggregate_kl_null(*mu.shape, variance=within, seed=seed)),
        near_unit_variance=int(((variance >= 0.5) & (variance <= 2.0)).sum()),
    )


def draw_figures(measured: Measured, seed: int) -> DrawFigures:
    """Return how far two draws of z from the same posterior agree."""
    mu, sigma = (measured.features[ORIGINAL][tap] for tap in ("mu", "sigma"))
    rng = np.random.default_rng(seed)
    first, second = (mu + sigma * rng.standard_normal(mu.shape) for _ in range(2))
    icc = np.nan_to_num(icc_a1(np.stack([first, second], axis=1)))
    places = measured.places()
    found = found_again(first, second, gallery=places)
    return DrawFigures(float(icc.mean()), float(np.median(icc)), float(found.mean()), len(found))


def repeat_figures(measured: Measured, seed: int) -> RepeatFigures | None:
    """Return what scans of one patient have in common; None if no patient has two scans."""
    scans = measured.of_scan
    mu = sums_by_patient(measured.features[ORIGINAL]["mu"], scans) / np.bincount(scans)[:, None]
    patients = firsts(measured.patients, scans)
    found = repeat_scans(mu, patients, seed=seed)
    if found is None:
        return None
    shares = variance_shares(mu, patients)
    return RepeatFigures(
        scans=found.scans,
        patients=found.patients,
        patient_share=Estimate(*shares.patient) if shares else None,
        acquisition_share=Estimate(*shares.acquisition) if shares else None,
        nearest=Estimate(*found.found),
        mutual=Estimate(*found.mutual),
        chance=found.chance,
    )


def group_figures(measured: Measured, known: Measured | None, seed: int) -> dict[str, GroupFigures]:
    """Return the figures within each kind of crop and each source with enough patients.

    Args:
        measured: the windows that the figures describe.
        known: windows of other patients: the probes learn from them too, and they are distractors in the gallery.
        seed: seed of the probes' folds.
    """
    places = measured.places()
    distractors = None
    if known is not None:
        distractors = known.features[ORIGINAL]["mu"][known.places()]
    original = measured.features[ORIGINAL]["mu"]
    changed = {name: by_tap["mu"] for name, by_tap in measured.features.items() if name != ORIGINAL}
    hits = {name: found_again(original, mu, gallery=places, distractors=distractors) for name, mu in changed.items()}
    probes = _probes(measured, known, seed)
    found = {}
    for group, chosen in _groups(measured):
        icc = {name: icc_a1(np.stack([original[chosen], mu[chosen]], axis=1)) for name, mu in changed.items()}
        mean_icc = np.nan_to_num(np.mean(list(icc.values()), axis=0))
        found[group] = GroupFigures(
            windows=int(chosen.sum()),
            patients=len(np.unique(measured.patients[chosen])),
            steady_dimensions=int((mean_icc >= STEADY_ICC).sum()),
            median_icc={name: float(np.median(values)) for name, values in icc.items()},
            looked_for=int(chosen[places].sum()),
            found={name: int(one[chosen[places]].sum()) for name, one in hits.items()},
            mean_r2=_mean_r2(probes, chosen),
        )
    return found


def _groups(measured: Measured) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    named = {"cropped tile": measured.cropped, "whole field of view": ~measured.cropped}
    sources = np.array([source.partition(",")[0] for source in measured.sources.tolist()])
    named |= {source: sources == source for source in np.unique(sources).tolist() if source}
    for name, chosen in named.items():
        if chosen.sum() >= FEWEST_WINDOWS and len(np.unique(measured.patients[chosen])) >= FEWEST_PATIENTS:
            yield name, chosen


def _probes(measured: Measured, known: Measured | None, seed: int) -> dict[str, Probe]:
    both = put_together(measured, known)
    mu, targets = both.tap("mu"), both.targets()
    return ridge_probes(mu, targets, both.patients, scored=both.scored, shuffles=0, resamples=1, seed=seed)


def _mean_r2(probes: Mapping[str, Probe], chosen: NDArray[np.bool_]) -> float | None:
    """Return R² on these windows alone, mean over the quantities that vary among them."""
    values = []
    for probe in probes.values():
        target, predicted = probe.target[: len(chosen)], probe.predicted[: len(chosen)]
        there = np.isfinite(target) & chosen
        if there.sum() > 1 and target[there].std() > STEADY * np.nanstd(target):
            values.append(float(pooled_r2(target[there][:, None], predicted[there][:, None])[0]))
    return float(np.mean(values)) if values else None
