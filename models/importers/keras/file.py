"""The content of a Keras file: its architecture as JSON, its weights as arrays. Nothing in it is executed.

Three layouts: `.keras` (Keras 3 and late Keras 2: a ZIP with config.json and model.weights.h5), `.h5` with the
architecture in the attribute `model_config`, and weights alone. TensorFlow is not needed, and code in the file is not
executed: a Lambda stays text. The layout is recognised by content, not by name.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.importers.keras.graph import is_described
from models.importers.keras.hdf5 import CONFIG_BYTES, FILE_BYTES, read_hdf5_apart
from models.spec import BundleError, one_line

_DEPTH = 64
_UNFOLDS = 10
_UNFOLDS_FREELY_BYTES = 16 << 20
"""Largest expansion of a member: a configuration is text, and a tiny model's HDF5 file is mostly empty."""
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class KerasFile:
    """The content of a Keras file.

    Attributes:
        config: the model's architecture as JSON; None in a file of weights alone.
        arrays: path in the file → float32 weights: `layers/conv3d/vars/0`, or `conv3d/conv3d/kernel` (without `:0`).
        names: path of a group of weights → the layer's own name, where the file states it.
        by_index: whether weights are numbered within a layer (`vars/0`), and layers by class; otherwise both have
            names.
        order: the layers in the model's order, where weights have names and the file states it.
        parts: components of a subclassed model, whose file does not say how its layers are connected; the weights of
            such a file are not read.
    """

    config: Mapping[str, Any] | None
    arrays: Mapping[str, NDArray[np.float32]]
    names: Mapping[str, str]
    by_index: bool
    order: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


def read_keras_file(path: Path) -> KerasFile:
    """Return the content of a `.keras`, `.h5` or `.weights.h5` file.

    Raises:
        BundleError: the file is missing, of another kind, damaged, or larger than the limits above.
    """
    if path.is_dir():
        raise BundleError("found a folder (a SavedModel?); save the encoder as one file: encoder.save('encoder.keras')")
    if not path.is_file():
        raise BundleError("there is no such Keras file; give an encoder.keras, .h5 or .weights.h5")
    if path.stat().st_size > FILE_BYTES:
        raise BundleError(f"the Keras file has {path.stat().st_size} bytes; expected at most {FILE_BYTES}")
    with path.open("rb") as opened:
        start = opened.read(len(_HDF5))
    if start.startswith(b"PK"):
        return _read_archive(path)
    if start == _HDF5:
        return _read_hdf5(path.read_bytes())
    raise BundleError(
        "neither a .keras archive nor HDF5; expected a model saved by Keras as .keras, .h5 or .weights.h5"
    )


def _read_archive(path: Path) -> KerasFile:
    """Return the content of a `.keras`: nothing is unpacked to disk, and only two of its members are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = parse_json(_member(archive, "config.json", CONFIG_BYTES))
            weights = _member(archive, "model.weights.h5", FILE_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # an error of the system, not of the file
        raise BundleError(f"the .keras archive is damaged: {one_line(error)}; save the model again") from error
    if not weights.startswith(_HDF5):
        raise BundleError("model.weights.h5 in the .keras archive is not HDF5; save the model again")
    held = _read_hdf5(weights)
    parts = held.parts if is_described(config) else held.parts or ("its layers",)
    return KerasFile(config, held.arrays, held.names, held.by_index, (), parts)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return the bytes of one member, refusing it unread if it declares more than `limit` or expands too far.

    The archive's own reader unpacks no more than a member declares.
    """
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1 or found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"the .keras archive has {len(found)} readable {name}; expected one, as Keras saves it")
    packed, unpacked = found[0].compress_size, found[0].file_size
    if unpacked > limit or unpacked > _UNFOLDS_FREELY_BYTES + _UNFOLDS * packed:
        raise BundleError(
            f"{name} in the .keras archive would expand from {packed} to {unpacked} bytes; expected at most {limit}, "
            f"and at most {_UNFOLDS} times its packed size, as weights do; save the model again"
        )
    return archive.read(found[0])


def parse_json(text: bytes | str) -> Mapping[str, Any]:
    """Return a model's configuration: an object, nested no deeper than real models are.

    Raises:
        BundleError: it is not JSON, not an object, or nested too deeply.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the model's configuration is not JSON: {one_line(error)}; save the model again") from error
    level, depth = [config], 0
    while level:
        depth += 1
        if depth > _DEPTH:
            raise BundleError(f"the model's configuration is nested deeper than {_DEPTH}; real encoders are not")
        level = [child for value in level for child in _children(value)]
    if not isinstance(config, dict):
        raise BundleError("the model's configuration is not a JSON object; save the model again")
    return config


def _children(value: Any) -> list[Any]:
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in nested if isinstance(child, (dict, list))]


def _read_hdf5(content: bytes) -> KerasFile:
    held = read_hdf5_apart(content)
    config = None if held.config is None else parse_json(held.config)
    by_index = config is None and any("/vars/" in path for path in held.arrays)
    return KerasFile(config, held.arrays, held.names, by_index, held.order, held.parts)
