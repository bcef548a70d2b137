"""Each clause, on an image that is right but for one thing."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import main
from app.packaging.check import calling, running
from app.packaging.check.check import CLAUSES
from tests.support.checkout import ROOT
from tests.support.images import EPOCH, PROGRAM, File, MadeImage, document, folder, licensed, link, right_image

APP, PKG, SBOM = "etc/holoscan/app.json", "etc/holoscan/pkg.json", "etc/holoscan/sbom.json"
CODE, CACHE = "opt/holoscan/app/__main__.py", "opt/holoscan/app/__pycache__/__main__.cpython-311.pyc"
KAAPANA, COMMAND, PACKAGES = "processing-container.json", "etc/holoscan/command.json", "usr/lib/python3/dist-packages"
Change = Callable[[MadeImage], object]


def field(path: str, key: str, value: object) -> Change:
    """Set a field of a JSON document, by its path with dots."""

    def change(image: MadeImage) -> None:
        def set_it(content: dict) -> None:
            *way, last = key.split(".")
            for one in way:
                content = content[int(one)] if isinstance(content, list) else content[one]
            content[last] = value

        image.changed(path, set_it)

    return change


def without(path: str, key: str) -> Change:
    return lambda image: image.changed(path, lambda content: content.pop(key))


def add(path: str, file: File) -> Change:
    return lambda image: image.layers[0].update({path: file})


def configured(key: str, value: object) -> Change:
    return lambda image: image.config.update({key: value})


def label(name: str, value: str) -> Change:
    return lambda image: image.config["Labels"].update({f"org.opencontainers.image.{name}": value})


def variable(text: str) -> Change:
    return lambda image: image.config["Env"].append(text)


def removed(path: str) -> Change:
    return lambda image: image.layers[0].pop(path)


def mode(path: str, bits: int) -> Change:
    return lambda image: image.layers[0].update({path: replace(image.layers[0][path], mode=bits)})


def dated(seconds: float) -> Change:
    return lambda image: image.layers[0].update({CODE: replace(image.layers[0][CODE], mtime=seconds)})


WRONG: list[tuple[str, Change]] = [
    ("ARCHIVE_CREATED", label("created", "2020-01-01T00:00:00Z")),
    ("ARCHIVE_CREATED", lambda image: image.history.append({"created": "2024-01-01T00:00:00Z"})),
    ("ARCHIVE_TIMES", dated(EPOCH + 1)),
    ("ARCHIVE_TIMES", dated(EPOCH - 0.5)),
    ("ARCHIVE_COMPILED", removed(CACHE)),
    ("ARCHIVE_COMPILED", add(CACHE, File(b"\0" * 16))),
    ("APP_API_VERSION", field(APP, "apiVersion", "0.1.0")),
    ("APP_TYPE", without(APP, "type")),
    ("APP_TYPE", field(APP, "type", "batch")),
    ("APP_COMMAND", field(APP, "command", '["python3", "/opt/holoscan/app"]')),
    ("APP_COMMAND", field(APP, "command", "python3 '/opt/holoscan/app'")),
    ("APP_COMMAND", field(APP, "command", "python9 /opt/holoscan/app")),
    ("APP_COMMAND", field(APP, "command", "'")),
    ("APP_INPUT", field(APP, "input.formats", None)),
    ("APP_INPUT", field(APP, "input.path", "../input")),
    ("APP_OUTPUT", field(APP, "output", {"path": "output/", "formats": ["file"]})),
    ("APP_READINESS", field(APP, "readiness", None)),
    ("APP_READINESS", field(APP, "readiness", {"type": "http-get", "port": 80})),
    ("APP_LIVENESS", field(APP, "liveness", {"type": "tcp", "port": 70_000})),
    ("APP_LIVENESS", field(APP, "liveness", {"type": "command", "command": "true"})),
    ("APP_SDK", field(APP, "sdkVersion", "4")),
    ("APP_SDK", without(APP, "sdk")),
    ("APP_TIMEOUT", field(APP, "timeout", -1)),
    ("APP_VERSION", label("version", "1.2.4")),
    ("APP_WORKING_DIRECTORY", configured("WorkingDir", "/")),
    ("PKG_API_VERSION", without(PKG, "apiVersion")),
    ("PKG_APPLICATION_ROOT", field(PKG, "applicationRoot", "/app")),
    ("PKG_MODELS", field(PKG, "models", {"ct_vae": "/opt/holoscan/models/ct_vae"})),
    ("PKG_MODELS", field(PKG, "models.0.path", "other")),
    ("PKG_MODELS", field(PKG, "models.0.name", "ct vae")),
    ("PKG_RESOURCES", field(PKG, "resources.cpu", 3.14)),
    ("PKG_RESOURCES", field(PKG, "resources.memory", "2048")),
    ("PKG_RESOURCES", field(PKG, "resources.gpu", -1)),
    ("PKG_VERSION", field(PKG, "version", "1.2.4")),
    ("IMAGE_USER", configured("User", "holoscan")),
    ("IMAGE_USER", configured("User", "0:0")),
    ("IMAGE_USER", configured("User", "")),
    ("IMAGE_ENTRYPOINT", configured("Entrypoint", ["/bin/sh", "-c", "python3 /opt/holoscan/app"])),
    ("IMAGE_EXIT_CODE", lambda image: shell_entry(image, b"#!/bin/sh\npython3 /opt/holoscan/app\necho done\n")),
    ("IMAGE_ENVIRONMENT", variable("HOLOSCAN_LOGS=/tmp/logs")),
    ("IMAGE_LABELS", label("revision", "main")),
    ("IMAGE_LABELS", label("licenses", "")),
    ("IMAGE_NO_HEALTHCHECK", configured("Healthcheck", {"Test": ["CMD", "true"]})),
    ("IMAGE_NO_VOLUMES", configured("Volumes", {"/var/holoscan/input": {}})),
    ("IMAGE_FOLDERS", removed("tmp")),
    ("IMAGE_DOCUMENTS", removed("opt/holoscan/docs/LICENSE")),
    ("SAFE_LINKS", add("etc/away", link("../../../etc/shadow"))),
    ("SAFE_NO_DEVICES", add("usr/null", File(kind=tarfile.CHRTYPE))),
    ("SAFE_NO_DEVICES", add("usr/pipe", File(kind=tarfile.FIFOTYPE))),
    ("SAFE_NO_SETUID", mode("bin/cat", 0o4755)),
    ("SAFE_NO_SETUID", add("bin/ping", replace(PROGRAM, pax={"SCHILY.xattr.security.capability": "x"}))),
    ("SAFE_NOT_WRITABLE", mode("var/holoscan/app.yaml", 0o666)),
    ("SAFE_NOT_WRITABLE", mode("var/holoscan/output", 0o777)),
    ("SAFE_ANY_UID", mode("opt/holoscan/models/ct_vae/encoder.onnx", 0o600)),
    ("SAFE_ANY_UID", mode("opt/holoscan", 0o750)),
    ("SAFE_SHARED_PACKAGES", add("home/holoscan/.local/lib/python3.12/site-packages", folder())),
    ("SAFE_NO_PIP", add(f"{PACKAGES}/pip", folder())),
    ("SAFE_NO_PIP", add("usr/bin/pip3", PROGRAM)),
    ("SAFE_NO_COMPILER", add("usr/bin/x86_64-linux-gnu-gcc-12", PROGRAM)),
    ("SAFE_NO_LEFTOVERS", add("etc/pip.conf", File(b"[global]\n"))),
    ("SAFE_NO_LEFTOVERS", add("root/.cache/fontconfig/a", File(b"x"))),
    ("SAFE_NO_LEFTOVERS", add("tmp/requirements.txt", File(b"numpy"))),
    ("SAFE_NO_MOUNT_POINTS", add("run/secrets/key", File())),
    ("SAFE_NO_SECRETS", variable("https_proxy=http://proxy:3128")),
    (
        "SAFE_NO_SECRETS",
        lambda image: image.history.append({"created_by": f"RUN pip install --index{'-'}url http://pypi"}),
    ),
    ("SBOM_VALID", field(SBOM, "specVersion", "1.5")),
    ("SBOM_VALID", field(SBOM, "components.0.type", "thing")),
    (
        "SBOM_DEBIAN",
        add("var/lib/dpkg/status", File(b"Package: libc6\nVersion: 1.0+deb12\n\nPackage: zlib\nVersion: 3\n")),
    ),
    ("SBOM_PYTHON", add(f"{PACKAGES}/numpy-2.0.dist-info/METADATA", File(b"Name: numpy\nVersion: 2.0\n"))),
    ("SBOM_NOTHING_ELSE", lambda image: image.changed(SBOM, list_cupy)),
    ("SBOM_MODELS", add("opt/holoscan/models/ct_vae/encoder.onnx", File(b"others"))),
    ("SBOM_MODELS", add("opt/holoscan/models/other/encoder.onnx", File(b"others"))),
    ("SBOM_PYTHON", add("opt/holoscan/lib/numpy-2.0.dist-info/METADATA", File(b"Name: numpy\nVersion: 2.0\n"))),
    ("SBOM_MODELS", lambda image: image.changed(SBOM, lambda content: content["components"][2].pop("modelCard"))),
    ("SBOM_LICENCES", lambda image: image.changed(SBOM, lambda content: content["components"][0].pop("licenses"))),
    ("AS_MERCURE", removed("bin/cat")),
    ("AS_KAAPANA", field(KAAPANA, "templates.0.env", None)),
    ("AS_KAAPANA", field(KAAPANA, "templates.0.outputs.0.mounted_path", "/var/holoscan/input")),
    ("AS_KAAPANA", removed(KAAPANA)),
    ("AS_XNAT_LABEL", lambda image: image.config["Labels"].pop("org.nrg.commands")),
]


def shell_entry(image: MadeImage, script: bytes) -> None:
    image.layers[0]["usr/bin/start"] = File(script, 0o755)
    image.config["Entrypoint"] = ["/usr/bin/start"]


def list_cupy(content: dict) -> None:
    content["components"].append(licensed("cupy", "pkg:pypi/cupy@1.0"))


def bad(image: MadeImage, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What does not hold, by code; the SBOM lies beside the archive."""
    archive = image.write_oci(folder / "ctvae.oci.tar")
    (folder / "ctvae.sbom.json").write_bytes(image.layers[0][SBOM].content if SBOM in image.layers[0] else b"")
    code = main(["map", "check", str(archive), "--json"])
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    found = {one["question"]: one["detail"] for one in verdicts if one["good"] is False}
    assert code == (1 if found else 0)
    assert [one["question"] for one in verdicts] == list(CLAUSES)
    return found


def test_a_right_image_keeps_every_clause(tmp_path, capsys):
    assert bad(right_image(), tmp_path, capsys) == {}


@pytest.mark.parametrize(("code", "change"), WRONG, ids=[f"{at}-{code}" for at, (code, _) in enumerate(WRONG)])
def test_what_is_wrong_is_named_by_its_code_alone(tmp_path, capsys, code, change):
    image = right_image()
    change(image)
    assert set(bad(image, tmp_path, capsys)) == {code}


@pytest.mark.parametrize(
    ("code", "change", "do"),
    [
        ("APP_VERSION", field(APP, "version", "1"), "correct it where app.json is written"),
        ("PKG_VERSION", field(PKG, "version", "1"), "correct it where pkg.json is written"),
        ("IMAGE_LABELS", label("version", "1"), "label the image with it"),
    ],
)
def test_a_version_that_is_not_semantic_is_to_be_corrected_where_it_stands(tmp_path, capsys, code, change, do):
    image = right_image()
    change(image)
    assert bad(image, tmp_path, capsys)[code].endswith(f"expected a semantic version such as '1.2.0'; {do}")


def test_every_clause_has_an_image_that_breaks_it():
    broken_elsewhere = {"ARCHIVE_DIGESTS", "ARCHIVE_UNPACKED", "ARCHIVE_PACKED", "SBOM_BESIDE", "AS_XNAT"}
    broken_with_others = {"APP_JSON", "APP_ENVIRONMENT", "APP_ENVIRONMENT_PATHS", "PKG_JSON", "PKG_MODEL_ROOT"}
    broken_with_others |= {"PKG_MODEL_FOLDERS", "IMAGE_PLATFORM"}
    assert set(CLAUSES) - {code for code, _ in WRONG} - broken_elsewhere - broken_with_others == set()


@pytest.mark.parametrize(
    ("codes", "change"),
    [
        ({"APP_JSON", "APP_TYPE", "AS_MERCURE"}, removed(APP)),
        ({"APP_JSON", "PKG_VERSION"}, add(APP, File(b"[" * 100_000))),
        ({"APP_JSON"}, add(APP, File(b"\xff"))),
        ({"APP_ENVIRONMENT", "IMAGE_ENVIRONMENT"}, field(APP, "environment.HOLOSCAN_INPUT_PATH", "input/")),
        ({"APP_ENVIRONMENT", "APP_ENVIRONMENT_PATHS"}, lambda image: image.changed(APP, packager_names)),
        ({"APP_ENVIRONMENT_PATHS"}, removed("var/holoscan/app.yaml")),
        ({"PKG_JSON", "SBOM_MODELS"}, removed(PKG)),
        ({"PKG_MODEL_ROOT", "PKG_MODELS", "SBOM_MODELS"}, field(PKG, "modelRoot", "/models")),
        ({"PKG_MODEL_FOLDERS", "SBOM_MODELS"}, add("opt/holoscan/models/encoder.onnx", File(b"x"))),
        ({"AS_XNAT", "AS_XNAT_LABEL"}, field(COMMAND, "outputs.0.mount", "elsewhere")),
        ({"AS_XNAT"}, field(COMMAND, "command-line", "python3 /opt/holoscan/app #SCAN#")),
        ({"AS_XNAT"}, field(COMMAND, "xnat.0.contexts", [])),
        ({"AS_XNAT"}, removed("bin/sh")),
        ({"APP_JSON", "AS_MERCURE"}, add(APP, link("../../../../etc/passwd"))),
        ({"APP_JSON"}, add(APP, link("app.json"))),
    ],
)
def test_what_breaks_several_clauses_breaks_these(tmp_path, capsys, codes, change):
    image = right_image()
    change(image)
    assert codes <= set(bad(image, tmp_path, capsys))


def packager_names(content: dict) -> None:
    content["environment"]["HOLOSCAN_DOCS_PATH"] = content["environment"].pop("HOLOSCAN_DOCS")


def test_sizes_have_their_limits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("app.packaging.check.reproducible.MB", 1)
    assert set(bad(right_image(), tmp_path, capsys)) == {"ARCHIVE_UNPACKED", "ARCHIVE_PACKED"}
    image = right_image()
    image.layers[0][f"{PACKAGES}/torch"] = folder()
    assert bad(image, tmp_path, capsys) == {}


def test_the_sbom_beside_the_archive_is_the_one_inside(tmp_path, capsys):
    archive = right_image().write_oci(tmp_path / "ctvae.oci.tar")
    for content in (None, b"{}"):
        if content is not None:
            (tmp_path / "ctvae.sbom.json").write_bytes(content)
        assert main(["map", "check", str(archive)]) == 1
        assert "BAD   SBOM_BESIDE" in capsys.readouterr().out


def test_an_archive_of_dockers_is_read_as_well(tmp_path, capsys):
    image = right_image()
    archive = image.write_docker(tmp_path / "ctvae.tar")
    (tmp_path / "ctvae.sbom.json").write_bytes(image.layers[0][SBOM].content)
    assert main(["map", "check", str(archive)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5].strip() for line in lines] == ["good"] * len(CLAUSES)


def test_text_of_an_image_steers_no_terminal(tmp_path, capsys):
    image = right_image()
    field(APP, "type", "\x1b[2Jx\ngood  APP_TYPE application")(image)
    found = bad(image, tmp_path, capsys)
    assert set(found) == {"APP_TYPE"} and "\x1b" not in found["APP_TYPE"] and "\n" not in found["APP_TYPE"]


def test_the_page_names_each_clause_with_its_line():
    page = (ROOT / "docs" / "map-check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z]+_[A-Z_]+)` \| (.+?) \|$", page, re.M))
    clauses = {**CLAUSES, **running.CLAUSES, **calling.CLAUSES}
    said = {code: (clause.__doc__ or "").split("\n")[0].removeprefix("Check that ") for code, clause in clauses.items()}
    assert {code: rows.get(code) for code in said} == said


def test_an_image_as_the_stock_packager_makes_it_is_refused(tmp_path, capsys):
    found = bad(stock_image(), tmp_path, capsys)
    assert {"APP_TYPE", "APP_COMMAND", "APP_ENVIRONMENT", "APP_OUTPUT", "PKG_MODELS"} <= set(found)
    assert {"IMAGE_USER", "IMAGE_EXIT_CODE", "SAFE_SHARED_PACKAGES", "SAFE_ANY_UID", "AS_MERCURE"} <= set(found)


def stock_image() -> MadeImage:
    """What the packager of holoscan-cli 4.2.0 writes, by its own code and templates, into the right image."""
    from importlib.resources import files

    image = right_image()
    manifests = stock_manifests()
    for path, content in zip((APP, PKG), manifests, strict=True):
        image.layers[0][path] = document(content)
    tools = (files("holoscan_cli") / "packager" / "templates" / "tools.sh").read_bytes()
    image.layers[0]["var/holoscan/tools"] = File(tools, 0o755)
    image.layers[0]["bin/bash"] = PROGRAM
    image.layers[0]["home/holoscan"] = folder(0o750)
    image.layers[0]["home/holoscan/.local/lib/python3.12/site-packages"] = folder()
    del image.layers[0]["etc/monai"]
    image.config |= {"User": "holoscan", "Entrypoint": ["/var/holoscan/tools"]}
    return image


def stock_manifests() -> tuple[dict, dict]:
    from holoscan_cli.packager.config_reader import ApplicationConfiguration
    from holoscan_cli.packager.parameters import PackageBuildParameters

    settings = ApplicationConfiguration()
    settings.read(ROOT / "app" / "app.yaml")
    parameters = PackageBuildParameters()
    parameters.application = ROOT / "app"
    parameters.models = {"ct_vae": ROOT / "models" / "ct_vae"}
    parameters.timeout = 0
    return settings.populate_app_manifest(parameters).data, settings.populate_package_manifest(parameters).data
