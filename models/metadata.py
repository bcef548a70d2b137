"""`configs/metadata.json` of a bundle: read without trusting it, and written.

The metadata are MONAI's (docs.monai.io, "MONAI Bundle Specification") with an additional section `ctvae`. Each name,
type and length is checked; by hand rather than with pydantic, for the cost that `models.from_json` states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from models.spec import LARGEST_VALUES, POOLINGS, Bundle, BundleError, Preprocessing, TapSpec
from models.training_record import TrainingRecord, read_record

FORMAT_VERSION = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TAP_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 65536
_MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)


def parse_metadata(path: Path, metadata: Any) -> Bundle:
    """Return the bundle at `path` that these metadata describe.

    Raises:
        BundleError: the format version differs, or a field is missing or not as expected.
    """
    if not isinstance(metadata, dict) or not isinstance(metadata.get("ctvae"), dict):
        raise BundleError("metadata.json has no section 'ctvae'; expected a bundle that ctvae wrote")
    own = metadata["ctvae"]
    version = own.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        raise BundleError(f"bundle format version is {version!r}; this ctvae reads version {FORMAT_VERSION}")
    architecture = _typed(own, "architecture", dict)
    taps = tuple(_parse_tap(tap) for tap in _typed(own, "taps", list))
    names = [tap.name for tap in taps]
    shapes = {tap.name: tap.shape for tap in taps}
    if len(set(names)) != len(names) or shapes.get("mu", ()) != shapes.get("sigma") or len(shapes["mu"]) != 1:
        raise BundleError(f"bundle taps are {names}; expected mu and sigma, vectors of one length, and no name twice")
    return Bundle(
        path=path,
        name=_matching(own, "name", _NAME),
        version=_matching(metadata, "version", _NAME),
        architecture=_matching(architecture, "name", _TAP_NAME),
        architecture_parameters=_typed(architecture, "parameters", dict),
        preprocessing=_parse_preprocessing(_typed(own, "preprocessing", dict)),
        taps=taps,
        weights_sha256=_matching(own, "weights_sha256", _SHA256),
        onnx_sha256=_matching(own, "onnx_sha256", _SHA256),
        training=_parse_training(_typed(own, "training", dict)),
        decoder_sha256=_digest(own, "decoder_sha256"),
        reference_sha256=_digest(own, "reference_sha256"),
    )


def _digest(own: Mapping[str, Any], key: str) -> str | None:
    """Return the digest of an optional file of a bundle."""
    return None if own.get(key) is None else _matching(own, key, _SHA256)


def _parse_training(own: Mapping[str, object]) -> TrainingRecord:
    try:
        return read_record(own)
    except ValueError as error:
        raise BundleError(f"metadata.json: training.{error}; get an undamaged copy of the bundle") from error


def _parse_preprocessing(own: Mapping[str, Any]) -> Preprocessing:
    expected = {entry.name for entry in fields(Preprocessing)}
    if set(own) | {"outside"} != expected:
        raise BundleError(f"metadata.json: preprocessing has {sorted(own)}; expected {sorted(expected)}")
    depth, height, width = _integers(own, "window_voxels", (3,))
    low, high = _numbers(own, "window_hu", 2)
    return Preprocessing(
        fit=own["fit"],
        window_voxels=(depth, height, width),
        spacing_mm=_millimetres(own, "spacing_mm"),
        window_hu=(low, high),
        overlap=_numbers({"overlap": [own["overlap"]]}, "overlap", 1)[0],
        outside=own.get("outside", "kept"),
    )


def _parse_tap(own: Any) -> TapSpec:
    if not isinstance(own, dict):
        raise BundleError(f"metadata.json: a tap is {_short(own)}; expected name, shape, pooling, receptive_field_mm")
    shape, pooling = _integers(own, "shape", (1, 4)), own.get("pooling")
    if pooling not in POOLINGS or (len(shape) == 1 and pooling != "none"):
        expected = "'none', for it is a vector" if len(shape) == 1 else f"one of {', '.join(POOLINGS)}"
        raise BundleError(f"metadata.json: a tap of shape {shape} has pooling {_short(pooling)}; expected {expected}")
    if math.prod(shape) > LARGEST_VALUES:
        raise BundleError(f"metadata.json: a tap has shape {shape}; expected at most {LARGEST_VALUES} values")
    return TapSpec(_matching(own, "name", _TAP_NAME), shape, pooling, _millimetres(own, "receptive_field_mm"))


def _millimetres(own: Mapping[str, Any], key: str) -> tuple[float, float, float] | None:
    if own.get(key) is None:
        return None
    z, y, x = _numbers(own, key, 3)
    return z, y, x


def compose_metadata(bundle: Bundle, monai: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that describe a bundle.

    Args:
        bundle: the bundle to describe.
        monai: MONAI's descriptive keys (`description`, `data_source`, versions, …), written unchanged.
    """
    inputs = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": list(bundle.preprocessing.window_voxels),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": bundle.preprocessing.fit == "window",
        "channel_def": {"0": "HU, from window_hu to 0 and 1, clipped" if not bundle.arrays_only else "as it comes"},
    }
    return {
        "schema": _MONAI_SCHEMA,
        "version": bundle.version,
        **monai,
        "network_data_format": {"inputs": {"image": inputs}, "outputs": _outputs(bundle.taps)},
        "ctvae": {
            "format_version": FORMAT_VERSION,
            "name": bundle.name,
            "architecture": {"name": bundle.architecture, "parameters": dict(bundle.architecture_parameters)},
            "preprocessing": bundle.preprocessing.parameters(),
            "taps": [asdict(tap) for tap in bundle.taps],
            "weights_sha256": bundle.weights_sha256,
            "onnx_sha256": bundle.onnx_sha256,
            "decoder_sha256": bundle.decoder_sha256,
            "reference_sha256": bundle.reference_sha256,
            "training": bundle.training.as_json(),
        },
    }


def _outputs(taps: tuple[TapSpec, ...]) -> dict[str, Any]:
    """Return each tap, and `pred`, MONAI's name for the output of a network: mu."""
    named = {tap.name: _output(tap) for tap in taps}
    return {"pred": named["mu"], **named}


def _output(tap: TapSpec) -> dict[str, Any]:
    return {
        "type": "tuples" if len(tap.shape) == 1 else "image",
        "format": "latent",
        "modality": "CT",
        "num_channels": tap.shape[0],
        "spatial_shape": list(tap.shape[1:]),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": f"value 0 of {tap.name}; the others are its other values, in order"},
    }


def _typed(own: Mapping[str, Any], key: str, kind: type) -> Any:
    value = own.get(key)
    if not isinstance(value, kind):
        raise BundleError(f"metadata.json: {key} is {_short(value)}; expected a {kind.__name__}")
    return value


def _matching(own: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = own.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BundleError(f"metadata.json: {key} is {_short(value)}; expected text of the form {pattern.pattern}")
    return value


def _integers(own: Mapping[str, Any], key: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    value = own.get(key)
    good = isinstance(value, list) and all(type(v) is int and 1 <= v <= _LARGEST for v in value)
    if not good or len(value or ()) not in counts:
        raise BundleError(f"metadata.json: {key} is {_short(value)}; expected {_list(counts)} of positive integers")
    return tuple(value or ())


def _numbers(own: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    value = own.get(key)
    good = isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    if not good or len(value or ()) != count:
        raise BundleError(f"metadata.json: {key} is {_short(value)}; expected {_list((count,))} of numbers")
    return tuple(float(v) for v in value or ())


def _list(counts: tuple[int, ...]) -> str:
    return f"a list of {' or '.join(map(str, counts))}"


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value)[:80]
