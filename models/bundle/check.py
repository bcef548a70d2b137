"""Whether a bundle is as it should be, on this machine: one verdict per question; with torch if it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.bundle.golden import TOLERANCE, golden_input, read_golden, some_voxels
from models.bundle.monai_config import missing_keys
from models.certificate import Certificate, certificate_from_json
from models.phantom import phantom_windows
from models.spec import Bundle, BundleError
from models.statistics.collapse import Collapse, measure_collapse
from models.training_record import TrainingRecord

if TYPE_CHECKING:
    from models.runtime import Encoder

CERTIFICATE = Path("docs", "certificate.json")

ACTIVE_UNITS, RECONSTRUCTION = "active units", "reconstruction"
"""The questions about what was learned, rather than whether the bundle is intact."""

LEAST_AGREEMENT = 0.1

_CERTIFICATE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one question.

    Attributes:
        question: the question in two or three words.
        good: None where there is no answer.
        detail: what was found, one line.
    """

    question: str
    good: bool | None
    detail: str


def check_bundle(bundle: Bundle) -> Iterator[Verdict]:
    """Yield all verdicts on a loaded bundle, whose digests match and whose weights are finite.

    Raises:
        BundleError: it cannot be run at all.
    """
    from models.runtime import OnnxEncoder

    yield Verdict("files", True, "digests of weights and ONNX are those of the metadata; no NaN, no infinity")
    encoder = OnnxEncoder(bundle)
    yield Verdict("encoder", True, f"encoder.onnx gives its {len(bundle.taps)} taps in the shapes of the metadata")
    yield check_golden(bundle, encoder)
    yield check_golden_decoder(bundle)
    yield from check_torch(bundle, encoder)
    yield from check_reconstruction(bundle)
    yield _check_metadata(bundle)
    yield from _check_certificate(bundle)
    yield check_active(bundle)


def check_golden(bundle: Bundle, encoder: Encoder) -> Verdict:
    """Check whether this machine reproduces mu and sigma of the self-test input."""
    try:
        golden = read_golden(bundle)
    except BundleError as error:
        return Verdict("golden values", False, str(error))
    if golden is None:
        return Verdict("golden values", None, "the bundle has none: it was written before there were any")
    given = encoder.run(golden_input(bundle.preprocessing.window_voxels), ("mu", "sigma"))
    difference = golden.difference(given["mu"][0], given["sigma"][0])
    by = f"made by {golden.runtime}, here {encoder.runtime}"
    detail = f"largest difference of mu and sigma {difference:.2g}, tolerated {golden.tolerance:.2g}; {by}"
    return Verdict("golden values", difference <= golden.tolerance, detail)


def check_golden_decoder(bundle: Bundle) -> Verdict:
    """Check whether this machine reproduces the window that the decoder made of the golden mu."""
    from models.runtime import open_decoder

    question = "golden decoder"
    decoder = open_decoder(bundle)
    if decoder is None:
        return Verdict(question, None, "the bundle has no decoder.onnx: reconstruction errors cannot be measured")
    try:
        golden = read_golden(bundle)
    except BundleError as error:
        return Verdict(question, False, str(error))
    if golden is None or golden.reconstruction is None:
        return Verdict(question, None, "the bundle has no golden values of its decoder")
    (window,) = decoder.run(golden.mu[None])
    difference = _relative(some_voxels(window), golden.reconstruction)
    detail = f"largest difference of {len(golden.reconstruction)} voxels {difference:.2g}, tolerated {TOLERANCE:g}"
    return Verdict(question, difference <= TOLERANCE, f"{detail}; here {decoder.runtime}")


def check_torch(bundle: Bundle, encoder: Encoder) -> Iterator[Verdict]:
    """Check whether torch and this encoder agree in every tap, and whether the decoder gives windows."""
    if importlib.util.find_spec("torch") is None:
        yield Verdict("torch", None, "torch is not installed; ONNX Runtime was not compared with it")
        return
    import torch

    from models.runtime import load_vae

    windows = golden_input(bundle.preprocessing.window_voxels)
    names = tuple(tap.name for tap in bundle.taps)
    given = encoder.run(windows, names)
    try:
        vae = load_vae(bundle)
    except BundleError as error:
        yield Verdict("torch", False, str(error))
        return
    with torch.inference_mode():
        expected = {name: values.numpy() for name, values in vae.taps(torch.from_numpy(windows), names).items()}
        mu, _ = vae.encode(torch.from_numpy(windows))
        decoded = vae.decode(mu).numpy() if vae.decoder is not None else None
    worst = max(names, key=lambda name: _relative(given[name], expected[name]))
    furthest = _relative(given[worst], expected[worst])
    detail = f"largest difference from ONNX Runtime in {len(names)} taps {furthest:.2g} (in {worst})"
    yield Verdict("torch", furthest <= TOLERANCE, f"{detail}, tolerated {TOLERANCE:g} of the largest value above 1")
    if decoded is None:
        yield Verdict("decoder", None, "the bundle has an encoder only")
        return
    good = decoded.shape == windows.shape and bool(np.isfinite(decoded).all())
    yield Verdict("decoder", good, f"gives {decoded.shape[1:]} for a window of {windows.shape[1:]}, all finite: {good}")


def check_reconstruction(bundle: Bundle) -> Iterator[Verdict]:
    """Check that reconstructions from mu differ as their originals do, rather than being one blob.

    Four chest phantoms are passed through the network. The differences of the phantoms from their mean are correlated
    with those of the reconstructions from theirs: the shipped bundle has 0.62, random weights 0.003, and 0 means one
    blob whatever the input. There is no verdict without torch, a decoder or weights that fit: `check_torch` reports
    that.
    """
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from models.runtime import load_vae

    settings = bundle.preprocessing
    try:
        vae = load_vae(bundle)
    except BundleError:  # `check_torch` says so
        return
    if vae.decoder is None:
        return
    if bundle.arrays_only:
        yield Verdict(RECONSTRUCTION, None, "not tried: how a scan becomes a window is not recorded")
        return
    shown = phantom_windows(settings.window_voxels, settings.window_hu, settings.spacing_mm)
    with torch.inference_mode():
        made = [vae.decode(vae.encode(torch.from_numpy(window[None]))[0]).clamp(0, 1).numpy() for window in shown]
    same = _agreement(shown, np.concatenate(made))
    detail = f"those of four phantoms differ as the phantoms do with a correlation of {same:.2f}"
    if same < LEAST_AGREEMENT:
        yield Verdict(RECONSTRUCTION, False, f"{detail}; expected at least {LEAST_AGREEMENT:g}: they are one blob")
    else:
        yield Verdict(RECONSTRUCTION, True, detail)


def _agreement(shown: NDArray[np.float32], made: NDArray[np.float32]) -> float:
    """Correlate the windows' differences from their mean with those of what was made of them."""
    shown_away, made_away = (
        windows.astype(np.float64) - windows.mean(axis=0, dtype=np.float64) for windows in (shown, made)
    )
    size = float(np.sqrt(np.square(shown_away).sum() * np.square(made_away).sum()))
    return float((shown_away * made_away).sum()) / size if size > 0 else 0.0


def check_decoder(bundle: Bundle, onnx: bytes) -> Verdict:
    """Check whether torch and an exported decoder agree on the latents of the self-test input."""
    import onnxruntime
    import torch

    from models.runtime import load_vae

    vae = load_vae(bundle)
    with torch.inference_mode():
        z, _ = vae.encode(torch.from_numpy(golden_input(bundle.preprocessing.window_voxels)))
        expected = vae.decode(z).numpy()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    difference = _relative(session.run(None, {"z": z.numpy()})[0], expected)
    detail = f"largest difference of ONNX Runtime and torch {difference:.2g}, tolerated {TOLERANCE:g}"
    return Verdict("decoder", difference <= TOLERANCE, detail)


def _check_certificate(bundle: Bundle) -> Iterator[Verdict]:
    """Yield why the certificate cannot be read; nothing where it can be, or where there is none."""
    try:
        read_certificate(bundle)
    except BundleError as error:
        yield Verdict("certificate", None, str(error))


def check_active(bundle: Bundle) -> Verdict:
    """Check whether at least half of the units are active, as `models.statistics.units` defines it.

    Training's own figures count only with enough windows and patients; see `models.statistics.collapse`.
    """
    figures = bundle.training.figures
    try:
        certificate = read_certificate(bundle)
    except BundleError:  # a verdict of its own in `check_bundle`
        certificate = None
    for source, counted in (
        (
            "certificate",
            None if certificate is None else (certificate.active_units, len(certificate.kl_by_dimension)),
        ),
        ("training", None if figures is None else (figures.active, len(figures.kl))),
    ):
        if counted is not None:
            active, units = counted
            detail = f"{active} of {units} units are active according to its {source}"
            measured = _collapse(bundle.training) if source == "training" else None
            if measured is not None and measured.collapsed is None:
                few = f"{measured.windows} windows of {measured.patients} test patients"
                return Verdict(ACTIVE_UNITS, None, f"{detail}, but {few} are too few to tell a collapse")
            if 2 * active < units and (measured is None or measured.collapsed):
                return Verdict(ACTIVE_UNITS, False, f"{detail}; expected half of them: the posterior has collapsed")
            return Verdict(ACTIVE_UNITS, True, detail)
    return Verdict(ACTIVE_UNITS, None, "not measured: neither training figures nor a certificate say how many")


def _collapse(training: TrainingRecord) -> Collapse | None:
    """Return what training measured on the test patients; None where the record does not say enough."""
    figures, free_bits = training.figures, training.settings.get("free_bits_nats")
    if figures is None or len(figures.mu_variance) != len(figures.kl) or not isinstance(free_bits, (int, float)):
        return None
    patients = {case.patient for case in training.data if case.split == "test" and case.windows}
    return measure_collapse(
        figures.kl,
        figures.mu_variance,
        windows=figures.windows,
        patients=len(patients),
        free_bits_nats=free_bits,
    )


def read_certificate(bundle: Bundle) -> Certificate | None:
    """Return `docs/certificate.json`; None where there is none.

    Raises:
        BundleError: it is not JSON, or not a certificate in the form that this ctvae writes.
    """
    file = bundle.path / CERTIFICATE
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _CERTIFICATE_BYTES:
            raise ValueError("too large")
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{CERTIFICATE.as_posix()} is not JSON; certify the bundle again") from error
    try:
        return certificate_from_json(document)
    except ValueError as error:
        text = f"{CERTIFICATE.as_posix()} is not as this ctvae writes it: {error}; certify the bundle again"
        raise BundleError(text) from error


def _check_metadata(bundle: Bundle) -> Verdict:
    metadata = json.loads((bundle.path / "configs" / "metadata.json").read_bytes())
    missing = missing_keys(metadata)
    if missing:
        some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        return Verdict("MONAI metadata", None, f"not for MONAI's own tools: they lack {len(missing)} keys ({some})")
    return Verdict("MONAI metadata", True, "have every key that MONAI's bundle specification makes mandatory")


def _relative(given: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference, relative to the largest absolute value above 1; infinite for non-finite values."""
    if not (np.isfinite(given).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(given - expected).max() / max(1.0, float(np.abs(expected).max())))
