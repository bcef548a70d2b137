"""One file → its header: the tags that ctvae needs, read once, without pixels, and the offset where the pixels begin.

`scan_elements` finds the elements, or pydicom if a file is not plain; `HeaderValues` converts their values.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from operators.dicom.character_sets import character_sets
from operators.dicom.file_format import (
    MAX_INFLATED_BYTES,
    TEXT_VRS,
    found_syntax,
    inflate,
    is_deflated,
    is_dicom,
    labelled_explicit,
    was_dicom,
)
from operators.dicom.header import Header
from operators.dicom.header_bytes import in_pieces, read_whole
from operators.dicom.header_values import LATIN_VRS, HeaderValues
from operators.dicom.pixel_data import ELEMENT_BYTES, PIXEL_TAGS, pixel_element
from operators.dicom.scan import SCANNED_BYTES, Scanned, scan_elements
from operators.errors import SeriesRejected
from operators.instance import Instance, PixelElement
from operators.uids import file_sha256

HEADER_TAGS: Final = (
    # the kind of image, and its study and series (PS3.3 C.12.1, C.7.2, C.7.3)
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "Modality", "ImageType", "SeriesDescription", "BodyPartExamined", "ProtocolName"),
    *("StudyID", "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "SeriesNumber", "AccessionNumber"),
    *("StudyDescription", "ReferringPhysicianName", "TimezoneOffsetFromUTC"),
    # patient (C.7.1)
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("PatientIdentityRemoved", "DeidentificationMethod"),
    # geometry (C.7.6.2)
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("GantryDetectorTilt", "PatientPosition"),
    # pixels (C.7.6.3, C.7.5.1, C.11.1)
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "LossyImageCompression", "LossyImageCompressionRatio"),
    "LossyImageCompressionMethod",
    # what distinguishes phases and time points at one position (C.7.6.1, C.7.6.16.2.2)
    *("AcquisitionNumber", "InstanceNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime"),
    *("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "NominalPercentageOfCardiacPhase"),
    # acquisition (C.7.5.1, C.8.2.1)
    *("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "KVP", "Exposure", "XRayTubeCurrent"),
    *("ExposureTime", "ContrastBolusAgent", "ContrastBolusStartTime"),
)
"""Keywords of all elements to read; all others are skipped."""

_TAGS: Final = [Tag(keyword) for keyword in HEADER_TAGS]
_STOPS: Final = PIXEL_TAGS | {0x0040A730, 0x30060010, 0x30060020, 0x30060039}
_WANTED: Final = frozenset(int(tag) for tag in _TAGS)
_KEYWORDS: Final = {int(tag): keyword for tag, keyword in zip(_TAGS, HEADER_TAGS, strict=True)}
_META: Final = frozenset({0x00020002, 0x00020010})  # class and transfer syntax; the others are not needed
_UIDS: Final = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)  # of SOP class, instance, study and series
_PLAIN_UID: Final = re.compile(rb"([0-9.]+)\0?")
_CHARACTER_SET: Final = 0x00080005
TEXT_KEYWORDS: Final = tuple(
    keyword for keyword in HEADER_TAGS if dictionary_VR(Tag(keyword)) in TEXT_VRS - {*LATIN_VRS, "UR"}
)
"""The tags of `HEADER_TAGS` that hold text."""

T = TypeVar("T")
Plain = Callable[[Dataset], Iterable[DataElement]]

# Warning filters belong to the process: two threads that change and restore them would leave them changed.
_ONE_AT_A_TIME: Final = threading.Lock()

# What pydicom raises on inconsistent bytes, endless nesting and lengths beyond all memory.
_BROKEN: Final = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, OverflowError, EOFError),
    *(OSError, LookupError, struct.error, zlib.error, RecursionError, MemoryError),
    *(BytesLengthException, InvalidDicomError),
)


def read_instance(path: Path, values: HeaderValues | None = None) -> Instance | None:
    """Read the header of a file.

    Args:
        path: a regular file.
        values: converted values shared by the headers of one reading.

    Returns:
        The instance; None where the file is not DICOM, or is a DICOMDIR, which only lists others.

    Raises:
        SeriesRejected: `UNREADABLE_FILE`: it is DICOM but its header is broken; its digest stands for its name.
        OSError: the file cannot be opened.
    """
    values = values or HeaderValues()
    with path.open("rb") as file:
        first = file.read(SCANNED_BYTES)
        if not is_dicom(first):
            if was_dicom(path.name, first):
                raise SeriesRejected("UNREADABLE_FILE", _broken(path, "the file is named .dcm but is not DICOM"))
            return None
        state = os.fstat(file.fileno())
        try:
            scanned = scan_elements(first, _WANTED, _STOPS, whole=len(first) < SCANNED_BYTES)
            if scanned is not None:
                header = _scanned(scanned, values)
                is_pixels = scanned.stop_tag in PIXEL_TAGS
                head = first[scanned.stop : scanned.stop + ELEMENT_BYTES] if is_pixels else b""
                pixels = pixel_element(head, scanned.stop, state.st_size, little=True)
            elif is_deflated(first):
                header, pixels = _read(io.BytesIO(inflate(file)), values)
                header.file_meta["TransferSyntaxUID"] = _uid("TransferSyntaxUID", DeflatedExplicitVRLittleEndian)
            else:
                file.seek(0)
                if DeflatedExplicitVRLittleEndian.encode() in first[:1024]:
                    source: BinaryIO = io.BytesIO(labelled_explicit(file.read(MAX_INFLATED_BYTES)))
                else:
                    source = file
                header, pixels = _read(source, values)
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno:
                raise  # an error of the system, not of the file
            raise SeriesRejected("UNREADABLE_FILE", _broken(path, type(error).__name__)) from error
    if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    if not any(header.get(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality")):
        raise SeriesRejected("UNREADABLE_FILE", _broken(path, "it ends before its SOP class"))
    if pixels is None and not header.get("SeriesInstanceUID"):
        raise SeriesRejected("UNREADABLE_FILE", _broken(path, "it ends before its series UID"))
    return Instance(path, header, pixels, stamp=(state.st_size, state.st_mtime_ns))


def plain_uids(path: Path) -> tuple[str, str] | None:
    """Return StudyInstanceUID and SeriesInstanceUID of a plain file, in a third of the time of `read_instance`.

    Returns:
        As they stand in the file; None where it is not plain or lacks a UID: `read_instance` then says what it is.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        first = file.read(SCANNED_BYTES)
    scanned = scan_elements(first, _WANTED, _STOPS, whole=len(first) < SCANNED_BYTES)
    if scanned is None or any(_is_directory(value) for _, _, value in scanned.meta):
        return None
    found = {tag: _PLAIN_UID.fullmatch(value) for tag, _, value in scanned.elements if tag in _UIDS}
    uids = [match[1].decode() for match in map(found.get, _UIDS) if match]
    return (uids[2], uids[3]) if len(uids) == len(_UIDS) else None


def _is_directory(value: bytes) -> bool:
    return value.rstrip(b"\0 ") == MediaStorageDirectoryStorage.encode()


def _scanned(scanned: Scanned, values: HeaderValues) -> Dataset:
    """Return the header of a plain file."""
    declared = next((value for tag, _, value in scanned.elements if tag == _CHARACTER_SET), b"").decode("latin-1")
    sets = character_sets(declared)
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = Header(
            (_KEYWORDS[tag], values.shared(tag, vr or "UN", value, True, sets)) for tag, vr, value in scanned.elements
        )
        meta = [values.own(tag, vr or "UN", value, True, sets) for tag, vr, value in scanned.meta if tag in _META]
        header.file_meta = FileMetaDataset({element.tag: element for element in meta})
    header.set_original_encoding(scanned.implicit, True, declared.rstrip(" \0").split("\\"))
    _name_syntax(header)
    return header


def _read(source: BinaryIO, values: HeaderValues) -> tuple[Dataset, PixelElement | None]:
    """Return the header with converted values, and the element of the pixels."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        # Odd encodings and lengths: the former show in the values, the latter as a header without necessary elements.
        warnings.simplefilter("ignore")
        encoded, pieces, _ = in_pieces(source, _TAGS, _STOPS)
        sets = character_sets(pieces[0].get("SpecificCharacterSet"))
        header = Dataset({element.tag: element for piece in pieces for element in _converted(piece, sets, values)})
        header.file_meta = FileMetaDataset({element.tag: element for element in _converted(encoded.meta, sets, values)})
    header.set_original_encoding(encoded.implicit, encoded.little, pieces[0].get("SpecificCharacterSet", ""))
    _name_syntax(header)
    offset = source.tell()
    head = source.read(ELEMENT_BYTES)
    return header, pixel_element(head, offset, source.seek(0, io.SEEK_END), little=encoded.little)


def _name_syntax(header: Dataset) -> None:
    """Correct the transfer syntax to the encoding of the data set that was found."""
    implicit, little = header.original_encoding
    label = str(header.file_meta.get("TransferSyntaxUID") or "")
    found = found_syntax(label, bool(implicit), bool(little))
    if found != label:
        header.file_meta["TransferSyntaxUID"] = _uid("TransferSyntaxUID", found)


def read_nested(data: bytes, keywords: Sequence[str], take: Callable[[Dataset, Plain], T]) -> T:
    """Return what `take` makes of sequences and other elements of a file, with pydicom's warnings silenced.

    Args:
        data: the file up to its pixels, inflated where it is deflated.
        keywords: keywords of the elements to read.
        take: receives these elements, not converted, and a function that returns the elements of a data set or item,
            without sequences, with converted values.

    Raises:
        ValueError: the bytes are inconsistent; it names only the type of the error, whose text may hold values.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            raw = read_whole(data, [Tag(keyword) for keyword in (*keywords, "SpecificCharacterSet")], _STOPS)
            sets, values = character_sets(raw.get("SpecificCharacterSet")), HeaderValues()
            return take(raw, lambda dataset: _converted(dataset, sets, values))
        except _BROKEN as error:
            raise ValueError(type(error).__name__) from error


_UNDEFINED: Final = 0xFFFFFFFF


def _converted(raw: Dataset, sets: tuple[str, ...], values: HeaderValues) -> Iterator[DataElement]:
    if _CHARACTER_SET in raw:
        sets = character_sets(raw.get("SpecificCharacterSet"))  # an item may have its own (C.12.1.1.2)
    for tag in raw.keys():  # noqa: SIM118 — iterating over the data set itself would convert
        element: RawDataElement | DataElement = raw.get_item(tag)
        if isinstance(element, RawDataElement):
            value = element.value if isinstance(element.value, bytes) else b""
            if len(value) < element.length != _UNDEFINED:
                raise EOFError  # a truncated UID would be the UID of another series
            yield values.own(element.tag, element.VR or "UN", value, element.is_little_endian, sets)
        elif element.VR != "SQ":
            yield element


def _uid(keyword: str, uid: str) -> DataElement:
    return DataElement(Tag(keyword), "UI", uid, validation_mode=config.IGNORE)


def _broken(path: Path, why: str) -> str:
    digest = file_sha256(path)
    return f"the DICOM header of the file with SHA-256 {digest[:16]}… cannot be read ({why}); get the file again"
