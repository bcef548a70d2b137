"""A volume as Enhanced CT Image Storage (PS3.3 A.38): the slices of a classic series as frames of one or more files.

What differs from slice to slice goes into the per-frame functional groups, the rest into the shared ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import UID, EnhancedCTImageStorage

from operators.synthetic.write_ct import CtOptions, ct_datasets, digest_uid

_COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "StudyTime", "StudyID"),
    *("StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber", "StudyDescription"),
    *("ReferringPhysicianName", "Modality", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime"),
    *("BodyPartExamined", "PatientPosition", "PositionReferenceIndicator", "Manufacturer", "ManufacturerModelName"),
    *("ContentDate", "ContentTime", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
_TYPES = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
}
_TIME = "TemporalPositionIndex"


def write_enhanced_ct(
    hu: NDArray[np.int16],
    affine_lps_mm: NDArray[np.float64],
    folder: Path,
    options: CtOptions | None = None,
    *,
    frames_per_file: int | None = None,
) -> list[Path]:
    """Write one file, or several of `frames_per_file` frames, named `0001.dcm` onwards.

    Args:
        hu: int16 (D, H, W), Hounsfield units.
        affine_lps_mm: float64 (4, 4), from the index (d, h, w, 1) to LPS mm (x, y, z, 1).
        folder: is created if missing.
        options: as for a classic series; the same options give the same voxels at the same places.
        frames_per_file: None for all frames in one file.

    Raises:
        ValueError: see `write_ct_series`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices = list(ct_datasets(hu, affine_lps_mm, options))
    step = frames_per_file or len(slices)
    paths = []
    for number, first in enumerate(range(0, len(slices), step), start=1):
        paths.append(folder / f"{number:04d}.dcm")
        enhanced_ct(slices[first : first + step], number).save_as(paths[-1], enforce_file_format=True)
    return paths


def enhanced_ct(slices: Sequence[Dataset], instance_number: int = 1) -> FileDataset:
    """Return one Enhanced CT Image whose frames are classic CT Images, in the order given.

    Args:
        slices: slices of one series, from `ct_datasets`, of one matrix, format and transfer syntax. Values that differ
            between them may be changed before: position, rescale, AcquisitionNumber, TemporalPositionIndex.
        instance_number: number of the file in the series.
    """
    first = slices[0]
    uid = digest_uid("enhanced", *(str(source.SOPInstanceUID) for source in slices), str(instance_number))
    file = _empty_file(first, uid)
    for keyword in _COPIED:
        if keyword in first:
            setattr(file, keyword, first[keyword].value)
    file.SeriesInstanceUID = digest_uid("enhanced", str(first.SeriesInstanceUID))
    if "ContrastBolusAgent" in first:
        file.ContrastBolusAgentSequence = [_contrast_agent(first)]
    file.InstanceNumber, file.NumberOfFrames = instance_number, len(slices)
    file.ImageType = _image_type(first)
    file.AcquisitionDateTime, file.AcquisitionDuration = first.AcquisitionDate + first.AcquisitionTime, 1.0
    file.DeviceSerialNumber, file.SoftwareVersions = "1", "1"
    file.ContentQualification, file.BurnedInAnnotation, file.LossyImageCompression = "RESEARCH", "NO", "00"
    file.PresentationLUTShape, file.AcquisitionContextSequence = "IDENTITY", []
    for keyword, value in _TYPES.items():
        setattr(file, keyword, value)
    _add_dimensions(file, timed=_TIME in first)
    file.SharedFunctionalGroupsSequence = [_shared_groups(first, uid)]
    file.PerFrameFunctionalGroupsSequence = [
        _frame_groups(source, number) for number, source in enumerate(slices, start=1)
    ]
    _add_pixels(file, slices)
    return file


def _empty_file(first: Dataset, sop_instance_uid: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = first.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = first.file_meta.ImplementationClassUID
    syntax = meta.TransferSyntaxUID
    file = FileDataset("", {}, b"\0" * 128, meta, syntax.is_implicit_VR, syntax.is_little_endian)
    file.SOPClassUID, file.SOPInstanceUID = EnhancedCTImageStorage, sop_instance_uid
    return file


def _image_type(first: Dataset) -> list[str]:
    """Return the four values (PS3.3 C.8.16.1): VOLUME instead of AXIAL, and the pixel contrast as the fourth."""
    flavour = str(first.ImageType[2]) if len(first.ImageType) > 2 else "VOLUME"
    contrast = str(first.ImageType[3]) if len(first.ImageType) > 3 else "NONE"
    return [*first.ImageType[:2], "VOLUME" if flavour == "AXIAL" else flavour, contrast]


def _add_dimensions(file: Dataset, timed: bool) -> None:
    """Add the Multi-frame Dimension module (PS3.3 C.7.6.17): stack, time point where there is one, position."""
    uid = digest_uid("dimensions", str(file.SOPInstanceUID))
    content = 0x00209111
    pointers = [0x00209056, *([0x00209128] if timed else []), 0x00209057]
    file.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
    file.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=uid, DimensionIndexPointer=pointer, FunctionalGroupPointer=content)
        for pointer in pointers
    ]


def _frame_groups(source: Dataset, number: int) -> Dataset:
    """Return a frame's own groups: content, position and rescale (PS3.3 C.7.6.16.2.2, .3, C.7.6.16.2.9)."""
    time = [int(source.TemporalPositionIndex)] if _TIME in source else []
    content = _item(
        FrameAcquisitionNumber=int(source.AcquisitionNumber),
        FrameAcquisitionDateTime=source.AcquisitionDate + source.AcquisitionTime,
        FrameReferenceDateTime=source.AcquisitionDate + source.AcquisitionTime,
        FrameAcquisitionDuration=1000.0,
        StackID="1",
        InStackPositionNumber=number,
        DimensionIndexValues=[1, *time, number],
    )
    if time:
        content.TemporalPositionIndex = time[0]
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_copied(source, "ImagePositionPatient")],
        PixelValueTransformationSequence=[_copied(source, "RescaleIntercept", "RescaleSlope", "RescaleType")],
    )


def _shared_groups(first: Dataset, uid: UID) -> Dataset:
    """Return what all frames share: the macros that A.38.1.4 requires of an original image."""
    kernel = str(first.ConvolutionKernel)
    reconstruction = _item(
        ReconstructionAlgorithm="FILTER_BACK_PROJ",
        ConvolutionKernel=kernel,
        ConvolutionKernelGroup="STANDARD",
        ReconstructionDiameter=float(first.PixelSpacing[1]) * int(first.Columns),
        ReconstructionPixelSpacing=[float(number) for number in first.PixelSpacing],
        ReconstructionAngle=360.0,
        ImageFilter="NONE",
    )
    exposure = _item(
        ExposureTimeInms=float(first.ExposureTime),
        XRayTubeCurrentInmA=float(first.XRayTubeCurrent),
        ExposureInmAs=float(first.Exposure),
        ExposureModulationType="NONE",
    )
    tube = _item(KVP=first.KVP, FocalSpots=[1.0], FilterType="FLAT", FilterMaterial="ALUMINUM")
    groups = _item(
        PixelMeasuresSequence=[_copied(first, "PixelSpacing", "SliceThickness")],
        PlaneOrientationSequence=[_copied(first, "ImageOrientationPatient")],
        CTImageFrameTypeSequence=[_item(FrameType=_image_type(first), **_TYPES)],
        FrameAnatomySequence=[_anatomy(first)],
        IrradiationEventIdentificationSequence=[_item(IrradiationEventUID=digest_uid("irradiation", str(uid)))],
        CTReconstructionSequence=[reconstruction],
        CTExposureSequence=[exposure],
        CTXRayDetailsSequence=[tube],
        **_gantry(first),
    )
    if "ContrastBolusAgent" in first:
        usage = _item(
            ContrastBolusAgentNumber=1, ContrastBolusAgentAdministered="YES", ContrastBolusAgentDetected="YES"
        )
        groups.ContrastBolusUsageSequence = [usage]
    return groups


def _gantry(first: Dataset) -> dict[str, list[Dataset]]:
    """Return the scanner's motion (PS3.3 C.8.15.3): for a phantom, a plain sequenced scan."""
    middle = [float(number) for number in first.ImagePositionPatient]
    return {
        "CTAcquisitionTypeSequence": [
            _item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
        ],
        "CTAcquisitionDetailsSequence": [
            _item(
                RotationDirection="CW",
                RevolutionTime=1.0,
                SingleCollimationWidth=1.0,
                TotalCollimationWidth=1.0,
                TableHeight=0.0,
                GantryDetectorTilt=0.0,
                DataCollectionDiameter=500.0,
            )
        ],
        "CTTableDynamicsSequence": [_item(TableSpeed=1.0, TableFeedPerRotation=1.0, SpiralPitchFactor=1.0)],
        "CTPositionSequence": [
            _item(TablePosition=0.0, DataCollectionCenterPatient=middle, ReconstructionTargetCenterPatient=middle)
        ],
        "CTGeometrySequence": [_item(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)],
    }


def _anatomy(first: Dataset) -> Dataset:
    """Return the Frame Anatomy macro (PS3.3 C.7.6.16.2.8)."""
    code, meaning = ("43799004", "Chest") if first.BodyPartExamined == "CHEST" else ("38266002", "Entire body")
    region = _item(CodeValue=code, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
    return _item(AnatomicRegionSequence=[region], FrameLaterality="U")


def _contrast_agent(first: Dataset) -> Dataset:
    route = _item(CodeValue="47625008", CodingSchemeDesignator="SCT", CodeMeaning="Intravenous route")
    agent = _item(CodeValue="385420005", CodingSchemeDesignator="SCT", CodeMeaning=first.ContrastBolusAgent)
    agent.ContrastBolusAgentNumber = 1
    agent.ContrastBolusAdministrationRouteSequence = [route]
    agent.ContrastBolusIngredientCodeSequence = []
    agent.ContrastBolusVolume = agent.ContrastBolusIngredientConcentration = None
    return agent


def _add_pixels(file: Dataset, slices: Sequence[Dataset]) -> None:
    if file.file_meta.TransferSyntaxUID.is_encapsulated:
        file.PixelData = encapsulate([_codestream(source) for source in slices])
        file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    else:
        joined = b"".join(
            source.PixelData[: source.Rows * source.Columns * source.BitsAllocated // 8] for source in slices
        )
        file.PixelData = joined + b"\0" * (len(joined) % 2)
        file["PixelData"].VR = "OW"


def _codestream(source: Dataset) -> bytes:
    """Return the codestream of a classic slice: its fragments after the offset table, joined."""
    return b"".join(list(generate_fragments(source.PixelData))[1:])


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _copied(source: Dataset, *keywords: str) -> Dataset:
    return _item(**{keyword: source[keyword].value for keyword in keywords})
