"""A certificate is read from JSON, checked, and written so that the file stays the same."""

from __future__ import annotations

import json

import pytest

from models.certificate import certificate_from_json
from tests.support.certificates import small_certificate
from tests.support.checkout import ROOT


def test_the_shipped_certificate_is_read_and_written_to_the_same_bytes():
    text = (ROOT / "models" / "ct_vae" / "docs" / "certificate.json").read_text(encoding="utf-8")
    certificate = certificate_from_json(json.loads(text))
    assert json.dumps(certificate.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n" == text


def test_a_certificate_of_few_figures_reads_back_the_same():
    certificate = small_certificate()
    assert certificate_from_json(json.loads(json.dumps(certificate.as_json()))) == certificate


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["schema_version"], 2, "schema_version is 2; expected 1"),
        (["active_units"], 5, "5 of 4 units are active"),
        (["variance_of_mu"], [1.0], r"are of \[1, 4\] units; expected 4"),
        (["correlation_of_mu"], [[1.0] * 4] * 3, r"are of \[3, 4\] units; expected 4"),
        (["kl_by_dimension", 0], "high", r"kl_by_dimension\[0\] is 'high'; expected float"),
        (["changes"], {}, "tap mu was not measured under exactly the changes"),
        (["taps"], {}, "expected mu among the taps"),
        (["taps", "mu", "repeatability", "by_dimension"], None, "mu is not measured by dimension"),
        (["taps", "mu", "repeatability", "by_dimension", "within_sd"], [1.0], "repeatability of mu is not of 4"),
        (["taps", "mu", "repeatability", "mean_icc", "low"], 0.9, "from 0.9 to 0.75; expected the lower end first"),
        (["taps", "mu", "identity", "metrics"], {}, "identity was measured by no distance"),
        (["data", "patients"], "twelve", "data.patients is 'twelve'; expected int"),
    ],
)
def test_a_certificate_that_cannot_be_is_one_line(path, value, says):
    document = json.loads(json.dumps(small_certificate().as_json()))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=says) as caught:
        certificate_from_json(document)
    assert "\n" not in str(caught.value)
