"""The pages that quote the shipped bundle's certificate quote that certificate."""

from __future__ import annotations

import sys

from app.research.certify.certificate import certificate_markdown
from models.bundle.check import read_certificate
from models.bundle.store import load_bundle
from tests.support.checkout import ROOT

SHIPPED = ROOT / "models" / "ct_vae"


def test_the_page_on_layers_has_the_table_of_the_certificate(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import layers

    page = (ROOT / "docs" / "which-layer.md").read_text(encoding="utf-8")
    assert f"{layers.BEGIN}\n{layers.table(read_certificate(load_bundle(SHIPPED)))}\n{layers.END}" in page


def test_the_card_has_the_certificate_of_these_weights():
    bundle = load_bundle(SHIPPED)
    certificate = read_certificate(bundle)
    assert certificate.bundle.weights_sha256 == bundle.weights_sha256
    card = (SHIPPED / "docs" / "README.md").read_text(encoding="utf-8")
    assert certificate_markdown(certificate).strip() in card


def test_nobody_who_was_trained_on_is_measured():
    bundle = load_bundle(SHIPPED)
    data, cases = read_certificate(bundle).data, bundle.training.data
    assert not data.trained_on_included
    assert data.patients == len({case.patient for case in cases if case.split == "test"}) >= 12
