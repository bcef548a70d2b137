"""A bundle is found, read and checked; a broken one is one clear line."""

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
import safetensors.numpy

from models.bundle.store import amend_bundle, check_replaceable, find_bundle, load_bundle, save_bundle
from models.spec import Bundle, BundleError, InTheWayError, Preprocessing, TapSpec, arrays_only
from tests.support.bundles import write_small_bundle
from tests.support.checkout import ROOT

SHIPPED = ROOT / "models" / "ct_vae"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def bundle(made, tmp_path):
    """A copy that may be broken."""
    return replace(made, path=Path(shutil.copytree(made.path, tmp_path / "small")))


def save_again(made: Bundle, path: Path, **weights: np.ndarray) -> Bundle:
    """The same bundle saved to another place, with other weights where they are given."""
    return save_bundle(
        replace(made, path=path),
        weights=safetensors.numpy.load_file(made.weights_path) | weights,
        onnx=made.onnx_path.read_bytes(),
        card="# untrained\n",
        licence="Apache-2.0\n",
        monai={},
    )


def edit(bundle: Bundle, change) -> None:
    file = bundle.path / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def put_weights(bundle: Bundle, content: bytes) -> None:
    """Other weights, and the digest that goes with them."""
    bundle.weights_path.write_bytes(content)
    edit(bundle, lambda metadata: metadata["ctvae"].update(weights_sha256=hashlib.sha256(content).hexdigest()))


def error_of(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_saved_is_what_is_loaded(made):
    assert load_bundle(made.path) == made
    assert made.weights_sha256 == hashlib.sha256(made.weights_path.read_bytes()).hexdigest()
    assert {"mu", "sigma", "stem", "block1", "block2", "dense"} <= {tap.name for tap in made.taps}


def test_saving_the_same_twice_gives_the_same_bytes(made, tmp_path):
    again = write_small_bundle(tmp_path / "small")
    for file in sorted(path for path in made.path.rglob("*") if path.is_file()):
        assert (again.path / file.relative_to(made.path)).read_bytes() == file.read_bytes(), file.name


def test_saving_replaces_the_files_of_a_bundle_and_leaves_others(made, tmp_path):
    save_again(made, tmp_path / "small", extra=np.zeros(1, np.float32))
    (tmp_path / "small" / "docs" / "certificate.json").write_text("{}")
    (tmp_path / "small" / "docs" / "notes.txt").write_text("mine")
    (tmp_path / "small" / "link").symlink_to("docs")
    assert save_again(made, tmp_path / "small").weights_sha256 == made.weights_sha256
    assert (tmp_path / "small" / "docs" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "small" / "link").is_symlink()
    assert not (tmp_path / "small" / "docs" / "certificate.json").exists()  # it was of the former weights
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("thesis.txt", "mine"),
        ("configs/metadata.json", '{"version": "1.0.0", "network_data_format": {}}'),
        ("configs/metadata.json", "{"),
    ],
)
def test_what_ctvae_did_not_write_is_in_the_way(made, tmp_path, file, content):
    (tmp_path / "other" / "configs").mkdir(parents=True)
    (tmp_path / "other" / file).write_text(content)
    with pytest.raises(InTheWayError, match="is not a bundle that ctvae wrote"):
        save_again(made, tmp_path / "other")
    assert (tmp_path / "other" / file).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_folder_in_the_place_of_a_file_is_in_the_way(bundle):
    (bundle.path / "docs" / "certificate.json").mkdir()
    with pytest.raises(InTheWayError, match=r"certificate\.json in small is a folder"):
        check_replaceable(bundle.path)


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_bundle_whose_replacement_is_stopped_between_the_renames_stays(made, tmp_path, monkeypatch, error):
    kept = save_again(made, tmp_path / "small", extra=np.zeros(1, np.float32))
    rename = Path.rename

    def stopped_at_the_new_one(path, to):
        if path.name == "new":
            assert not (tmp_path / "small").exists()
            raise error
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", stopped_at_the_new_one)
    with pytest.raises(type(error)):
        save_again(made, tmp_path / "small")
    assert load_bundle(tmp_path / "small") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_stopped_again_while_it_is_put_back_the_former_bundle_is_still_there(made, tmp_path, monkeypatch):
    kept = save_again(made, tmp_path / "small", extra=np.zeros(1, np.float32))
    rename = Path.rename

    def stopped(path, to):
        if path.name in ("new", "old"):
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_again(made, tmp_path / "small")
    (left,) = tmp_path.glob(".small-*/old")
    assert load_bundle(left) == replace(kept, path=left)


def test_what_cannot_be_loaded_is_not_saved(made, tmp_path):
    broken = {"mu.bias": np.array([np.nan], np.float32)}
    with pytest.raises(BundleError, match="NaN"):
        save_bundle(replace(made, path=tmp_path / "new"), weights=broken, onnx=b"", card="", licence="", monai={})
    assert list(tmp_path.iterdir()) == []


def test_loading_imports_neither_torch_nor_monai(made):
    code = (
        "import sys, pathlib; from models.bundle.store import load_bundle; load_bundle(pathlib.Path(sys.argv[1]));"
        "print(sorted({'torch', 'monai', 'onnxruntime', 'pydicom'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, made.path], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("configs/metadata.json", "no configs/metadata.json"),
        ("models/model.safetensors", "no models/model.safetensors"),
        ("models/encoder.onnx", "no models/encoder.onnx"),
    ],
)
def test_a_missing_file_is_named(bundle, missing, says):
    (bundle.path / missing).unlink()
    assert says in error_of(bundle.path)


def test_a_missing_folder_is_named(tmp_path):
    assert "no bundle folder" in error_of(tmp_path / "nowhere")


def test_a_pickle_beside_the_missing_weights_is_not_read(bundle):
    bundle.weights_path.rename(bundle.path / "models" / "model.pt")
    assert "model.pt is a pickle" in error_of(bundle.path)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(64), b"\x80\x02}q\x00."])
def test_a_pickle_in_the_weights_place_is_not_read(bundle, content):
    put_weights(bundle, content)
    assert "is a pickle" in error_of(bundle.path)


def test_a_good_header_that_begins_as_a_pickle_does_is_read(bundle):
    """Its length, the first bytes of the file, is 128 modulo 256: a pickle of protocol 2 begins with 0x80 too."""
    weights = safetensors.numpy.load_file(bundle.weights_path)
    for number in range(64):
        content = safetensors.numpy.save(weights, {"filled": "x" * (8 * number)})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    put_weights(bundle, content)
    assert load_bundle(bundle.path).weights_sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("file", ["models/model.safetensors", "models/encoder.onnx"])
def test_a_file_that_would_take_all_memory_is_not_read(bundle, file):
    with (bundle.path / file).open("r+b") as sparse:
        sparse.truncate(1 << 40)
    assert f"{file} has 1099511627776 bytes; expected at most" in error_of(bundle.path)


@pytest.mark.parametrize("file", ["models/model.safetensors", "models/encoder.onnx"])
def test_one_changed_byte_is_noticed(bundle, file):
    content = bytearray((bundle.path / file).read_bytes())
    content[-1] ^= 1
    (bundle.path / file).write_bytes(content)
    assert f"{file} has SHA-256" in error_of(bundle.path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bundle, value):
    weights = safetensors.numpy.load_file(bundle.weights_path)
    weights["mu.bias"] = np.full_like(weights["mu.bias"], value)
    put_weights(bundle, safetensors.numpy.save(weights))
    assert "mu.bias hold NaN or infinity" in error_of(bundle.path)


def test_weights_in_another_type_are_refused(bundle):
    put_weights(bundle, safetensors.numpy.save({"mu.bias": np.zeros(4, np.float64)}))
    assert "mu.bias" in error_of(bundle.path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}"])
def test_damaged_weights_are_refused(bundle, content):
    put_weights(bundle, content)
    assert "model.safetensors" in error_of(bundle.path)


def test_a_link_that_leads_out_of_the_bundle_is_refused(bundle, tmp_path):
    bundle.weights_path.rename(tmp_path / "elsewhere")
    bundle.weights_path.symlink_to(tmp_path / "elsewhere")
    assert "leads out of the bundle" in error_of(bundle.path)


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, "[1, 2]", '{"ctvae": 3}', '{"ctvae": {"format_version": NaN}}', "\x00\xff"]
)
def test_metadata_that_are_no_metadata_are_refused(bundle, content):
    (bundle.path / "configs" / "metadata.json").write_text(content, encoding="latin-1")
    assert "metadata.json" in error_of(bundle.path)


@pytest.mark.parametrize("version", [2, 0, "1", 1.0, True, None])
def test_another_format_version_is_refused(bundle, version):
    edit(bundle, lambda metadata: metadata["ctvae"].update(format_version=version))
    assert "this ctvae reads version 1" in error_of(bundle.path)


@pytest.mark.parametrize(
    ("section", "value", "says"),
    [
        ("name", "../../etc", "name is"),
        ("name", None, "name is missing"),
        ("weights_sha256", "abc", "weights_sha256 is"),
        ("architecture", "ct_vae", "architecture is"),
        ("architecture", {"name": "os.system", "parameters": {}}, "name is"),
        ("training", [], "training is"),
        ("training", {"figures": {"active": "4", "kl": [1.0]}}, "training.figures.windows is missing"),
        ("training", {"steps": "many"}, "training.steps is 'many'; expected int"),
        ("training", {"data": [{"scan": "0"}]}, "training.data[0].patient is missing"),
        ("taps", {}, "taps is"),
        ("taps", [], "expected mu and sigma"),
        ("taps", [7], "a tap is 7"),
        ("preprocessing", {}, "preprocessing has"),
    ],
)
def test_a_field_that_is_not_as_expected_is_named(bundle, section, value, says):
    edit(bundle, lambda metadata: metadata["ctvae"].update({section: value}))
    assert says in error_of(bundle.path)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("window_voxels", [8, 16], "window_voxels is"),
        ("window_voxels", [8, 16, True], "window_voxels is"),
        ("window_voxels", [8, 16, 1 << 40], "window_voxels is"),
        ("spacing_mm", [1, 1, "1"], "spacing_mm is"),
        ("spacing_mm", [1, 1, -1], "spacing_mm is"),
        ("spacing_mm", [1e-6, 4, 4], "expected three lengths from 0.01 to 1000 mm"),
        ("window_voxels", [4096, 4096, 4096], "expected at most 134217728 in all"),
        ("spacing_mm", None, "spacing_mm"),
        ("window_hu", [1000, -1000], "window_hu is"),
        ("overlap", 1.0, "overlap is"),
        ("overlap", "half", "overlap is"),
        ("fit", "stretch", "fit is"),
        ("fit", None, "fit is"),
        ("outside", None, "outside is None; expected 'kept' or 'air'"),
        ("outside", ["air"], "outside is"),
        ("inside", "air", "preprocessing has"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused(bundle, field, value, says):
    edit(bundle, lambda metadata: metadata["ctvae"]["preprocessing"].update({field: value}))
    assert says in error_of(bundle.path)


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (0, {"name": "Mu"}, "name is"),
        (0, {"name": "sigma"}, "no name twice"),
        (0, {"shape": [5]}, "expected mu and sigma"),
        (0, {"shape": [0]}, "shape is"),
        (2, {"shape": [65536, 65536, 64, 64]}, "expected at most 134217728 values"),
        (0, {"pooling": "mean"}, "pooling"),
        (2, {"pooling": "median"}, "pooling"),
        (2, {"receptive_field_mm": [1, 2]}, "receptive_field_mm is"),
    ],
)
def test_a_tap_that_cannot_be_is_refused(bundle, number, change, says):
    edit(bundle, lambda metadata: metadata["ctvae"]["taps"][number].update(change))
    assert says in error_of(bundle.path)


def test_whole_numbers_in_the_metadata_give_the_same_preprocessing_and_digest(made, bundle):
    whole = {"spacing_mm": [8, 16, 16], "window_hu": [-1000, 1000]}
    edit(bundle, lambda metadata: metadata["ctvae"]["preprocessing"].update(whole))
    assert load_bundle(bundle.path).preprocessing.digest() == made.preprocessing.digest()


def test_monais_metadata_say_what_goes_in_and_what_comes_out(made):
    metadata = json.loads((made.path / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["spatial_shape"], image["dtype"]) == (1, [8, 16, 16], "float32")
    outputs = metadata["network_data_format"]["outputs"]
    assert outputs.pop("pred") == outputs["mu"]
    assert {name: [out["num_channels"], *out["spatial_shape"]] for name, out in outputs.items()} == {
        tap.name: list(tap.shape) for tap in made.taps
    }


def test_a_bundle_is_found_by_its_path(made):
    assert find_bundle(made.path) == made.path
    assert find_bundle(made.path, "small") == made.path
    with pytest.raises(BundleError, match="is the bundle 'small'"):
        find_bundle(made.path, "large")


def test_the_only_bundle_of_a_folder_is_found(made):
    assert find_bundle(made.path.parent) == made.path


def test_one_of_several_bundles_is_found_by_its_name(made, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(made.path, tmp_path / name)
    assert find_bundle(tmp_path, "second") == tmp_path / "second"
    with pytest.raises(BundleError, match=r"several bundles in .*: first, second"):
        find_bundle(tmp_path)
    with pytest.raises(BundleError, match="there are first, second"):
        find_bundle(tmp_path, "../first")


@pytest.mark.parametrize("content", ["nothing", "a file"])
def test_a_folder_without_a_bundle_says_what_is_missing(tmp_path, content):
    if content == "a file":
        (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(BundleError, match="no bundle in"):
        find_bundle(tmp_path)
    with pytest.raises(BundleError, match="weights.pt is a file" if content == "a file" else "no models folder"):
        find_bundle(tmp_path / "weights.pt" if content == "a file" else tmp_path / "nowhere")


def test_the_shipped_bundle_is_the_default_and_loads():
    bundle = load_bundle(find_bundle())
    assert bundle.path == SHIPPED
    assert bundle.name == "ct_vae"
    assert find_bundle(name="ct_vae") == SHIPPED


def test_the_shipped_bundle_is_small_and_says_what_it_was_trained_on():
    bundle = load_bundle(SHIPPED)
    size = sum(file.stat().st_size for file in (bundle.weights_path, bundle.onnx_path))
    assert size <= 12_000_000
    train = {case.patient for case in bundle.training.data if case.split == "train"}
    test = {case.patient for case in bundle.training.data if case.split == "test"}
    assert train and len(test) >= 12 and not train & test
    card = (SHIPPED / "docs" / "README.md").read_text()
    assert "Not for clinical use" in card
    assert all(case.source in card for case in bundle.training.data)


def test_the_shipped_bundle_has_at_least_half_of_its_units_active():
    bundle = load_bundle(SHIPPED)
    assert 2 * bundle.training.figures.active >= len(bundle.training.figures.kl)


def test_a_preprocessing_is_digested_by_its_parameters():
    settings = Preprocessing("window", (8, 16, 16), (4.0, 4.0, 4.0), (-1000.0, 1000.0))
    assert settings.digest() == replace(settings).digest()
    assert settings.digest() != replace(settings, overlap=0.25).digest()
    assert settings.digest() != replace(settings, outside="air").digest()


def test_a_bundle_of_before_there_was_an_outside_keeps_its_digest(made):
    metadata = json.loads((made.path / "configs" / "metadata.json").read_text())
    assert "outside" not in metadata["ctvae"]["preprocessing"]
    settings = Preprocessing("window", (8, 16, 16), (4.0, 4.0, 4.0), (-1000.0, 1000.0))
    assert settings.digest() == "4bad19f9adf92b3fe4a3aa6751bd39da3a6a3dd15ffb196ccb977ac6ad7c3556"


def test_a_bundle_without_surroundings_is_saved_and_loaded(bundle):
    edit(bundle, lambda metadata: metadata["ctvae"]["preprocessing"].update(outside="air"))
    settings = load_bundle(bundle.path).preprocessing
    assert settings.outside == "air" and settings.parameters()["outside"] == "air"


@pytest.mark.parametrize(
    ("pooling", "length"), [("mean", 8), ("max", 8), ("std", 8), ("flatten", 8 * 4 * 8 * 8), ("none", 8 * 4 * 8 * 8)]
)
def test_a_taps_length_is_what_its_pooling_leaves(pooling, length):
    assert TapSpec("block1", (8, 4, 8, 8), pooling).length == length


@pytest.mark.parametrize("pooling", ["mean", "max", "std", "flatten", "none"])
def test_a_grid_may_have_any_pooling(bundle, pooling):
    edit(bundle, lambda metadata: metadata["ctvae"]["taps"][2].update(pooling=pooling))
    assert load_bundle(bundle.path).taps[2].pooling == pooling


def test_a_bundle_that_knows_no_preprocessing_says_that_it_takes_arrays_alone(bundle):
    unknown = arrays_only((8, 16, 16)).parameters()
    edit(bundle, lambda metadata: metadata["ctvae"].update(preprocessing=unknown))
    assert load_bundle(bundle.path).arrays_only
    assert load_bundle(bundle.path).preprocessing == arrays_only((8, 16, 16))


def test_files_are_added_to_a_bundle_and_its_weights_stay(bundle):
    before = bundle.weights_path.read_bytes()
    amended = amend_bundle(bundle.path, {"docs/certificate.json": b"{}", "docs/README.md": b"# measured"})
    assert (bundle.path / "docs" / "certificate.json").read_bytes() == b"{}"
    assert (bundle.path / "docs" / "README.md").read_bytes() == b"# measured"
    assert bundle.weights_path.read_bytes() == before
    assert amended == load_bundle(bundle.path)
    assert [path.name for path in bundle.path.parent.iterdir()] == ["small"]


@pytest.mark.parametrize(
    "name",
    ["configs/metadata.json", "models/encoder.onnx", "../LICENSE", "docs/../../x", "/tmp/x", "", "docs/./x", "models"],
)
def test_what_may_not_be_amended_is_refused_and_nothing_is_written(bundle, name):
    with pytest.raises(BundleError, match="cannot be put into a bundle"):
        amend_bundle(bundle.path, {"docs/certificate.json": b"{}", name: b"x"})
    assert not (bundle.path / "docs" / "certificate.json").exists()


def test_a_link_in_the_bundle_is_replaced_and_not_followed(bundle, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (bundle.path / "docs" / "certificate.json").symlink_to(tmp_path / "elsewhere")
    amend_bundle(bundle.path, {"docs/certificate.json": b"{}"})
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_a_folder_that_leads_out_of_the_bundle_is_not_written_into(bundle, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (bundle.path / "extra").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leads out"):
        amend_bundle(bundle.path, {"extra/x.json": b"{}"})
    assert list((tmp_path / "elsewhere").iterdir()) == []
