"""Certify a bundle: measure what its features are good for on scans it was not trained on, and write that into it.

`docs/certificate.md` explains each number.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.research.certify.certificate import certificate_markdown, summary
from app.research.certify.encode_scans import Decode, Measured, measure_scans
from app.research.certify.metrics import figures_of_tap, reconstruction_figures, rounded
from app.research.certify.phantoms import phantom_figures
from app.research.certify.rivals import Rivals, rival_figures, rivals_from
from app.research.certify.together import draw_figures, group_figures, prior_figures, redundancy_figures, repeat_figures
from app.research.data.changed_windows import ORIGINAL
from app.research.data.find_scans import find_scans
from app.research.data.join_labels import join_labels
from app.research.data.scan import Scan
from app.research.train.card import model_card, with_section
from app.settings import DEFAULTS, Settings
from models.bundle.check import CERTIFICATE, read_certificate
from models.bundle.store import amend_bundle
from models.certificate import (
    SCHEMA_VERSION,
    Certificate,
    CertifiedBundle,
    CertifiedData,
    CertifySettings,
    Change,
    TapFigures,
    certificate_from_json,
)
from models.networks.vae import Vae
from models.runtime import Encoder, load_vae, open_encoder
from models.spec import Bundle, BundleError, TapSpec
from models.statistics.patients import RESAMPLES
from models.statistics.probes import FOLDS, INNER_FOLDS, SHUFFLES
from models.statistics.units import active_units, correlation, kl_by_dimension
from models.training_record import Case
from operators import __version__
from operators.encode import check_taps
from operators.errors import StartError
from operators.results.write_json import json_bytes
from operators.synthetic.perturbations import DESCRIPTIONS

logger = logging.getLogger(__name__)

Report = Callable[[str, float], None]

PHANTOMS = 150
LONGEST = 4096  # values of a tap: all changes of all windows are in memory at once


@dataclass(frozen=True, slots=True)
class Roles:
    """Which scans are measured, and which only help because the bundle was made with them.

    Attributes:
        measured: scans of patients that were neither trained nor calibrated on.
        known: scans of the others. They are never scored: probes and whitening learn from them, and they are
            distractors in the gallery.
    """

    measured: tuple[Scan, ...]
    known: tuple[Scan, ...]


def certify_bundle(
    bundle: Bundle,
    data: Path,
    *,
    root: Path | None = None,
    labels: Path | None = None,
    taps: Sequence[str] = (),
    cache: Path | None = None,
    force: bool = False,
    phantoms: int = PHANTOMS,
    seed: int = 0,
    settings: Settings = DEFAULTS,
    report: Report = lambda text, fraction: None,
) -> Certificate:
    """Measure, and return the certificate with its figures rounded as in the file; equal calls give equal certificates.

    Args:
        bundle: a loaded bundle. Nothing is written into it here.
        data: a folder or a list, see `find_scans`.
        root: folder that a list's paths are relative to.
        labels: a file of labels, see `join_labels`.
        taps: in the form that `check_taps` reads; by default all of the bundle.
        cache: folder for changed windows, which are images of patients.
        force: whether to measure on patients that the bundle was trained on, too; the certificate then says so.
        phantoms: number of phantoms to draw for disentanglement; 0 for none.
        seed: seed of all draws.
        settings: which series are selected, and how they are read.
        report: called with the current activity and the fraction done, 0 to 1.

    Raises:
        StartError: `ARRAYS_ONLY`, `UNKNOWN_TAP`, `NO_DATA`, `BAD_LIST`, `BAD_LABELS`, `TRAINED_ON`, `TOO_FEW_PATIENTS`.
        BundleError: its encoder or decoder does not run.
    """
    specs = _specs(bundle, taps)
    scans = find_scans(data, root, settings)
    roles = roles_of(join_labels(scans, labels) if labels else scans, bundle, force=force)
    encoder = open_encoder(bundle, "cpu")
    measured, known, rivals = _measure(roles, bundle, encoder, specs, cache=cache, seed=seed, report=report)
    mu, sigma = (measured.features[ORIGINAL][tap] for tap in ("mu", "sigma"))
    certificate = Certificate(
        schema_version=SCHEMA_VERSION,
        bundle=CertifiedBundle(bundle.name, bundle.version, bundle.weights_sha256, bundle.preprocessing.digest()),
        data=_data(roles, measured, known, force),
        settings=CertifySettings(seed, RESAMPLES, FOLDS, INNER_FOLDS, SHUFFLES),
        versions=_versions(encoder),
        changes={name: Change(DESCRIPTIONS[name], tuple(moved.tolist())) for name, moved in measured.moved_mm.items()},
        active_units=active_units(mu),
        kl_by_dimension=tuple(kl_by_dimension(mu, sigma).tolist()),
        variance_of_mu=tuple(mu.var(axis=0).tolist()),
        correlation_of_mu=tuple(map(tuple, correlation(mu).tolist())),
        taps=_taps(measured, known, specs, seed, _part(report, 0.85, 0.9)),
        reconstruction=reconstruction_figures(measured, seed),
        redundancy=redundancy_figures(measured, seed),
        prior=prior_figures(measured, seed),
        draws=draw_figures(measured, seed),
        groups=group_figures(measured, known, seed),
        repeats=repeat_figures(measured, seed),
        rivals=None if rivals is None else rival_figures(measured, rivals),
        phantom=phantom_figures(bundle, encoder, phantoms, seed, _part(report, 0.9, 1.0)) if phantoms else None,
    )
    found = certificate_from_json(rounded(certificate.as_json()))
    return replace(found, summary=summary(found))


def _measure(
    roles: Roles,
    bundle: Bundle,
    encoder: Encoder,
    specs: Mapping[str, TapSpec],
    *,
    cache: Path | None,
    seed: int,
    report: Report,
) -> tuple[Measured, Measured | None, Rivals | None]:
    """Return the windows that are scored, those that only help, and the rivals that were made from the latter.

    Raises:
        StartError: `TOO_FEW_PATIENTS`.
    """
    vae = load_vae(bundle)
    known = measure_scans(
        roles.known,
        bundle,
        encoder,
        specs,
        names=(),
        keep_windows=True,
        cache=cache,
        seed=seed,
        report=_part(report, 0.0, 0.1),
    )
    rivals = None if known is None else rivals_from(known, vae, specs["mu"].length)
    measured = measure_scans(
        roles.measured,
        bundle,
        encoder,
        specs,
        decode=decoder_of(vae),
        describe=None if rivals is None else rivals.describe,
        cache=cache,
        seed=seed,
        report=_part(report, 0.1, 0.85),
    )
    if measured is None or len(np.unique(measured.patients)) < 2:
        count = 0 if measured is None else 1
        raise StartError("TOO_FEW_PATIENTS", f"{count} patients could be read; expected at least two: add scans")
    return measured, known, rivals


def _specs(bundle: Bundle, taps: Sequence[str]) -> Mapping[str, TapSpec]:
    """Return the taps to measure.

    Raises:
        StartError: `ARRAYS_ONLY`, `UNKNOWN_TAP` or `TAP_TOO_LONG`.
    """
    if bundle.arrays_only:
        text = f"bundle {bundle.name} does not say how a scan becomes a window; import it with its preprocessing"
        raise StartError("ARRAYS_ONLY", text)
    specs = check_taps(bundle, tuple(taps) or tuple(tap.name for tap in bundle.taps))
    long = sorted(name for name, spec in specs.items() if spec.length > LONGEST)
    if long:
        text = f"taps of more than {LONGEST} values: {', '.join(long)}; take another pooling, such as mean"
        raise StartError("TAP_TOO_LONG", text)
    return specs


def write_certificate(bundle: Bundle, certificate: Certificate) -> Bundle:
    """Write `docs/certificate.json` into the bundle, and its section into the card."""
    files = {
        CERTIFICATE.as_posix(): json_bytes(certificate.as_json()),
        "docs/README.md": _card(bundle, certificate).encode(),
    }
    return amend_bundle(bundle.path, files)


def _card(bundle: Bundle, certificate: Certificate) -> str:
    """Return the card with the certificate: rendered from the bundle; in an edited card only the section."""
    file = bundle.path / "docs" / "README.md"
    section = certificate_markdown(certificate)
    try:
        former = read_certificate(bundle)
    except BundleError as error:  # certifying again repairs it
        logger.warning("the former certificate is replaced: %s", error)
        former = None
    before = file.read_text(encoding="utf-8") if file.is_file() else f"# {bundle.name} {bundle.version}\n"
    if bundle.training.figures is not None:
        ours = [model_card(bundle), *([model_card(bundle, certificate_markdown(former))] if former else [])]
        if before in ours:
            return model_card(bundle, section)
        logger.warning(
            "docs/README.md was edited: only its certificate is replaced; read whether its limits still hold"
        )
    return with_section(before, section)


def roles_of(scans: Sequence[Scan], bundle: Bundle, *, force: bool = False) -> Roles:
    """Assign roles: measured are the scans of patients that neither the bundle nor the list has in another split.

    The bundles it was fine-tuned from count too. A patient is recognised by the name in the list or by any of its
    scans.
    Reference patients have no role here: they serve only for the verdict on a scan.

    Raises:
        StartError: `TRAINED_ON`: nobody is left.
    """
    if force:
        return Roles(tuple(scans), ())
    known = _of_splits(scans, bundle.training.learned, ("train", "calibration"))
    kept = [case for case in bundle.training.data if case.split == "reference"]
    reference = _of_splits(scans, kept, ("reference",)) - known
    roles = Roles(
        tuple(scan for scan in scans if scan.patient not in known | reference),
        tuple(scan for scan in scans if scan.patient in known),
    )
    if not roles.measured:
        text = f"all {len(known | reference)} patients are of the train, calibration or reference split"
        raise StartError("TRAINED_ON", f"{text}; give others, or use --force to measure them too")
    for those, splits in ((known, "train and calibration splits"), (reference, "reference split")):
        if those:
            logger.warning("%d patients of the %s are left out of all figures", len(those), splits)
    return roles


def _of_splits(scans: Sequence[Scan], cases: Sequence[Case], splits: Sequence[str]) -> set[str]:
    """Return the patients among these cases of a bundle, or that the list has in these splits."""
    patients, keys = {case.patient for case in cases}, {case.scan for case in cases} - {""}
    return {scan.patient for scan in scans if scan.patient in patients or scan.key in keys or scan.split in splits}


def decoder_of(vae: Vae) -> Decode | None:
    """Return `mu` → windows with torch, one window at a time; None for an encoder without a decoder."""
    import torch

    if vae.decoder is None:
        return None

    def decode(mu: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            made = [vae.decode(torch.from_numpy(one[None])).numpy() for one in mu]
        return np.concatenate(made)

    return decode


def _taps(
    measured: Measured, known: Measured | None, taps: Mapping[str, TapSpec], seed: int, report: Report
) -> dict[str, TapFigures]:
    found = {}
    for done, (name, spec) in enumerate(taps.items()):
        report(f"figures of {name}", done / len(taps))
        found[name] = figures_of_tap(measured, known, name, spec, seed)
    return found


def _data(roles: Roles, measured: Measured, known: Measured | None, force: bool) -> CertifiedData:
    return CertifiedData(
        patients=len(np.unique(measured.patients)),
        scans=measured.scans,
        windows=len(measured.patients),
        unreadable_scans=len(roles.measured) - measured.scans,
        left_out_patients=len({scan.patient for scan in roles.known}),
        helping_patients=0 if known is None else len(np.unique(known.patients)),
        helping_windows=0 if known is None else len(known.patients),
        trained_on_included=force,
        sources=tuple(sorted({scan.source for scan in roles.measured if scan.source})),
    )


def _versions(encoder: Encoder) -> dict[str, str]:
    named = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn", "imagecodecs")}
    return {"ctvae": __version__, "runtime": encoder.runtime, **named}


def _part(report: Report, begin: float, end: float) -> Report:
    return lambda text, fraction: report(text, begin + (end - begin) * fraction)
