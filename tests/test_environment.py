"""What `make env` makes: the versions that are pinned, nothing in conflict, and our `monai-deploy` on top."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.checkout import ROOT, skip_or_fail

PACKAGES = ("app", "operators", "models")


def pins(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


ALL_PINS = pins("requirements.txt") + pins("requirements-dev.txt")


@pytest.mark.parametrize("pin", ALL_PINS, ids=lambda pin: pin.name)
def test_a_requirement_names_one_exact_version(pin: Requirement):
    operators = [(part.operator, "*" in part.version) for part in pin.specifier]
    assert operators == [("==", False)]


@pytest.mark.parametrize("pin", ALL_PINS, ids=lambda pin: pin.name)
def test_the_version_that_is_pinned_is_installed(pin: Requirement):
    assert pin.specifier.contains(version(pin.name))


def test_nothing_that_is_installed_conflicts():
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_whatever_the_code_imports_is_pinned():
    pinned = {canonicalize_name(pin.name) for pin in pins("requirements.txt")}
    found_in = packages_distributions()
    for module in sorted(third_party_imports()):
        assert pinned & {canonicalize_name(name) for name in found_in.get(module, ())}, f"{module} is not pinned"


def third_party_imports() -> set[str]:
    names = set[str]()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - set(PACKAGES)


class Checkout:
    """A copy of this checkout with an environment of its own, made by its own Makefile."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self.script = folder / ".venv" / "bin" / "monai-deploy"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
        self.environment = kept | offline | {"PYTHON": sys.executable}

    def run(self, *command: str) -> str:
        ended = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def monai_deploy_is_ours(self) -> bool:
        return "app.cli.monai_deploy" in self.script.read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Its requirements are cut to the two that matter for who owns the script, its path has a space.

    They are packed again from what is installed here, so no network is needed; holoscan-cli without what it needs in
    its turn, for only its script is looked at.
    """
    if not shutil.which("make"):
        skip_or_fail("no make")
    wheels = tmp_path_factory.mktemp("wheels")
    folder = tmp_path_factory.mktemp("checkout") / "with space"
    folder.mkdir()
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*.py"):
            copy = folder / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    names = ("holoscan-cli", "setuptools")
    (folder / "requirements.txt").write_text("".join(f"{name}=={version(name)}\n" for name in names))
    for name in names:
        pack_again(name, wheels)
    made = Checkout(folder, wheels)
    made.run("make", "env")
    yield made
    shutil.rmtree(folder)


def pack_again(name: str, folder: Path) -> None:
    """An installed distribution as a wheel that asks for no others."""
    installed = distribution(name)
    left_out = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    stem = f"{name.replace('-', '_')}-{installed.version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file in installed.files or []:
            if ".." in file.parts or "__pycache__" in file.parts or file.name in left_out:
                continue
            content = Path(str(file.locate())).read_bytes()
            if file.name == "METADATA" and file.parent.name.endswith(".dist-info"):
                content = b"".join(x for x in content.splitlines(True) if not x.startswith(b"Requires-Dist:"))
            wheel.writestr(str(file), content)
        rows = "".join(f"{listed},,\n" for listed in wheel.namelist())
        wheel.writestr(f"{stem}.dist-info/RECORD", rows + f"{stem}.dist-info/RECORD,,\n")


def test_make_env_leaves_our_monai_deploy(checkout: Checkout):
    assert checkout.monai_deploy_is_ours()
    assert checkout.run(str(checkout.folder / ".venv/bin/python"), "-m", "pip", "show", "holoscan-cli")


def test_the_command_runs_in_a_checkout_whose_path_has_a_space(checkout: Checkout):
    assert "monai-deploy exec" in checkout.run(str(checkout.script), "exec", "--help")


def test_a_second_make_env_has_nothing_to_do(checkout: Checkout):
    written_at = checkout.script.stat().st_mtime_ns
    said = checkout.run("make", "env")
    assert said in ("", "make: Nothing to be done for 'env'.\n")
    assert checkout.script.stat().st_mtime_ns == written_at


def test_make_env_that_is_forced_leaves_our_monai_deploy(checkout: Checkout):
    written_at = checkout.script.stat().st_mtime_ns
    checkout.run("make", "-B", "env")
    assert checkout.script.stat().st_mtime_ns > written_at
    assert checkout.monai_deploy_is_ours()


def test_make_env_takes_the_command_back_after_holoscan_cli_was_installed_again(checkout: Checkout):
    pip = (str(checkout.folder / ".venv/bin/python"), "-m", "pip")
    checkout.run(*pip, "install", "--force-reinstall", "--no-deps", "holoscan-cli")
    assert not checkout.monai_deploy_is_ours()
    checkout.run("make", "env")
    assert checkout.monai_deploy_is_ours()
