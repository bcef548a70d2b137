"""From settings and a model to the stages that each series of a run passes through."""

from __future__ import annotations

from collections.abc import Mapping
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
from operators.results.map_files import Overlay


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
    grids = {name: tap.shape[0] for name, tap in taps.items() if tap.pooling == "none" and len(tap.shape) == 4}
    if settings.parametric_map and not grids:
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
        overlays=tuple(_overlay(wanted, grids) for wanted in settings.overlay),
        reconstruct=None if decoder is None else decoder.run,
    )


def _overlay(wanted: str, grids: Mapping[str, int]) -> Overlay:
    """Return the channel that is wanted, as LAYER:CHANNEL.

    Args:
        wanted: such as `block1:6`.
        grids: layers that are kept as grids, by their names among the results, and their numbers of channels.

    Raises:
        StartError: `UNKNOWN_TAP`.
    """
    layer, _, channel = wanted.partition(":")
    tap = next((name for name in (layer, f"{layer}.none") if name in grids), None)
    if tap is None:
        text = f"overlay {wanted!r} needs the layer as a grid; add {layer}:none to the taps"
        raise StartError("UNKNOWN_TAP", text)
    if not (channel.isascii() and channel.isdigit() and int(channel) < grids[tap]):
        text = f"overlay {wanted!r} names no channel of {layer}; expected {layer}:0 to {layer}:{grids[tap] - 1}"
        raise StartError("UNKNOWN_TAP", text)
    return Overlay(tap, int(channel))
