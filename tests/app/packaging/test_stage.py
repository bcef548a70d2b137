"""What goes into the image, and the manifests that say so."""

from __future__ import annotations

import filecmp
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.cli.monai_deploy import main as monai_deploy
from app.packaging.build import containerfile_line, described
from app.packaging.debian import installed, remove_packages
from app.packaging.layout import APP, COMMAND, ENVIRONMENT
from app.packaging.libraries import lock_of, lock_pins
from app.packaging.manifests import labels, processing_container, xnat_command
from app.packaging.sbom import bill_of_materials, model_components
from app.packaging.stage import sources, stage
from operators import __version__
from operators.errors import StartError
from tests.support.checkout import ROOT
from tests.support.images import right_image, sha256


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "context"
    stage(folder, "ctvae:test")
    return folder


def test_the_staged_application_is_the_code_and_nothing_of_the_tests(staged: Path):
    assert sorted(path.name for path in (staged / "app").iterdir()) == [
        "__main__.py", "app", "app.yaml", "models", "operators", "requirements.txt",
    ]  # fmt: skip
    assert (staged / "app" / "models" / "ct_vae" / "configs" / "metadata.json").is_file(), "the link to the bundle"
    assert not any("tests" in Path(name).parts for name in sources())


def test_the_staged_application_starts(staged: Path):
    ended = subprocess.run([sys.executable, staged / "app", "show", "app"], capture_output=True, text=True)
    assert ended.returncode == 3 and "NOT_ACCESSIBLE" in ended.stderr, "outside the image there is no /etc/holoscan"
    assert subprocess.run([sys.executable, staged / "app", "help"], capture_output=True).returncode == 0


DOCKER = """#!/bin/sh
case "$1 $2" in
  "buildx ls") echo '{"Name": "holoscan_app_builder", "Driver": "docker-container"}' ;;
  "buildx inspect") printf 'Name: holoscan_app_builder\\nDriver: docker-container\\n' ;;
  "buildx build") for context; do :; done; cp -r "$context" "$CONTEXT"; echo "$@" >"$CONTEXT/call" ;;
  "image inspect") echo '[{"Id": "sha256:0"}]' ;;
  *) exit 1 ;;
esac
"""


@pytest.mark.filterwarnings("ignore:unclosed scandir iterator:ResourceWarning")
def test_monai_deploy_package_takes_the_staged_folder(staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As docs/deploy.md says it, with a stand-in for docker that keeps what it was told to build from."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    shown = (ROOT / "docs" / "deploy.md").read_text().partition("`source.json` names")[2].split("\n\n")[1]
    (tmp_path / "source.json").write_text(shown)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CONTEXT", str(tmp_path / "context"))
    words = ["package", staged / "app", "-c", staged / "app.yaml", "-m", staged / "models", "-t", "ctvae:test"]
    words += ["--platform", "x86_64", "--source", tmp_path / "source.json", "--build-cache", tmp_path]
    monkeypatch.setattr(sys, "argv", ["monai-deploy", *map(str, words)])
    assert monai_deploy() == 0
    context = tmp_path / "context"
    assert "--tag ctvae-x64-workstation-dgpu-linux-amd64:test" in (context / "call").read_text()
    copied = filecmp.dircmp(staged / "app", context / "app")
    assert not (copied.left_only or copied.right_only or copied.diff_files)
    assert (context / "models" / "ct_vae" / "models" / "encoder.onnx").is_file()
    assert json.loads((context / "map" / "app.json").read_bytes())["command"] == f'["python3", "{APP}"]'
    assert "pip install --no-cache-dir --user -r /tmp/requirements.txt" in (context / "Dockerfile").read_text()
    installed_there = (context / "pip" / "requirements.txt").read_text().splitlines()
    assert installed_there == [f"{name}=={version}" for name, version in lock_pins(lock_of("cpu")).items()]


def test_a_folder_that_exists_is_not_staged_into(tmp_path: Path):
    with pytest.raises(StartError, match="OUTPUT_IN_THE_WAY"):
        stage(tmp_path, "ctvae:test")


def test_app_json_says_what_the_specification_asks_for(staged: Path):
    app = json.loads((staged / "etc" / "app.json").read_bytes())
    assert (app["type"], app["command"], app["version"]) == ("application", COMMAND, __version__)
    assert app["command"].split() == ["python3", str(APP)], "mercure splits it at spaces"
    assert app["environment"] == ENVIRONMENT
    assert isinstance(app["output"]["format"], dict) and app["input"]["path"].startswith("/")


def test_pkg_json_lists_the_bundles(staged: Path):
    pkg = json.loads((staged / "etc" / "pkg.json").read_bytes())
    assert pkg["models"] == [{"name": "ct_vae", "path": "ct_vae"}]
    assert (staged / "models" / "ct_vae" / "models" / "encoder.onnx").is_file()
    assert set(pkg["resources"]) >= {"cpu", "gpu", "memory"}


def test_kaapana_mounts_what_its_variables_name():
    (template,) = processing_container()["templates"]
    values = {one["name"]: one["value"] for one in template["env"]}
    assert values["OPERATOR_IN_DIR"] == template["inputs"][0]["mounted_path"]
    assert values["OPERATOR_OUT_DIR"] == template["outputs"][0]["mounted_path"]
    assert "command" not in template, "under Docker it would follow the entry point, as words that nobody knows"


def test_xnat_calls_the_image_on_its_mounts():
    command = xnat_command("ctvae:1")
    source, target = (mount["path"] for mount in command["mounts"])
    assert command["command-line"] == f"-i {source} -o {target}"
    assert json.loads(labels("ctvae:1", "urn:git:1", "1", "now", "base")["org.nrg.commands"]) == [command]


def test_a_value_with_quotes_and_dollars_survives_the_containerfile():
    assert containerfile_line("LABEL", {"a": 'say "$HOME"'}) == 'LABEL a="say \\"\\$HOME\\""\n'


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_each_library_is_pinned_with_hashes_to_the_version_that_is_tested(variant):
    lock = lock_of(variant).read_text()
    pins = lock_pins(lock_of(variant))
    ours = dict(
        re.findall(r"^([a-z0-9._-]+)(?:\[\w+\])?==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )
    hashed = re.findall(r"^([a-z0-9._-]+)==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
    assert sorted(hashed) == sorted(pins) and len(pins) > 50
    assert {name: version for name, version in pins.items() if ours.get(name, version) != version} == {}
    assert "://" not in lock and ("torch" in pins) is (variant == "gpu") and "cupy-cuda13x" not in pins


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_each_library_that_encode_and_listen_ask_for_is_in_the_lock(variant):
    pins = lock_pins(lock_of(variant))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(one) for one in (*project["dependencies"], *project["optional-dependencies"]["pacs"])]
    lacking = [str(one) for one in asked if pins.get(canonicalize_name(one.name), "0") not in one.specifier]
    assert lacking == [], "make map-locks"


def test_what_was_built_is_described_by_its_archive(tmp_path: Path):
    image = right_image()
    archive = image.write_oci(tmp_path / "ctvae-cpu.oci.tar")
    built = described(archive, tmp_path / "ctvae-cpu.sbom.json")
    assert built.bill.read_bytes() == image.layers[0]["etc/holoscan/sbom.json"].content
    assert built.unpacked_bytes == sum(len(file.content) for file in image.layers[0].values())
    with tarfile.open(archive) as members:
        blobs = {sha256(content): content for one in members if (content := members.extractfile(one).read())}
    (layer,) = json.loads(blobs[built.digest])["layers"]
    assert built.compressed_bytes == len(blobs[layer["digest"]])


def debian_root(root: Path) -> None:
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    stanzas = []
    for name, files in {"kept": ["/usr", "/usr/bin", "/usr/bin/a"], "gone": ["/usr", "/usr/bin", "/usr/bin/b"]}.items():
        (root / f"var/lib/dpkg/info/{name}.list").write_text("".join(f"{file}\n" for file in ["/.", *files]))
        (root / "usr/share/doc" / name).mkdir(parents=True)
        (root / "usr/share/doc" / name / "copyright").write_text("Files: *\nLicense: GPL-2+\n text\n")
        fields = {"Package": name, "Status": "install ok installed", "Architecture": "amd64", "Version": "1:2.0-3"}
        stanzas.append("".join(f"{field}: {value}\n" for field, value in fields.items()))
    (root / "usr/bin").mkdir(parents=True)
    for file in ("a", "b"):
        (root / "usr/bin" / file).touch()
    (root / "var/lib/dpkg/status").write_text("\n".join(stanzas))


def test_a_removed_package_is_gone_from_disk_and_from_the_database(tmp_path: Path):
    debian_root(tmp_path)
    remove_packages(tmp_path, re.compile("kept"))
    assert [path.name for path in (tmp_path / "usr/bin").iterdir()] == ["a"]
    assert [one.name for one in installed(tmp_path)] == ["kept"]
    assert [path.name for path in (tmp_path / "var/lib/dpkg/info").iterdir()] == ["kept.list"]


def test_the_bill_lists_debian_python_and_model_with_licences(tmp_path: Path):
    debian_root(tmp_path)
    info = tmp_path / "lib" / "Some_Lib-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: Some_Lib\nVersion: 1.0\nLicense-Expression: MIT\n")
    bill = bill_of_materials(tmp_path / "lib", installed(tmp_path), model_components(ROOT / "models/ct_vae", "1"))
    by_name = {one["name"]: one for one in bill["components"]}
    assert by_name["some-lib"]["licenses"] == [{"license": {"name": "MIT"}}]
    assert by_name["kept"]["purl"] == "pkg:deb/debian/kept@1%3A2.0-3?arch=amd64"
    assert by_name["kept"]["licenses"] == [{"license": {"name": "GPL-2+"}}]
    assert len(by_name["ct_vae/encoder.onnx"]["hashes"][0]["content"]) == 64
    assert bill["specVersion"] == "1.6"
