"""A model bundle: weights, and all that is needed to use them in the same way twice.

The layout is MONAI's (docs.monai.io, "MONAI Bundle Specification"):

    ct_vae/
      configs/metadata.json      MONAI's metadata, and under "ctvae" what this project reads
      models/model.safetensors   encoder and decoder; its SHA-256 is the identity of the model
      models/encoder.onnx        the encoder alone, every tap an output, for the CPU
      configs/golden.json        what the encoder gives for a self-test input
      configs/inference.json     for `python -m monai.bundle run`
      docs/README.md             the model card
      LICENSE                    of the weights, and of the data that they were trained on

Nothing in it is trusted and nothing is executed: names, types and sizes are checked, digests compared. Neither torch
nor MONAI is imported to load one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.golden import GOLDEN, make_golden
from models.bundle.monai_config import INFERENCE, inference_config, monai_defaults
from models.spec import Bundle, BundleError, compose_metadata, parse_metadata
from models.weights import read_weights

DEFAULT_BUNDLE = "ct_vae"

_METADATA = Path("configs", "metadata.json")
_METADATA_BYTES = 8 << 20
_PICKLES = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".ts")
_A_PICKLE = "is a pickle; expected safetensors: a pickle can run code and is not read"


def find_bundle(models: Path | None = None, name: str | None = None) -> Path:
    """The folder of the bundle that is meant.

    Args:
        models: a bundle's folder, or a folder of bundles; by default the folder of the shipped ones.
        name: of one in a folder of bundles; needed where there are several. Among the shipped, `ct_vae` by default.

    Raises:
        BundleError: no such folder, no bundle in it, none of that name, or several and no name.
    """
    folder = models if models is not None else Path(__file__).parents[1]
    if not folder.is_dir():
        raise BundleError(f"no models folder {folder}; give a bundle's folder, or one that holds bundles")
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


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's metadata and compare its weights with the digests that stand there.

    Raises:
        BundleError: what is missing, damaged, of another format version, or not finite.
    """
    if not path.is_dir():
        raise BundleError(f"no bundle folder {path}; give the folder that holds {_METADATA.as_posix()}")
    bundle = parse_metadata(path, _read_metadata(path))
    weights = _checked_bytes(path, bundle.weights_path, bundle.weights_sha256)
    _checked_bytes(path, bundle.onnx_path, bundle.onnx_sha256)
    for key, tensor in read_weights(weights).items():
        if not np.isfinite(tensor).all():
            raise BundleError(f"weights {key} hold NaN or infinity; train again or get an undamaged copy")
    return bundle


def save_bundle(
    bundle: Bundle,
    *,
    weights: Mapping[str, NDArray[np.float32]],
    onnx: bytes,
    card: str,
    licence: str,
    monai: Mapping[str, Any],
) -> Bundle:
    """Write a bundle to `bundle.path`, all of it or nothing, and read it back.

    Args:
        bundle: what to say of it; the two digests are filled in here. A bundle that is there already is replaced.
        weights: encoder and decoder, by parameter name.
        onnx: the encoder, every tap an output.
        card: `docs/README.md`.
        licence: `LICENSE`.
        monai: MONAI's descriptive keys, for the metadata; defaults stand for those that are not given.

    Raises:
        BundleError: something else than a bundle is in the way, or what was written does not load.
    """
    from safetensors.numpy import save

    path = bundle.path.resolve()
    if path.exists() and not (path / _METADATA).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise BundleError(f"{bundle.path} exists and is no bundle; choose another place")
    content = save({name: np.ascontiguousarray(tensor) for name, tensor in sorted(weights.items())})
    described = replace(
        bundle, weights_sha256=hashlib.sha256(content).hexdigest(), onnx_sha256=hashlib.sha256(onnx).hexdigest()
    )
    described_to_monai = compose_metadata(described, {**monai_defaults(described), **monai})
    metadata = json.dumps(described_to_monai, indent=2, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        fresh = Path(temporary) / "new"
        for name, data in (
            (_METADATA.as_posix(), metadata.encode()),
            ("models/model.safetensors", content),
            ("models/encoder.onnx", onnx),
            (INFERENCE, inference_config(described)),
            ("docs/README.md", card.encode()),
            ("LICENSE", licence.encode()),
        ):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(data)
        (fresh / GOLDEN).write_bytes(make_golden(load_bundle(fresh)))
        _swap(fresh, path, Path(temporary) / "old")
    return load_bundle(bundle.path)


def amend_bundle(path: Path, files: Mapping[str, bytes]) -> Bundle:
    """Add files beside the weights of a bundle, or replace them: all of them, or none.

    Args:
        path: of the bundle.
        files: content by the path inside of the bundle, such as `docs/certificate.json`. The metadata and what they
            hold digests of, below `models/`, stay as they are.

    Raises:
        BundleError: the bundle does not load, or one of the files may not be there.
    """
    load_bundle(path)
    for name in files:
        inside = PurePosixPath(name)
        plain = not inside.is_absolute() and bool(inside.parts) and not {"..", "."} & set(name.split("/"))
        if not plain or inside.parts[0] == "models" or inside == PurePosixPath(_METADATA.as_posix()):
            raise BundleError(f"{name!r} cannot be put into a bundle; expected a file in docs/ or configs/, or LICENSE")
    whole = path.resolve()
    with tempfile.TemporaryDirectory(prefix=f".{whole.name}-", dir=whole.parent) as temporary:
        fresh = Path(temporary) / "new"
        shutil.copytree(whole, fresh, symlinks=True)
        for name, content in files.items():
            target = fresh / name
            if not target.parent.resolve().is_relative_to(fresh.resolve()):
                raise BundleError(f"the folder of {name} is a link that leads out of the bundle; make it a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(content)
        load_bundle(fresh)
        _swap(fresh, whole, Path(temporary) / "old")
    return load_bundle(path)


def _swap(fresh: Path, path: Path, old: Path) -> None:
    """Put `fresh` in the place of `path`; what was there goes to `old`, and back should that fail."""
    if path.exists():
        path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise


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


def _checked_bytes(path: Path, file: Path, expected: str) -> bytes:
    """The bytes of a file inside the bundle, once their digest is what the metadata says."""
    inside = file.relative_to(path).as_posix()
    if not file.is_file():
        pickles = sorted(p.name for p in (path / "models").glob("*") if p.suffix in _PICKLES)
        hint = f"; models/{pickles[0]} {_A_PICKLE}" if pickles else ""
        raise BundleError(f"no {inside} in the bundle{hint}; get a complete copy of it")
    if not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{inside} is a link that leads out of the bundle; put the file itself there")
    content = file.read_bytes()
    if file.suffix == ".safetensors" and (content[:2] == b"PK" or content[:1] == b"\x80"):
        raise BundleError(f"{inside} {_A_PICKLE}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise BundleError(f"{inside} has SHA-256 {digest[:12]}…, metadata says {expected[:12]}…; get an undamaged copy")
    return content
