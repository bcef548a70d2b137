"""What makes a bundle a MONAI bundle for others: descriptive keys of the metadata, and `configs/inference.json`."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from models.spec import Bundle

INFERENCE = "configs/inference.json"

MANDATORY = (
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "optional_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
TENSOR = (
    "type",
    "format",
    "modality",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
    "is_patch_data",
    "channel_def",
)

_INSTALLED = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


def monai_defaults(bundle: Bundle) -> dict[str, Any]:
    """Return defaults for MONAI's mandatory keys ("MONAI Bundle Specification")."""
    return {
        **{key: _version(package) for key, package in _INSTALLED.items()},
        "required_packages_version": {"safetensors": _version("safetensors")},
        "optional_packages_version": {"onnxruntime": _version("onnxruntime"), "nibabel": _version("nibabel")},
        "changelog": {bundle.version: "written"},
        "name": bundle.name,
        "task": "Features of CT by a variational autoencoder",
        "description": "Encoder of a VAE; the posterior mean describes a window of a CT scan.",
        "authors": "the ctvae project",
        "copyright": "see LICENSE",
        "intended_use": "Research only. Not for clinical use.",
    }


def missing_keys(metadata: Mapping[str, Any]) -> list[str]:
    """Return the keys that MONAI's specification makes mandatory and the metadata lack, each by its path."""
    missing = [key for key in MANDATORY if key not in metadata]
    data_format = metadata.get("network_data_format")
    for direction, least in (("inputs", "image"), ("outputs", "pred")):
        tensors = data_format.get(direction, {}) if isinstance(data_format, dict) else {}
        missing += [] if least in tensors else [f"{direction}.{least}"]
        for name, tensor in tensors.items():
            missing += [f"{direction}.{name}.{key}" for key in TENSOR if key not in tensor]
    return missing


def inference_config(bundle: Bundle) -> bytes:
    """Return `configs/inference.json` for `python -m monai.bundle run`: from a NIfTI file to mu of the series.

    It needs monai, torch, nibabel, the bundle and this package `models`. Its transforms are MONAI's, which resample by
    linear interpolation; ctvae takes the mean over the new voxel where voxels get larger, and centres to half a voxel.
    On a scan with the bundle's spacing whose size differs from a window by an even number of voxels, the two agree. A
    bundle that accepts only arrays gets a window as a .npy file.

    Options are overridden in MONAI's way: `--image scan.nii.gz --output mu.npy --bundle_root BUNDLE`.
    """
    settings = bundle.preprocessing
    arrays = bundle.arrays_only
    config: dict[str, Any] = {
        "imports": ["$import numpy", "$import torch", "$from models.monai_network import series_mu"],
        "bundle_root": ".",
        "image": "window.npy" if arrays else "image.nii.gz",
        "output": "mu.npy",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "models.monai_network.posterior_mean", "bundle_root": "@bundle_root"},
        "network": "$@network_def.to(@device)",
    }
    if arrays:
        config["window"] = "$torch.from_numpy(numpy.load(@image, allow_pickle=False)).reshape(1, *@window_voxels)"
    else:
        config["preprocessing"] = {"_target_": "Compose", "transforms": _transforms(bundle)}
        config["window"] = "$@preprocessing(@image)"
    config |= {
        "window_voxels": list(settings.window_voxels),
        "overlap": settings.overlap,
        "mu": "$series_mu(@network, @window, @window_voxels, @overlap)",
        "run": ["$numpy.save(@output, @mu)"],
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _transforms(bundle: Bundle) -> list[dict[str, Any]]:
    """Return MONAI's transforms from a file to (1, z, y, x) in [0, 1], axes towards head, back and left."""
    settings = bundle.preprocessing
    low, high = settings.window_hu
    to_grid: dict[str, Any] = {
        "_target_": "Resize",
        "spatial_size": list(settings.window_voxels),
        "mode": "area",
    }
    if settings.spacing_mm is not None:
        to_grid = {
            "_target_": "Spacing",
            "pixdim": list(settings.spacing_mm),
            "mode": "bilinear",
            "padding_mode": "border",
        }
    outside = {
        "_target_": "models.monai_network.OutsideAir",
        "window_voxels": list(settings.window_voxels),
        "air_hu": low,
    }
    sides = [["L", "R"], ["P", "A"], ["I", "S"]]  # the meaning of MONAI's letters in its own RAS
    return [
        {"_target_": "LoadImage", "image_only": True, "ensure_channel_first": True},
        {"_target_": "Orientation", "axcodes": "SPL", "labels": sides},
        to_grid,
        *([outside] if settings.outside == "air" else []),
        {
            "_target_": "ScaleIntensityRange",
            "a_min": low,
            "a_max": high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "0"
