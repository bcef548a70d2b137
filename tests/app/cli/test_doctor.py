"""`ctvae doctor` says whether this machine reproduces the bundle's numbers."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import doctor, main
from models import runtime
from models.bundle.golden import GOLDEN
from models.bundle.store import amend_bundle
from tests.support.bundles import write_small_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def bundle(made, tmp_path):
    """A copy that may be broken."""
    return replace(made, path=Path(shutil.copytree(made.path, tmp_path / "small")))


def verdicts(capsys, *arguments: object) -> tuple[int, dict[str, dict]]:
    code = main(["doctor", "--json", *map(str, arguments)])
    said = json.loads(capsys.readouterr().out)
    return code, {one["question"]: one for one in said["verdicts"]}


def test_a_machine_that_is_well_says_so_a_line_a_question(made, capsys):
    assert main(["doctor", "-m", str(made.path), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    questions = [line[6:].split("  ")[0] for line in said.out.splitlines()]
    assert questions == [
        "ctvae", "packages", "CPU", "memory", "GPU", "bundle", "runtime", "golden values", "golden decoder", "speed",
    ]  # fmt: skip
    assert "BAD" not in said.out


def test_the_figures_are_those_of_this_machine(made, capsys):
    code, found = verdicts(capsys, "-m", made.path, "--device", "cpu")
    assert code == 0
    assert "onnxruntime" in found["runtime"]["detail"]
    assert " ms a window (median of 5)" in found["speed"]["detail"]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    assert found["memory"]["detail"].startswith(f"{gigabytes:.1f} GB in all, ")
    assert found["golden values"]["detail"].startswith("largest difference of mu and sigma 0, tolerated 0.000")


def test_a_machine_that_gives_other_numbers_is_not_well(bundle, capsys):
    document = json.loads((bundle.path / GOLDEN).read_bytes())
    document["mu"][0] += 0.01
    amend_bundle(bundle.path, {GOLDEN: json.dumps(document).encode()})
    code, found = verdicts(capsys, "-m", bundle.path, "--device", "cpu")
    assert code == 1
    assert [name for name, one in found.items() if one["good"] is False] == ["golden values"]


def test_a_bundle_without_golden_values_is_compared_with_torch(bundle, capsys):
    (bundle.path / GOLDEN).unlink()
    code, found = verdicts(capsys, "-m", bundle.path, "--device", "cpu")
    assert code == 0
    assert found["golden values"]["good"] is None
    assert "written before there were any" in found["golden values"]["detail"]
    assert found["torch"]["good"] is True


def test_a_damaged_bundle_is_a_verdict(bundle, capsys):
    bundle.weights_path.write_bytes(b"other")
    code, found = verdicts(capsys, "-m", bundle.path)
    assert code == 1
    assert "models/model.safetensors has SHA-256" in found["bundle"]["detail"]


def test_a_gpu_that_was_asked_for_and_is_not_there_is_not_well(made, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "cuda_devices", lambda: 0)
    code, found = verdicts(capsys, "-m", made.path, "--device", "cuda")
    assert code == 1
    assert "no usable GPU" in found["runtime"]["detail"]
    assert verdicts(capsys, "-m", made.path, "--device", "auto")[0] == 0


def test_a_package_that_is_missing_is_not_well(made, capsys, monkeypatch):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "highdicom" else version(package))
    code, found = verdicts(capsys, "-m", made.path, "--device", "cpu")
    assert code == 1
    assert "missing highdicom" in found["packages"]["detail"]


def test_the_shipped_bundle_is_well_here(capsys):
    assert verdicts(capsys, "--device", "cpu")[0] == 0
