"""One number for the information in features, and its difference from other features of the same windows. Arrays only.

The score of a probe is max(R², 0): a probe that does not carry over to other patients carries no information, however
badly it fails. The score of features is the mean over probes, and over the seeds of the randomly drawn folds. Each
bootstrap sample of patients is the same for all probes, seeds and features, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.statistics.patients import RESAMPLES, Interval, interval, sample_counts
from models.statistics.probes import Probe, r2_of_samples, r2_sums

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FeatureScore:
    """The score of features.

    Attributes:
        value: mean over probes and seeds of max(R², 0).
        sampled: float64 (resamples,), the same for each bootstrap sample of patients.
        by_probe: name → mean over seeds.
    """

    value: float
    sampled: Floats
    by_probe: Mapping[str, float]

    @property
    def interval(self) -> Interval:
        """The score with its 95 % interval."""
        return interval(self.value, self.sampled)

    def above(self, other: FeatureScore) -> tuple[Interval, float]:
        """Return the difference from another score with its 95 % interval, and the lower end of the 80 % interval."""
        apart = self.sampled - other.sampled
        finite = apart[np.isfinite(apart)]
        low = float(np.percentile(finite, 10)) if finite.size else float("nan")
        return interval(self.value - other.value, apart), low


def feature_score(
    by_seed: Sequence[Mapping[str, Probe]], *, resamples: int = RESAMPLES, seed: int = 0
) -> FeatureScore | None:
    """Return the score of features from their probes for each seed of the folds; None if nothing could be probed.

    Raises:
        ValueError: the seeds have different probes.
    """
    names = list(by_seed[0])
    if any(list(probes) != names for probes in by_seed):
        raise ValueError("the seeds have different probes; give the same targets to each")
    if not names:
        return None
    patient = by_seed[0][names[0]].patient
    judged = np.isfinite([by_seed[0][name].target for name in names]).any(axis=0)
    counts = sample_counts(len(np.unique(patient[judged])), resamples, seed)
    by_probe: dict[str, float] = {}
    sampled = []
    for name in names:
        values = []
        for probes in by_seed:
            probe = probes[name]
            value, drawn = r2_of_samples(
                r2_sums(probe.target, probe.predicted, patient)[np.unique(patient[judged])], counts
            )
            values.append(max(value, 0.0))
            sampled.append(np.maximum(drawn, 0.0))  # NaN stays: the sample has no window with the target
        by_probe[name] = float(np.mean(values))
    return FeatureScore(float(np.mean(list(by_probe.values()))), np.nanmean(sampled, axis=0), by_probe)
