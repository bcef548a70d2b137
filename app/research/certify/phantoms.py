"""Disentanglement of a bundle's features, on phantoms of known factors that are processed like any scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from app.research.certify.encode_scans import encode_windows
from app.research.data.phantoms import phantom_volume
from models.certificate import FactorFigures, PhantomFigures
from models.phantom import FACTOR_RANGES, sample_factors
from models.runtime import Encoder
from models.spec import Bundle
from models.statistics.disentangle import disentanglement
from operators.encode import check_taps
from operators.preprocess import preprocess


def phantom_figures(
    bundle: Bundle, encoder: Encoder, count: int, seed: int, report: Callable[[str, float], None]
) -> PhantomFigures:
    """Return MIG, DCI, SAP and factor R² of `mu`; a phantom's mu is the mean over its windows, as for any series.

    Each phantom has its own factors, vessels, emphysema and noise, so that knowing one anatomy by heart does not help.
    """
    rng = np.random.default_rng(seed)
    drawn, vectors = [], []
    for number in range(count):
        report(f"phantom {number + 1} of {count}", number / count)
        drawn.append(sample_factors(rng))
        windows = preprocess(phantom_volume(drawn[-1], seed=seed * count + number), bundle.preprocessing)
        vectors.append(encode_windows(windows.voxels, encoder, check_taps(bundle))["mu"].mean(axis=0))
    factors = {name: [getattr(one, name) for one in drawn] for name in FACTOR_RANGES}
    found = disentanglement(np.stack(vectors), factors, seed=seed)
    return PhantomFigures(
        phantoms=count,
        mig=_mean(found.mig),
        dci_disentanglement=found.disentanglement,
        dci_completeness=_mean(found.completeness),
        dci_informativeness=_mean(found.informativeness),
        sap=_mean(found.sap),
        factor_r2=_mean(found.factor_r2),
        factors={
            name: FactorFigures(
                range=FACTOR_RANGES[name],
                mig=found.mig[name],
                dci_completeness=found.completeness[name],
                dci_informativeness=found.informativeness[name],
                sap=found.sap[name],
                factor_r2=found.factor_r2[name],
            )
            for name in factors
        },
    )


def _mean(by_factor: Mapping[str, float]) -> float:
    return float(np.mean(list(by_factor.values())))
