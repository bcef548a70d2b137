"""From a trained network to a bundle: measured on the test patients, described, written with its card."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.research.data.scan import SPLITS, Scan, Split
from app.research.data.window_cache import ScanWindows
from app.research.train.card import licence_text, model_card
from app.research.train.recipe import Plan
from models.bundle.store import save_bundle
from models.spec import Bundle, TapSpec
from models.statistics.collapse import LEAST_PATIENTS, LEAST_WINDOWS, measure_collapse
from models.training_record import Case, Figures, Parent, Report, TrainingRecord

if TYPE_CHECKING:
    from models.networks.vae import Vae
    from models.training.progress import Progress
    from models.training.train import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wording:
    """What the card states beside the measurements: version, command, and limits as a Markdown list."""

    version: str = "0.1.0"
    command: str = ""
    notes: str = ""


UNSAID = Wording()


def check_describable(output: Path, plan: Plan, vae: Vae, wording: Wording) -> None:
    """Write the future bundle with untrained weights and read it back, so that errors show before the training.

    Anything that could refuse it afterwards, except non-finite numbers, refuses it now: its name, version and taps, the
    weights' file, the ONNX graph, the card.

    Raises:
        BundleError: the bundle cannot be written or does not load.
    """
    from models.bundle.export import tap_specs

    nothing = Figures(windows=0, mae_hu=0.0, mae_body_hu=0.0, active=0, kl=())
    record = TrainingRecord(settings=_as_json(asdict(plan.training)), figures=nothing)
    draft = _bundle(output, plan, tap_specs(vae, plan.preprocessing.spacing_mm), wording, record)
    with tempfile.TemporaryDirectory(prefix="ctvae-") as temporary:
        write(replace(draft, path=Path(temporary, "bundle")), vae)


def describe(
    output: Path,
    plan: Plan,
    parts: Mapping[Split, Sequence[Scan]],
    windows: Mapping[str, ScanWindows],
    trained: Trained,
    wording: Wording,
) -> Bundle:
    """Return the bundle's description, including figures on the test patients; nothing is written yet.

    Args:
        output: the bundle's folder.
        plan: how it was trained.
        parts: the scans by split.
        windows: windows of the readable scans, by the scan's key.
        trained: result of the training.
        wording: text for the card.
    """
    import torch

    from models.bundle.export import tap_specs
    from models.training.evaluate import evaluate

    # One window after the other: all at once may exceed the memory.
    tested: Any = chain.from_iterable(windows[scan.key].voxels for scan in parts["test"] if scan.key in windows)
    figures = evaluate(trained.vae, tested, plan.preprocessing.window_hu, threads=plan.training.threads)
    patients = {scan.patient for scan in parts["test"] if scan.key in windows}
    _warn_of_collapse(figures, len(patients), plan.training.free_bits_nats)
    start = plan.start
    training = TrainingRecord(
        command=wording.command,
        notes=wording.notes.strip(),
        torch=torch.__version__,
        init=None if start is None else Parent(start.name, start.version, start.weights_sha256),
        learned_before=() if start is None else start.training.learned,
        splits={key: value for key, value in asdict(plan.data).items() if key != "root"},
        labels=dict(Counter(name for scans in parts.values() for scan in scans for name in scan.labels)),
        data=tuple(
            Case(scan.patient, scan.key, split, scan.source, len(windows[scan.key]))
            for split in SPLITS
            for scan in parts[split]
            if scan.key in windows
        ),
        settings=_as_json(asdict(plan.training)),
        steps=trained.steps,
        elapsed_s=round(trained.elapsed_s, 1),
        ended=trained.ended,
        history=_history(trained.history),
        figures=figures,
    )
    taps = tap_specs(trained.vae, plan.preprocessing.spacing_mm)
    return replace(_bundle(output, plan, taps, wording, training), architecture_parameters=trained.parameters)


def write(bundle: Bundle, vae: Vae) -> Bundle:
    """Write the bundle with weights, ONNX, card and licence, and read it back."""
    from models.bundle.export import encoder_onnx, mu_decoder_onnx

    return save_bundle(
        bundle,
        weights={name: tensor.numpy() for name, tensor in vae.state_dict().items()},
        onnx=encoder_onnx(vae),
        decoder=mu_decoder_onnx(vae),
        card=model_card(bundle),
        licence=licence_text(bundle.training),
        monai=_monai_keys(bundle),
    )


def _warn_of_collapse(figures: Figures, patients: int, free_bits_nats: float) -> None:
    found = measure_collapse(
        figures.kl, figures.mu_variance, windows=figures.windows, patients=patients, free_bits_nats=free_bits_nats
    )
    if found.collapsed is None:
        logger.warning(
            "%d windows of %d test patients are too few to tell whether the posterior has collapsed; at least %d "
            "windows of %d patients are needed",
            *(found.windows, found.patients, LEAST_WINDOWS, LEAST_PATIENTS),
        )
    elif found.collapsed:
        logger.warning(
            "posterior collapse: %d of %d dimensions have low KL and low variance of mu on %d windows of %d test "
            "patients; train longer, with more free bits, a smaller beta or fewer latents: `ctvae bundle check` "
            "refuses this bundle",
            *(found.unused, found.units, found.windows, found.patients),
        )


def _as_json(settings: Mapping[str, Any]) -> dict[str, object]:
    """Return settings as they read back from JSON."""
    plain: dict[str, object] = json.loads(json.dumps(settings))
    return plain


def _history(history: Sequence[Progress]) -> tuple[Report, ...]:
    """Return about thirty of a training's reports, including the last one."""
    every = max(1, len(history) // 30)
    return tuple(
        Report(
            step=at.step,
            fraction=round(at.fraction, 5),
            elapsed_s=round(at.elapsed_s, 5),
            loss=round(at.loss, 5),
            rmse=round(at.rmse, 5),
            kl=round(at.kl, 5),
            active=at.active,
            calibration=None if at.calibration is None else round(at.calibration, 5),
        )
        for at in (*history[:-1:every], *history[-1:])
    )


def _monai_keys(bundle: Bundle) -> dict[str, Any]:
    """Return what MONAI's metadata schema requires beside the data format."""
    installed = {name: importlib.metadata.version(name) for name in ("monai", "torch", "numpy", "onnxruntime")}
    return {
        "changelog": {bundle.version: "trained"},
        "monai_version": installed["monai"],
        "pytorch_version": installed["torch"].partition("+")[0],
        "numpy_version": installed["numpy"],
        "required_packages_version": {"onnxruntime": installed["onnxruntime"]},
        "name": bundle.name,
        "task": "Features of CT by a variational autoencoder",
        "description": "Encoder and decoder of a VAE; the posterior mean describes a window of a CT scan.",
        "authors": "the ctvae project",
        "copyright": "Apache-2.0; see LICENSE for the origins of the training data",
        "data_source": "; ".join(bundle.training.sources),
        "data_type": "dicom, nifti",
        "intended_use": "Research only. Not for clinical use.",
    }


def _bundle(output: Path, plan: Plan, taps: tuple[TapSpec, ...], wording: Wording, training: TrainingRecord) -> Bundle:
    return Bundle(
        path=output,
        name=output.resolve().name,
        version=wording.version,
        architecture=plan.training.architecture,
        architecture_parameters=plan.training.parameters,
        preprocessing=plan.preprocessing,
        taps=taps,
        weights_sha256="",
        training=training,
    )
