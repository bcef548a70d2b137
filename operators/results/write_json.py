"""FeatureRecord → features.json, Outcomes → outcome.json and result.json.

`features.schema.json` beside this file describes `features.json`. That file holds no wall-clock time, host name or
path, so the same input gives the same bytes; these stand only in `outcome.json`.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from operators import __version__
from operators.record import FeatureRecord, Reliability, TapValues, shortest_double
from operators.results.write_taps import file_entry, has_file
from operators.types import Finding, Outcome, Verdict

SCHEMA_VERSION = "1.0"
NOTICE = "Not for diagnosis; computed by software, unverified."


def features_json(record: FeatureRecord) -> bytes:
    """Return `features.json` of one series, UTF-8; floats read back to the same float32."""
    return json_bytes(features_document(record))


def features_document(record: FeatureRecord) -> dict[str, Any]:
    """Return the same as plain JSON values; `features.schema.json` describes each field."""
    identity, disclosed = record.identity, record.subject
    series = asdict(identity) | {"instances": {"count": identity.instances, "digest": identity.instances_digest}}
    del series["instances_digest"]
    subject = {"patient_key": disclosed.patient_key, "sex": disclosed.sex, "age_years": disclosed.age_years}
    for name in ("patient_name", "patient_id", "birth_date"):
        if getattr(disclosed, name) is not None:
            subject[name] = getattr(disclosed, name)
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": NOTICE,
        "software": {"name": "ctvae", "version": __version__},
        "job_key": record.job_key,
        "config_digest": record.config_digest,
        "series": series,
        "subject": subject,
        "acquisition": _acquisition(record),
        "model": asdict(record.model),
        "preprocessing": {"parameters": dict(record.preprocessing), "digest": record.preprocessing_digest},
        "geometry": _geometry(record),
        "quantities": dict(record.quantities),
        "findings": _findings(record.findings),
        "taps": {name: _tap(tap) | _parts(record, name) for name, tap in record.taps.items()},
        "reliability": None if record.reliability is None else _reliability(record.reliability),
    }


def outcome_document(outcomes: Sequence[Outcome], **about_the_run: Any) -> dict[str, Any]:
    """Return `outcome.json`, or what `inspect --json` prints: every series found, and how it ended.

    Args:
        outcomes: outcomes in the order in which they ended.
        about_the_run: further fields, such as time and host; they may differ from run to run.
    """
    return {"schema_version": SCHEMA_VERSION, "series": [_outcome(outcome) for outcome in outcomes], **about_the_run}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What `outcome.json` states about the run itself; the host's name is added on writing.

    Attributes:
        started: start of the run.
        reading_seconds: time to find all files and read their headers, or until the run ended before that.
        files_not_dicom: number of input files that are not DICOM images; None where not all were read.
    """

    started: datetime
    reading_seconds: float
    files_not_dicom: int | None


def outcome_json(outcomes: Sequence[Outcome], run: RunFacts) -> bytes:
    """Return `outcome.json` of a run that ends now."""
    about = {
        "files_not_dicom": run.files_not_dicom,
        "reading_seconds": round(run.reading_seconds, 4),
        "software": {"name": "ctvae", "version": __version__},
        "host": platform.node(),
        "started_at": run.started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json_bytes(outcome_document(outcomes, **about))


def result_json(outcomes: Iterable[Outcome]) -> bytes:
    """Return `result.json` of a run, for the router mercure."""
    return json_bytes(result_document(outcomes))


def result_document(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return a summary that names no patient, with mercure's notification.

    The notification is requested when a series was rejected, failed, or is unlike the reference patients.
    """
    ended = list(outcomes)
    counted, judged = (
        Counter(outcome.status for outcome in ended),
        Counter(outcome.verdict for outcome in ended if outcome.verdict),
    )
    counts = {status: counted.get(status, 0) for status in ("written", "rejected", "skipped", "failed")}
    verdicts = {verdict: judged.get(verdict, 0) for verdict in get_args(Verdict)}
    text = "ctvae: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + ". "
    if judged:
        named = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in verdicts.items() if count)
        text += f"Compared with the reference patients: {named}. "
    wanted = counts["rejected"] + counts["failed"] + verdicts["out_of_distribution"] > 0 or counts["written"] == 0
    return {
        "series": counts,
        "verdicts": verdicts,
        "notice": NOTICE,
        "__mercure_notification": {"text": text + NOTICE, "requested": wanted},
    }


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document in the form of every JSON file of the results, UTF-8; NaN and infinity raise."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def features_schema() -> str:
    """Return the JSON Schema of `features.json` (draft 2020-12) as text."""
    return resources.files("operators.results").joinpath("features.schema.json").read_text(encoding="utf-8")


def floats(values: NDArray[np.float32]) -> list[float]:
    """Return float32 (n,) as numbers that JSON writes with the fewest digits that read back to the same float32."""
    return [shortest_double(value) for value in values]


def _acquisition(record: FeatureRecord) -> dict[str, Any]:
    values = asdict(record.acquisition)
    values["image_type"] = list(record.acquisition.image_type)
    return {name: value for name, value in values.items() if value is not None or not name.endswith("_date")}


def _geometry(record: FeatureRecord) -> dict[str, Any]:
    windows = record.encoding.windows
    volume = windows.volume
    return {
        "shape": list(volume.shape),
        "spacing_mm": list(volume.spacing_mm),
        "affine_lps_mm": volume.affine_lps_mm.tolist(),
        "window_shape": list(windows.voxels.shape[2:]),
        "window_spacing_mm": list(windows.spacing_mm),
        "windows": [
            {"affine_lps_mm": affine.tolist(), "real_fraction": shortest_double(real)}
            for affine, real in zip(windows.affines_lps_mm, windows.real_fraction, strict=True)
        ],
    }


def _tap(tap: TapValues) -> dict[str, Any]:
    about: dict[str, Any] = {"length": tap.length, "pooling": tap.pooling}
    if tap.seed is not None:
        about["seed"] = tap.seed
    if has_file(tap):
        return about | {"file": file_entry(tap)}
    return about | {"values": floats(tap.values), "windows": [floats(window) for window in tap.windows]}


def _parts(record: FeatureRecord, name: str) -> dict[str, list[float]]:
    """Return the parts of sigma within windows and between them."""
    if name != "sigma" or has_file(record.taps[name]):
        return {}
    within, between = record.encoding.sigma_parts
    return {"within_windows": floats(within), "between_windows": floats(between)}


def _reliability(found: Reliability) -> dict[str, Any]:
    """Return the reliability; all numbers are float32 values."""
    percentiles, alone = found.percentiles, ("combined", "latent", "reconstruction", "outlier", "orientation")
    return {
        "verdict": found.verdict,
        "reasons": list(found.reasons),
        "n_reference": found.n_reference,
        "p_conformal": _float(found.p_conformal),
        "mahalanobis": _float(found.mahalanobis),
        "reconstruction_mae_hu": _float(found.reconstruction_mae_hu),
        "reconstruction_ratio": _float(found.reconstruction_ratio),
        "outlier_score": _float(found.outlier_score),
        "orientation_score": _float(found.orientation_score),
        "real_fraction": _float(found.real_fraction),
        "percentiles": {
            **{name: _float(getattr(percentiles, name)) for name in alone},
            **{name: floats(getattr(percentiles, name)) for name in ("mu", "sigma")},
        },
        "reference_sha256": found.reference_sha256,
    }


def _float(value: float | None) -> float | None:
    return None if value is None else shortest_double(value)


def _findings(findings: Iterable[Finding]) -> list[dict[str, str]]:
    return [{"code": finding.code, "detail": finding.detail} for finding in findings]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "series_instance_uid": outcome.series_instance_uid,
        "part": outcome.part,
        "folder": outcome.folder,
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "verdict": outcome.verdict,
        "shape": list(outcome.shape) if outcome.shape else None,
        "spacing_mm": list(outcome.spacing_mm) if outcome.spacing_mm else None,
        "findings": _findings(outcome.findings),
        "seconds": {stage: round(seconds, 4) for stage, seconds in outcome.seconds.items()},
    }
