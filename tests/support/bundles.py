"""A small bundle with weights from a seed, for tests that need one and not what it has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from models.bundle.export import tap_specs
from models.bundle.store import save_bundle
from models.networks.registry import build_vae
from models.spec import Bundle, Preprocessing
from models.training_record import TrainingRecord
from tests.support.quick_export import quick_decoder_onnx, quick_encoder_onnx

SMALL_WINDOWS = Preprocessing("window", (8, 16, 16), (8.0, 16.0, 16.0), (-1000.0, 1000.0))
SMALL_CT_VAE = {
    "window_voxels": [8, 16, 16],
    "fold": [2, 2, 2],
    "channels": [8, 16],
    "neck": 4,
    "dense": 16,
    "latents": 4,
}


def write_small_bundle(
    path: Path,
    *,
    seed: int = 0,
    version: str = "0.0.1",
    decoder: bool = False,
    outside: Literal["kept", "air"] = "kept",
    outlier: bool = False,
    orientation: bool = False,
) -> Bundle:
    """An untrained `ct_vae` of 8 × 16 × 16 voxels, four latents, with the taps of `ct_vae`.

    Args:
        path: of its folder.
        seed: of the weights.
        version: of the bundle.
        decoder: write decoder.onnx too.
        outside: of its preprocessing.
        outlier: with the tap `outlier`, of the same weights beside it.
        orientation: with the tap `orientation`; likewise.
    """
    parameters = SMALL_CT_VAE | ({"outlier": True} if outlier else {}) | ({"orientation": True} if orientation else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = build_vae("ct_vae", parameters).eval()
    bundle = Bundle(
        path=path,
        name=path.name,
        version=version,
        architecture="ct_vae",
        architecture_parameters=parameters,
        preprocessing=replace(SMALL_WINDOWS, outside=outside),
        taps=tap_specs(vae, SMALL_WINDOWS.spacing_mm),
        weights_sha256="",
        training=TrainingRecord(command="none"),
    )
    weights = {name: tensor.numpy() for name, tensor in vae.state_dict().items()}
    monai = {"monai_version": "1.6.1", "pytorch_version": "2.13.0", "numpy_version": "2.4.6"}
    return save_bundle(
        bundle,
        weights=weights,
        onnx=quick_encoder_onnx(vae),
        decoder=quick_decoder_onnx(vae) if decoder else None,
        card="# untrained\n",
        licence="Apache-2.0\n",
        monai=monai,
    )
