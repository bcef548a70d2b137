"""One file of the input: its header, and the position of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from operators.errors import check_noun


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The element that holds the pixels; offsets are in bytes of the file, after inflation where it is deflated.

    Attributes:
        tag: Pixel Data, Float Pixel Data or Double Float Pixel Data.
        offset: start of the tag.
        start: start of the value.
        stated: length of the value as the element states it; None where it is undefined, that is, encapsulated.
        there: bytes from the start of the value to the end of the file.
    """

    tag: int
    offset: int
    start: int
    stated: int | None
    there: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a file holds the pixels of one of its frames; a single-frame file has one frame.

    Attributes:
        index: from 0, in the order of the file: Frame Number minus 1.
        count: number of frames in the file.
        spans: (offset, length) in bytes of the file (after inflation, where it is deflated): one for native pixels, or
            one for each fragment of a codestream.
    """

    index: int
    count: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A volume in a research format, found and digested; its header is read by the geometry gate.

    Attributes:
        format: `NIfTI`, `NRRD` or `MetaImage`.
        root: folder that the file and the data file it names must not leave.
        voxels: the file that holds the voxels, which may be another file.
        stamp: size and modification time of the voxels' file when it was digested.
    """

    format: str
    root: Path
    voxels: Path
    stamp: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Instance:
    """The header of one file, or of one frame of a multi-frame file once its frames have been separated.

    Attributes:
        path: the file.
        header: the tags that ctvae needs, read once, without pixels.
        pixels: the element that holds its pixels; None where it has none.
        frame: which frame of a multi-frame file; None for the file as a whole.
        image: the volume in a research format, where the file is not DICOM; the header is then almost empty.
        stamp: size and modification time of the file when its header was read; None where they were not taken.
        pixels_digest: SHA-256, in hex, of the file from its pixels on, taken when the header was read; None where the
            SOP Instance UID is valid, and so identifies the file.
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
        """SOPInstanceUID as it stands in the file; empty where it is missing."""
        return str(self.header.get("SOPInstanceUID", "") or "")

    @property
    def identity(self) -> str:
        """What identifies the file in a digest: the SOP Instance UID, or the pixels' digest where that is invalid."""
        found = self.pixels_digest or self.sop_instance_uid
        check_noun(bool(found), "an instance without an identity")
        return found
