"""The image, run without a daemon: another uid, read-only root, no network, no capabilities; the same bytes result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import main
from app.packaging.check.container import OUTPUT, Container, open_container, results_in
from app.packaging.check.image import open_image
from tests.support.checkout import skip_or_fail
from tests.support.listeners import STORESCU


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The image, to be called; on an empty folder where a test gives no other."""
    if not shutil.which("bwrap"):
        skip_or_fail("no bwrap")
    empty = tmp_path_factory.mktemp("empty")
    with open_image(Path(os.environ["CTVAE_MAP_ARCHIVE"])) as opened, open_container(opened, empty) as container:
        yield container


def test_a_real_series_gives_the_bytes_of_ctvae_encode(image, shared_ct, tmp_path: Path):
    study = shared_ct("cip_chest/ct64_dicom")
    ended, inside = image.call(source=study)
    assert ended.code == 0, ended.err
    assert main(["encode", str(study), "-o", str(tmp_path)]) == 0
    outside = results_in(tmp_path)
    assert sorted(Path(name).name for name in outside) == ["features.json", "features.sr.dcm"]
    assert results_in(inside) == outside


def test_codes_2_and_3_reach_the_outside(image):
    assert image.call()[0].code == 2
    assert image.call("-c", "/nowhere.yaml")[0].code == 3


def test_the_image_says_what_it_is_and_reproduces_the_golden_values(image):
    assert json.loads(image.call("show", "app")[0].out)["type"] == "application"
    assert json.loads(image.call("show", "sbom")[0].out)["specVersion"] == "1.6"
    ended, _ = image.call("doctor")
    assert ended.code == 0, ended.out
    assert "golden values   largest difference of mu and sigma 0" in ended.out


def test_the_libraries_of_the_queue_are_in_the_image(image):
    start = replace(image.start, env={**image.start.env, "CTVAE_LISTENER_FOLDER": OUTPUT})
    ended, _ = image.call("queue", "list", start=start)
    assert ended.code == 3 and "NO_QUEUE" in ended.err


def test_a_series_that_dcmtk_sends_to_listen_becomes_a_result(image, phantom_ct: Path):
    """The container has a network with nothing but its own loopback; storescu joins it."""
    if not STORESCU.exists():
        skip_or_fail("no DCMTK; run .ci/programs")
    settings = {"FOLDER": OUTPUT, "QUIET_S": "1", "RESERVE_MB": "0"}
    env = image.start.env | {f"CTVAE_LISTENER_{name}": value for name, value in settings.items()}
    files = sorted(phantom_ct.iterdir())
    sent = []

    def send_and_wait(pid: int, folder: Path) -> bool:
        if not sent:
            inside = ["nsenter", f"--net=/proc/{pid}/ns/net", STORESCU, "-aec", "CTVAE", "127.0.0.1", "11112", *files]
            sent.extend([True] * (subprocess.run(inside, capture_output=True).returncode == 0))
        return bool(list(folder.glob("results/**/features.sr.dcm")))

    ended, folder = image.call("listen", start=replace(image.start, env=env), when=send_and_wait)
    assert sent and ended.stopped, ended.err
    assert (ended.code, ended.left) == (0, ()), ended.err
    assert len(list(folder.glob("spool/instances/*/*.dcm"))) == len(files)
    assert {"features.json", "features.sr.dcm"} <= {path.name for path in folder.glob("results/**/features.*")}
