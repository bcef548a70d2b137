"""Series → Volume: the geometry gate. A series that passes has one regular grid of HU; any other gets a reason code.

The gate works on headers alone: slices are decoded later, on demand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from pydicom.dataset import Dataset

from operators.dicom.character_sets import undecodable_finding
from operators.dicom.decode_slice import decode_slice
from operators.dicom.pixel_format import PixelFormat, pixel_format
from operators.dicom.read_header import TEXT_KEYWORDS
from operators.dicom.read_pixels import locate_checked
from operators.dicom.transfer_syntaxes import LOSSY_SYNTAXES, MAYBE_LOSSY_SYNTAXES, NATIVE_SYNTAXES
from operators.dicom.values import is_valid_uid, text_in
from operators.errors import SeriesFailed, SeriesRejected
from operators.geometry.grid import regular_grid
from operators.geometry.origin import check_origin
from operators.geometry.policy import MIN_SLICES, NO_REPAIR, GeometryPolicy
from operators.geometry.repair_headers import formats_of
from operators.geometry.resampling import Resampling, resample_slice
from operators.images.read_image import image_volume
from operators.instance import Instance
from operators.series.acquisition import mixed_findings
from operators.system_error import system_reason
from operators.types import Finding, HuSlice, Series, Volume


def build_volume(series: Series, policy: GeometryPolicy = NO_REPAIR) -> Volume:
    """Return the volume of a series, its slices in order along their normal.

    Args:
        series: its CT images.
        policy: what to repair instead of rejecting.

    Raises:
        SeriesRejected: `TOO_FEW_SLICES`, `DUPLICATE_INSTANCES`, `MISSING_PIXELS` or `TRUNCATED_PIXELS`; and the
            reasons of `pixel_format` (pixels), `check_origin` (patient and frame of reference) and `regular_grid`.
        OSError: a file no longer exists.
    """
    if series.image:
        return image_volume(series, policy.min_slices)
    headers = [instance.header for instance in series.instances]
    _check_single_frames(headers)
    few = _check_count(len(headers), policy)
    origin = check_origin(headers)
    _check_instances(series.files)
    formats, repaired = formats_of(headers, policy)
    located = list(map(_located, series.instances, formats))
    whole = [i for i, found in enumerate(located) if policy.truncated_pixels == "reject" or not _is_cut_off(found)]
    if len(whole) < len(formats):
        few = _check_count(len(whole), policy)
        detail = f"{len(formats) - len(whole)} of {len(formats)} slices are cut off and left out"
        repaired.append(Finding("TRUNCATED_SLICE_DROPPED", detail))
    grid = regular_grid([headers[i] for i in whole], policy)
    slices = [(_checked(located[whole[index]]), formats[whole[index]]) for index in grid.order]
    findings = (*series.findings, *origin, *undecodable_finding(headers, TEXT_KEYWORDS), *few, *repaired)
    findings += (*grid.findings, *mixed_findings(headers), *_pixel_findings(series.files, formats))
    threads = 1 if all(pixels.transfer_syntax in NATIVE_SYNTAXES for pixels in formats) else 2
    read = partial(_read_slice, slices)
    if grid.resampling:
        read = partial(_read_resampled, read, grid.resampling)
    return Volume(
        series, grid.shape, grid.affine_lps_mm, grid.spacing_mm, findings, read, threads, policy.implausible_hu
    )


def _read_slice(slices: Sequence[tuple[Instance, PixelFormat]], d: int) -> HuSlice:
    if not 0 <= d < len(slices):
        raise IndexError(f"slice {d} of a volume of {len(slices)}")
    try:
        return decode_slice(*slices[d])
    except OSError as error:
        message = f"slice {d} was not read: {system_reason(error)}, then run again"
        raise SeriesFailed("INPUT_OUTPUT_ERROR", message) from error


def _read_resampled(read_stored: Callable[[int], HuSlice], resampling: Resampling, d: int) -> HuSlice:
    if not 0 <= d < len(resampling.sources):
        raise IndexError(f"slice {d} of a volume of {len(resampling.sources)}")
    return resample_slice(read_stored, resampling, d)


def _check_single_frames(headers: Iterable[Dataset]) -> None:
    """Check that each CT Image has one frame, before slices are counted: a file of 20 frames is not one slice."""
    for header in headers:
        if header.get("NumberOfFrames") not in (None, "", 1):
            pixel_format(header)


def _check_count(count: int, policy: GeometryPolicy) -> list[Finding]:
    if count < policy.min_slices:
        found = f"found {count} slices; expected at least {policy.min_slices}; get the whole series"
        raise SeriesRejected("TOO_FEW_SLICES", found)
    if count < MIN_SLICES:
        return [Finding("FEW_SLICES", f"{count} slices are too few to detect a missing one")]
    return []


def _check_instances(instances: Sequence[Instance]) -> None:
    uids = Counter(instance.sop_instance_uid for instance in instances)
    repeated = [uid for uid, count in uids.items() if uid and count > 1]
    if repeated:
        raise SeriesRejected(
            "DUPLICATE_INSTANCES",
            f"found {len(repeated)} SOPInstanceUIDs in more than one file; expected each once; remove the copies",
        )
    without = sum(instance.pixels is None for instance in instances)
    if without:
        raise SeriesRejected(
            "MISSING_PIXELS",
            f"found no pixels in {without} of {len(instances)} files; expected a slice in each: a file was cut off in "
            "its header, or stripped; get the files again",
        )


def _located(instance: Instance, pixels: PixelFormat) -> Instance | SeriesRejected:
    """Return the instance with the position of its pixels in the file, or the reason why they cannot be decoded."""
    try:
        return locate_checked(instance, pixels)
    except SeriesRejected as error:
        return error


def _is_cut_off(found: Instance | SeriesRejected) -> bool:
    return isinstance(found, SeriesRejected) and found.reason == "TRUNCATED_PIXELS"


def _checked(found: Instance | SeriesRejected) -> Instance:
    """Return a located instance, or raise its error; called after the grid, whose errors take precedence."""
    if isinstance(found, SeriesRejected):
        raise found
    return found


def _pixel_findings(instances: Sequence[Instance], formats: Sequence[PixelFormat]) -> list[Finding]:
    findings = []
    stated = {text_in(instance.header, "LossyImageCompression") for instance in instances}
    syntaxes = {pixels.transfer_syntax for pixels in formats}
    if "01" in stated or syntaxes & LOSSY_SYNTAXES:
        findings.append(Finding("LOSSY_COMPRESSION", "the slices were compressed with loss"))
    elif syntaxes & MAYBE_LOSSY_SYNTAXES and stated != {"00"}:
        findings.append(Finding("LOSSY_COMPRESSION", "the slices may have been compressed with loss"))
    if any(not (pixels.slope.is_integer() and pixels.intercept.is_integer()) for pixels in formats):
        slopes = sorted({pixels.slope for pixels in formats})
        detail = f"rescale slopes from {slopes[0]:g} to {slopes[-1]:g}: HU are rounded half to even"
        findings.append(Finding("FRACTIONAL_RESCALE", detail))
    invalid = sum(not is_valid_uid(instance.sop_instance_uid) for instance in instances)
    if invalid:
        detail = f"SOPInstanceUID is missing or invalid in {invalid} of {len(instances)} files"
        findings.append(Finding("INVALID_INSTANCE_UID", detail))
    return findings
