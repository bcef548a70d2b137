"""The text of the card; none of it comes from text in the scan's headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from operators.codes import Code
from operators.record import FeatureRecord, Reliability

Line = tuple[str, str]
"""Name and value; the value is empty for a sentence."""

_QUANTITIES = {
    "mean_hu": ("Mean", "{:.0f} HU", 1.0),
    "body_area_cm2": ("Body area in a slice", "{:.0f} cm²", 1.0),
    "lung_fraction": ("Lung", "{:.1f} %", 100.0),
    "emphysema_fraction": ("Emphysema, of the lung", "{:.1f} %", 100.0),
    "fat_fraction": ("Fat", "{:.1f} %", 100.0),
    "soft_tissue_fraction": ("Soft tissue", "{:.1f} %", 100.0),
    "bone_fraction": ("Bone", "{:.1f} %", 100.0),
}
"""Quantity → its name for a person, its format, and the factor to multiply by; other quantities are left out."""
_MOST_FINDINGS = 5
_MOST_REASONS = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to trust the numbers.

    Attributes:
        tone: kind of colour.
        mark: a character that says the same without colour.
    """

    tone: Literal["good", "bad", "unknown"]
    mark: str
    headline: str
    detail: str


def verdict_of(found: Reliability | None) -> Verdict:
    """Return the text of the banner."""
    if found is None:
        return Verdict("unknown", "–", "Reliability not assessed", "this model has no reference patients")
    known = [f"percentile {found.percentiles.combined:.0f} of {found.n_reference} reference patients"]
    if found.p_conformal is not None:
        known.append(f"p = {found.p_conformal:.2g}")
    if found.reconstruction_mae_hu is not None:
        known.append(f"reconstruction error {found.reconstruction_mae_hu:.0f} HU")
    detail = "; ".join(known)
    if found.verdict == "in_distribution":
        return Verdict("good", "✔", "A typical CT for this model", detail)
    if found.verdict == "out_of_distribution":
        return Verdict("bad", "✖", "Unlike the reference CT: do not rely on these numbers", detail)
    return Verdict("unknown", "?", "Cannot tell whether this CT is typical", detail)


def reasons_of(found: Reliability | None) -> list[Line]:
    """Return the reasons for the verdict."""
    return [] if found is None else [(reason, "") for reason in found.reasons[:_MOST_REASONS]]


def quantities_of(record: FeatureRecord) -> list[Line]:
    """Return the quantities that a person can judge."""
    lines = []
    for name, (called, form, factor) in _QUANTITIES.items():
        if name in record.quantities:
            value = record.quantities[name]
            lines.append((called, "not measurable" if value is None else form.format(value * factor).replace("-", "−")))
    return lines


def scan_of(record: FeatureRecord) -> list[Line]:
    """Return the size of the scan, and how much of the windows it fills."""
    depth, height, width = record.volume.shape
    between, rows, columns = record.volume.spacing_mm
    windows = record.encoding.windows
    real = float(windows.real_fraction.mean())
    return [
        ("Slices, rows, columns", f"{depth} × {height} × {width}"),
        ("Spacing", f"{between:.2f} × {rows:.2f} × {columns:.2f} mm"),
        ("Windows", f"{len(windows.voxels)}, {100 * real:.0f} % filled by the scan"),
    ]


def findings_of(record: FeatureRecord) -> list[Line]:
    """Return the meaning of each finding, one line each; details are left out, for they may quote a header."""
    codes = list(dict.fromkeys(finding.code for finding in record.findings))
    lines = [(Code[code].line if code in Code.__members__ else code, "") for code in codes[:_MOST_FINDINGS]]
    if len(codes) > _MOST_FINDINGS:
        lines.append((f"and {len(codes) - _MOST_FINDINGS} more, see features.json", ""))
    return lines or [("none", "")]


def model_of(record: FeatureRecord) -> list[Line]:
    """Return the weights that produced the numbers."""
    model = record.model
    return [(f"{model.name} {model.version}", f"weights {model.weights_sha256[:12]}…"), (f"Run by {model.runtime}", "")]
