"""A small certificate, for tests that need one and measure nothing."""

from __future__ import annotations

from models.certificate import (
    SCHEMA_VERSION,
    Certificate,
    CertifiedBundle,
    CertifiedData,
    CertifySettings,
    Change,
    DimensionRepeatability,
    FoundAgain,
    IdentityFigures,
    InformationFigures,
    ProbeScore,
    RepeatabilityFigures,
    TapFigures,
)
from models.certified_figures import Estimate

UNITS = 4


def small_certificate(active_units: int = UNITS) -> Certificate:
    """Return a certificate of four units, one tap and one change."""
    figure, row = Estimate(0.5, 0.25, 0.75), (1.0,) * UNITS
    by_dimension = DimensionRepeatability({"noise": row}, row, row, row)
    mu = TapFigures(
        layer="mu",
        pooling="none",
        length=UNITS,
        receptive_field_mm=None,
        repeatability=RepeatabilityFigures(figure, 0.5, 0, {"noise": figure}, by_dimension),
        information=InformationFigures(figure, {"mean_hu": ProbeScore(0.5, 0.25, 0.75, 0.0, 9, 3)}, {}),
        identity=IdentityFigures(9, 9, 1 / 9, {"cosine": FoundAgain(0.5, 0.5, {"noise": figure})}),
    )
    return Certificate(
        schema_version=SCHEMA_VERSION,
        bundle=CertifiedBundle("small", "0.0.1", "0" * 64, "1" * 64),
        data=CertifiedData(3, 3, 9, 0, 0, 0, 0, False, ("phantoms",)),
        settings=CertifySettings(seed=0, resamples=10, folds=3, inner_folds=2, shuffles=1),
        versions={"ctvae": "0.1.0"},
        changes={"noise": Change("noise added", (0.0, 0.0, 0.0))},
        active_units=active_units,
        kl_by_dimension=row,
        variance_of_mu=row,
        correlation_of_mu=(row,) * UNITS,
        taps={"mu": mu},
        reconstruction=None,
        phantom=None,
    )
