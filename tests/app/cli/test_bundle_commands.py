"""`ctvae bundle …` on a small bundle: what is printed, what is written, and how a wrong call ends."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch

from app.cli import main
from models import runtime
from models.bundle.store import load_bundle
from models.runtime import OnnxEncoder, TorchEncoder, load_vae
from models.spec import arrays_only
from models.training_record import Figures, TrainingRecord
from operators.encode import pool
from operators.make_record import Disclosure, configuration_digest
from operators.results.write_json import features_schema
from operators.sr.read import read_sr
from tests.support.bundles import write_small_bundle
from tests.support.certificates import small_certificate

WINDOW = np.random.default_rng(3).random((8, 16, 16), np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def bundle(made, tmp_path):
    """A copy that may be broken."""
    return replace(made, path=Path(shutil.copytree(made.path, tmp_path / "small")))


@pytest.fixture
def window(tmp_path) -> Path:
    np.save(tmp_path / "window.npy", WINDOW)
    return tmp_path / "window.npy"


def edit(bundle, change) -> None:
    file = bundle.path / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata["ctvae"])
    file.write_text(json.dumps(metadata))


def ctvae(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def error_of(capsys, *arguments: object) -> str:
    """The only line on stderr of a call that could not start."""
    assert ctvae(*arguments) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_the_group_names_its_commands_in_a_line_each(capsys):
    assert ctvae("bundle", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("run", "check", "show", "export", "certify", "reference", "import-torch", "import-keras"):
        assert len([line for line in lines if line.startswith(f"  {name} ")]) == 1
    assert "no command 'frobnicate'; expected one of show" in error_of(capsys, "bundle", "frobnicate")


def test_run_writes_every_tap_as_the_encoder_gives_it(made, window, tmp_path):
    assert ctvae("bundle", "run", made.path, window, "-o", tmp_path / "out" / "taps.npz") == 0
    written = np.load(tmp_path / "out" / "taps.npz", allow_pickle=False)
    expected = OnnxEncoder(made).run(WINDOW[None, None], [tap.name for tap in made.taps])
    assert set(written) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(written[name], values), name


def test_run_pools_what_is_asked_for_and_takes_many_windows(made, tmp_path):
    many = np.random.default_rng(4).random((3, 1, 8, 16, 16), np.float32)
    np.save(tmp_path / "many.npy", many)
    asked = "block2:max,dense,block1:none"
    assert ctvae("bundle", "run", made.path, tmp_path / "many.npy", "-o", tmp_path / "x.npz", "--taps", asked) == 0
    written = np.load(tmp_path / "x.npz", allow_pickle=False)
    given = OnnxEncoder(made).run(many, ["block1", "block2"])
    assert set(written) == {"mu", "sigma", "block2.max", "dense", "block1.none"}
    assert written["dense"].shape == (3, 16)
    assert np.array_equal(written["block2.max"], pool(given["block2"], "max").astype(np.float32))
    assert np.array_equal(written["block1.none"], given["block1"])


@pytest.mark.parametrize("shape", [(1, 8, 16, 16), (1, 1, 8, 16, 16), (1, 8, 16, 16, 1)])
def test_run_takes_windows_as_torch_and_as_keras_have_them(made, tmp_path, shape):
    np.save(tmp_path / "window.npy", WINDOW.reshape(shape))
    assert ctvae("bundle", "run", made.path, tmp_path / "window.npy", "-o", tmp_path / "x.npz", "--taps", "dense") == 0
    expected = OnnxEncoder(made).run(WINDOW[None, None], ["mu"])["mu"]
    assert np.array_equal(np.load(tmp_path / "x.npz")["mu"], expected)


def test_hounsfield_units_in_the_place_of_a_scaled_window_are_warned_of(made, tmp_path, capsys):
    np.save(tmp_path / "window.npy", 2000 * WINDOW - 1000)
    assert ctvae("bundle", "run", made.path, tmp_path / "window.npy", "-o", tmp_path / "x.npz", "--taps", "dense") == 0
    assert "networks here take HU scaled to [0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (WINDOW.astype(np.float64), "the window is float64 (8, 16, 16); expected float32 (8, 16, 16), "),
        (WINDOW[:, :, :8], "the window is float32 (8, 16, 8)"),
        (WINDOW[None, ..., None, None], "the window is float32 (1, 8, 16, 16, 1, 1)"),
        (np.zeros((1, 2, 8, 16, 16), np.float32), "the window is float32 (1, 2, 8, 16, 16)"),
        (np.zeros((0, 1, 8, 16, 16), np.float32), "the window is float32 (0, 1, 8, 16, 16)"),
        (np.full_like(WINDOW, np.nan), "NaN or infinity"),
    ],
)
def test_a_window_that_is_none_is_one_line(made, tmp_path, capsys, array, says):
    np.save(tmp_path / "wrong.npy", array)
    assert says in error_of(capsys, "bundle", "run", made.path, tmp_path / "wrong.npy", "-o", tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_a_file_that_is_no_array_is_one_line(made, tmp_path, capsys):
    call = "bundle", "run", made.path, tmp_path / "window.npy", "-o", tmp_path / "x.npz"
    assert "cannot read the window" in error_of(capsys, *call)
    (tmp_path / "window.npy").write_bytes(b"\x93NUMPY\x01\x00 something")
    assert ".npy file" in error_of(capsys, *call)
    np.save(tmp_path / "window.npy", np.array([{"code": 1}]), allow_pickle=True)
    assert "not a .npy file of numbers" in error_of(capsys, *call)
    np.savez(tmp_path / "window.npz", a=WINDOW)
    (tmp_path / "window.npz").rename(tmp_path / "window.npy")
    assert "several arrays" in error_of(capsys, *call)


def test_a_tap_that_the_bundle_lacks_is_one_line(made, window, tmp_path, capsys):
    call = "bundle", "run", made.path, window, "-o", tmp_path / "x.npz"
    assert "no tap 'block9'" in error_of(capsys, *call, "--taps", "block9")
    assert "cannot be pooled by 'median'" in error_of(capsys, *call, "--taps", "block1:median")


def test_a_bundle_of_arrays_alone_runs_on_arrays_and_encode_refuses_it(bundle, window, tmp_path, phantom_ct, capsys):
    edit(bundle, lambda own: own.update(preprocessing=arrays_only((8, 16, 16)).parameters()))
    assert ctvae("bundle", "run", bundle.path, window, "-o", tmp_path / "x.npz") == 0
    assert ctvae("bundle", "check", bundle.path) == 0
    capsys.readouterr()
    said = error_of(capsys, "encode", phantom_ct, "-o", tmp_path / "out", "-m", bundle.path)
    assert "ARRAYS_ONLY: the bundle does not define how a scan becomes windows" in said
    said = error_of(capsys, "export", phantom_ct, "-o", tmp_path / "out", "-m", bundle.path, "--windows")
    assert "ARRAYS_ONLY" in said


def test_check_answers_one_question_per_line_and_refuses_one_blob(made, capsys):
    """The weights are from a seed: whatever is shown, the same is reconstructed."""
    assert ctvae("bundle", "check", made.path, "--force") == 0
    said = capsys.readouterr()
    assert said.err == ""
    marks = [line.split()[0] for line in said.out.splitlines()]
    assert marks == ["good", "good", "good", "-", "good", "good", "BAD", "good", "-"]
    assert ctvae("bundle", "check", made.path, "--force", "--json") == 0
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    assert [one["question"] for one in verdicts if one["good"] is None] == ["golden decoder", "active units"]
    said = error_of(capsys, "bundle", "check", made.path)
    assert "BUNDLE_REFUSED: small 0.0.1: reconstruction: those of four phantoms differ as the phantoms do with" in said
    assert "they are one blob; --force accepts it" in said


def test_check_refuses_a_collapsed_bundle_unless_it_is_forced(bundle, capsys):
    figures = Figures(windows=9, mae_hu=100.0, mae_body_hu=200.0, active=1, kl=(2.0, 0.0, 0.0, 0.0))
    edit(bundle, lambda own: own.update(training=TrainingRecord(figures=figures).as_json()))
    said = error_of(capsys, "bundle", "check", bundle.path)
    assert "active units: 1 of 4 units are active" in said
    assert "--force" in said
    assert ctvae("bundle", "check", bundle.path, "--force") == 0


def test_check_refuses_an_encoder_that_is_not_that_of_the_weights(bundle, tmp_path, capsys):
    other = write_small_bundle(tmp_path / "other", seed=1)
    bundle.onnx_path.write_bytes(other.onnx_path.read_bytes())
    edit(bundle, lambda own: own.update(onnx_sha256=other.onnx_sha256))
    said = error_of(capsys, "bundle", "check", bundle.path, "--force")
    assert "golden values" in said
    assert "torch: largest difference" in said


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_bundle_that_does_not_load_is_one_line(bundle, command, capsys):
    bundle.onnx_path.write_bytes(b"other")
    assert "models/encoder.onnx has SHA-256" in error_of(capsys, "bundle", command, bundle.path)
    edit(bundle, lambda own: own.update(format_version=2))
    assert "this ctvae reads version 1" in error_of(capsys, "bundle", command, bundle.path)


def test_show_says_what_the_bundle_is(made, capsys):
    assert ctvae("bundle", "show", made.path) == 0
    said = capsys.readouterr().out
    assert "small 0.0.1, weights " in said
    assert "windows of 8 × 16 × 16 voxels of 8 × 16 × 16 mm, overlap 0.5, -1000 to 1000 HU" in said
    assert "certificate    none" in said
    vae = load_vae(made).requires_grad_()
    sum(values.sum() for values in vae.encode(torch.from_numpy(WINDOW)[None, None])).backward()
    counted = sum(weight.numel() for weight in vae.parameters() if weight.grad is not None)
    assert f"{counted:,} weights in its encoder" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.startswith(" " * 15)}
    assert list(rows) == [tap.name for tap in made.taps]
    assert "64 × 128 × 128" not in rows["stem"]
    assert rows["block1"].split()[1:3] == ["8", "mean"]


def test_show_as_json_has_the_taps_and_the_certificate(bundle, capsys):
    document = small_certificate().as_json()
    (bundle.path / "docs" / "certificate.json").write_text(json.dumps(document))
    assert ctvae("bundle", "show", bundle.path, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["certificate"] == json.loads(json.dumps(document))
    assert [tap["name"] for tap in shown["taps"]] == [tap.name for tap in bundle.taps]
    assert ctvae("bundle", "show", bundle.path) == 0
    assert "certificate    9 windows of 3 patients: mean probe R² 0.500, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema_version": 1}', "certificate.json is not as this ctvae writes it: bundle is missing; certify"),
        ("[]", "the record is []; expected an object"),
        ("{", "certificate.json is not JSON"),
    ],
)
def test_a_damaged_certificate_is_named_and_does_not_hide_the_bundle(bundle, capsys, text, says):
    (bundle.path / "docs" / "certificate.json").write_text(text)
    assert ctvae("bundle", "show", bundle.path) == 0
    shown = capsys.readouterr().out
    assert says in shown and "preprocessing  windows of" in shown
    assert ctvae("bundle", "show", bundle.path, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["certificate"] is None and says in shown["certificate_error"]
    assert ctvae("bundle", "check", bundle.path, "--force") == 0
    assert says in capsys.readouterr().out


@pytest.mark.usefixtures("quick_export")
def test_export_writes_encoder_and_decoder_that_agree_with_torch_and_replaces_its_own(made, tmp_path, capsys):
    exported = tmp_path / "onnx"
    for _ in range(2):
        assert ctvae("bundle", "export", made.path, "-o", exported) == 0
        assert "decoder.onnx" in capsys.readouterr().out
    expected = TorchEncoder(made, "cpu").run(WINDOW[None, None], ["mu", "block2"])
    encoder = onnxruntime.InferenceSession(exported / "encoder.onnx", providers=["CPUExecutionProvider"])
    for name, values in expected.items():
        np.testing.assert_allclose(encoder.run([name], {"image": WINDOW[None, None]})[0], values, atol=1e-5)
    decoder = onnxruntime.InferenceSession(exported / "decoder.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        decoded = load_vae(made).decode(torch.from_numpy(expected["mu"])).numpy()
    np.testing.assert_allclose(decoder.run(None, {"z": expected["mu"]})[0], decoded, atol=1e-5)


@pytest.mark.usefixtures("quick_export")
def test_export_replaces_no_file_of_others(made, tmp_path, capsys):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "decoder.onnx").write_text("mine")
    said = error_of(capsys, "bundle", "export", made.path, "-o", tmp_path / "onnx")
    assert "OUTPUT_IN_THE_WAY: decoder.onnx in the output folder is a different file" in said
    assert [file.name for file in (tmp_path / "onnx").iterdir()] == ["decoder.onnx"]


@pytest.mark.usefixtures("quick_export")
def test_what_export_cannot_write_is_one_line(made, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "OUTPUT_UNWRITABLE" in error_of(capsys, "bundle", "export", made.path, "-o", tmp_path / "file")


def test_a_written_tap_grid_stands_in_a_file_beside_the_features(made, phantom_ct, tmp_path, capsys):
    call = "encode", phantom_ct, "-o", tmp_path, "-m", made.path, "--device", "cpu"
    assert ctvae(*call, "--taps", "block1:max,block2:flatten,block1:none") == 0
    features = json.loads(next(tmp_path.glob("*/features.json")).read_text())
    jsonschema.validate(features, json.loads(features_schema()))
    taps = features["taps"]
    assert {name: (tap["pooling"], tap["length"]) for name, tap in taps.items()} == {
        "mu": ("none", 4),
        "sigma": ("none", 4),
        "block1.max": ("max", 8),
        "block2.flatten": ("flatten", 16 * 2 * 4 * 4),
        "block1.none": ("none", 8 * 4 * 8 * 8),
    }
    assert len(taps["block2.flatten"]["values"]) == 512
    file = next(tmp_path.glob("*/features.block1.none.npz"))
    assert taps["block1.none"]["file"]["name"] == file.name
    arrays = np.load(file, allow_pickle=False)
    assert arrays["values"].shape == (8, 4, 8, 8)
    assert arrays["windows"].shape == (len(taps["mu"]["windows"]), 8, 4, 8, 8)
    np.testing.assert_allclose(arrays["windows"].mean(axis=0), arrays["values"], atol=1e-6)
    stored = hashlib.sha256(arrays["values"].tobytes()).hexdigest()
    assert stored == taps["block1.none"]["file"]["values_sha256"]
    report = read_sr(next(tmp_path.glob("*/features.sr.dcm")))
    assert report.taps["block1.max"].tolist() == [np.float32(value) for value in taps["block1.max"]["values"]]
    assert report.unlisted["block1.none"].sha256 == stored
    assert ctvae(*call) == 0
    assert not file.exists()


def test_the_same_taps_give_the_same_bytes(made, phantom_ct, tmp_path):
    for folder in ("first", "again"):
        call = "encode", phantom_ct, "-o", tmp_path / folder, "-m", made.path, "--device", "cpu"
        assert ctvae(*call, "--taps", "block1:none,stem:std") == 0
    for file in sorted((tmp_path / "first").glob("*/features.*")):
        again = tmp_path / "again" / file.relative_to(tmp_path / "first")
        assert again.read_bytes() == file.read_bytes(), file.name


def test_a_pooling_is_part_of_the_configuration_that_the_job_key_stands_for(made):
    poolings = [("mu", "sigma"), ("mu", "sigma", "block1"), ("mu", "sigma", "block1.max")]
    other = replace(made, taps=tuple(replace(t, pooling="std") if t.name == "block1" else t for t in made.taps))
    digests = [configuration_digest(made, taps, Disclosure()) for taps in poolings]
    assert len({*digests, configuration_digest(other, poolings[1], Disclosure())}) == 4
    assert configuration_digest(other, poolings[0], Disclosure()) == digests[0]


def test_a_gpu_that_is_not_there_is_a_finding_in_what_is_written(made, phantom_ct, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "cuda_devices", lambda: 0)
    for device, codes in (("cuda", ["ENCODED_ON_CPU"]), ("auto", []), ("cpu", [])):
        out = tmp_path / device
        assert ctvae("encode", phantom_ct, "-o", out, "-m", made.path, "--device", device) == 0
        features = json.loads(next(out.glob("*/features.json")).read_text())
        assert [one["code"] for one in features["findings"] if "CPU" in one["code"]] == codes
        outcome = json.loads((out / "outcome.json").read_text())["series"][0]
        assert [one["code"] for one in outcome["findings"] if "CPU" in one["code"]] == codes


def test_a_gpu_without_enough_memory_is_a_finding_in_what_is_written(made, phantom_ct, tmp_path, monkeypatch):
    class Full:
        runtime, fallback = "torch on a made-up GPU", None

        def __init__(self, bundle, device):
            pass

        def run(self, windows, taps):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runtime, "cuda_devices", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "TorchEncoder", Full)
    assert ctvae("encode", phantom_ct, "-o", tmp_path, "-m", made.path) == 0
    features = json.loads(next(tmp_path.glob("*/features.json")).read_text())
    (finding,) = [one for one in features["findings"] if one["code"] == "ENCODED_ON_CPU"]
    assert finding["detail"].startswith("the GPU does not have enough free memory; encoded on the CPU")
    assert features["model"]["runtime"].startswith("onnxruntime")


def test_loading_the_written_bundle_again_gives_the_same(made):
    assert load_bundle(made.path) == made
