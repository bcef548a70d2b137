"""What a job is pinned to is what stands in the result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.encode_folder import encode
from app.pacs.work import work_of
from app.settings import EncodeSettings, load_settings


@pytest.mark.parametrize("taps", [(), ("dense", "z:7")], ids=["mu and sigma", "a tap and a draw"])
def test_the_digests_of_a_job_are_those_of_its_record(phantom_ct, taps):
    settings = replace(load_settings(), encode=EncodeSettings(taps=taps))
    (record,) = encode(phantom_ct, taps=taps, geometry=settings.geometry)
    work = work_of(settings)
    assert (work.weights_sha256, work.config_digest) == (record.model.weights_sha256, record.config_digest)
