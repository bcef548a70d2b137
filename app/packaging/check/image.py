"""An image that is open: its configuration, its files, and their content where somebody asks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.packaging.check.archive import Contents, contents_of, open_archive
from app.packaging.check.clause import NotHeld
from app.packaging.check.layers import merged, read_layer
from app.packaging.check.tree import Entry, Tree
from app.packaging.check.unpack import UNPACKED_BYTES, unpack_layer
from operators.errors import StartError

READ_BYTES: Final = 64 << 20
APP_MANIFEST: Final = "/etc/holoscan/app.json"
PACKAGE_MANIFEST: Final = "/etc/holoscan/pkg.json"


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        archive: the file that it lies in.
        contents: what the archive says of it.
        tree: its files.
        layers: its layers, unpacked, as files.
        layer_bytes: size of the files of all layers.
    """

    archive: Path
    contents: Contents
    tree: Tree
    layers: Sequence[BinaryIO]
    layer_bytes: int

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What a container is started with: Env, Entrypoint, Cmd, User, WorkingDir, Labels."""
        found = self.contents.document.get("config")
        return found if isinstance(found, dict) else {}

    @cached_property
    def env(self) -> Mapping[str, str]:
        """The environment of a container."""
        given = self.config.get("Env")
        pairs = [str(one).partition("=") for one in given] if isinstance(given, list) else []
        return {name: value for name, _, value in pairs}

    @cached_property
    def entry_point(self) -> tuple[str, ...]:
        """The words that a container starts with; none where they are no list."""
        return self._words("Entrypoint")

    @cached_property
    def command(self) -> tuple[str, ...]:
        """The words after those of the entry point, where nobody gives others."""
        return self._words("Cmd")

    def _words(self, key: str) -> tuple[str, ...]:
        given = self.config.get(key)
        return tuple(str(word) for word in given) if isinstance(given, list) else ()

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The labels; annotations of the manifest stand in for those that are missing."""
        given = self.config.get("Labels")
        own = given if isinstance(given, dict) else {}
        return {**self.contents.annotations, **{str(name): str(value) for name, value in own.items()}}

    @property
    def packed_bytes(self) -> int:
        """Size of the layers as they travel."""
        return sum(layer.size for layer in self.contents.layers)

    def file(self, path: str) -> tuple[str, Entry]:
        """Return the file that a path leads to, with the path where it really lies.

        Raises:
            NotHeld: it is missing, or no file.
            LeavesRoot: a link on the way leads out of the image.
        """
        found = self.tree.resolve(path)
        if found is None:
            raise NotHeld(f"no {path}", "the file", "add it to the image")
        entry = self.tree.entries[found]
        if entry.kind != "file":
            raise NotHeld(f"{path} is a {entry.kind}", "a file", "replace it")
        return found, entry

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            NotHeld: it is missing or larger than 64 MiB.
        """
        _, entry = self.file(path)
        if entry.size > READ_BYTES:
            raise NotHeld(f"{path} has {entry.size} bytes", f"at most {READ_BYTES}", "make it smaller")
        return self.content(entry)

    def content(self, entry: Entry) -> bytes:
        """Return the bytes of a file entry."""
        file = self.layers[entry.layer]
        file.seek(entry.offset)
        return file.read(entry.size)

    def document(self, path: str) -> Mapping[str, Any]:
        """Return a JSON object of the image.

        Raises:
            NotHeld: it is missing or something else.
        """
        try:
            found = json.loads(self.read(path).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise NotHeld(f"{path} is not JSON ({type(error).__name__})", "JSON in UTF-8", "write it anew") from error
        if not isinstance(found, dict):
            raise NotHeld(f"{path} holds a {type(found).__name__}", "an object", "write it anew")
        return found


@contextmanager
def open_image(archive: Path) -> Iterator[Image]:
    """Open the image of an archive; its layers are unpacked into temporary files while the block runs.

    Raises:
        StartError: `BAD_IMAGE`; it cannot be read, or is not safe to read.
    """
    with ExitStack() as opened, open_archive(archive) as packed:
        contents = contents_of(packed)
        left, files, layers = UNPACKED_BYTES, [], []
        try:
            for number, layer in enumerate(contents.layers):
                file = opened.enter_context(tempfile.TemporaryFile(prefix="ctvae-layer"))
                left -= unpack_layer(packed, layer, file, left)
                file.seek(0)
                layers.append(read_layer(file, number))
                files.append(file)
        except OSError as error:
            text = (
                f"the layers cannot be unpacked ({error.strerror or type(error).__name__}); set TMPDIR to a larger disk"
            )
            raise StartError("BAD_IMAGE", text) from error
        size = sum(entry.size for layer in layers for entry in layer.entries.values())
        yield Image(archive, contents, merged(layers), files, size)
