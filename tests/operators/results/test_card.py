"""The card: the same bytes each time, no patient on it, and what it says follows from the record."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from operators.record import FeatureRecord, Percentiles, Reliability
from operators.results.card import Card
from operators.results.card_page import draw_page
from operators.types import Finding
from tests.support.checkout import ROOT
from tests.support.sr_records import record_of_series


@pytest.fixture(scope="module")
def record(phantom_ct) -> FeatureRecord:
    return record_of_series(phantom_ct)


def words(record: FeatureRecord, reconstruct=None) -> str:
    """All text on the page."""
    return "\n".join(text.get_text() for text in draw_page(record, reconstruct).findobj(Text))


def reliability(verdict: str, ranks: np.ndarray) -> Reliability:
    p = None if verdict == "undetermined" else 0.5
    percentiles = Percentiles(50.0, 50.0, None, None, None, ranks.astype(np.float32), ranks.astype(np.float32))
    return Reliability(verdict, ("said why",), 11, p, 3.0, None, None, None, None, 0.9, percentiles, "ab" * 32)


def test_the_page_has_the_same_bytes_in_another_process(record, phantom_ct):
    program = (
        "import sys, hashlib; from pathlib import Path; from tests.support.sr_records import record_of_series\n"
        "from operators.results.card import Card\n"
        "card = Card(record_of_series(Path(sys.argv[1])))\n"
        "print(*(hashlib.sha256(one).hexdigest() for one in (card.png(), card.pdf(), card.pixels().tobytes())))"
    )
    ended = subprocess.run([sys.executable, "-c", program, phantom_ct], cwd=ROOT, capture_output=True, text=True)
    card = Card(record)
    here = [hashlib.sha256(one).hexdigest() for one in (card.png(), card.pdf(), card.pixels().tobytes())]
    assert ended.stdout.split() == here, ended.stderr


def test_the_picture_is_the_same_as_png_and_as_pixels(record):
    card = Card(record)
    png = imread(io.BytesIO(card.png()))
    assert np.array_equal((png[..., :3] * 255).round().astype(np.uint8), card.pixels())


def test_the_longest_reason_of_an_outlier_score_is_not_cut(record):
    said = "it is less like a patient than 100 of 100 reference patients: outlier score -10.1, theirs -20.2 to -10.2"
    judged = replace(reliability("out_of_distribution", np.full(32, 50.0)), reasons=(said,))
    assert said in " ".join(words(replace(record, reliability=judged)).split())


def test_the_longest_reason_of_an_orientation_score_is_not_cut(record):
    than = "100 of 100 reference patients: orientation score -10.1, theirs -20.2 to -10.2"
    said = f"it is more likely to lie upside down or back to front than {than}"
    judged = replace(reliability("out_of_distribution", np.full(32, 50.0)), reasons=(said,))
    assert said in " ".join(words(replace(record, reliability=judged)).split())


def test_a_scan_that_is_unlike_in_all_parts_has_all_its_reasons_on_the_page(record):
    reasons = ("of p", "of mu", "of the reconstruction", "of the outlier score", "of the orientation score")
    said = words(
        replace(record, reliability=replace(reliability("out_of_distribution", np.full(32, 50.0)), reasons=reasons))
    )
    assert [reason for reason in reasons if reason not in said] == []


def test_much_text_ends_above_the_dimensions(record):
    """With all reasons and several findings."""
    long = (
        "it is more likely to lie upside down or back to front than 11 of 11 reference patients: orientation score 2.31"
    )
    judged = replace(reliability("out_of_distribution", np.full(32, 50.0)), reasons=(long,) * 5)
    found = tuple(Finding(code, "") for code in ("MIXED_KERNEL", "OBLIQUE", "OVERLAPPING_SLICES", "MIXED_KVP"))
    windows = replace(record.encoding.windows, findings=found)
    full = replace(record, reliability=judged, encoding=replace(record.encoding, windows=windows))
    figure = draw_page(full, None)
    lowest = min(
        text.get_position()[1] for text in figure.texts if text.get_position()[0] > 0.7 and text.get_fontsize() < 9
    )
    assert lowest > max(axes.get_position().y1 for axes in figure.axes if axes.get_xlabel() == "dimension")


@pytest.mark.parametrize(
    ("verdict", "headline"),
    [
        ("in_distribution", "A typical CT for this model"),
        ("out_of_distribution", "Unlike the reference CT: do not rely on these numbers"),
        ("undetermined", "Cannot tell whether this CT is typical"),
    ],
)
def test_the_verdict_stands_in_words_with_its_reason(record, verdict, headline):
    ranks = np.where(np.arange(32) < 3, 0, 50)
    said = words(replace(record, reliability=reliability(verdict, ranks)))
    assert headline in said
    assert "said why" in said
    assert "3 of them beyond all" in said


def test_without_reference_and_decoder_the_page_says_so(record):
    said = words(record)
    assert "Reliability not assessed" in said
    assert "no reference patients" in said
    assert "came without a decoder" in said


def test_the_reconstruction_is_shown_with_its_error(record):
    asked = []

    def darker(mu):
        """10 HU too dark everywhere, in a window of 2000 HU."""
        asked.append(mu)
        return [record.encoding.windows.voxels[len(record.encoding.windows.voxels) // 2, 0] - np.float32(0.005)]

    low, high = record.preprocessing["window_hu"]
    assert f"mean {0.005 * (high - low):.0f} HU" in words(record, darker)
    assert np.array_equal(asked[0], record.taps["mu"].windows[len(record.taps["mu"].windows) // 2][None])


def test_no_text_of_a_header_is_on_the_page(record):
    secrets = ("Zwerg^Nase", "ZW-1", "19700102", "ACC-9", "KERNEL-OF-JANE")
    header = record.series.first
    tags = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ConvolutionKernel")
    before = {tag: header.get(tag) for tag in tags}
    for tag, value in zip(tags, secrets, strict=True):
        setattr(header, tag, value)
    try:
        windows = replace(record.encoding.windows, findings=(Finding("MIXED_KERNEL", "found KERNEL-OF-JANE"),))
        told = words(replace(record, encoding=replace(record.encoding, windows=windows)))
    finally:
        for tag, value in before.items():
            delattr(header, tag) if value is None else setattr(header, tag, value)
    assert "Several convolution kernels along the scan." in told
    assert [secret for secret in secrets if secret in told or secret.split("^")[0] in told] == []
