"""Reading an SR back: what was written, bit for bit, of this version and of earlier ones, or an error that says why."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from operators.errors import CtvaeError
from operators.sr import codes as sr_codes
from operators.sr.items import only
from operators.sr.read import read_sr
from operators.sr.text import sr_text
from operators.sr.write import sr_bytes
from operators.types import Finding
from tests.support.sr_records import (
    NOTICE,
    code_value,
    ct_header,
    group_of,
    made_record,
    made_reliability,
    numbers,
    reread,
)

OLD_SR = Path(__file__).parents[2] / "data" / "sr_version_0.1.dcm"
POSTERIOR, QUANTITIES = "VAE-POST", "VOXEL-QUANTITIES"


# Reading is careful


@pytest.fixture(scope="module")
def small_sr():
    return sr_bytes(made_record(taps={"mu": [0.5, 1.5], "sigma": [0.25, 0.75]}))


def test_it_reads_the_same_from_implicit_vr():
    record, file = made_record(), BytesIO()
    document = reread(record)
    document.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    document.save_as(file, implicit_vr=True, little_endian=True)
    features = read_sr(pydicom.dcmread(BytesIO(file.getvalue())))
    assert features.taps["mu"].tobytes() == record.taps["mu"].values.tobytes()


def test_an_image_is_not_ours():
    with pytest.raises(CtvaeError, match="NOT_OUR_SR: found CT Image Storage"):
        read_sr(ct_header())


def test_an_sr_of_somebody_else_is_not_ours():
    document = reread(made_record())
    document.CodingSchemeIdentificationSequence = []
    with pytest.raises(CtvaeError, match="NOT_OUR_SR"):
        read_sr(document)


def test_a_file_that_is_no_dicom_says_so(tmp_path):
    file = tmp_path / "note.txt"
    file.write_text("hello")
    with pytest.raises(CtvaeError, match="NOT_DICOM"):
        read_sr(file)


def _without_a_dimension(document: Dataset) -> None:
    del group_of(document, POSTERIOR).ContentSequence[-4:-2]


def _without_the_last_dimension(document: Dataset) -> None:
    del group_of(document, POSTERIOR).ContentSequence[-2:]


def _without_a_quantity(document: Dataset) -> None:
    group = group_of(document, QUANTITIES)
    del group.ContentSequence[group.ContentSequence.index(numbers(group)[0])]


def _other_decimal(document: Dataset) -> None:
    numbers(group_of(document, POSTERIOR))[5].MeasuredValueSequence[0].NumericValue = "0.5"


def _other_percentage(document: Dataset) -> None:
    numbers(group_of(document, QUANTITIES))[1].MeasuredValueSequence[0].NumericValue = "25.1"


def _twice(document: Dataset) -> None:
    group = group_of(document, POSTERIOR)
    group.ContentSequence.append(numbers(group)[0])


def _without_value(document: Dataset) -> None:
    del numbers(group_of(document, POSTERIOR))[3].MeasuredValueSequence


def _in_another_unit(document: Dataset) -> None:
    measured = numbers(group_of(document, POSTERIOR))[3].MeasuredValueSequence[0]
    measured.MeasurementUnitsCodeSequence[0].CodeValue = "mm"


def _two_groups(document: Dataset) -> None:
    measurements = document.ContentSequence[-1].ContentSequence
    measurements.append(measurements[0])


@pytest.mark.parametrize(
    "damage",
    [
        _without_a_dimension,
        _without_the_last_dimension,
        _without_a_quantity,
        _other_decimal,
        _other_percentage,
        _twice,
        _without_value,
        _in_another_unit,
        _two_groups,
    ],
)
def test_an_sr_that_contradicts_itself_is_refused(damage):
    document = reread(made_record())
    damage(document)
    with pytest.raises(CtvaeError, match="BROKEN_SR"):
        read_sr(document)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_gives_the_written_vectors_or_an_error_of_ours(small_sr, tmp_path, caplog, data):
    caplog.set_level("CRITICAL")
    content = bytearray(small_sr)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "damaged.dcm"
    file.write_bytes(content[: data.draw(st.integers(132, len(content)) | st.just(len(content)))])
    try:
        taps = read_sr(file).taps
    except CtvaeError:
        return
    assert (taps["mu"].tolist(), taps["sigma"].tolist()) == ([0.5, 1.5], [0.25, 0.75])


# Earlier versions, and what is optional


def test_an_sr_of_version_0_1_reads_bit_for_bit():
    features = read_sr(OLD_SR)
    assert features.taps["mu"].tobytes() == np.float32([0.5, -1e-45, 3.4028235e38]).tobytes()
    assert features.taps["sigma"].tobytes() == np.float32([0.25, 1.1754944e-38, 16777217]).tobytes()
    assert features.taps["dense"].tobytes() == (np.arange(2) / 7).astype(np.float32).tobytes()
    assert features.quantities == {"mean_hu": float(np.float32(-123.456)), "lung_fraction": float(np.float32(0.1))}
    assert features.unlisted["block1"].length == 257
    assert (features.part, features.findings, features.verdict) == (2, (Finding("GAP", "one: two"),), None)


@pytest.mark.parametrize("verdict", ["in_distribution", "out_of_distribution", "undetermined"])
def test_the_reliability_reads_back_bit_for_bit(verdict):
    written = made_reliability(verdict, mahalanobis=float(np.float32(7.1)), reasons=("one", "two"))
    document = reread(made_record(reliability=written))
    read = read_sr(document).typicality

    assert (read.verdict, read.reasons, read.n_reference) == (verdict, ("one", "two"), 39)
    assert read.reference_sha256 == written.reference_sha256
    assert read.percentile == np.float32(written.percentiles.combined)
    scores = ("outlier_score", "orientation_score")
    for name in ("p_conformal", "mahalanobis", "reconstruction_mae_hu", "reconstruction_ratio", *scores):
        found, expected = getattr(read, name), getattr(written, name)
        assert (found is None) is (expected is None)
        assert found is None or np.float32(found).tobytes() == np.float32(expected).tobytes(), name
    assert len(only(group_of(document, "TYPICALITY"), sr_codes.COMMENT).TextValue) <= 60


def test_a_bundle_without_a_decoder_has_a_typicality_without_an_error():
    percentiles = replace(made_reliability().percentiles, reconstruction=None)
    written = made_reliability(reconstruction_mae_hu=None, reconstruction_ratio=None, percentiles=percentiles)
    read = read_sr(reread(made_record(reliability=written))).typicality
    assert (read.reconstruction_mae_hu, read.reconstruction_ratio) == (None, None)


@pytest.mark.parametrize(("part", "code"), [("outlier", "OUTLIER-SCORE"), ("orientation", "ORIENTATION-SCORE")])
def test_a_network_without_a_score_has_a_typicality_without_it(part, code):
    """As an SR of a ctvae that knew no such score."""
    without = {f"{part}_score": None, "percentiles": replace(made_reliability().percentiles, **{part: None})}
    document = reread(made_record(reliability=made_reliability(**without)))
    assert getattr(read_sr(document).typicality, f"{part}_score") is None
    with_one = reread(made_record(reliability=made_reliability()))
    codes = [{code_value(item) for item in numbers(one)} for one in (document, with_one)]
    assert codes[1] - codes[0] == {code}


def test_a_record_without_reliability_has_no_typicality():
    read = read_sr(reread(made_record()))
    assert (read.typicality, read.verdict) == (None, None)


def test_a_typicality_that_lost_a_number_is_broken():
    document = reread(made_record(reliability=made_reliability()))
    content = group_of(document, "TYPICALITY").ContentSequence
    content.remove(next(item for item in content if item.ValueType == "NUM"))
    with pytest.raises(CtvaeError, match=r"BROKEN_SR: the typicality group has 6 numbers; expected 7"):
        read_sr(document)


# For a person


def test_the_text_shows_the_notice_four_dimensions_and_how_many_more():
    text = sr_text(reread(made_record()))
    assert f"  Comment: {NOTICE}" in text
    assert "VAE latent 03 mean, Mean: -1.2096775" in text
    assert "VAE latent 04" not in text
    assert "… 56 more numbers" in text
    assert "Mean of the body: -123.456 [hnsf'U]" in text


def test_the_text_names_nobody():
    assert "Doe" not in sr_text(reread(made_record()))
