"""`inspect --pixels` and `encode` give one verdict, and by headers alone nothing is eligible that headers refute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from app import encode
from app.inspect import inspect_folder
from app.open_bundle import open_scan_bundle
from app.settings import Settings
from models.spec import Preprocessing
from operators.geometry.policy import GeometryPolicy
from operators.types import Outcome
from tests.support.checkout import SHARED_FAULTS, skip_or_fail
from tests.support.tiny_ct import compress, put, write_tiny_ct

IN_VOXELS = {"NOT_HU", "UNDECODABLE_PIXELS", "BITS_MISMATCH"}
"""What only decoding can show."""

QUICK_CT = (
    *("cptacsar_3slices", "crlm_1004", "dcmqact_philips_localizer_sc", "dcmqi_ct3slice", "dicom2nifti_failing"),
    *("innereye_scan_small", "lesionsizing", "lidc_0001_slab", "nema_wg04_ct", "panimg_toshiba4d_tinyheaders"),
    *("pydicom_data_singles", "invesalius_cranium"),
)
"""Of ../shared/ct; the others, which take minutes, agree as well (measured when this was written)."""

Verdict = tuple[str, int | None, str, str | None]


def verdict(outcome: Outcome) -> Verdict:
    status = outcome.status.replace("written", "eligible")
    return outcome.series_instance_uid, outcome.part, status, outcome.reason


@pytest.fixture(scope="module")
def preprocessing() -> Preprocessing:
    return open_scan_bundle(None, Settings()).preprocessing


def verdicts(folder: Path, preprocessing: Preprocessing | None) -> list[Verdict]:
    return sorted(verdict(one.outcome) for one in inspect_folder(folder, Settings(), pixels=preprocessing))


def assert_agree(folder: Path, preprocessing: Preprocessing, output: Path) -> None:
    outcomes: list[Outcome] = []
    output.mkdir()
    for _ in encode(folder, output=output, on_outcome=outcomes.append):
        pass
    encoded = sorted(map(verdict, outcomes))
    by_headers = verdicts(folder, None)

    assert verdicts(folder, preprocessing) == encoded
    wrong = [two for one, two in zip(by_headers, encoded, strict=True) if one != two]
    assert {reason for *_, reason in wrong} <= IN_VOXELS


@pytest.mark.parametrize("name", sorted(path.name for path in SHARED_FAULTS.glob("*/")) or ["none"])
def test_every_fault_has_one_verdict(name, preprocessing, tmp_path):
    if not (SHARED_FAULTS / name).exists():
        skip_or_fail("no ../shared/faults beside this checkout")
    assert_agree(SHARED_FAULTS / name, preprocessing, tmp_path / "out")


@pytest.mark.parametrize("name", QUICK_CT)
def test_real_ct_has_one_verdict(name, shared_ct, preprocessing, tmp_path):
    assert_agree(shared_ct(name), preprocessing, tmp_path / "out")


JPEG_LS, RLE, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
PLANE = np.arange(48, dtype=np.uint16).reshape(6, 8)


def coded(syntax: str, codestream: bytes) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, d: int) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([codestream])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True

    return change


def floating(dataset: Dataset, d: int) -> None:
    del dataset.PixelData
    dataset.FloatPixelData = bytes(4 * 48)


SHOWN_WITHOUT_DECODING = {
    "another matrix": (coded(JPEG_LS, imagecodecs.jpegls_encode(PLANE.T.copy())), "UNDECODABLE_PIXELS"),
    "no codestream": (coded(JPEG_2000, b"\xff\x4f\xff\x51 no JPEG 2000"), "UNDECODABLE_PIXELS"),
    "broken RLE header": (coded(RLE, bytes(128)), "UNDECODABLE_PIXELS"),
    "far too long": (coded(JPEG_LS, imagecodecs.jpegls_encode(PLANE) + bytes(1 << 17)), "UNDECODABLE_PIXELS"),
    "floating point": (floating, "UNSUPPORTED_PIXELS"),
    "too short": (lambda ds, d: put(ds, PixelData=bytes(90)), "TRUNCATED_PIXELS"),
}


@pytest.mark.parametrize("name", SHOWN_WITHOUT_DECODING)
def test_what_headers_lengths_and_first_bytes_show_is_not_eligible_by_headers(name, preprocessing, tmp_path):
    change, reason = SHOWN_WITHOUT_DECODING[name]
    write_tiny_ct(tmp_path, np.stack([PLANE] * 5), change=change)

    assert verdicts(tmp_path, None) == verdicts(tmp_path, preprocessing)
    assert {found for *_, found in verdicts(tmp_path, None)} == {reason}


NATIVE = "1.2.840.10008.1.2.1"


@pytest.mark.parametrize(("written", "label"), [(RLE, NATIVE), (NATIVE, RLE)])
def test_a_transfer_syntax_that_is_not_that_of_the_pixels_is_not_eligible_by_headers(
    written, label, preprocessing, tmp_path
):
    for path in write_tiny_ct(tmp_path, np.stack([PLANE] * 5), change=compress(RLE) if written == RLE else None):
        path.write_bytes(path.read_bytes().replace(written.encode(), label.encode(), 1))

    assert verdicts(tmp_path, None) == verdicts(tmp_path, preprocessing)
    assert {found for *_, found in verdicts(tmp_path, None)} == {"UNDECODABLE_PIXELS"}


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_codestream_that_is_cut_off_is_not_eligible_by_headers(kept, preprocessing, tmp_path):
    path = write_tiny_ct(tmp_path, np.stack([PLANE] * 6), change=compress(JPEG_LS))[-1]
    content = path.read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00") + 12
    path.write_bytes(content[: start + int(kept * (len(content) - 8 - start))])

    assert [found for *_, found in verdicts(tmp_path, None)] == ["TRUNCATED_PIXELS"]
    assert verdicts(tmp_path, preprocessing) == verdicts(tmp_path, None)


def test_by_policy_a_compressed_slice_that_is_cut_off_is_dropped_as_a_native_one_is(tmp_path):
    path = write_tiny_ct(tmp_path, np.stack([PLANE] * 6), change=compress(JPEG_LS))[-1]
    path.write_bytes(path.read_bytes()[:-12])
    drop = Settings(geometry=GeometryPolicy(truncated_pixels="drop"))

    [one] = inspect_folder(tmp_path, drop)

    assert one.outcome.shape == (5, 6, 8)
    assert "TRUNCATED_SLICE_DROPPED" in {finding.code for finding in one.outcome.findings}
