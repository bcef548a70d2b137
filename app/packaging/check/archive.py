"""The archive of an image: an OCI layout, or what `docker save` writes, as one tar file. No daemon, nothing unpacked.

Every blob is compared with the digest that names it, and every unpacked layer with the one in the configuration.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from app.packaging.check.layers import inside, refused

DOCUMENT_BYTES: Final = 4 << 20
MOST_MEMBERS: Final = 10_000
MOST_LAYERS: Final = 128
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LAYER: Final = re.compile(r"application/vnd\.(?:oci\.image\.layer\.v1|docker\.image\.rootfs\.diff)\.tar(?:[.+]gzip)?")


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer as the archive holds it.

    Attributes:
        name: of the archive's member.
        size: bytes as packed.
        digest: of the bytes as packed; None where the archive does not say.
        unpacked_digest: of the tar archive within.
    """

    name: str
    size: int
    digest: str | None
    unpacked_digest: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What an archive says of its one image.

    Attributes:
        kind: `OCI` or `docker`.
        digest: of the manifest, by which registries know the image; None in an archive of docker's.
        document: the configuration of the image, as it stands in the archive.
        annotations: of manifest and index.
        layers: from the bottom up.
    """

    kind: str
    digest: str | None
    document: Mapping[str, Any]
    annotations: Mapping[str, str]
    layers: tuple[PackedLayer, ...]


@dataclass(frozen=True)
class Archive:
    """An open archive.

    Attributes:
        members: regular files, by their name.
    """

    tar: tarfile.TarFile
    members: Mapping[str, tarfile.TarInfo]

    def read(self, name: str) -> bytes:
        """Return a document.

        Raises:
            StartError: `BAD_IMAGE`; it is missing or too large.
        """
        member = self.members.get(name)
        if member is None:
            raise refused(f"the archive holds no {name[:100]}")
        if member.size > DOCUMENT_BYTES:
            raise refused(f"{name[:100]} has {member.size} bytes", f"at most {DOCUMENT_BYTES}")
        return self.open(name).read()

    def open(self, name: str) -> IO[bytes]:
        """Return a member as a file.

        Raises:
            StartError: `BAD_IMAGE`; it is missing.
        """
        file = self.tar.extractfile(self.members[name]) if name in self.members else None
        if file is None:
            raise refused(f"the archive holds no {name[:100]}")
        return file

    def blob(self, descriptor: object) -> bytes:
        """Return the document that a descriptor names.

        Raises:
            StartError: `BAD_IMAGE`; it is missing, or not what the descriptor says.
        """
        name, size, digest = _described(descriptor)
        found = self.read(name)
        if len(found) != size or _sha256(found) != digest:
            raise refused(f"the archive's {digest} is another document than its digest says")
        return found


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive for reading.

    Raises:
        StartError: `BAD_IMAGE`; it is no tar archive, or not safe to read.
    """
    try:
        with tarfile.open(path, "r:", errorlevel=2) as tar:
            members: dict[str, tarfile.TarInfo] = {}
            for count, member in enumerate(tar):
                name = inside(member.name, "the archive")[1:]
                if count >= MOST_MEMBERS:
                    raise refused(f"the archive has more than {MOST_MEMBERS} members")
                if member.isreg() and not member.issparse():
                    if name in members:
                        raise refused(f"the archive holds {name[:100]} twice")
                    members[name] = member
            yield Archive(tar, members)
    except OSError as error:
        text = f"{path.name} cannot be read ({error.strerror or type(error).__name__})"
        raise refused(text, "an OCI archive or what docker save writes") from error
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        expected = "an OCI archive or what docker save writes, as a plain tar file; gunzip it first if it is packed"
        raise refused(f"{path.name} is no tar archive ({type(error).__name__})", expected) from error


def contents_of(archive: Archive) -> Contents:
    """Find the image.

    Raises:
        StartError: `BAD_IMAGE`; there is none, or a digest does not fit.
    """
    if "oci-layout" in archive.members:
        return _oci(archive)
    if "manifest.json" in archive.members:
        return _docker(archive)
    raise refused("the archive has neither oci-layout nor manifest.json")


def _oci(archive: Archive) -> Contents:
    layout = parsed(archive.read("oci-layout"), "oci-layout")
    if layout.get("imageLayoutVersion") != "1.0.0":
        raise refused("oci-layout does not say imageLayoutVersion 1.0.0")
    descriptor = _one_image(parsed(archive.read("index.json"), "index.json"))
    annotations = _texts(descriptor.get("annotations"))
    for _ in range(2):  # an index may stand around the one index of a build for several platforms
        if descriptor.get("mediaType") not in _INDEXES:
            break
        descriptor = _one_image(parsed(archive.blob(descriptor), "an index"))
    manifest = parsed(archive.blob(descriptor), "the manifest")
    document = parsed(archive.blob(manifest.get("config")), "the configuration")
    layers = _list(manifest.get("layers"), "layers")
    unpacked = _unpacked_digests(document, len(layers))
    packed = []
    for layer, digest in zip(layers, unpacked, strict=True):
        media_type = layer.get("mediaType") if isinstance(layer, dict) else None
        if not isinstance(media_type, str) or not _LAYER.fullmatch(media_type):
            raise refused(f"a layer is of the kind {str(media_type)[:100]!r}", "a tar archive, plain or gzip")
        name, size, packed_digest = _described(layer)
        packed.append(PackedLayer(name, size, packed_digest, digest))
    annotations |= _texts(manifest.get("annotations"))
    return Contents("OCI", str(descriptor["digest"]), document, annotations, tuple(packed))


def _one_image(index: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the descriptor of the one image of an index; attestations beside it are none."""
    given = [one for one in _list(index.get("manifests"), "manifests") if isinstance(one, dict)]
    images = [one for one in given if "vnd.docker.reference.type" not in _texts(one.get("annotations"))]
    if len(images) != 1:
        raise refused(f"the archive holds {len(images)} images", "one; save one image and one platform at a time")
    return images[0]


def _docker(archive: Archive) -> Contents:
    images = _list(parsed(archive.read("manifest.json"), "manifest.json", list), "images")
    if len(images) != 1 or not isinstance(images[0], dict):
        raise refused(f"the archive holds {len(images)} images", "one; save one image at a time")
    name = inside(str(images[0].get("Config")), "manifest.json")[1:]
    content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != name.rpartition("/")[2].removesuffix(".json"):
        raise refused("the configuration is another document than the digest in its name says")
    document = parsed(content, "the configuration")
    names = [inside(str(one), "manifest.json")[1:] for one in _list(images[0].get("Layers"), "Layers")]
    absent = next((one for one in names if one not in archive.members), None)
    if absent is not None:
        raise refused(f"the archive holds no {absent[:100]}")
    unpacked = _unpacked_digests(document, len(names))
    layers = [
        PackedLayer(one, archive.members[one].size, None, digest) for one, digest in zip(names, unpacked, strict=True)
    ]
    return Contents("docker", None, document, {}, tuple(layers))


def parsed(content: bytes, what: str, kind: type = dict) -> Any:
    """Return a JSON document of the archive.

    Raises:
        StartError: `BAD_IMAGE`; it is not JSON, or not of that kind.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refused(f"{what} is not JSON ({type(error).__name__})") from error
    if not isinstance(found, kind):
        raise refused(f"{what} holds a {type(found).__name__}")
    return found


def _described(descriptor: object) -> tuple[str, int, str]:
    """Name of the member, size and digest of a descriptor."""
    given = descriptor if isinstance(descriptor, dict) else {}
    digest, size = given.get("digest"), given.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(size, int):
        raise refused("a descriptor has no digest of the kind sha256 or no size")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}", size, digest


def _unpacked_digests(document: Mapping[str, Any], layers: int) -> Sequence[str]:
    rootfs = document.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or len(found) != layers or not all(isinstance(one, str) for one in found):
        raise refused("the configuration does not name the digest of each layer (rootfs.diff_ids)")
    return found


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_LAYERS:
        raise refused(f"the archive has no list of {what}, or one of more than {MOST_LAYERS}")
    return value


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
