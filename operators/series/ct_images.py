"""Series → its instances that are CT images of the body in HU, or the reason why there are none.

Nothing is dropped in silence: a series without any such instance is skipped with a reason, and where only some are left
out, a finding gives their number and the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from operators.dicom.character_sets import is_undecodable
from operators.dicom.enhanced_ct import ENHANCED_CT, sop_class, with_frames
from operators.dicom.values import text_in, texts_in
from operators.errors import SeriesSkipped
from operators.types import Finding, Series

LOCALIZER_TYPES: Final = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"})
"""ImageType value 3 of a projection through the patient (PS3.3 C.8.2.1.1.1), and what vendors wrote before it."""

SCREEN_TYPES: Final = frozenset(
    {"SCREEN SAVE", "DOSE_INFO", "DOSE REPORT", "PATIENT_INFO", "REF_SURVIEW", "RESULTS", "PROTOCOL"}
)
"""ImageType values of pages of text and of screens, which some scanners store as CT."""

MAP_TYPES: Final = frozenset(
    {
        *("PERFUSION", "CBF", "RCBF", "CBV", "RCBV", "MTT", "TTP", "TTD", "TMAX", "PBV", "BF", "BV", "PS"),
        *("MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "MAT_MODIFIED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"),
        *("IODINE", "IODINE MAP", "IODINE_MAP", "Z_EFFECTIVE", "RHO_Z", "RHO", "CALCIUM SCORE MAP"),
        *("SUBTRACTION", "DIVISION", "MULTIPLICATION", "STD_DEVIATION", "QUANTITY", "MASKED", "MAXIMUM", "MINIMUM"),
        *("MAX_IP", "MIN_IP", "MIP", "MINIP", "PROJECTION IMAGE", "VOLUME_RENDER", "SURFACE_RENDER", "VRT", "SSD"),
    }
)
"""ImageType values of maps, projections and renderings, whose numbers are not the HU of single places in the body. They
include the pixel contrasts of value 4 (C.8.16.1.4) that combine images.

Of the multi-energy images (Supplement 188), VMI and MAT_REMOVED are in HU and pass.
"""

HOUNSFIELD: Final = re.compile("HUS?|HOUN(D?S?|SD)F[EI]+LDS?(UNITS?)?(HU)?")
"""RescaleType, letters only, where the unit is HU: as in the standard, and as files spell it (`HOUNDSFIELD UNIT`).
`HU_MOD`, the modified HU of multi-energy images, is not among them."""

_Reason = tuple[str, str]


def keep_ct_images(series: Series) -> Series:
    """Return the series with only its CT images; a multi-frame CT becomes one instance per frame.

    Raises:
        SeriesSkipped: `NOT_CT_IMAGE`, `SECONDARY_CAPTURE`, `LOCALIZER` or `DERIVED_MAP`.
        SeriesRejected: the frames of a multi-frame CT cannot be separated, see `with_frames`.
    """
    if series.image:
        return series  # its header does not tell; the gate checks its values
    series = with_frames(series)
    reasons = [reason_against(instance.header) for instance in series.instances]
    kept = tuple(instance for instance, reason in zip(series.instances, reasons, strict=True) if reason is None)
    left_out = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        (code, what), _ = left_out.most_common(1)[0]
        raise SeriesSkipped(code, f"{what}; expected CT images in HU; nothing to do for this series")
    if not left_out:
        return series
    counts = Counter(code for code, _ in left_out.elements())
    detail = ", ".join(f"{number} × {code}" for code, number in sorted(counts.items()))
    finding = Finding("INSTANCES_LEFT_OUT", f"{detail}, of {len(series.instances)} instances")
    return replace(series, instances=kept, findings=(*series.findings, finding))


def reason_against(header: Dataset) -> _Reason | None:
    """Return the reason code and what was found if an instance is not a CT image in HU; None if it is one."""
    return _not_this_class(header) or _not_this_image(header) or _not_in_hu(header)


def _not_this_class(header: Dataset) -> _Reason | None:
    found = sop_class(header)
    if f"{found}.".startswith(f"{SecondaryCaptureImageStorage}."):
        return "SECONDARY_CAPTURE", f"found {found.name}"
    if found not in (CTImageStorage, *ENHANCED_CT):
        known = found.name if found.is_valid else "an invalid SOP class" if found else "no SOP class"
        return "NOT_CT_IMAGE", f"found {known}"
    modality = text_in(header, "Modality").upper()
    if modality not in ("CT", ""):
        return "NOT_CT_IMAGE", f"found Modality {modality[:16]} in a CT Image"
    return None


def _not_this_image(header: Dataset) -> _Reason | None:
    types = _image_type(header)
    if found := types & LOCALIZER_TYPES:
        return "LOCALIZER", f"found ImageType {min(found)}"
    if found := types & SCREEN_TYPES:
        return "SECONDARY_CAPTURE", f"found ImageType {min(found)}"
    return None


def _not_in_hu(header: Dataset) -> _Reason | None:
    if found := _image_type(header) & MAP_TYPES:
        return "DERIVED_MAP", f"found ImageType {min(found)}"
    # Multi-frame CT (PS3.3 C.8.16.2.1.2 and 3): whether positions are real, and how the volume was calculated.
    for keyword in ("VolumetricProperties", "VolumeBasedCalculationTechnique"):
        if (stated := text_in(header, keyword).upper()) in {"DISTORTED", "CURVED_MPR"} | MAP_TYPES:
            return "DERIVED_MAP", f"found {keyword} {stated}"
    if is_undecodable(header.get("RescaleType")):
        return "DERIVED_MAP", "found a RescaleType that is not valid in its character set"
    unit = (text_in(header, "RescaleType") or "HU").upper()
    if not HOUNSFIELD.fullmatch(re.sub("[^A-Z]", "", unit)):
        # US means unspecified (PS3.3 C.11.1.1.2), so the meaning of the numbers is unknown.
        return "DERIVED_MAP", f"found RescaleType {unit[:16]}"
    return None


def _image_type(header: Dataset) -> frozenset[str]:
    """Return the values of ImageType from the second on; the first only distinguishes original from derived."""
    return frozenset(text.upper() for text in texts_in(header, "ImageType")[1:])
