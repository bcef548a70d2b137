"""A bundle from a Keras encoder: its card states the origin, and what is not known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle.export import encoder_onnx, tap_specs
from models.bundle.golden import golden_input
from models.bundle.store import save_bundle
from models.importers.keras.read import KerasImport, head_warnings
from models.networks.vae import Size, Vae
from models.phantom import phantom_windows
from models.spec import Bundle, Preprocessing
from models.training_record import Imported, TrainingRecord

LICENCE = "The weights came from a Keras file; their licence is that of whoever trained them, and of the data.\n"


def write_keras_bundle(
    imported: KerasImport, output: Path, preprocessing: Preprocessing, *, source: Path, version: str = "0.1.0"
) -> tuple[Bundle, tuple[str, ...]]:
    """Write the bundle to `output`, whose name becomes the bundle's.

    Args:
        imported: result of `read_keras`.
        output: the bundle's folder; an existing bundle is replaced.
        preprocessing: how a scan becomes a window, or `arrays_only(…)` if nobody knows.
        source: the Keras file, for its SHA-256.
        version: version of the bundle.

    Returns:
        The bundle, and what its users must know, one sentence each.

    Raises:
        BundleError: the weights do not fit, or the folder cannot be written.
    """
    vae = imported.vae()
    with source.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    warnings = (*imported.warnings, *_measured_warnings(imported, vae, preprocessing))
    count = sum(array.size for array in imported.weights.values())
    bundle = Bundle(
        path=output,
        name=output.resolve().name,
        version=version,
        architecture=imported.architecture,
        architecture_parameters=imported.parameters,
        preprocessing=preprocessing,
        taps=tap_specs(vae, preprocessing.spacing_mm),
        weights_sha256="",
        training=TrainingRecord(
            command="ctvae bundle import-keras",
            imported=Imported("keras", sha256),
            encoder_parameters=int(count),
            warnings=tuple(warnings),
        ),
    )
    monai = {"description": "Encoder of a VAE that was trained in Keras, with its own weights."}
    card = _card(bundle, warnings, count)
    weights = {name: np.ascontiguousarray(array) for name, array in imported.weights.items()}
    written = save_bundle(bundle, weights=weights, onnx=encoder_onnx(vae), card=card, licence=LICENCE, monai=monai)
    return written, warnings


def probe_windows(window_voxels: Size, window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """Return windows to test the heads on, float32 (5, 1, d, h, w) in [0, 1]: four phantoms and the self-test input."""
    return np.concatenate([golden_input(window_voxels), phantom_windows(window_voxels, window_hu)])


def _measured_warnings(imported: KerasImport, vae: Vae, preprocessing: Preprocessing) -> tuple[str, ...]:
    if not any(imported.relu_heads):
        return ()
    import torch

    window_hu = (-1000.0, 1000.0) if preprocessing.fit == "array" else preprocessing.window_hu
    with torch.inference_mode():
        windows = probe_windows(preprocessing.window_voxels, window_hu)
        mu = torch.cat([vae.encode(torch.from_numpy(window[None]))[0] for window in windows]).numpy()
    return head_warnings(imported, mu, "four chest phantoms and the self-test input")


def _card(bundle: Bundle, warnings: tuple[str, ...], parameters: int) -> str:
    """Return `docs/README.md`."""
    settings = bundle.preprocessing
    grid = " × ".join(map(str, settings.window_voxels))
    if bundle.arrays_only:
        given = (
            "How a scan became one is not recorded: it runs on arrays (`ctvae bundle run`), and `encode` refuses it."
        )
    else:
        low, high = settings.window_hu
        how = "the whole scan resized" if settings.spacing_mm is None else f"{settings.spacing_mm} mm a voxel"
        given = f"As whoever imported it says: {how}, HU from {low:g} to {high:g} scaled to 0 to 1."
    taps = "\n".join(f"| `{tap.name}` | {' × '.join(map(str, tap.shape))} | {tap.pooling} |" for tap in bundle.taps)
    limits = "".join(f"- {warning}.\n" for warning in warnings)
    return f"""\
# {bundle.name} {bundle.version}

The encoder of a variational autoencoder, trained in Keras by others, with its own weights: {parameters} parameters,
architecture `{bundle.architecture}`, no decoder.
**For research only. Not for clinical use; not validated for any task.**

It takes a window of {grid} voxels (z, y, x) in [0, 1]. {given}

| tap | shape | pooling |
|---|---|---|
{taps}

## Limits

- What it was trained on is not known to this project; `ctvae bundle certify` measures what its features are good for.
{limits}"""
