"""A layer that was kept as a grid, as a Parametric Map in the patient's geometry (PS3.3 A.75): one per window.

A cell of the grid takes an equal part of its window along each axis; its centre is that part's. How far a cell's value
depends on what lies around it is the layer's receptive field, which the bundle states.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage

from operators.dicom_out.filed import named_file
from operators.record import FeatureRecord, TapValues
from operators.results.map_files import map_file_name
from operators.sr import codes as sr_codes
from operators.sr import header as sr_header

SERIES_NUMBER = 9904
_LUT_LABEL, _REAL_WORLD_VALUE_MAPPING = 0x00409210, 0x00409096
_CLOCK = ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence")


def parametric_maps(record: FeatureRecord) -> dict[str, bytes]:
    """Return file name → Parametric Map of each window of each layer that was kept as a grid."""
    grids = [tap for tap in record.taps.values() if tap.shape is not None and len(tap.shape) == 4]
    made = ((tap, window) for tap in grids for window in range(len(tap.windows)))
    return {
        map_file_name(tap.name, window): _map(record, tap, window, number)
        for number, (tap, window) in enumerate(made, 1)
    }


def _map(record: FeatureRecord, tap: TapValues, window: int, number: int) -> bytes:
    """Return one window's grid: a frame per channel and slice, channel by channel."""
    import highdicom as hd

    channels = np.moveaxis(tap.windows[window].reshape(tap.shape), 0, -1)
    affine = _cells(record, window, channels.shape[:3])
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    down, across = (affine[:3, axis] / steps[axis] for axis in (1, 2))
    places = [affine[:3] @ (z, 0, 0, 1) for z in range(len(channels))]
    depth, *pixel = steps.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote header values, which may be names
        made = hd.pm.ParametricMap(
            source_images=[_source(record)],
            pixel_array=channels,
            series_instance_uid=sr_header.PLACEHOLDER_UID,
            series_number=SERIES_NUMBER,
            sop_instance_uid=sr_header.PLACEHOLDER_UID,
            instance_number=number,
            manufacturer=sr_codes.MANUFACTURER,
            manufacturer_model_name="VAE features of CT",
            software_versions="0",
            device_serial_number=record.model.weights_sha256[:16],
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[[_mapping(tap.name, channel)] for channel in range(channels.shape[3])],
            voi_lut_transformations=[_window(channels)],
            pixel_measures=hd.PixelMeasuresSequence(pixel, slice_thickness=depth, spacing_between_slices=depth),
            plane_orientation=hd.PlaneOrientationSequence("PATIENT", [*across, *down]),
            plane_positions=[hd.PlanePositionSequence("PATIENT", place.tolist()) for place in places],
            content_label="MAP",
            content_description=f"layer {tap.name}, window {window + 1} of {len(tap.windows)}",
        )
    return _filed(made, record, tap, number)


def _filed(made: Dataset, record: FeatureRecord, tap: TapValues, number: int) -> bytes:
    """Return the object as a file: what highdicom takes from the clock is replaced by what the series says."""
    for keyword in _CLOCK:
        if keyword in made:
            delattr(made, keyword)
    description = f"CT VAE {tap.name}: {sr_codes.NOT_FOR_DIAGNOSIS}"[:64]
    plain = Dataset()
    plain.update(made)
    plain.update(sr_header.filed_with(record, ParametricMapStorage, "OT", SERIES_NUMBER, description))
    plain.InstanceNumber, plain.Laterality = number, ""
    _index_channels(plain, sr_codes.derived_uid("dimensions", record.job_key, tap.name, number))
    plain.ReferencedSeriesSequence = [_references(record)]
    return named_file(plain, record)


def _index_channels(made: Dataset, organization: str) -> None:
    """Make the channel the first dimension (PS3.3 C.7.6.17): highdicom indexes the slices alone."""
    channel = Dataset()
    channel.DimensionIndexPointer, channel.FunctionalGroupPointer = _LUT_LABEL, _REAL_WORLD_VALUE_MAPPING
    channel.DimensionDescriptionLabel = "Channel"
    made.DimensionIndexSequence = [channel, *made.DimensionIndexSequence]
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    frames = made.PerFrameFunctionalGroupsSequence
    labels: dict[str, int] = {}
    for frame in frames:
        label = str(frame.RealWorldValueMappingSequence[0].LUTLabel)
        content = frame.FrameContentSequence[0]
        content.DimensionIndexValues = [labels.setdefault(label, len(labels) + 1), content.DimensionIndexValues]


def _cells(record: FeatureRecord, window: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the affine from a cell's index (z, y, x, 1) to LPS mm of its centre."""
    windows = record.encoding.windows
    part = np.array(windows.voxels.shape[2:]) / shape
    scaled = np.diag([*part, 1.0])
    scaled[:3, 3] = (part - 1) / 2
    placed: NDArray[np.float64] = windows.affines_lps_mm[window] @ scaled
    return placed


def _source(record: FeatureRecord) -> Dataset:
    """Return an image of the source series, as far as highdicom needs one; it is told where the cells lie."""
    series = record.series
    source = sr_header.patient_and_study(series)
    source.SOPClassUID, source.SOPInstanceUID = next(iter(sr_header.evidence(series)), (ParametricMapStorage, "2.25.1"))
    source.SeriesInstanceUID, source.Modality = series.series_instance_uid, "CT"
    source.FrameOfReferenceUID = record.identity.frame_of_reference_uid or sr_codes.derived_uid(
        "frame of reference", series.series_instance_uid, series.part
    )
    source.Rows, source.Columns = record.volume.shape[1:]
    source.ImagePositionPatient = record.volume.affine_lps_mm[:3, 3].tolist()
    source.ImageOrientationPatient, source.PixelSpacing = [1, 0, 0, 0, 1, 0], list(record.volume.spacing_mm[1:])
    source.SliceThickness = record.volume.spacing_mm[0]
    return source


def _references(record: FeatureRecord) -> Dataset:
    referenced = Dataset()
    referenced.SeriesInstanceUID = record.series.series_instance_uid
    referenced.ReferencedInstanceSequence = list(_instances(record))
    return referenced


def _instances(record: FeatureRecord) -> Iterator[Dataset]:
    for sop_class, uid in sr_header.evidence(record.series):
        one = Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = sop_class, uid
        yield one


def _mapping(tap: str, channel: int) -> Any:
    """Return the mapping: values are stored as they are; the label names layer and channel."""
    import highdicom as hd
    from pydicom.sr.coding import Code

    quantity = Code(f"TAP-{tap}"[:16], sr_codes.SCHEME, f"VAE layer {tap}"[:64])
    limit = float(np.finfo(np.float32).max)
    return hd.pm.RealWorldValueMapping(
        lut_label=f"channel {channel}",
        lut_explanation=f"{tap}, channel {channel}",
        unit=Code("1", "UCUM", "no units"),
        value_range=(-limit, limit),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity,
    )


def _window(values: NDArray[np.float32]) -> Any:
    import highdicom as hd

    low, high = float(values.min()), float(values.max())
    return hd.VOILUTTransformation(window_center=(low + high) / 2, window_width=max(high - low, 1e-6))
