"""Encoders that Keras saved, read without it, against what it computed with them (data/make_keras_fixtures.py)."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from models.bundle.export import tap_specs
from models.bundle.store import load_bundle
from models.importers.keras.read import KerasImport, head_warnings, read_keras
from models.networks.keras_layers import same_pads
from models.networks.registry import build_vae
from models.runtime import OnnxEncoder, load_vae
from models.spec import BundleError, Preprocessing, arrays_only
from tests.support.checkout import ROOT

DATA = ROOT / "tests" / "data"
EXPECTED = {
    key: values
    for file in ("keras_expected.npz", "keras2_expected.npz", "keras_heads_expected.npz")
    for key, values in np.load(DATA / file).items()
}
LINEAR = {"heads": "linear", "window_voxels": (8, 16, 24)}
FILES: dict[str, dict[str, Any]] = {
    "keras_question.keras": {},
    "keras_question.h5": {},
    "keras_question.weights.h5": LINEAR,
    "keras_question_relu.keras": {},
    "keras_question_relu.weights.h5": LINEAR | {"heads": "relu"},
    "keras_sibling.keras": {},
    "keras_sibling.h5": {},
    "keras_nested.keras": {},
    "keras_nested.h5": {},
    "keras_lambda_end.keras": {},
    "keras2_question.h5": {},
    "keras2_question_weights.h5": LINEAR,
    "keras2_sibling.keras": {},
    "keras2_sibling.h5": {},
    "keras2_nested.h5": {},
    "keras_named_outputs.keras": {},
    "keras_named_outputs_nested.keras": {},
}


def expected_of(file: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(windows, mu, log-variance) of Keras."""
    name = file.split(".")[0].removesuffix("_weights")
    windows = torch.from_numpy(EXPECTED[f"{name}/voxels"].astype(np.float32) / 255)[:, None]
    return windows, EXPECTED[f"{name}/mu"], EXPECTED[f"{name}/logvar"]


def edited(tmp_path: Path, change: Callable[[dict[str, Any]], None], file: str = "keras_question.keras") -> Path:
    """A copy of a .keras file with its configuration changed."""
    with zipfile.ZipFile(DATA / file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    made = tmp_path / "edited.keras"
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made


def layer(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in config["config"]["layers"] if entry["name"] == name)


def names_of(config: dict[str, Any], kind: str) -> list[str]:
    return [entry["name"] for entry in config["config"]["layers"] if entry["class_name"] == kind]


@pytest.mark.parametrize("file", FILES)
def test_mu_and_log_variance_are_those_of_keras(file):
    windows, mu, logvar = expected_of(file)
    with torch.inference_mode():
        got_mu, got_logvar = read_keras(DATA / file, **FILES[file]).vae().encode(windows)
    bound = 1e-5 * max(1.0, float(np.abs(mu).max()))
    np.testing.assert_allclose(got_mu.numpy(), mu, rtol=0, atol=bound)
    np.testing.assert_allclose(got_logvar.numpy(), logvar, rtol=0, atol=bound)


def test_the_expected_values_differ_between_the_two_windows_and_between_the_models():
    for name in {key.split("/")[0] for key in EXPECTED} - {"keras_question_relu"}:
        first, second = EXPECTED[f"{name}/mu"]
        assert np.abs(first - second).max() > 1e-3, name
    assert np.abs(EXPECTED["keras_question/mu"] - EXPECTED["keras2_question/mu"]).max() > 1e-2


def test_a_file_that_says_how_its_layers_are_joined_has_a_tap_for_each_of_them():
    imported = read_keras(DATA / "keras_question.keras")
    assert imported.architecture == "keras"
    assert [step["kind"] for step in imported.parameters["steps"]][-4:] == ["reshape", "dense", "dense", "dense"]


def test_every_layer_on_the_way_is_a_tap_and_a_dead_branch_is_none(tmp_path):
    def branch(config):
        # As in the question's own code: a Reshape to a size that is impossible, and that leads nowhere.
        dead = json.loads(json.dumps(layer(config, names_of(config, "Flatten")[0])))
        dead |= {"name": "dead", "class_name": "Reshape"}
        dead["config"] = {"name": "dead", "target_shape": [8, 8, 96]}
        config["config"]["layers"].insert(-2, dead)
        layer(config, names_of(config, "Dense")[0])["config"]["activation"] = "tanh"

    vae = read_keras(edited(tmp_path, branch)).vae()
    assert vae.tap_names[:2] == ("mu", "sigma")
    assert len(vae.tap_names) == 2 + 3 + 3 + 1 + 1  # mu, sigma, convolutions, poolings, flatten, dense
    assert "dead" not in vae.tap_names


def test_taps_of_a_graph_are_those_of_its_steps():
    vae = read_keras(DATA / "keras_sibling.keras").vae()
    windows, mu, logvar = expected_of("keras_sibling.keras")
    with torch.inference_mode():
        taps = vae.taps(windows, ("sigma", "mu", "sum_of_two", "norm"))
        again = vae.taps(windows, ("activation", "concatenate", "sum_of_two"))
    np.testing.assert_allclose(taps["mu"], mu, atol=1e-5)
    np.testing.assert_allclose(taps["sigma"], np.exp(0.5 * logvar), atol=1e-5)
    assert torch.equal(torch.cat([again["sum_of_two"], again["activation"]], 1), again["concatenate"])
    assert taps["norm"].shape == (2, 4, 5, 7, 6)


def test_a_receptive_field_is_what_a_changed_voxel_can_reach():
    vae = read_keras(DATA / "keras_sibling.keras").vae()
    specs = {spec.name: spec for spec in tap_specs(vae, (1.0, 1.0, 1.0))}
    # kernel (2, 3, 4), stride 2; average over 2 of it, stride (1, 2, 1); 3 with dilation 2 reaches 4 further
    assert specs["average_pooling3d"].receptive_field_mm == (4.0, 5.0, 6.0)
    assert specs["sum_of_two"].receptive_field_mm == (9.0, 14.0, 11.0)  # 12, 21, 14 voxels, and the window has these
    assert specs["re_lu"].receptive_field_mm is None


@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_makes_as_many_places_as_tensorflow_and_puts_the_odd_voxel_after(size, kernel, stride):
    (before, after), *_ = same_pads((size,) * 3, (kernel,) * 3, (stride,) * 3)
    assert (size + before + after - kernel) // stride + 1 >= -(-size // stride)
    assert after - before in (0, 1)
    assert before + after == max((-(-size // stride) - 1) * stride + kernel - size, 0)


def test_weights_that_belong_to_another_layer_are_not_taken(tmp_path):
    def swap(config):
        for one in [layer(config, name) for name in ("z_mean", "z_log_var")]:
            one["name"] = one["config"]["name"] = {"z_mean": "z_log_var", "z_log_var": "z_mean"}[one["name"]]

    with pytest.raises(BundleError, match="belong to 'z_mean', not 'z_log_var'"):
        read_keras(edited(tmp_path, swap))


def test_a_sampling_layer_that_contradicts_the_names_is_an_error(tmp_path):
    def change(config):
        tensors = layer(config, "sampling")["inbound_nodes"][0]["args"][0]
        tensors[0]["config"]["keras_history"][0] = names_of(config, "Dense")[0]

    with pytest.raises(BundleError, match="--mu NAME --logvar NAME"):
        read_keras(edited(tmp_path, change, "keras_question_relu.keras"))


def test_heads_can_be_named():
    swapped = read_keras(DATA / "keras_question.keras", mu="z_log_var", logvar="z_mean").vae()
    windows, _, logvar = expected_of("keras_question.keras")
    with torch.inference_mode():
        got, _ = swapped.encode(windows)
    np.testing.assert_allclose(got, logvar, atol=1e-5)
    with pytest.raises(BundleError, match="0 layers are called 'latent'"):
        read_keras(DATA / "keras_question.keras", mu="latent", logvar="z_mean")


def test_heads_without_usual_names_or_a_sampling_layer_are_asked_for(tmp_path):
    def rename(config):
        config["config"]["layers"] = [e for e in config["config"]["layers"] if e["class_name"] != "Sampling"]

    with pytest.raises(BundleError, match="give --mu NAME --logvar NAME"):
        read_keras(edited(tmp_path, rename, "keras_sibling.keras"))


def test_an_encoder_without_a_log_variance_has_a_sigma_of_0_and_says_so():
    imported = read_keras(DATA / "keras_mean.keras")
    windows = torch.from_numpy(EXPECTED["keras_mean/voxels"].astype(np.float32) / 255)[:, None]
    with torch.inference_mode():
        taps = imported.vae().taps(windows, ("mu", "sigma"))
    np.testing.assert_allclose(taps["mu"], EXPECTED["keras_mean/mu"], atol=1e-5)
    assert (taps["sigma"] == 0).all()
    assert "no log-variance" in imported.warnings[0]


def test_what_is_known_of_the_heads_is_not_asked_for(tmp_path):
    def rename(config):
        entry = layer(config, "z_mean")
        entry["name"] = entry["config"]["name"] = "code"
        config["config"]["output_layers"] = [["code", 0, 0]]

    made = edited(tmp_path, rename, "keras_mean.keras")
    with pytest.raises(BundleError, match="give --mu NAME --logvar NAME"):
        read_keras(made)
    with pytest.raises(BundleError, match=r"which layer gives mu is unclear; give --mu NAME \("):
        read_keras(made, logvar="none")

    def two(config):
        rename(config)
        config["config"]["output_layers"].append([names_of(config, "GlobalAveragePooling3D")[0], 0, 0])

    with pytest.raises(
        BundleError, match=r"^which layer gives the log-variance .* give --logvar NAME, or --logvar none"
    ):
        read_keras(edited(tmp_path, two, "keras_mean.keras"), mu="code")


@pytest.mark.parametrize("file", ["m_subclassed.weights.h5", "m_subclassed_full.keras"])
def test_a_subclassed_model_is_named_as_one_with_what_to_save(shared_fault, file):
    with pytest.raises(
        BundleError, match=r"subclassed model .*encoder, decoder.*vae\.encoder\.save\('encoder.keras'\)"
    ):
        read_keras(shared_fault(f"keras-subclassed/{file}"), heads="linear")


def test_keras_own_default_layer_names_make_a_bundle(shared_fault, tmp_path):
    from models.importers.keras.bundle import write_keras_bundle

    source = shared_fault("keras-default-names/a.keras")
    written, _ = write_keras_bundle(read_keras(source), tmp_path / "plain", arrays_only((8, 8, 8)), source=source)
    windows = np.random.default_rng(7).random((2, 8, 8, 8, 1)).astype(np.float32).transpose(0, 4, 1, 2, 3)
    got = OnnxEncoder(load_bundle(written.path)).run(windows, ["mu", "conv3d"])
    of_keras = [[-0.166745, 0.0603, 0.011626], [-0.133888, -0.014691, 0.074287]]  # Keras 3.15.1, TensorFlow 2.19.0
    np.testing.assert_allclose(got["mu"], of_keras, atol=1e-5)


def test_a_second_head_called_sigma_is_not_taken_for_a_log_variance(tmp_path):
    made = edited(tmp_path, lambda config: None, "keras_lambda_end.keras")
    text = zipfile.ZipFile(made).read("config.json").decode().replace('"v"', '"z_log_sigma"')
    with zipfile.ZipFile(DATA / "keras_lambda_end.keras") as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(BundleError, match="give --mu NAME --logvar NAME"):
        read_keras(made)


def test_relu_heads_are_kept_and_warned_about_with_the_number_of_dead_units():
    imported = read_keras(DATA / "keras_question_relu.keras")
    _, mu, logvar = expected_of("keras_question_relu.keras")
    dead = int((mu == 0).all(0).sum())
    assert imported.relu_heads == (True, True)
    assert 0 < dead < 3
    first, second = head_warnings(imported, mu, "2 windows")
    assert f"{dead} of 3 units are 0 for all of 2 windows" in first
    assert "sigma cannot be below 1" in second
    assert (logvar >= 0).all()
    assert head_warnings(read_keras(DATA / "keras_question.keras"), mu, "2 windows") == ()


def test_weights_alone_need_what_they_do_not_say():
    file = DATA / "keras_question.weights.h5"
    with pytest.raises(BundleError, match="give --heads linear or --heads relu"):
        read_keras(file, window_voxels=(8, 16, 24))
    with pytest.raises(BundleError, match="give --window-voxels"):
        read_keras(file, heads="linear")
    with pytest.raises(BundleError, match="is not 6 places"):
        read_keras(file, heads="linear", window_voxels=(8, 16, 16))


def test_weights_alone_without_names_are_taken_in_their_order_with_a_warning(tmp_path):
    made = tmp_path / "encoder.weights.h5"
    made.write_bytes((DATA / "keras_question.weights.h5").read_bytes())
    assert not any("which head is mu" in warning for warning in read_keras(made, **LINEAR).warnings)
    with h5py.File(made, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)
    imported = read_keras(made, **LINEAR)
    windows, mu, _ = expected_of(made.name.replace("encoder", "keras_question"))
    with torch.inference_mode():
        np.testing.assert_allclose(imported.vae().encode(windows)[0], mu, atol=1e-5)
    assert any("which head is mu" in warning for warning in imported.warnings)
    swapped = read_keras(made, mu="dense_2", logvar="dense_1", **LINEAR)
    with torch.inference_mode():
        np.testing.assert_allclose(swapped.vae().encode(windows)[1], mu, atol=1e-5)


def test_weights_alone_of_another_network_are_refused(tmp_path):
    with zipfile.ZipFile(DATA / "keras_sibling.keras") as archive:
        (tmp_path / "weights.h5").write_bytes(archive.read("model.weights.h5"))
    with pytest.raises(BundleError, match="save the encoder as"):
        read_keras(tmp_path / "weights.h5", heads="linear")


@pytest.mark.parametrize(
    ("kind", "option", "value", "says"),
    [
        ("Conv3D", "data_format", "channels_first", "data_format channels_first"),
        ("Conv3D", "activation", "hard_sigmoid", "activation 'hard_sigmoid' is not known"),
        ("Conv3D", "filters", 8, "has weights of"),
        ("Conv3D", "padding", "causal", "padding is 'causal'"),
        ("Dense", "units", "many", "units is 'many'"),
        ("Dense", "use_bias", False, "has weights"),
        ("MaxPooling3D", "pool_size", [64, 1, 1], "does not fit"),
        ("InputLayer", "batch_shape", [None, 8, 16, 24, 2], "one channel"),
        ("InputLayer", "batch_shape", [None, None, 16, 24, 1], "leaves the window's size open"),
    ],
)
def test_an_option_that_is_not_known_is_named_with_its_layer(tmp_path, kind, option, value, says):
    def change(config):
        layer(config, names_of(config, kind)[0])["config"][option] = value

    with pytest.raises(BundleError, match=says) as caught:
        read_keras(edited(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_not_known_is_named(tmp_path):
    def change(config):
        layer(config, names_of(config, "MaxPooling3D")[1])["class_name"] = "MaxBlurPooling3D"

    with pytest.raises(BundleError, match=r"'max_pooling3d[_0-9]*' is a MaxBlurPooling3D, which is not known"):
        read_keras(edited(tmp_path, change))


def test_a_users_own_class_with_the_name_of_keras_own_is_not_taken_for_it(tmp_path):
    def change(config):
        entry = layer(config, names_of(config, "Conv3D")[0])
        entry |= {"module": "their_package.layers", "registered_name": "their_package>Conv3D"}

    with pytest.raises(BundleError, match="is a Conv3D from outside Keras"):
        read_keras(edited(tmp_path, change))


def test_an_input_without_a_channel_is_given_one_by_a_reshape(tmp_path):
    def change(config):
        entries = config["config"]["layers"]
        image, conv = entries[0], layer(config, names_of(config, "Conv3D")[0])
        image["config"]["batch_shape"] = [None, 8, 16, 24]
        reshape = {"module": "keras.layers", "class_name": "Reshape", "registered_name": None, "name": "channel"}
        reshape["config"] = {"name": "channel", "target_shape": [8, 16, 24, 1]}
        reshape["inbound_nodes"] = json.loads(json.dumps(conv["inbound_nodes"]))
        conv["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = "channel"
        entries.insert(1, reshape)

    windows, mu, _ = expected_of("keras_question.keras")
    vae = read_keras(edited(tmp_path, change)).vae()
    with torch.inference_mode():
        np.testing.assert_allclose(vae.encode(windows)[0], mu, atol=1e-5)
    assert "channel" in vae.tap_names
    assert "voxels" not in vae.tap_names  # three axes: neither a vector nor a grid


def test_another_precision_in_keras_is_warned_about(tmp_path):
    def change(config):
        layer(config, names_of(config, "Dense")[0])["config"]["dtype"]["config"]["name"] = "mixed_float16"

    assert "mixed_float16" in read_keras(edited(tmp_path, change)).warnings[0]


def test_a_bundle_of_it_gives_what_keras_gives_in_both_runtimes(tmp_path):
    from models.importers.keras.bundle import write_keras_bundle

    source = DATA / "keras_sibling.keras"
    windows, mu, logvar = expected_of(source.name)
    written, _ = write_keras_bundle(read_keras(source), tmp_path / "sibling", arrays_only((9, 14, 11)), source=source)
    bundle = load_bundle(written.path)
    got = OnnxEncoder(bundle).run(windows.numpy(), [tap.name for tap in bundle.taps])
    np.testing.assert_allclose(got["mu"], mu, atol=1e-5)
    np.testing.assert_allclose(got["sigma"], np.exp(0.5 * logvar), atol=1e-5)
    with torch.inference_mode():
        again = load_vae(bundle).taps(windows, list(got))
    for name, values in again.items():
        np.testing.assert_allclose(got[name], values.numpy(), atol=1e-5, err_msg=name)
    assert bundle.arrays_only


def test_the_command_writes_a_bundle_of_the_question_and_says_what_its_heads_are(tmp_path, capsys):
    from app.cli import main

    source, output = DATA / "keras_question_relu.keras", tmp_path / "encoder"
    call = ["bundle", "import-keras", str(source), "-o", str(output), "--fit", "resize", "--window-hu", "-1000,400"]
    assert main(call) == 0
    said = capsys.readouterr()
    assert "keras, 557 parameters" in said.out
    assert "units are 0 for all of four chest phantoms" in said.err
    bundle = load_bundle(output)
    assert bundle.preprocessing == Preprocessing("resize", (8, 16, 24), None, (-1000.0, 400.0))
    assert "sigma cannot be below 1" in (output / "docs" / "README.md").read_text()
    windows, mu, _ = expected_of(source.name)
    np.testing.assert_allclose(OnnxEncoder(bundle).run(windows.numpy(), ["mu"])["mu"], mu, atol=1e-5)
    with torch.inference_mode(), pytest.raises(BundleError, match="without a decoder"):
        load_vae(bundle).decode(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--spacing", "4,4,4"], "give --window-hu LOW,HIGH too"),
        (["--window-hu", "-1000,1000"], "give --spacing Z,Y,X or --fit resize"),
        (["--window-hu", "-1000,1000", "--fit", "window"], "--fit window needs --spacing"),
        (["--window-hu", "-1000,1000", "--fit", "resize", "--spacing", "4,4,4"], "resizing has no spacing"),
        (["--window-hu", "1000", "--fit", "resize"], "expected 2 numbers"),
        (["--heads", "relu"], "contradicts the file"),
    ],
)
def test_a_call_that_says_too_little_or_too_much_writes_nothing(tmp_path, capsys, options, says):
    from app.cli import main

    output = tmp_path / "encoder"
    assert main(["bundle", "import-keras", str(DATA / "keras_question.keras"), "-o", str(output), *options]) == 3
    assert says in capsys.readouterr().err
    assert not output.exists()


def imported_steps() -> KerasImport:
    return read_keras(DATA / "keras_sibling.keras")


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (0, {"kind": "lambda"}, "is of kind 'lambda'"),
        (1, {"inputs": ["later"]}, "expected one step before it"),
        (1, {"name": "image"}, "expected a unique name"),
        (1, {"name": "pop"}, "expected a unique name"),
        (1, {"channels": 1 << 20}, "expected an integer"),
        (1, {"kernel": [1, 1]}, "expected three integers"),
        (1, {"colour": 3}, "a conv needs"),
        (1, {"activation": {"name": "__class__"}}, "known are"),
        (1, {"activation": {"name": "relu", "max_value": float("nan")}}, "finite numbers"),
    ],
)
def test_steps_in_a_bundle_are_not_trusted(number, change, says):
    parameters = json.loads(json.dumps(dict(imported_steps().parameters)))
    parameters["steps"][number] |= change
    with pytest.raises(BundleError, match=says):
        build_vae("keras", parameters)


def test_reading_leaves_no_trace_of_a_lambda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read_keras(DATA / "keras_lambda_end.keras")
    with pytest.raises(BundleError, match="layer 'doubles' is a Lambda"):
        read_keras(DATA / "keras_lambda_inside.keras")
    assert list(tmp_path.iterdir()) == []


def test_the_lambdas_in_the_fixtures_would_leave_a_trace():
    with zipfile.ZipFile(DATA / "keras_lambda_inside.keras") as archive:
        config = json.loads(archive.read("config.json"))
    function = layer(config, "doubles")["config"]["function"]
    assert function["class_name"] == "__lambda__"
    assert b"keras_lambda_ran" in base64.b64decode(function["config"]["code"])
