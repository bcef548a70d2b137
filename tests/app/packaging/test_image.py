"""The image, run without a daemon: another uid, read-only root, no network, no capabilities; the same bytes result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import skip_or_fail

UID = 4321


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's file system, with its configuration beside it."""
    if not shutil.which("bwrap"):
        skip_or_fail("no bwrap")
    folder = tmp_path_factory.mktemp("image")
    root = folder / "root"
    with tarfile.open(os.environ["CTVAE_MAP_ARCHIVE"]) as archive:

        def blob(digest: str) -> Any:
            return archive.extractfile("blobs/" + digest.replace(":", "/"))

        index = json.load(archive.extractfile("index.json"))
        manifest = json.load(blob(index["manifests"][0]["digest"]))
        (folder / "config.json").write_bytes(blob(manifest["config"]["digest"]).read())
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=blob(layer["digest"]), mode="r|*") as files:
                files.extractall(root, filter="tar")
    return root


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Start the image on an input folder; results go to `out` of the test's own folder."""
    config = json.loads((root.parent / "config.json").read_bytes())["config"]
    output = tmp_path / "out"
    output.mkdir()
    output.chmod(0o777)
    tmp_path.chmod(0o755)

    def start(source: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = dict(pair.split("=", 1) for pair in config["Env"]) | variables
        command = ["bwrap", "--unshare-all", "--uid", str(UID), "--gid", str(UID), "--cap-drop", "ALL", "--clearenv"]
        command += [word for name, value in environment.items() for word in ("--setenv", name, value)]
        command += ["--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        command += ["--ro-bind", str(source), "/var/holoscan/input", "--bind", str(output), "/var/holoscan/output"]
        command += ["--chdir", config["WorkingDir"], "--die-with-parent", *config["Entrypoint"], *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    return start


def test_a_real_series_gives_the_bytes_of_ctvae_encode(run, shared_ct, tmp_path: Path):
    from app.cli import main

    study = shared_ct("cip_chest/ct64_dicom")
    ended = run(study)
    assert ended.returncode == 0, ended.stderr
    assert main(["encode", str(study), "-o", str(tmp_path / "outside")]) == 0
    for name in ("features.json", "features.sr.dcm"):
        (inside,), (outside,) = (tmp_path / "out").glob(f"*/{name}"), (tmp_path / "outside").glob(f"*/{name}")
        assert inside.read_bytes() == outside.read_bytes()


def test_codes_2_and_3_reach_the_outside(run, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(empty).returncode == 2
    assert run(empty, "-c", "/nowhere.yaml").returncode == 3


def test_the_image_says_what_it_is_and_reproduces_the_golden_values(run, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert json.loads(run(empty, "show", "app").stdout)["type"] == "application"
    assert json.loads(run(empty, "show", "sbom").stdout)["specVersion"] == "1.6"
    ended = run(empty, "doctor")
    assert ended.returncode == 0, ended.stdout
    assert "golden values   largest difference of mu and sigma 0" in ended.stdout


def test_the_libraries_of_the_queue_are_in_the_image(run, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = run(empty, "queue", "list", CTVAE_LISTENER_FOLDER="/var/holoscan/output")
    assert ended.returncode == 3 and "NO_QUEUE" in ended.stderr
