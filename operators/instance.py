"""One file of the input: its header, and where its pixels are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from operators.errors import check_noun


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The element that holds the pixels, as it stands in the file; offsets are after inflating a deflated one.

    Attributes:
        tag: of Pixel Data, or of Float or Double Float Pixel Data.
        offset: of the tag.
        start: of the value.
        stated: length of the value, as the element states it; None where it is undefined: encapsulated.
        there: bytes from the start of the value to the end of the file.
    """

    tag: int
    offset: int
    start: int
    stated: int | None
    there: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a file has the pixels of one of its frames; a single-frame file has one.

    Attributes:
        index: from 0, in the order of the file: Frame Number less one.
        count: how many frames the file has.
        spans: (offset, length) of its bytes in the file (after inflating, where it is deflated): plain numbers, or each
            fragment of a codestream.
    """

    index: int
    count: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A volume in a research format, found and digested; its header is read by the geometry gate.

    Attributes:
        format: `NIfTI`, `NRRD` or `MetaImage`.
        root: folder that the file and the data that it may point to must not leave.
        voxels: the file that holds the voxels, which may be another one.
        stamp: size and time of change of the voxels' file when it was digested.
    """

    format: str
    root: Path
    voxels: Path
    stamp: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Instance:
    """One file's header; of a multi-frame file, once its frames are told apart, one frame's.

    Attributes:
        path: the file.
        header: the tags that ctvae needs, read once, without pixels.
        pixels: the element of its pixels; None where it has none.
        frame: which frame of a multi-frame file; None for the file as a whole.
        image: what it is, where it is no DICOM but a volume in a research format; the header is then all but empty.
        stamp: size and time of change of the file when its header was read; None where nobody looked.
        pixels_digest: SHA-256, in hex, of the file from its pixels on, taken when the header was read; None where the
            SOP Instance UID is valid, and identifies the file.
    """

    path: Path
    header: Dataset
    pixels: PixelElement | None = None
    frame: Frame | None = None
    image: ImageFile | None = None
    stamp: tuple[int, int] | None = None
    pixels_digest: str | None = None

    @property
    def sop_instance_uid(self) -> str:
        """SOPInstanceUID as it stands in the file; empty where there is none."""
        return str(self.header.get("SOPInstanceUID", "") or "")

    @property
    def identity(self) -> str:
        """What identifies the file in a digest: the SOP Instance UID, or the digest of its pixels where that is bad."""
        found = self.pixels_digest or self.sop_instance_uid
        check_noun(bool(found), "an instance that nothing identifies")
        return found
