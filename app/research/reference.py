"""From reference patients to the population in a bundle that new series are compared with (`bundle reference`)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.research.data.find_scans import find_scans
from app.research.data.scan import Scan
from app.research.data.splits import LEAST_REFERENCE
from app.settings import DEFAULTS, Settings
from models.bundle.reference import reference_json
from models.bundle.store import add_decoder, add_reference
from models.runtime import Decoder, Encoder, OnnxEncoder, load_vae, open_decoder
from models.spec import Bundle
from models.statistics.out_of_distribution import MOST_PATIENTS, Population
from models.training_record import Case
from operators.encode import encode
from operators.errors import SeriesError, StartError
from operators.measure.reliability import reconstruction_error
from operators.preprocess import preprocess

logger = logging.getLogger(__name__)

Report = Callable[[str, float], None]


class _Member(NamedTuple):
    """The one series of a reference patient: mu and sigma, float64 (length,)."""

    case: Case
    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    error_ratio: float | None
    outlier: float | None
    orientation: float | None


def reference_of_data(
    bundle: Bundle,
    data: Path,
    *,
    root: Path | None = None,
    settings: Settings = DEFAULTS,
    report: Report = lambda text, fraction: None,
) -> Bundle:
    """Write the reference population of some data into a bundle, and the decoder as ONNX if it is missing.

    Args:
        bundle: a loaded bundle; its folder is written to.
        data: a folder or a list, see `find_scans`. From a list with splits, the patients in the split `reference`.
        root: folder that a list's paths are relative to.
        settings: which series are selected, and how they are read.
        report: called with the current activity and the fraction done, 0 to 1.

    Returns:
        The bundle with its reference population.

    Raises:
        StartError: `NO_DATA`, `BAD_LIST`, `BAD_SPLIT`, `ARRAYS_ONLY`, `TRAINED_ON` or `TOO_FEW_PATIENTS`.
        BundleError: encoder or decoder does not run, or the bundle cannot be written.
    """
    if bundle.arrays_only:
        text = f"bundle {bundle.name} does not define how a scan becomes a window; import it with its preprocessing"
        raise StartError("ARRAYS_ONLY", text)
    scans = reference_scans(find_scans(data, root, settings), bundle)
    return put_reference(bundle, scans, report)


def reference_scans(scans: Sequence[Scan], bundle: Bundle) -> tuple[Scan, ...]:
    """Return the scans of reference patients: those in that split, or all if no list states a split.

    Patients that the bundle was trained or calibrated on are left out, with all of their scans.

    Raises:
        StartError: `BAD_SPLIT`: the split is empty; `TRAINED_ON`: nobody is left.
    """
    wanted = [scan for scan in scans if scan.split == "reference" or not any(one.split for one in scans)]
    if not wanted:
        text = f"none of {len(scans)} scans has the split reference"
        raise StartError(
            "BAD_SPLIT", f"{text}; expected it of at least {LEAST_REFERENCE} patients, or no splits at all"
        )
    learned = bundle.training.learned_names
    out = {scan.patient for scan in scans if {scan.patient, scan.key} & learned} & {scan.patient for scan in wanted}
    left = tuple(scan for scan in wanted if scan.patient not in out)
    if not left:
        text = f"{bundle.name} has learned from all {len(out)} reference patients"
        raise StartError("TRAINED_ON", f"{text}; give patients that it has not seen")
    if out:
        logger.warning("%d reference patients are left out: %s has learned from them", len(out), bundle.name)
    return left


def put_reference(bundle: Bundle, scans: Sequence[Scan], report: Report = lambda text, fraction: None) -> Bundle:
    """Encode one series of each patient in the usual way, and write the population into the bundle.

    A patient counts once, with the first readable series by digest: neither pixels nor the list's order choose it.

    Raises:
        StartError: `TOO_FEW_PATIENTS`.
        BundleError: see `reference_of_data`.
    """
    report("writing the decoder", 0.0)
    bundle = _with_decoder(bundle)
    encoder, decoder = OnnxEncoder(bundle), open_decoder(bundle)
    by_patient: dict[str, list[Scan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: scan.key):
        by_patient[scan.patient].append(scan)
    if len(by_patient) > MOST_PATIENTS:
        logger.warning("of %d reference patients the first %d by digest are taken", len(by_patient), MOST_PATIENTS)
    members = _members(dict(list(by_patient.items())[:MOST_PATIENTS]), bundle, encoder, decoder, report)
    if len(members) < 2:
        found = f"{len(members)} reference patients could be read; expected at least two"
        raise StartError("TOO_FEW_PATIENTS", f"{found}, and {LEAST_REFERENCE} for a verdict; give more")
    if len(members) < LEAST_REFERENCE:
        text = "%d reference patients are too few for a verdict: every series will be undetermined; give at least %d"
        logger.warning(text, len(members), LEAST_REFERENCE)
    ratios = [member.error_ratio for member in members if member.error_ratio is not None]
    outliers = [member.outlier for member in members if member.outlier is not None]
    orientations = [member.orientation for member in members if member.orientation is not None]
    mu, sigma = np.stack([member.mu for member in members]), np.stack([member.sigma for member in members])
    try:
        population = Population(
            mu,
            sigma,
            error_ratios=np.array(ratios) if decoder is not None else None,
            outliers=np.array(outliers) if bundle.scores_outliers else None,
            orientations=np.array(orientations) if bundle.scores_orientation else None,
        )
    except ValueError as error:
        raise StartError("NO_REFERENCE", f"the reference patients do not form a usable population: {error}") from error
    content = reference_json(bundle, population, [member.case for member in members], encoder.runtime)
    return add_reference(bundle.path, content)


def _with_decoder(bundle: Bundle) -> Bundle:
    """Return the bundle with `decoder.onnx`, exported if it is missing and the network decodes mu."""
    if bundle.decoder_sha256 is not None:
        return bundle
    from models.bundle.export import mu_decoder_onnx

    decoder = mu_decoder_onnx(load_vae(bundle))
    return bundle if decoder is None else add_decoder(bundle.path, decoder)


def _members(
    by_patient: Mapping[str, Sequence[Scan]],
    bundle: Bundle,
    encoder: Encoder,
    decoder: Decoder | None,
    report: Report,
) -> list[_Member]:
    members = []
    for done, (patient, scans) in enumerate(sorted(by_patient.items())):
        report(f"encoding reference patient {done + 1} of {len(by_patient)}", done / len(by_patient))
        for scan in scans:
            try:
                windows = preprocess(scan.open(), bundle.preprocessing)
                encoding = encode(windows, encoder, bundle)
            except SeriesError as error:
                logger.warning("a volume of reference patient %s is left out: %s", patient, error)
                continue
            made = None if decoder is None else reconstruction_error(encoding, decoder, bundle.preprocessing)
            case = Case(scan.patient, scan.key, "reference", scan.source, len(windows.voxels))
            mu, sigma = (encoding.taps[name].values.astype(np.float64) for name in ("mu", "sigma"))
            ratio = None if made is None else made.ratio
            members.append(_Member(case, mu, sigma, ratio, encoding.outlier, encoding.orientation))
            break
    return members
