"""From settings and a model to the stages that each series of a run passes through."""

from __future__ import annotations

from pathlib import Path

from app.extras import require
from app.open_bundle import bundle_errors, open_scan_bundle
from app.process import starting
from app.settings import Settings
from models.bundle.reference import open_reference
from models.runtime import open_decoder, open_encoder
from operators.encode import check_taps
from operators.errors import StartError
from operators.pipeline import Pipeline


def open_pipeline(settings: Settings, models: Path | None, output: Path | None) -> Pipeline:
    """Find, check and open the model, and return the stages for each series.

    Args:
        settings: settings of the run.
        models: a bundle or a folder of bundles; None for the shipped one.
        output: folder for the results; None writes nothing.

    Raises:
        StartError: `BUNDLE_INVALID`, `NOT_ACCESSIBLE`, `ARRAYS_ONLY`, or `UNKNOWN_TAP`.
        ModuleNotFoundError: a card is requested, but the library that draws it is not installed.
    """
    if settings.card:
        require("matplotlib")
    bundle = open_scan_bundle(models, settings)
    with starting(), bundle_errors():
        encoder = open_encoder(bundle, settings.encode.device)
        reference = open_reference(bundle)
        decoder = open_decoder(bundle) if settings.card else None
    taps = check_taps(bundle, settings.encode.taps)
    if settings.parametric_map and not any(tap.pooling == "none" and len(tap.shape) == 4 for tap in taps.values()):
        text = "a Parametric Map needs a layer that is kept as a grid, and none is asked for; add one, as block3:none"
        raise StartError("UNKNOWN_TAP", text)
    return Pipeline(
        bundle=bundle,
        encoder=encoder,
        taps=settings.encode.taps,
        disclosure=settings.privacy,
        output=output,
        geometry=settings.geometry,
        sr=settings.sr,
        reference=reference,
        cards=settings.card,
        fhir=settings.fhir,
        maps=settings.parametric_map,
        reconstruct=None if decoder is None else decoder.run,
    )
