"""The weights in a Keras HDF5 file, read by HDF5's own library in a separate process.

A few damaged bytes can send that library into an endless loop: it happened for 22 of 400 randomly changed files (HDF5
2.0.0). So it runs apart, with limits on its time and memory; what comes back are plain arrays and text.
"""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from models.child_environment import child_environment
from models.spec import BundleError, one_line

FILE_BYTES = 1 << 30
CONFIG_BYTES = 16 << 20
ARRAY_VALUES = 1 << 27
"""Limit for all weights together: 512 MiB in float32."""
TIME_LIMIT_S = 60.0

_MEMORY_BYTES = 6 << 30
_DEPTH = 64
_OBJECTS = 20_000
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@dataclass(frozen=True, slots=True)
class Hdf5:
    """The content of a Keras HDF5 file; see `KerasFile`. `config` is the attribute `model_config`, as text."""

    config: str | None
    arrays: Mapping[str, NDArray[np.float32]]
    names: Mapping[str, str]
    order: tuple[str, ...]
    parts: tuple[str, ...] = ()


def read_hdf5_apart(content: bytes) -> Hdf5:
    """Return the file's weights, read in another process.

    Raises:
        BundleError: the file is damaged, not from Keras, too large, or keeps HDF5 busy.
    """
    code = "from models.importers.keras.hdf5 import _serve; _serve()"
    damaged = "the HDF5 file is damaged: HDF5 {}; save the model again"
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and the file on its stdin
            [sys.executable, "-P", "-c", code],  # -P: a models.py in the current folder is not ours
            input=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT_S,
            env=child_environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(damaged.format(f"did not finish in {TIME_LIMIT_S:g} s")) from error
    if done.returncode != 0:
        raise BundleError(damaged.format(f"ended with {done.returncode}"))
    try:
        with np.load(io.BytesIO(done.stdout), allow_pickle=False) as held:
            answer = json.loads(held["answer"].tobytes())
            arrays = {path: held[f"array{number}"] for number, path in enumerate(answer.get("paths", ()))}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(damaged.format("gave no answer")) from error
    if "error" in answer:
        raise BundleError(answer["error"])
    return Hdf5(answer["config"], arrays, answer["names"], tuple(answer["order"]), tuple(answer["parts"]))


def _serve() -> None:
    """Read a file from stdin and write its content to stdout, in the other process."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arrays: Mapping[str, NDArray[np.float32]] = {}
    try:
        held = read_hdf5(sys.stdin.buffer.read())
        arrays = held.arrays
        answer = {"config": held.config, "paths": list(arrays), "names": held.names, "order": held.order}
        answer["parts"] = held.parts
    except BundleError as error:
        answer = {"error": str(error)}
    numbered = {f"array{number}": array for number, array in enumerate(arrays.values())}
    made = io.BytesIO()
    np.savez(made, allow_pickle=False, answer=np.frombuffer(json.dumps(answer).encode(), np.uint8), **numbered)
    sys.stdout.buffer.write(made.getvalue())


def read_hdf5(content: bytes) -> Hdf5:
    """Return the file's weights, read in this process.

    Raises:
        BundleError: as above, if HDF5 returns.
    """
    with _hdf5_errors(), h5py.File(io.BytesIO(content), "r") as file:
        config = _text(file, "model_config")
        root = file
        if config is not None:
            root = _group(file, "model_weights")
        elif "layer_names" not in file.attrs and "layers" not in file and "_layer_checkpoint_dependencies" not in file:
            parts = _parts(file)
            if not parts:
                raise BundleError("the HDF5 file holds no weights of a Keras model; save the model as .keras")
            return Hdf5(None, {}, {}, (), parts)
        arrays, names = _weights(root)
        return Hdf5(config, arrays, names, _texts(root, "layer_names"))


def _parts(file: Any) -> tuple[str, ...]:
    """Return the attributes of a subclassed model that hold Keras weights: layers, or models of their own."""
    found: dict[str, None] = {}
    for path, item in _walk(file):
        part, _, below = path.partition("/")
        if isinstance(item, h5py.Dataset) and "vars" in below.split("/"):
            found[part] = None
    return tuple(found)


@contextmanager
def _hdf5_errors() -> Iterator[None]:
    """Turn what h5py raises on a damaged file, which is almost anything, into a BundleError."""
    try:
        yield
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise BundleError(f"the HDF5 file is damaged: {one_line(error)}; save the model again") from error


def _weights(root: Any) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return all float arrays below a group except the optimiser's, by path, and the layers' names in it."""
    arrays: dict[str, NDArray[np.float32]] = {}
    names: dict[str, str] = {}
    values = 0
    for path, found in _walk(root):
        path = path.replace("_layer_checkpoint_dependencies", "layers", 1)  # tf.keras 2.12
        if isinstance(found, h5py.Group):
            name = _text(found, "name") if path.endswith("vars") else None
            if name is not None:
                names[path.removesuffix("/vars")] = name
        elif isinstance(found, h5py.Dataset) and found.dtype.kind == "f":  # integers are states of random generators
            values += math.prod(found.shape)
            if values > ARRAY_VALUES:
                raise BundleError(f"the file holds more than {ARRAY_VALUES} weights; too many for an encoder")
            arrays[path.removesuffix(":0")] = _array(found, path)
    return arrays, names


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything below a group, in order; a link that leads elsewhere is an error."""
    stack, seen = [("", root, 0)], 0
    while stack:
        prefix, group, depth = stack.pop()
        for name in group:
            seen += 1
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BundleError(
                    "the HDF5 file has a link that leads out of its place; expected weights as Keras saves"
                )
            if seen > _OBJECTS or depth > _DEPTH:
                raise BundleError(f"the HDF5 file is nested deeper than {_DEPTH} or holds more than {_OBJECTS} objects")
            if depth == 0 and name in ("optimizer", "optimizer_weights"):
                continue
            found = group[name]
            yield prefix + name, found
            if isinstance(found, h5py.Group):
                stack.append((f"{prefix}{name}/", found, depth + 1))


def _array(dataset: Any, path: str) -> NDArray[np.float32]:
    """Return a dataset stored in this very file, as float32."""
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
    elsewhere = dataset.is_virtual or plist.get_external_count() > 0
    empty = dataset.size and dataset.id.get_storage_size() == 0
    if elsewhere or empty or not filters <= _FILTERS or dataset.dtype.itemsize not in (2, 4, 8) or dataset.ndim > 8:
        raise BundleError(f"weights {path[:80]} are kept in another file or an odd form; save the model again")
    with np.errstate(over="ignore"):  # too large values become infinite, and are rejected by name
        array: NDArray[np.float32] = np.asarray(dataset[()]).astype(np.float32)
    return array


def _group(file: Any, name: str) -> Any:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Group):
        raise BundleError(f"the HDF5 file has no group {name}; save the model again")
    return file[name]


def _text(group: Any, name: str) -> str | None:
    """Return a text attribute; None where it is missing."""
    if name not in group.attrs:
        return None
    attribute = group.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in "OS" or attribute.get_storage_size() > CONFIG_BYTES:
        raise BundleError(f"the HDF5 attribute {name} is not text; save the model again")
    value = group.attrs[name]
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > CONFIG_BYTES:
        raise BundleError(f"the HDF5 attribute {name} is not text; save the model again")
    return text


def _texts(group: Any, name: str) -> tuple[str, ...]:
    """Return an attribute that is a list of texts; empty where it is missing."""
    if name not in group.attrs or len(group.attrs.get_id(name).shape) != 1:
        return ()
    values = [value.decode() if isinstance(value, bytes) else value for value in group.attrs[name].tolist()[:_OBJECTS]]
    return tuple(value for value in values if isinstance(value, str))
