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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.golden import GOLDEN, make_golden
from models.bundle.monai_config import INFERENCE, inference_config, monai_defaults
from models.spec import Bundle, BundleError, InTheWayError, compose_metadata, parse_metadata
from models.weights import LARGEST_BYTES, check_weights, is_pickle

DEFAULT_BUNDLE = "ct_vae"

_METADATA = Path("configs", "metadata.json")
_METADATA_BYTES = 8 << 20
_LARGEST_BYTES = {".safetensors": LARGEST_BYTES, ".onnx": 2 << 30}
_PICKLES = (".pt", ".pth", ".pkl", ".ckpt", ".bin", ".ts")
_A_PICKLE = "is a pickle; expected safetensors: a pickle can run code and is not read"

OWN_FILES = (
    "LICENSE",
    "configs/golden.json",
    "configs/inference.json",
    "configs/metadata.json",
    "docs/README.md",
    "docs/certificate.json",
    "models/encoder.onnx",
    "models/model.safetensors",
)
"""What ctvae writes into a bundle. Anything else in its folder belongs to the user and stays."""


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
    _check_file(path, bundle.weights_path, bundle.weights_sha256)
    _check_file(path, bundle.onnx_path, bundle.onnx_sha256)
    check_weights(bundle.weights_path)
    return bundle


def check_replaceable(path: Path) -> None:
    """Check that a bundle can be written to a folder and nothing is lost that ctvae did not write.

    Raises:
        InTheWayError: there is something else than a bundle that ctvae wrote.
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
) -> Bundle:
    """Write a bundle to `bundle.path`, all of it or nothing, and read it back.

    Args:
        bundle: what to say of it; the two digests are filled in here. Of a bundle that is there already `OWN_FILES` are
            replaced; other files in its folder stay.
        weights: encoder and decoder, by parameter name.
        onnx: the encoder, every tap an output.
        card: `docs/README.md`.
        licence: `LICENSE`.
        monai: MONAI's descriptive keys, for the metadata; defaults stand for those that are not given.

    Raises:
        InTheWayError: something else than a bundle that ctvae wrote is there.
        BundleError: what was written does not load.
    """
    from safetensors.numpy import save

    path = bundle.path.resolve()
    check_replaceable(path)
    content = save({name: np.ascontiguousarray(tensor) for name, tensor in sorted(weights.items())})
    described = replace(
        bundle, weights_sha256=hashlib.sha256(content).hexdigest(), onnx_sha256=hashlib.sha256(onnx).hexdigest()
    )
    described_to_monai = compose_metadata(described, {**monai_defaults(described), **monai})
    metadata = json.dumps(described_to_monai, indent=2, allow_nan=False) + "\n"
    files = {
        _METADATA.as_posix(): metadata.encode(),
        "models/model.safetensors": content,
        "models/encoder.onnx": onnx,
        INFERENCE: inference_config(described),
        "docs/README.md": card.encode(),
        "LICENSE": licence.encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with _fresh_copy(path, without=OWN_FILES) as fresh:
        _put(fresh, files)
        _put(fresh, {GOLDEN: make_golden(load_bundle(fresh))})
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
    with _fresh_copy(path.resolve(), without=tuple(files)) as fresh:
        _put(fresh, files)
        load_bundle(fresh)
    return load_bundle(path)


@contextmanager
def _fresh_copy(path: Path, *, without: Sequence[str]) -> Iterator[Path]:
    """A copy of a folder, but for the named files, to be changed in the block; it then takes the folder's place.

    Should the block or the renaming end early, the folder stays as it was. Even of a process that is killed between the
    two renames the former folder is left: as `old` in a hidden folder beside it.
    """
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    fresh, old = workspace / "new", workspace / "old"
    try:
        if path.exists():
            shutil.copytree(path, fresh, symlinks=True, ignore=_named(path, without))
        yield fresh
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(workspace)


def _named(folder: Path, names: Sequence[str]) -> Callable[[str, list[str]], list[str]]:
    """For `copytree`: what to leave out, by paths inside of the folder."""
    return lambda inside, found: [one for one in found if (Path(inside) / one).relative_to(folder).as_posix() in names]


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths inside of the folder; no link is followed.

    Raises:
        BundleError: a folder in it is a link that leads elsewhere.
    """
    for name, content in files.items():
        target = folder / name
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"the folder of {name} is a link that leads out of the bundle; make it a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)


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
    """Check that a file inside the bundle is there, not too large, and has the digest that the metadata say."""
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
