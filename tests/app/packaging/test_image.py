"""The image, run without a daemon: another uid, read-only root, no network, no capabilities; the same bytes result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import main
from app.packaging.check.container import OUTPUT, Container, open_container, results_in
from app.packaging.check.image import open_image
from tests.support.checkout import skip_or_fail


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
