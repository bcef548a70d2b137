"""What `make env` makes: the versions that are pinned, nothing in conflict, and our `monai-deploy` on top."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.extras import EXTRA_OF, lacking
from tests.support.checkout import ROOT, skip_or_fail

PACKAGES = ("app", "operators", "models")
# What torch brings for a GPU differs from machine to machine; pip is there before the lock is read.
NOT_LOCKED = ("nvidia-", "triton", "pip")


def pins(name: str) -> dict[str, Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return {canonicalize_name(pin.name): pin for pin in found}


def declared() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: the core under "", each extra under its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in lists.items()}


LOCK = pins("requirements.txt")
ALL_PINS = LOCK | pins("requirements-dev.txt")


def test_each_pin_names_one_exact_version():
    said = {name: [(part.operator, "*" in part.version) for part in pin.specifier] for name, pin in ALL_PINS.items()}
    assert {name: parts for name, parts in said.items() if parts != [("==", False)]} == {}


def test_each_pinned_version_is_installed():
    assert [str(pin) for name, pin in ALL_PINS.items() if not pin.specifier.contains(version(name))] == []


def test_nothing_that_is_installed_conflicts():
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_lock_pins_all_that_pyproject_asks_for_and_what_that_brings():
    asked = [requirement for requirements in declared().values() for requirement in requirements]
    wrong = [str(one) for one in asked if not one.specifier.contains(str(LOCK[one.name].specifier).removeprefix("=="))]
    needed = {"setuptools", *closure(asked)}
    assert (wrong, sorted(needed - set(LOCK)), sorted(set(LOCK) - needed)) == ([], [], []), "see requirements.txt"


def closure(requirements: list[Requirement]) -> set[str]:
    """The names of these and of all that they need in their turn, as installed here."""
    todo, seen = list(requirements), set[tuple[str, frozenset[str]]]()
    while todo:
        asked = todo.pop()
        key = canonicalize_name(asked.name), frozenset(asked.extras)
        if key in seen or key[0].startswith(NOT_LOCKED):
            continue
        seen.add(key)
        for needed in map(Requirement, distribution(asked.name).requires or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in key[1] | {""}):
                todo.append(needed)
    return {name for name, _ in seen}


def test_whatever_the_code_imports_is_declared_and_an_extra_is_named_for_what_the_core_lacks():
    found_in = packages_distributions()
    extras = {extra: {canonicalize_name(one.name) for one in asked} for extra, asked in declared().items()}
    for module in sorted(third_party_imports()):
        names = {canonicalize_name(name) for name in found_in.get(module, ())}
        bringing = {extra for extra, brought in extras.items() if names & brought}
        assert EXTRA_OF.get(module, "") in bringing, f"{module} is not declared in pyproject.toml, or not in app.extras"


def third_party_imports() -> set[str]:
    names = set[str]()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - set(PACKAGES)


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `ctvae` from an unpacked wheel of this checkout, in a Python that has no library of an extra."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in subprocess.check_output(["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index"]
    build = [*pip, "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([*build, "--target", folder / "site", source], check=True, capture_output=True)
    start = (
        "import sys\n"
        f"for name in {sorted(EXTRA_OF)!r}: sys.modules[name] = None\n"
        "from app.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(folder / "site"), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", start, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def test_the_installed_core_encodes_and_its_doctor_is_content(without_extras, phantom_ct, tmp_path):
    encoded = without_extras("encode", phantom_ct, "-o", tmp_path)
    assert encoded.returncode == 0, encoded.stderr
    assert len(list(tmp_path.glob("*/features.sr.dcm"))) == 1
    examined = without_extras("doctor", "--device", "cpu")
    assert examined.returncode == 0, examined.stdout + examined.stderr


def test_the_installed_settings_and_schema_are_those_of_the_checkout(without_extras):
    assert without_extras("schema").stdout == (ROOT / "operators/results/features.schema.json").read_text()
    assert (ROOT / "app" / "app.yaml").is_file()


def test_a_card_that_cannot_be_drawn_ends_the_run_before_anything_is_encoded(without_extras, phantom_ct, tmp_path):
    ended = without_extras("encode", phantom_ct, "-o", tmp_path, "--card", "png")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (3, "", 1)
    assert ended.stderr.endswith(": ctvae[card]\n")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_lacks_its_extra_names_it_in_one_line(without_extras):
    ended = without_extras("train", "scans", "-o", "bundle")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (3, "", 1)
    assert "MISSING_EXTRA: torch " in ended.stderr and ended.stderr.endswith(": ctvae[train]\n")
    assert (lacking(ModuleNotFoundError(name="pyarrow.parquet")) or "").endswith(": ctvae[table]")
    assert lacking(ModuleNotFoundError(name="unheard_of")) is lacking(ImportError(name="torch")) is None


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
    shutil.copy(ROOT / "Makefile", folder)
    project = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(re.sub(r"(?ms)^dependencies = \[.*?^\]", "dependencies = []", project))
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
