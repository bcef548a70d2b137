"""What a multi-frame CT states about each frame → one header per frame, as a single slice would have it.

Multi-frame Functional Groups module (PS3.3 C.7.6.16) and the macros of Enhanced CT (A.38.1.4): what all frames share
stands in the shared groups, the rest in one item per frame. If a macro occurs in both, the frame's own counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from operators.dicom.header import Header
from operators.dicom.read_header import read_nested
from operators.errors import SeriesRejected
from operators.instance import Instance

MAX_HEADER_BYTES: Final = 1 << 25
"""Limit for everything before the pixels: 32 MiB, which is 3 KiB per frame for 10,000 frames."""

MAX_ITEMS: Final = 1 << 18
"""Limit for items of sequences in a header, each an object of 1.4 kB: 16 per frame for 16,000 frames."""

_CRITICAL: Final = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
"""Macro → the elements it holds, without which voxels have no HU or position. They are read nowhere else."""

_OTHER: Final = {
    "FrameContentSequence": ("FrameAcquisitionNumber", "FrameAcquisitionDateTime", "TemporalPositionIndex", "StackID"),
    "CTImageFrameTypeSequence": ("FrameType", "VolumetricProperties", "VolumeBasedCalculationTechnique"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "CTExposureSequence": ("ExposureTimeInms", "XRayTubeCurrentInmA", "ExposureInmAs"),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
    "RespiratorySynchronizationSequence": ("NominalPercentageOfRespiratoryPhase",),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
}

_CLASSIC: Final = (
    *("AcquisitionNumber", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "InstanceNumber"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalPercentageOfCardiacPhase"),
    *("ConvolutionKernel", "KVP", "Exposure", "XRayTubeCurrent", "ExposureTime", "ContrastBolusAgent"),
    *("ContrastBolusStartTime", "BodyPartExamined", "ProtocolName", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
"""Where a converter of classic CT leaves unassigned attributes: two sequences (C.7.6.16.2.25 and 26)."""

# In this order, so that a macro's values replace unassigned ones.
_MACROS: Final = {
    "UnassignedSharedConvertedAttributesSequence": _CLASSIC,
    "UnassignedPerFrameConvertedAttributesSequence": _CLASSIC,
    **_OTHER,
    **_CRITICAL,
}

_CLASSIC_NAME: Final = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
}
"""The corresponding element of the classic CT Image (C.8.2.1), in its unit."""

_FOR_THE_FILE: Final = ("NumberOfFrames", *(keyword for keywords in _CRITICAL.values() for keyword in keywords))
_READ: Final = (
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContrastBolusAgentSequence"),
    *("VolumetricProperties", "VolumeBasedCalculationTechnique", "ConcatenationUID", "InConcatenationNumber"),
    *("InConcatenationTotalNumber", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_ITEM: Final = {"<": b"\xfe\xff\x00\xe0", ">": b"\xff\xfe\xe0\x00"}

_Elements = dict[BaseTag, DataElement]
_Plain = Callable[[Dataset], Iterable[DataElement]]


@dataclass(frozen=True, slots=True)
class MultiFrame:
    """The header of a multi-frame file.

    Attributes:
        headers: one per frame, in the order of the file.
        file: elements of the file itself, where present: Concatenation (C.7.6.16.2.2.4) and extended offset table
            (C.7.6.3.1.8).
    """

    headers: tuple[Dataset, ...]
    file: Dataset


def read_groups(instance: Instance, before_pixels: bytes) -> MultiFrame:
    """Return a header for each frame.

    Args:
        instance: the file, as `read_instance` returns it.
        before_pixels: the file up to its pixels, inflated where it is deflated.

    Raises:
        SeriesRejected: `INVALID_FUNCTIONAL_GROUPS`.
    """
    _, little = instance.header.original_encoding
    items = before_pixels.count(_ITEM["<" if little else ">"])
    if len(before_pixels) > MAX_HEADER_BYTES or items > MAX_ITEMS:
        found = f"a header of {len(before_pixels)} bytes with {items} items"
        raise _invalid(found, f"at most {MAX_HEADER_BYTES} and {MAX_ITEMS}")
    try:
        return read_nested(before_pixels, _READ, lambda raw, plain: _multi_frame(instance.header, raw, plain))
    except ValueError as error:
        raise _invalid(f"a header that cannot be read ({error})", "that of a multi-frame CT") from error


def _multi_frame(header: Dataset, raw: Dataset, plain: _Plain) -> MultiFrame:
    shared, per_frame = (_items(raw, f"{which}FunctionalGroupsSequence") for which in ("Shared", "PerFrame"))
    number = header.get("NumberOfFrames")
    if not isinstance(number, int) or number < 1 or number != len(per_frame):
        found = f"{number if isinstance(number, int) else 'no number of'} frames and {len(per_frame)} per-frame groups"
        raise _invalid(found, "as many of one as of the other")
    if len(shared) > 1:
        raise _invalid(f"{len(shared)} items of shared functional groups", "one")
    of_file = {element.tag: element for element in plain(raw)}
    base = _of_all_frames(header, raw, of_file, plain)
    in_common = _macros(shared[0], plain) if shared else {}
    headers = tuple(_header(header, base, in_common, _macros(item, plain)) for item in per_frame)
    return MultiFrame(headers, _dataset(of_file))


def _of_all_frames(header: Dataset, raw: Dataset, of_file: _Elements, plain: _Plain) -> _Elements:
    """Return the file's header without what only functional groups may state, and with its contrast agent as text."""
    elements = {element.tag: element for element in header}
    for keyword in _FOR_THE_FILE:
        elements.pop(Tag(keyword), None)
    for keyword in ("VolumetricProperties", "VolumeBasedCalculationTechnique"):
        if found := of_file.get(Tag(keyword)):
            elements[found.tag] = found
    agents = [_value(item, "CodeMeaning", plain) for item in _items(raw, "ContrastBolusAgentSequence")]
    if any(agents) and not header.get("ContrastBolusAgent"):
        _put(elements, "ContrastBolusAgent", ", ".join(str(agent) for agent in agents if agent))
    return elements


def _macros(groups: Dataset, plain: _Plain) -> dict[str, _Elements]:
    """Return macro → elements, under the names of a classic header, for one item of functional groups."""
    found: dict[str, _Elements] = {}
    for macro, keywords in _MACROS.items():
        items = _items(groups, macro)
        if macro in _CRITICAL and len(items) > 1:
            raise _invalid(f"{len(items)} items of {macro} in a frame", "one")
        if items:
            found[macro] = _renamed(plain(items[0]), keywords)
    if region := [_value(item, "CodeMeaning", plain) for item in _regions(groups)]:
        _put(found.setdefault("FrameAnatomySequence", {}), "BodyPartExamined", str(region[0] or "").upper())
    return found


def _header(
    header: Dataset, base: _Elements, in_common: Mapping[str, _Elements], own: Mapping[str, _Elements]
) -> Dataset:
    elements = dict(base)
    anatomy = own.get("FrameAnatomySequence") or in_common.get("FrameAnatomySequence") or {}
    if not header.get("BodyPartExamined"):
        elements.update(anatomy)
    for macro in _MACROS:
        elements.update(own[macro] if macro in own else in_common.get(macro, {}))
    # Frames share most elements; each gets its own copy when one is accessed.
    frame = Header((keyword_for_tag(tag), elements[tag]) for tag in sorted(elements))
    frame.file_meta = header.file_meta
    implicit, little = header.original_encoding
    frame.set_original_encoding(implicit, little, header.original_character_set)
    return frame


def _renamed(elements: Iterable[DataElement], keywords: Iterable[str]) -> _Elements:
    wanted = {Tag(keyword): keyword for keyword in keywords}
    taken: _Elements = {}
    for element in elements:
        keyword = wanted.get(element.tag)
        if keyword == "FrameAcquisitionDateTime":
            moment = str(element.value or "").split("+")[0].split("-")[0]
            _put(taken, "AcquisitionDate", moment[:8])
            _put(taken, "AcquisitionTime", moment[8:])
        elif keyword in _CLASSIC_NAME:
            _put(taken, _CLASSIC_NAME[keyword], element.value)
        elif keyword is not None:
            taken[element.tag] = element
    return taken


def _dataset(elements: _Elements) -> Dataset:
    return Dataset({**elements})


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; empty where it is missing, empty or not a sequence."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return []
    value = dataset[tag].value
    return list(value) if isinstance(value, Items) else []


def _regions(groups: Dataset) -> list[Dataset]:
    return [region for anatomy in _items(groups, "FrameAnatomySequence") for region in _items(anatomy, _REGION)]


_REGION: Final = "AnatomicRegionSequence"


def _value(item: Dataset, keyword: str, plain: _Plain) -> Any:
    return next((element.value for element in plain(item) if element.tag == Tag(keyword)), None)


def _put(elements: _Elements, keyword: str, value: Any) -> None:
    tag = Tag(keyword)
    elements[tag] = DataElement(tag, dictionary_VR(tag), value, already_converted=True)


def _invalid(found: str, expected: str) -> SeriesRejected:
    message = f"found {found}; expected {expected}; get the file again, or export the series as single slices"
    return SeriesRejected("INVALID_FUNCTIONAL_GROUPS", message)
