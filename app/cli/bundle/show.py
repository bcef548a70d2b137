"""`ctvae bundle show`: what a bundle is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from app.cli.options import BundleOrShippedArgument, JsonOption, LogLevelOption
from app.cli.print_json import print_json
from app.process import LogLevel, guarded

if TYPE_CHECKING:
    from models.certificate import Certificate
    from models.spec import Bundle, Preprocessing
    from models.training_record import TrainingRecord


def command(
    path: BundleOrShippedArgument = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Show a bundle's name, version, architecture, preprocessing and taps; in brief its training and certificate."""

    def run() -> int:
        from app.open_bundle import bundle_errors, open_bundle

        bundle = open_bundle(path)
        certificate = _certificate(bundle)
        with bundle_errors():
            described = describe(bundle, certificate)
        if as_json:
            print_json(described)
        else:
            sys.stdout.write("\n".join(_lines(bundle, described, certificate)) + "\n")
        return 0

    return guarded(run, log_level)


def describe(bundle: Bundle, certificate: Certificate | str | None) -> dict[str, Any]:
    """Return everything that is shown, as plain JSON values; the certificate as `_certificate` returns it."""
    from models.bundle.check import check_active
    from models.weights import read_weights

    weights = read_weights(bundle.weights_path.read_bytes())
    counts = {
        part: sum(w.size for name, w in weights.items() if _part(name) == part) for part in ("encoder", "decoder")
    }
    return {
        "name": bundle.name,
        "version": bundle.version,
        "weights_sha256": bundle.weights_sha256,
        "architecture": {"name": bundle.architecture, "parameters": dict(bundle.architecture_parameters)},
        "weights": counts,
        "preprocessing": None if bundle.arrays_only else bundle.preprocessing.parameters(),
        "window_voxels": list(bundle.preprocessing.window_voxels),
        "taps": [
            {
                "name": tap.name,
                "shape": list(tap.shape),
                "pooling": tap.pooling,
                "length": tap.length,
                "receptive_field_mm": list(tap.receptive_field_mm) if tap.receptive_field_mm else None,
            }
            for tap in bundle.taps
        ],
        "active_units": check_active(bundle).detail,
        "training": _training(bundle.training),
        "certificate": None if certificate is None or isinstance(certificate, str) else certificate.as_json(),
        **({"certificate_error": certificate} if isinstance(certificate, str) else {}),
    }


def _certificate(bundle: Bundle) -> Certificate | str | None:
    """Return the certificate or, if it cannot be read, why: a damaged one must not hide the bundle."""
    from models.bundle.check import read_certificate
    from models.spec import BundleError

    try:
        return read_certificate(bundle)
    except BundleError as error:
        return str(error)


def _part(name: str) -> str:
    """Return the part that a weight belongs to: `decoder` is all that the encoder does not need."""
    return "decoder" if name.startswith(("decoder.", "describer.")) else "encoder"


def _training(record: TrainingRecord) -> dict[str, object]:
    """Return what fits on a few lines: patients by split, steps, time, reconstruction, origin."""
    patients: dict[str, set[str]] = {}
    for case in record.data:
        patients.setdefault(case.split, set()).add(case.patient)
    figures = record.figures
    found = {
        "command": record.command,
        "steps": record.steps,
        "elapsed_s": record.elapsed_s,
        "imported": record.imported and asdict(record.imported),
        "patients": {name: len(patients[name]) for name in sorted(patients)},
        "figures": figures
        and {"windows": figures.windows, "mae_hu": figures.mae_hu, "mae_body_hu": figures.mae_body_hu},
    }
    return {key: value for key, value in found.items() if value}


def _lines(bundle: Bundle, described: Mapping[str, Any], certificate: Certificate | str | None) -> Iterator[str]:
    counts = described["weights"]
    yield f"{bundle.name} {bundle.version}, weights {bundle.weights_sha256[:12]}…"
    decoder = f"{counts['decoder']:,} in its decoder" if counts["decoder"] else "no decoder"
    yield f"architecture   {bundle.architecture}, {counts['encoder']:,} weights in its encoder, {decoder}"
    plain = {key: value for key, value in bundle.architecture_parameters.items() if not _nested(value)}
    if plain:
        yield f"parameters     {', '.join(f'{key} {_short(value)}' for key, value in plain.items())}"
    yield f"preprocessing  {_preprocessing(bundle.preprocessing)}"
    yield "taps           name, length, pooling, shape, receptive field (z, y, x)"
    width = max(len(tap.name) for tap in bundle.taps)
    for tap in bundle.taps:
        seen = tap.receptive_field_mm
        field = f"{_short(seen)} mm" if seen else "the whole window, or not known"
        shape = " × ".join(map(str, tap.shape))
        yield f"               {tap.name:<{width}}  {tap.length:>7}  {tap.pooling:<7}  {shape:<20}  {field}"
    yield f"active units   {described['active_units']}"
    for key, value in described["training"].items():
        yield f"{'training':<14} {key} {_short(value)}"
    yield f"certificate    {_certified(certificate)}"


def _certified(certificate: Certificate | str | None) -> str:
    from app.research.certify.certificate import summary

    if certificate is None:
        return "none; ctvae bundle certify makes one"
    return certificate if isinstance(certificate, str) else summary(certificate)


def _preprocessing(settings: Preprocessing) -> str:
    window = " × ".join(map(str, settings.window_voxels))
    low, high = settings.window_hu
    if settings.fit == "array":
        return f"not known: it accepts arrays of {window} (ctvae bundle run), not scans"
    alone = ", the patient alone" if settings.outside == "air" else ""
    if settings.spacing_mm is None:
        return f"the whole scan resized to {window} voxels, {low:g} to {high:g} HU{alone}"
    spacing = " × ".join(f"{value:g}" for value in settings.spacing_mm)
    return f"windows of {window} voxels of {spacing} mm, overlap {settings.overlap:g}, {low:g} to {high:g} HU{alone}"


def _nested(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list)) for item in value)


def _short(value: Any) -> str:
    """Return a value in one line; for a long object, its plain values."""
    if isinstance(value, Mapping):
        plain = {key: item for key, item in value.items() if not isinstance(item, (Mapping, list, tuple))}
        return ", ".join(f"{key} {_short(item)}" for key, item in plain.items())
    if isinstance(value, (list, tuple)):
        return (" × " if all(type(item) is int for item in value) else ", ").join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
