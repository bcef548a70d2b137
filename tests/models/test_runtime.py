"""The encoder gives the same numbers whatever runs it and however many windows it is given."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import runtime
from models.bundle.store import find_bundle, load_bundle
from models.runtime import OnnxEncoder, TorchEncoder, cuda_devices, load_vae, open_encoder
from models.spec import BundleError, TapSpec
from tests.support.bundles import write_small_bundle
from tests.support.checkout import ROOT

ALL = ("mu", "sigma", "stem", "block1", "block2", "dense")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


def windows(n: int, bundle, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 1, *bundle.preprocessing.window_voxels), np.float32)


def test_every_tap_has_the_shape_that_the_bundle_names(bundle):
    got = open_encoder(bundle, "cpu").run(windows(3, bundle), [tap.name for tap in bundle.taps])
    assert {name: (values.shape, values.dtype) for name, values in got.items()} == {
        tap.name: ((3, *tap.shape), np.float32) for tap in bundle.taps
    }


def test_onnx_runtime_and_torch_agree(bundle):
    cpu, other = OnnxEncoder(bundle), TorchEncoder(bundle, "cpu")
    for name, values in cpu.run(windows(4, bundle), ALL).items():
        np.testing.assert_allclose(values, other.run(windows(4, bundle), [name])[name], atol=1e-4, err_msg=name)


def test_onnx_runtime_and_torch_agree_on_the_shipped_bundle():
    shipped = load_bundle(find_bundle())
    for made in (windows(1, shipped), np.zeros_like(windows(1, shipped)), np.ones_like(windows(1, shipped))):
        cpu, other = (
            OnnxEncoder(shipped).run(made, ["mu", "sigma"]),
            TorchEncoder(shipped, "cpu").run(made, ["mu", "sigma"]),
        )
        np.testing.assert_allclose(cpu["mu"], other["mu"], atol=1e-4)
        np.testing.assert_allclose(cpu["sigma"], other["sigma"], atol=1e-4)


@pytest.mark.parametrize("encoder", [OnnxEncoder, lambda bundle: TorchEncoder(bundle, "cpu")], ids=["onnx", "torch"])
def test_many_windows_at_once_give_the_bits_of_one_by_one(bundle, encoder):
    made = windows(5, bundle)
    together = encoder(bundle).run(made, ["mu", "block1"])
    for name, values in together.items():
        single = [encoder(bundle).run(made[at : at + 1], [name])[name] for at in range(5)]
        assert values.tobytes() == np.concatenate(single).tobytes(), name


def test_two_runs_give_identical_bytes(bundle):
    first = open_encoder(bundle, "cpu").run(windows(3, bundle), ALL)
    again = open_encoder(bundle, "cpu").run(windows(3, bundle), ALL)
    assert {name: values.tobytes() for name, values in first.items()} == {n: v.tobytes() for n, v in again.items()}


def test_a_tap_is_the_same_whichever_others_are_asked_for(bundle):
    encoder = open_encoder(bundle, "cpu")
    alone = encoder.run(windows(2, bundle), ["mu"])["mu"]
    assert encoder.run(windows(2, bundle), ALL)["mu"].tobytes() == alone.tobytes()


def test_windows_need_not_be_contiguous(bundle):
    made = windows(4, bundle)
    encoder = open_encoder(bundle, "cpu")
    assert np.array_equal(encoder.run(made[::2], ["mu"])["mu"], encoder.run(made, ["mu"])["mu"][::2])


def test_the_runtime_names_what_computes(bundle):
    assert open_encoder(bundle, "cpu").runtime.split()[::2] == ["onnxruntime", "cpu"]
    assert TorchEncoder(bundle, "cpu").runtime.split()[::2] == ["torch", "cpu"]


def test_encoding_on_the_cpu_does_not_import_torch(bundle):
    code = (
        "import sys, pathlib, numpy; from models.bundle.store import load_bundle; "
        "from models.runtime import open_encoder;"
        "encoder = open_encoder(load_bundle(pathlib.Path(sys.argv[1])), 'cpu');"
        "encoder.run(numpy.zeros((1, 1, 8, 16, 16), numpy.float32), ['mu']); print('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, bundle.path], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_without_a_gpu_auto_is_the_cpu(bundle, monkeypatch):
    monkeypatch.setattr(runtime, "cuda_devices", lambda: 0)
    assert isinstance(open_encoder(bundle), OnnxEncoder)
    assert open_encoder(bundle).fallback is None
    assert open_encoder(bundle, "cpu").fallback is None


def test_a_gpu_that_was_asked_for_and_is_not_there_is_said(bundle, monkeypatch, caplog):
    monkeypatch.setattr(runtime, "cuda_devices", lambda: 0)
    encoder = open_encoder(bundle, "cuda")
    assert isinstance(encoder, OnnxEncoder)
    assert "'cuda' was requested but there is no usable GPU; encoded on the CPU" in encoder.fallback
    assert "encoding on the CPU" in caplog.text


class Gpu:
    """A GPU that this machine need not have: torch on its CPU in its place, with so much memory."""

    def __init__(self, bundle, device, *, runs: int = 10**9):
        self.encoder, self.left = TorchEncoder(bundle, "cpu"), runs
        self.runtime, self.fallback = "torch on a made-up GPU", None

    def run(self, made, taps):
        if self.left == 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.left -= 1
        return self.encoder.run(made, taps)


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.setattr(runtime, "cuda_devices", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return monkeypatch


def test_a_gpu_that_is_there_is_used_and_nothing_is_said(bundle, with_gpu):
    with_gpu.setattr(runtime, "TorchEncoder", Gpu)
    encoder = open_encoder(bundle)
    encoder.run(windows(1, bundle), ["mu"])
    assert (encoder.runtime, encoder.fallback) == ("torch on a made-up GPU", None)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_runs_out_of_memory_leaves_the_rest_to_the_cpu(bundle, with_gpu, caplog, device):
    with_gpu.setattr(runtime, "TorchEncoder", lambda bundle, device: Gpu(bundle, device, runs=1))
    encoder = open_encoder(bundle, device)
    made = windows(2, bundle)
    encoder.run(made, ["mu"])
    assert encoder.fallback is None
    left = encoder.run(made, ["mu"])["mu"]
    assert np.array_equal(left, OnnxEncoder(bundle).run(made, ["mu"])["mu"])
    assert "not have enough free memory; encoded on the CPU" in encoder.fallback
    assert encoder.runtime.startswith("onnxruntime")
    assert "not have enough free memory" in caplog.text


def test_a_gpu_without_memory_for_the_weights_leaves_all_to_the_cpu(bundle, with_gpu):
    def full(bundle, device):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with_gpu.setattr(runtime, "TorchEncoder", full)
    encoder = open_encoder(bundle)
    assert "not have enough free memory" in encoder.fallback
    assert encoder.run(windows(1, bundle), ["mu"])["mu"].shape == (1, 4)


def test_any_other_error_of_a_gpu_is_an_error(bundle, with_gpu):
    class Broken(Gpu):
        def run(self, made, taps):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with_gpu.setattr(runtime, "TorchEncoder", Broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        open_encoder(bundle).run(windows(1, bundle), ["mu"])


def test_a_gpu_that_torch_cannot_use_is_said(bundle, with_gpu):
    with_gpu.setattr(torch.cuda, "is_available", lambda: False)
    assert "cannot use it; encoded on the CPU" in open_encoder(bundle).fallback


def test_a_machine_without_the_driver_has_no_gpus(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(runtime.ctypes, "CDLL", missing)
    assert cuda_devices() == 0


def test_a_driver_that_does_not_start_has_no_gpus(monkeypatch):
    class Driver:
        def cuInit(self, flags):
            return 999  # CUDA_ERROR_UNKNOWN

    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: Driver())
    assert cuda_devices() == 0


@pytest.mark.skipif(cuda_devices() == 0, reason="no GPU")
def test_a_gpu_agrees_with_the_cpu(bundle):
    gpu = open_encoder(bundle, "cuda")
    assert gpu.runtime.startswith("torch")
    made = windows(3, bundle)
    np.testing.assert_allclose(
        gpu.run(made, ["mu"])["mu"], open_encoder(bundle, "cpu").run(made, ["mu"])["mu"], atol=1e-4
    )


@pytest.mark.parametrize("wrong", [(1, 1, 8, 16, 17), (0, 1, 8, 16, 16), (1, 2, 8, 16, 16)])
def test_windows_of_another_shape_are_refused(bundle, wrong):
    for encoder in (OnnxEncoder(bundle), TorchEncoder(bundle, "cpu")):
        with pytest.raises(ValueError, match="expected float32"):
            encoder.run(np.zeros(wrong, np.float32), ["mu"])


@pytest.mark.parametrize("content", [b"", b"no graph", b"\xff" * 100])
def test_an_onnx_file_that_is_none_is_one_clear_line(bundle, tmp_path, content):
    broken = replace(bundle, path=Path(shutil.copytree(bundle.path, tmp_path / "small")))
    broken.onnx_path.write_bytes(content)
    with pytest.raises(BundleError, match=r"cannot use encoder.onnx") as caught:
        open_encoder(broken, "cpu")
    assert "\n" not in str(caught.value)


def test_an_onnx_file_with_weights_elsewhere_is_refused(bundle, tmp_path):
    import onnx

    model = onnx.load(bundle.onnx_path)
    onnx.external_data_helper.convert_model_to_external_data(model, location="elsewhere.bin", size_threshold=0)
    broken = replace(bundle, path=Path(shutil.copytree(bundle.path, tmp_path / "small")))
    onnx.save(model, broken.onnx_path)
    with pytest.raises(BundleError, match="in other files"):
        open_encoder(broken, "cpu")


def test_an_onnx_graph_without_a_tap_of_the_bundle_is_refused(bundle):
    more = replace(bundle, taps=(*bundle.taps, TapSpec("block9", (4,), "none")))
    with pytest.raises(BundleError, match="gives block9 as None"):
        open_encoder(more, "cpu")


def test_an_onnx_graph_of_another_window_is_refused(bundle):
    larger = replace(bundle, preprocessing=replace(bundle.preprocessing, window_voxels=(8, 16, 32)))
    with pytest.raises(BundleError, match="expected 'image'"):
        open_encoder(larger, "cpu")


@pytest.mark.parametrize(
    ("architecture", "parameters", "says"),
    [
        ("ct_vae", {"latents": 5}, "do not fit the architecture"),
        ("ct_vae", {"window_voxels": [16, 16, 16]}, "do not fit|takes"),
        ("question", {}, "do not fit the architecture"),
        ("question", {"window_voxels": [4096, 4096, 4096], "dense": 4096}, "do not fit the architecture"),
        ("transformer", {}, "known are"),
    ],
)
def test_weights_of_another_architecture_are_refused(bundle, architecture, parameters, says):
    parameters = {**bundle.architecture_parameters, **parameters} if architecture == "ct_vae" else parameters
    other = replace(bundle, architecture=architecture, architecture_parameters=parameters)
    with pytest.raises(BundleError, match=says) as caught:
        load_vae(other)
    assert "\n" not in str(caught.value)


def test_the_bundle_of_another_machine_is_the_same_bundle(bundle, tmp_path):
    moved = load_bundle(Path(shutil.copytree(bundle.path, tmp_path / "moved")))
    metadata = json.loads((moved.path / "configs" / "metadata.json").read_text())
    assert metadata["ctvae"]["weights_sha256"] == hashlib.sha256(bundle.weights_path.read_bytes()).hexdigest()
    made = windows(1, bundle)
    assert np.array_equal(
        open_encoder(moved, "cpu").run(made, ["mu"])["mu"], open_encoder(bundle, "cpu").run(made, ["mu"])["mu"]
    )
