"""Keras files that somebody made to do harm, or that were damaged: a BundleError of one line, and nothing else."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.importers.keras import file as keras_file
from models.importers.keras import hdf5 as keras_hdf5
from models.importers.keras.read import read_keras
from models.spec import BundleError
from tests.support.checkout import ROOT

DATA = ROOT / "tests" / "data"


def members_of(file: str = "keras_question.keras") -> dict[str, bytes]:
    with zipfile.ZipFile(DATA / file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_weights(path: Path, change) -> Path:
    """A copy of the .keras fixture, its HDF5 file changed by `change`."""
    members = members_of()
    held = io.BytesIO(members["model.weights.h5"])
    with h5py.File(held, "r+") as file:
        change(file)
    members["model.weights.h5"] = held.getvalue()
    return archive_of(path / "changed.keras", members)


def refused(path: Path, says: str) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        read_keras(path)
    assert "\n" not in str(caught.value)
    assert str(path.parent) not in str(caught.value)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_zip_bomb_is_not_unpacked(tmp_path, member, monkeypatch):
    monkeypatch.setattr(keras_file, "FILE_BYTES", 4 << 20)
    monkeypatch.setattr(keras_file, "CONFIG_BYTES", 4 << 20)
    bomb = archive_of(tmp_path / "bomb.keras", members_of() | {member: bytes(64 << 20)})
    assert bomb.stat().st_size < 1 << 20
    tracemalloc.start()
    refused(bomb, f"{member} in the .keras archive would expand from")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_a_gibibyte_of_weights_in_a_small_archive_is_not_unpacked(tmp_path):
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", members_of()["config.json"])
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(64):  # the size is what the archive says; 64 MiB of it are there
                member.write(bytes(1 << 20))
    content = bytearray(bomb.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = ((1 << 30) - 1).to_bytes(4, "little")
    bomb.write_bytes(content)
    tracemalloc.start()
    refused(bomb, r"to 1073741823 bytes; expected")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_weights_that_claim_to_be_huge_are_not_allocated(tmp_path):
    def change(file):
        del file["layers/conv3d/vars/0"]
        file["layers/conv3d/vars"].create_dataset("0", (1 << 20, 1 << 20), np.float32, chunks=(1024, 1024))

    refused(with_weights(tmp_path, change), "more than 134217728 weights")


def test_weights_that_were_never_written_are_not_zeros(tmp_path):
    def change(file):
        shape = file["layers/conv3d/vars/0"].shape
        del file["layers/conv3d/vars/0"]
        file["layers/conv3d/vars"].create_dataset("0", shape, np.float32)

    refused(with_weights(tmp_path, change), "layers/conv3d/vars/0 are kept in another file or an odd form")


def test_an_external_link_is_not_followed(tmp_path):
    secret = tmp_path / "other.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = np.ones((2, 2, 2, 1, 3), np.float32)

    def change(file):
        del file["layers/conv3d/vars/0"]
        file["layers/conv3d/vars/0"] = h5py.ExternalLink(str(secret), "kernel")

    refused(with_weights(tmp_path, change), "a link that leads out of its place")


def test_a_soft_link_is_not_followed(tmp_path):
    def change(file):
        file["layers/again"] = h5py.SoftLink("/layers")

    refused(with_weights(tmp_path, change), "a link that leads out of its place")


def test_a_group_that_holds_itself_ends(tmp_path):
    def change(file):
        file["layers/conv3d/inside"] = file["layers"]

    refused(with_weights(tmp_path, change), "nested deeper than")


def test_external_raw_storage_is_not_read(tmp_path):
    raw = tmp_path / "raw.bin"
    raw.write_bytes(np.ones(24, np.float32).tobytes())

    def change(file):
        del file["layers/conv3d/vars/0"]
        place, shape = file["layers/conv3d/vars"], (2, 2, 2, 1, 3)
        place.create_dataset("0", shape, np.float32, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])

    refused(with_weights(tmp_path, change), "kept in another file")


def test_a_virtual_dataset_is_not_read(tmp_path):
    def change(file):
        del file["layers/conv3d/vars/0"]
        layout = h5py.VirtualLayout((2, 2, 2, 1, 3), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel", (2, 2, 2, 1, 3))
        file["layers/conv3d/vars"].create_virtual_dataset("0", layout)

    refused(with_weights(tmp_path, change), "kept in another file")


def test_object_references_are_no_weights(tmp_path):
    def change(file):
        reference = file["layers"].ref
        del file["layers/conv3d/vars/0"]
        file["layers/conv3d/vars"].create_dataset("0", (2,), h5py.ref_dtype, data=[reference, reference])

    refused(with_weights(tmp_path, change), "has weights")


def test_nan_in_the_weights_is_named_with_its_layer(tmp_path):
    def change(file):
        file["layers/dense/vars/1"][0] = np.nan

    refused(with_weights(tmp_path, change), "has NaN or infinity in its bias")


def test_a_pickle_is_data_and_never_loaded(tmp_path):
    trace = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return Path.touch, (trace,)

    pickled = pickle.dumps(Harm())
    refused(archive_of(tmp_path / "a.keras", members_of() | {"config.json": pickled}), "is not JSON")
    refused(archive_of(tmp_path / "b.keras", members_of() | {"model.weights.h5": pickled}), "is not HDF5")
    (tmp_path / "c.keras").write_bytes(pickled)
    refused(tmp_path / "c.keras", "neither a .keras archive nor HDF5")
    assert not trace.exists()


def test_members_that_would_leave_the_folder_are_not_unpacked(tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    made = archive_of(inside / "encoder.keras", members_of() | {"../../out": b"x", "/ctvae_out": b"x"})
    assert read_keras(made).architecture == "keras"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "encoder.keras"]


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"config":{"layers":['])
def test_json_without_end_is_refused(tmp_path, opening):
    config = (opening * 100_000).encode()
    refused(archive_of(tmp_path / "deep.keras", members_of() | {"config.json": config}), "not JSON")


def test_json_that_is_nested_deeper_than_a_model_is_refused(tmp_path):
    config = ("[" * 200 + "]" * 200).encode()
    refused(archive_of(tmp_path / "deep.keras", members_of() | {"config.json": config}), "nested deeper than 64")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"class_name": "VAE", "config": {}}, "class .VAE."),
        ({"class_name": "Functional", "config": {"layers": [3]}}, "lists 3 as a layer"),
        ({"class_name": "Functional", "config": {"layers": []}}, "unclear"),
        ({"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}}, "has no name"),
        ([], "not a JSON object"),
    ],
)
def test_a_configuration_without_a_graph_is_refused(tmp_path, config, says):
    members = members_of() | {"config.json": json.dumps(config).encode()}
    refused(archive_of(tmp_path / "odd.keras", members), says)


def test_a_file_that_is_not_there_is_named_without_its_path(tmp_path):
    refused(tmp_path / "none.keras", "there is no such Keras file")


def test_reading_imports_no_tensorflow_and_no_keras():
    code = (
        "import sys; from pathlib import Path; from models.importers.keras.read import read_keras; "
        f"read_keras(Path({str(DATA / 'keras_question.keras')!r})); "
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'keras', 'tf_keras') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def _flip(content: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 6)):
        content[rng.integers(len(content))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])


def _cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[rng.integers(len(content)) :]


def _move(content: bytearray, rng: np.random.Generator) -> None:
    at, other, length = rng.integers(len(content)), rng.integers(len(content)), rng.integers(1, 64)
    content[at : at + length] = content[other : other + length]


def damaged(content: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    (_flip, _flip, _move, _cut)[rng.integers(4)](changed, rng)
    return bytes(changed)


def outcome(path: Path, **options: Any) -> bool:
    """Whether it was read; anything but a BundleError of one line goes on."""
    try:
        read_keras(path, **options)
    except BundleError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("file", ["keras2_nested.h5", "keras_question.weights.h5"])
def test_damaged_hdf5_gives_a_result_or_a_bundle_error_and_nothing_else(tmp_path, monkeypatch, file):
    monkeypatch.setattr(keras_hdf5, "TIME_LIMIT_S", 8.0)
    options = {"heads": "linear", "window_voxels": (8, 16, 24)} if "weights" in file else {}
    made, content = tmp_path / "made.h5", (DATA / file).read_bytes()
    read = 0
    for seed in range(16):
        made.write_bytes(damaged(content, seed))
        read += outcome(made, **options)
    assert 0 < read < 16


def test_hdf5_that_never_ends_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_hdf5, "TIME_LIMIT_S", 0.01)
    refused(DATA / "keras_question.h5", "did not finish in 0.01 s")


def test_a_module_in_the_current_folder_is_not_run(tmp_path, monkeypatch):
    for name in ("models", "h5py", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    read_keras(DATA / "keras_question.h5")
    assert not (tmp_path / "ran").exists()


def test_another_process_that_says_something_else_is_an_error_like_any_other(monkeypatch):
    monkeypatch.setattr(keras_hdf5.sys, "executable", "echo")
    refused(DATA / "keras_question.h5", "gave no answer")


def test_a_crash_of_hdf5_is_an_error_like_any_other(monkeypatch):
    monkeypatch.setattr(keras_hdf5.sys, "executable", "false")
    refused(DATA / "keras_question.h5", "ended with 1")


def test_damaged_archives_give_a_result_or_a_bundle_error_and_nothing_else(tmp_path):
    made, content = tmp_path / "made.keras", (DATA / "keras_sibling.keras").read_bytes()
    for seed in range(16):
        made.write_bytes(damaged(content, seed))
        outcome(made)


def _edit(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with one place in it changed, taken away or doubled."""
    odd = [None, True, -1, 0, 1 << 70, 1e308, "", "same", "Lambda", [], {}, [[["x", 0, 0, {}]]], "conv3d"]
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.05:
        return odd[rng.integers(len(odd))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.1:
        if isinstance(value, dict):
            return {other: held for other, held in value.items() if other != key}
        return value[:key] + value[key + 1 :]
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[key] = _edit(value[key], rng)
    return changed


@pytest.mark.parametrize("file", ["keras_sibling.keras", "keras_nested.keras", "keras2_sibling.keras"])
def test_an_edited_configuration_gives_a_result_or_a_bundle_error_and_nothing_else(tmp_path, monkeypatch, file):
    members = members_of(file)
    held = keras_hdf5.read_hdf5(members["model.weights.h5"])
    monkeypatch.setattr(keras_file, "read_hdf5_apart", lambda content: held)
    config, made, read = json.loads(members["config.json"]), tmp_path / "made.keras", 0
    rng = np.random.default_rng(7)
    for _ in range(400):
        edited = _edit(_edit(config, rng), rng)
        archive_of(made, {"config.json": json.dumps(edited).encode(), "model.weights.h5": members["model.weights.h5"]})
        read += outcome(made)
    assert 20 < read < 380
