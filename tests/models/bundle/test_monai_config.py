"""A bundle is one of MONAI's to MONAI's own tools, and gives them the same mu."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from app import encode
from models.bundle.monai_config import MANDATORY, TENSOR, inference_config, missing_keys
from models.monai_network import posterior_mean, series_mu
from models.runtime import OnnxEncoder
from models.spec import arrays_only
from models.statistics.body import patient_mask
from tests.support.bundles import write_small_bundle
from tests.support.checkout import ROOT

# Of "MONAI Bundle Specification" (MONAI's docs, mb_specification.rst): mandatory keys, and what a tensor must say. The
# schema that MONAI publishes is on the network alone; it is not copied here.
TENSOR_SCHEMA = {
    "type": "object",
    "required": list(TENSOR),
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": {"enum": ["magnitude", "hounsfield", "raw", "labels", "classes", "segmentation", "latent"]},
        "modality": {"type": "string"},
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
    },
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": list(MANDATORY),
    "properties": {
        **{key: {"type": "string", "minLength": 1} for key in MANDATORY if not key.endswith(("_package", "_format"))},
        "optional_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                "inputs": {"type": "object", "required": ["image"], "additionalProperties": TENSOR_SCHEMA},
                "outputs": {"type": "object", "required": ["pred"], "additionalProperties": TENSOR_SCHEMA},
            },
        },
    },
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def monais():
    """MONAI's commands as its functions, which raise where something is wrong; their warnings are MONAI's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import scripts

        yield scripts


def write_scan(file: Path, shape: tuple[int, int, int], seed: int = 0, air_rows: int = 0) -> np.ndarray:
    """A NIfTI of 8 × 16 × 16 mm voxels, as the small bundle's windows are; its HU (z, y, x) to head, back and left.

    The last rows are noisy air.
    """
    hu = np.random.default_rng(seed).integers(-1200, 1200, shape).astype(np.int16)
    hu[:, shape[1] - air_rows :] = hu[:, shape[1] - air_rows :] // 8 - 900
    affine = np.array([[-16.0, 0, 0, 100], [0, -16, 0, 50], [0, 0, 8, -30], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(hu.transpose(2, 1, 0), affine), file)
    return hu


def test_verify_metadata_passes_and_can_fail(bundle, tmp_path, monais):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    metadata = bundle.path / "configs" / "metadata.json"
    monais.verify_metadata(meta_file=str(metadata), filepath=str(tmp_path / "schema.json"))
    wrong = json.loads(metadata.read_text())
    del wrong["network_data_format"]["outputs"]["pred"]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="'pred' is a required property"):
        monais.verify_metadata(meta_file=str(tmp_path / "wrong.json"), filepath=str(tmp_path / "schema.json"))


def test_what_is_missing_of_the_specification_is_named(bundle):
    metadata = json.loads((bundle.path / "configs" / "metadata.json").read_text())
    assert missing_keys(metadata) == []
    del metadata["authors"], metadata["network_data_format"]["outputs"]["mu"]["modality"]
    assert missing_keys(metadata) == ["authors", "outputs.mu.modality"]
    assert "inputs.image" in missing_keys({"network_data_format": None})


def test_verify_net_in_out_passes_and_can_fail(bundle, monkeypatch, monais):
    monkeypatch.chdir(bundle.path)
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    monais.verify_net_in_out(net_id="network_def", **files)
    channels = {"_meta_#network_data_format#outputs#pred#num_channels": 5}
    with pytest.raises(ValueError, match="output channel number `4` doesn't match: `5`"):
        monais.verify_net_in_out(net_id="network_def", **files, **channels)


@pytest.mark.parametrize("outside", ["kept", "air"])
def test_monais_run_gives_the_same_mu_on_a_nifti_file(outside, tmp_path):
    """On a scan of the bundle's own spacing: what resamples otherwise, MONAI's linear Spacing, has nothing to do."""
    bundle = write_small_bundle(tmp_path / "small", outside=outside)
    hu = write_scan(tmp_path / "scan.nii.gz", (21, 14, 18), air_rows=5)
    assert 0.2 < patient_mask(hu[:, :, 1:17], (8.0, 16.0, 16.0)).mean() < 0.8
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "monai.bundle", "run", "--config_file", bundle.path / "configs" / "inference.json"]
    line += ["--bundle_root", bundle.path, "--image", "scan.nii.gz", "--output", "mu.npy"]
    ended = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (record,) = encode(tmp_path / "scan.nii.gz", model=bundle.path, device="cpu")
    assert len(record.taps["mu"].windows) == 5
    np.testing.assert_allclose(np.load(tmp_path / "mu.npy"), record.taps["mu"].values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 16, 16), (6, 20, 20), (40, 16, 12)])
def test_a_scan_is_cut_and_filled_up_as_encode_does_it(bundle, tmp_path, shape):
    hu = write_scan(tmp_path / "scan.nii.gz", shape, seed=1)
    scaled = torch.from_numpy(np.clip((hu.astype(np.float32) + 1000) / 2000, 0, 1))
    mu = series_mu(posterior_mean(str(bundle.path)), scaled[None], (8, 16, 16), 0.5)
    (record,) = encode(tmp_path / "scan.nii.gz", model=bundle.path, device="cpu")
    np.testing.assert_allclose(mu, record.taps["mu"].values, rtol=1e-5, atol=1e-5)


def test_the_configuration_of_a_bundle_of_arrays_alone_takes_a_window(bundle, tmp_path, monkeypatch, monais):
    monkeypatch.chdir(tmp_path)
    alone = replace(bundle, preprocessing=arrays_only((8, 16, 16)))
    config = json.loads(inference_config(alone))
    assert "preprocessing" not in config
    window = np.random.default_rng(0).random((8, 16, 16), np.float32)
    np.save(tmp_path / "window.npy", window)
    (tmp_path / "inference.json").write_bytes(inference_config(alone))
    places = {"bundle_root": str(bundle.path), "image": "window.npy", "output": "mu.npy"}
    monais.run(config_file="inference.json", **places)
    expected = OnnxEncoder(bundle).run(window[None, None], ["mu"])["mu"][0]
    np.testing.assert_allclose(np.load(tmp_path / "mu.npy"), expected, rtol=1e-5, atol=1e-5)
