"""A layer of an archive → a plain tar file, with both of its digests compared on the way."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from typing import IO, BinaryIO, Final, cast

from app.packaging.check.archive import Archive, PackedLayer
from app.packaging.check.layers import refused

UNPACKED_BYTES: Final = 32 << 30
_CHUNK: Final = 1 << 20


def unpack_layer(archive: Archive, layer: PackedLayer, target: BinaryIO, most_bytes: int) -> int:
    """Unpack a layer into a file, and compare both digests.

    Args:
        archive: that holds it.
        layer: which one.
        target: file to write to.
        most_bytes: how large it may be unpacked.

    Returns:
        The bytes written.

    Raises:
        StartError: `BAD_IMAGE`; it is damaged, too large, or not what its digests say.
    """
    packed = _Hashed(archive.open(layer.name))
    magic = packed.source.read(2)
    packed.source.seek(0)
    unpacked, written = hashlib.sha256(), 0
    try:
        source: gzip.GzipFile | _Hashed = packed
        if magic == b"\x1f\x8b":
            source = gzip.GzipFile(fileobj=cast("BinaryIO", packed), mode="rb")
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > most_bytes:
                raise refused(f"the layers unfold to more than {UNPACKED_BYTES >> 30} GiB", "less")
            unpacked.update(chunk)
            target.write(chunk)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise refused(f"a layer is damaged ({type(error).__name__})") from error
    while packed.read(_CHUNK):  # what follows the compressed data belongs to the blob too
        pass
    if layer.digest not in (None, f"sha256:{packed.digest.hexdigest()}") or layer.size != packed.size:
        raise refused(f"a layer is not the one that its digest {layer.digest} names")
    if layer.unpacked_digest != f"sha256:{unpacked.hexdigest()}":
        raise refused(f"a layer unpacks to something else than its digest {layer.unpacked_digest} names")
    return written


class _Hashed:
    """A file whose bytes are digested and counted as they are read."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source, self.digest, self.size = source, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        chunk = self.source.read(size)
        self.digest.update(chunk)
        self.size += len(chunk)
        return chunk
