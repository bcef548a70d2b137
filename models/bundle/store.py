"""A model bundle: weights, and everything needed to use them in the same way again.

The layout is MONAI's (docs.monai.io, "MONAI Bundle Specification"):

    ct_vae/
      configs/metadata.json      MONAI's metadata, and under "ctvae" what this project reads
      models/model.safetensors   encoder and decoder; its SHA-256 is the identity of the model
      models/encoder.onnx        the encoder alone, every tap an output, for the CPU
      models/decoder.onnx        the decoder alone, for the CPU; not in every bundle
      configs/golden.json        what encoder and decoder give for a self-test input
      configs/reference.json     the reference population; not in every bundle
      configs/inference.json     for `python -m monai.bundle run`
      docs/README.md             the model card
      LICENSE                    of the weights, and of the data that they were trained on

Nothing in it is trusted and nothing is executed: names, types and sizes are checked and digests compared. Loading
imports neither torch nor MONAI.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.folder import fresh_copy, put
from models.bundle.golden import GOLDEN, make_golden, with_decoder
from models.bundle.monai_config import INFERENCE, inference_config, monai_defaults
from models.bundle.reference import read_reference
from models.metadata import compose_metadata, parse_metadata
from models.spec import Bundle, BundleError, InTheWayError
from models.weights import LARGEST_BYTES, check_weights, is_pickle

DEFAULT_BUNDLE = "ct_vae"

_METADATA = Path("configs", "metadata.json")
_METADATA_BYTES = 8 << 20
_LARGEST_BYTES = {".safetensors": LARGEST_BYTES, ".onnx": 2 << 30, ".json": 1 << 28}
_PICKLES = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".ts")
_A_PICKLE = "is a pickle; expected safetensors: a pickle can run code and is not read"

OWN_FILES = (
    "LICENSE",
    "configs/golden.json",
    "configs/inference.json",
    "configs/metadata.json",
    "configs/reference.json",
    "docs/README.md",
    "docs/certificate.json",
    "models/decoder.onnx",
    "models/encoder.onnx",
    "models/model.safetensors",
)
"""The files that ctvae writes into a bundle. Anything else in its folder belongs to the user and stays."""


_DIGESTED = ("configs/metadata.json", "configs/reference.json")
"""Beside the files in `models/`: the metadata, and the files whose digests they hold."""


def find_bundle(models: Path | None = None, name: str | None = None) -> Path:
    """Return the folder of the requested bundle.

    Args:
        models: a bundle's folder, or a folder of bundles; by default the folder of the shipped ones.
        name: name of a bundle in a folder of bundles; needed if there are several. Of the shipped ones, `ct_vae` is the
            default.

    Raises:
        BundleError: there is no such folder, no bundle in it, none of that name, or there are several and no name.
    """
    folder = models if models is not None else Path(__file__).parents[1]
    if not folder.is_dir():
        fault = f"{folder} is a file" if folder.exists() else f"no models folder {folder}"
        raise BundleError(f"{fault}; give a bundle's folder, or one that holds bundles")
    if (folder / _METADATA).is_file():
        if name is not None and name != folder.resolve().name:
            raise BundleError(f"{folder} is the bundle {folder.resolve().name!r}, not {name!r}; name that, or none")
        return folder
    found = sorted(child.name for child in folder.iterdir() if (child / _METADATA).is_file())
    if not found:
        raise BundleError(f"no bundle in {folder}: neither it nor a folder in it has {_METADATA.as_posix()}")
    if name is None and models is None and DEFAULT_BUNDLE in found:
        name = DEFAULT_BUNDLE
    if name is None and len(found) > 1:
        which = "give the path of one with -m, or its name as encode.model in app.yaml"
        raise BundleError(f"several bundles in {folder}: {', '.join(found)}; {which}")
    if name is not None and name not in found:
        raise BundleError(f"no bundle {name!r} in {folder}; there are {', '.join(found)}")
    return folder / (name or found[0])


def load_bundle(path: Path, *, reference: bool = True) -> Bundle:
    """Return the bundle in a folder, after comparing its files with the digests in its metadata.

    Args:
        path: the folder.
        reference: without, a reference population is neither read nor part of what is returned; for making it anew,
            whatever state it is in.

    Raises:
        BundleError: something is missing, damaged, of another format version, or not finite.
    """
    if not path.is_dir():
        found = f"{path} is a file" if path.exists() else f"no bundle folder {path}"
        raise BundleError(f"{found}; give the folder that holds {_METADATA.as_posix()}")
    bundle = parse_metadata(path, _read_metadata(path))
    if not reference:
        bundle = replace(bundle, reference_sha256=None)
    _check_file(path, bundle.weights_path, bundle.weights_sha256)
    _check_file(path, bundle.onnx_path, bundle.onnx_sha256)
    if bundle.decoder_sha256 is not None:
        _check_file(path, bundle.decoder_path, bundle.decoder_sha256)
    if bundle.reference_sha256 is not None:
        _check_file(path, bundle.reference_path, bundle.reference_sha256)
        read_reference(bundle)
    check_weights(bundle.weights_path)
    return bundle


def check_replaceable(path: Path) -> None:
    """Check that a bundle can be written to a folder without losing anything that ctvae did not write.

    Raises:
        InTheWayError: the folder holds something other than a bundle that ctvae wrote.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        metadata = _read_metadata(path) if path.is_dir() else None
    except BundleError:
        metadata = None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("ctvae"), dict):
        raise InTheWayError(f"{path.name} exists and is not a bundle that ctvae wrote; choose another output folder")
    for name in OWN_FILES:
        if (path / name).is_dir():
            raise InTheWayError(f"{name} in {path.name} is a folder; expected a file: choose another output folder")


def save_bundle(
    bundle: Bundle,
    *,
    weights: Mapping[str, NDArray[np.float32]],
    onnx: bytes,
    card: str,
    licence: str,
    monai: Mapping[str, Any],
    decoder: bytes | None = None,
) -> Bundle:
    """Write a bundle to `bundle.path`, completely or not at all, and read it back.

    Args:
        bundle: its description; the digests are filled in here. In an existing bundle, `OWN_FILES` are replaced; other
            files in its folder stay.
        weights: encoder and decoder, by parameter name.
        onnx: the encoder, with every tap as an output.
        card: text of `docs/README.md`.
        licence: text of `LICENSE`.
        monai: MONAI's descriptive keys for the metadata; missing ones get defaults.
        decoder: the decoder as ONNX; None for none. `add_reference` adds a reference population to the finished bundle.

    Raises:
        InTheWayError: there is something other than a bundle that ctvae wrote.
        BundleError: what was written does not load.
    """
    from safetensors.numpy import save

    path = bundle.path.resolve()
    check_replaceable(path)
    content = save({name: np.ascontiguousarray(tensor) for name, tensor in sorted(weights.items())})
    described = replace(
        bundle,
        weights_sha256=hashlib.sha256(content).hexdigest(),
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        decoder_sha256=None if decoder is None else hashlib.sha256(decoder).hexdigest(),
        reference_sha256=None,
    )
    described_to_monai = compose_metadata(described, {**monai_defaults(described), **monai})
    metadata = json.dumps(described_to_monai, indent=2, allow_nan=False) + "\n"
    files = {
        _METADATA.as_posix(): metadata.encode(),
        "models/model.safetensors": content,
        "models/encoder.onnx": onnx,
        **({} if decoder is None else {"models/decoder.onnx": decoder}),
        INFERENCE: inference_config(described),
        "docs/README.md": card.encode(),
        "LICENSE": licence.encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_copy(path, without=OWN_FILES) as fresh:
        put(fresh, files)
        put(fresh, {GOLDEN: make_golden(load_bundle(fresh))})
    return load_bundle(bundle.path)


def add_decoder(path: Path, decoder: bytes) -> Bundle:
    """Add the decoder as ONNX to a bundle, with its golden values; weights, encoder and their golden values stay.

    A reference population is removed, for its reconstruction errors are those of another decoder, or of none.

    Raises:
        BundleError: the bundle does not load, or ONNX Runtime cannot use the decoder.
    """
    load_bundle(path)
    with fresh_copy(path.resolve(), without=("configs/reference.json",)) as fresh:
        put(fresh, {"models/decoder.onnx": decoder})
        _set_digests(fresh, decoder_sha256=hashlib.sha256(decoder).hexdigest(), reference_sha256=None)
        put(fresh, {GOLDEN: with_decoder(load_bundle(fresh))})
        load_bundle(fresh)
    return load_bundle(path)


def add_reference(path: Path, reference: bytes) -> Bundle:
    """Add a reference population to a bundle, or replace it; everything else stays.

    Args:
        path: folder of the bundle.
        reference: content that `models.bundle.reference.reference_json` returned.

    Raises:
        BundleError: the bundle does not load, or not with this reference population.
    """
    load_bundle(path, reference=False)
    with fresh_copy(path.resolve(), without=("configs/reference.json",)) as fresh:
        put(fresh, {"configs/reference.json": reference})
        _set_digests(fresh, reference_sha256=hashlib.sha256(reference).hexdigest())
        load_bundle(fresh)
    return load_bundle(path)


def _set_digests(path: Path, **digests: str | None) -> None:
    """Replace digests in the metadata of a bundle; everything else in them stays."""
    metadata = _read_metadata(path)
    metadata["ctvae"] |= digests
    put(path, {_METADATA.as_posix(): (json.dumps(metadata, indent=2, allow_nan=False) + "\n").encode()})


def amend_bundle(path: Path, files: Mapping[str, bytes]) -> Bundle:
    """Add or replace files of a bundle that have no digests: all of them, or none.

    Args:
        path: folder of the bundle.
        files: content by path inside the bundle, such as `docs/certificate.json`. The metadata, and the files in
            `models/` whose digests they hold, cannot be changed.

    Raises:
        BundleError: the bundle does not load, or one of the files is not allowed there.
    """
    load_bundle(path)
    for name in files:
        inside = PurePosixPath(name)
        plain = not inside.is_absolute() and bool(inside.parts) and not {"..", "."} & set(name.split("/"))
        if not plain or inside.parts[0] == "models" or inside.as_posix() in _DIGESTED:
            raise BundleError(f"{name!r} cannot be put into a bundle; expected a file in docs/ or configs/, or LICENSE")
    with fresh_copy(path.resolve(), without=tuple(files)) as fresh:
        put(fresh, files)
        load_bundle(fresh)
    return load_bundle(path)


def _read_metadata(path: Path) -> Any:
    file = path / _METADATA
    if not file.is_file():
        raise BundleError(f"no {_METADATA.as_posix()} in {path}; expected a bundle in the MONAI layout")
    if file.stat().st_size > _METADATA_BYTES:
        raise BundleError(f"metadata.json has {file.stat().st_size} bytes; expected at most {_METADATA_BYTES}")
    try:
        return json.loads(file.read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"metadata.json is not JSON: {error}; get an undamaged copy of the bundle") from error


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_file(path: Path, file: Path, expected: str) -> None:
    """Check that a file inside the bundle exists, is not too large, and has the digest in the metadata."""
    inside = file.relative_to(path).as_posix()
    if not file.is_file():
        pickles = sorted(p.name for p in (path / "models").glob("*") if p.suffix in _PICKLES)
        hint = f"; models/{pickles[0]} {_A_PICKLE}" if pickles else ""
        raise BundleError(f"no {inside} in the bundle{hint}; get a complete copy of it")
    if not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{inside} is a link that leads out of the bundle; put the file itself there")
    size, most = file.stat().st_size, _LARGEST_BYTES[file.suffix]
    if size > most:
        raise BundleError(f"{inside} has {size} bytes; expected at most {most}: get an undamaged copy")
    with file.open("rb") as content:
        if file.suffix == ".safetensors" and is_pickle(content.read(16), size):
            raise BundleError(f"{inside} {_A_PICKLE}")
        content.seek(0)
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != expected:
        raise BundleError(f"{inside} has SHA-256 {digest[:12]}…, metadata says {expected[:12]}…; get an undamaged copy")
