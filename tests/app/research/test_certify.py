"""A bundle is certified on scans that it was not trained on, and carries what was found."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from app.cli import main
from app.research.certify.certificate import certificate_markdown
from app.research.certify.certify import certify_bundle, roles_of, write_certificate
from app.research.certify.metrics import rounded
from app.research.data.changed_windows import see_scan
from app.research.data.find_scans import find_scans
from app.research.data.phantoms import phantom_volume
from app.research.data.scan import Scan
from app.research.train.card import marked, with_section
from models.bundle.check import check_active, read_certificate
from models.bundle.store import load_bundle
from models.phantom import PhantomFactors, make_phantom
from models.spec import arrays_only
from models.training_record import Case
from operators.build_volume import build_volume
from operators.errors import StartError
from operators.read_study import read_studies
from operators.synthetic.perturbations import DESCRIPTIONS
from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series
from tests.support.bundles import SMALL_WINDOWS, write_small_bundle

SHAPE, SPACING_MM = (20, 40, 40), (8.0, 9.0, 9.0)
PATIENTS = 5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Five phantoms as CT, one a patient, and a list of them with an age and a group."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["path,patient,split,source,age,group"]
    for number in range(PATIENTS):
        factors = replace(PhantomFactors(), body_width_mm=290 + 20 * number, emphysema_fraction=0.06 * number)
        hu = make_phantom(factors, SHAPE, SPACING_MM, seed=number)
        options = CtOptions(patient_id=f"P{number}", patient_sex="FM"[number % 2])
        write_ct_series(hu, affine_for(SHAPE, SPACING_MM), folder / f"p{number}", options)
        rows.append(f"p{number},P{number},,phantoms,{30 + 7 * number},{'ab'[number % 2]}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="module")
def certificate(bundle, cohort):
    return certify_bundle(bundle, cohort / "list.csv", phantoms=0)


def trained_on(bundle, *, patients=(), scans=(), split="train"):
    cases = [Case(name, split=split) for name in patients]
    cases += [Case(f"other {key}", key, split) for key in scans]
    return replace(bundle, training=replace(bundle.training, data=tuple(cases)))


def test_it_says_on_what_it_was_measured(certificate, bundle):
    assert certificate.bundle.weights_sha256 == bundle.weights_sha256
    assert certificate.data.patients == certificate.data.scans == PATIENTS
    assert certificate.data.windows == 4 * PATIENTS
    assert certificate.data.sources == ("phantoms",)
    assert {"ctvae", "runtime", "numpy"} <= set(certificate.versions)


def test_no_patient_is_named_in_it(certificate, cohort):
    text = json.dumps(certificate.as_json()) + certificate_markdown(certificate)
    assert not any(f"P{number}" in text for number in range(PATIENTS)) and str(cohort) not in text


def test_every_layer_is_measured_under_every_change(certificate, bundle):
    assert list(certificate.taps) == [tap.name for tap in bundle.taps]
    for tap in certificate.taps.values():
        assert list(tap.repeatability.by_change) == list(DESCRIPTIONS)
        assert set(tap.identity.metrics) == {"euclidean", "cosine"}
        assert list(tap.identity.metrics["cosine"].by_change) == list(DESCRIPTIONS)
        assert tap.information.mean_r2.value < 1


def test_only_layers_that_are_asked_for_are_measured(bundle, cohort):
    asked = certify_bundle(bundle, cohort / "list.csv", taps=["block1:max"], phantoms=0)
    assert list(asked.taps) == ["mu", "sigma", "block1.max"]
    assert asked.taps["block1.max"].pooling == "max"


def test_windows_are_probed_for_quantities_place_and_labels(certificate):
    found = certificate.taps["dense"].information
    assert {"mean_hu", "bone_fraction", "glcm_contrast", "height_in_scan"} <= set(found.quantities)
    assert {name: label.measure for name, label in found.labels.items()} == {
        "age": "auc",  # five different numbers are taken for classes, and five classes are not probed
        "group": "auc",
        "sex": "auc",
    }
    assert found.labels["sex"].patients == PATIENTS and found.labels["age"].value is None


def test_a_file_of_labels_is_joined(bundle, cohort, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("patient,dose\n" + "".join(f"P{number},{number}.5\n" for number in range(PATIENTS)))
    found = certify_bundle(bundle, cohort / "list.csv", labels=labels, taps=["mu"], phantoms=0)
    assert "dose" in found.mu.information.labels


def test_the_gallery_has_no_windows_that_overlap(certificate):
    """20 slices of 8 mm and windows of 64 mm at half overlap: two of the four windows of a scan stand apart."""
    identity = certificate.mu.identity
    assert (identity.gallery, identity.chance) == (2 * PATIENTS, 0.1)


def test_reconstruction_is_measured_by_tissue(certificate):
    found = certificate.reconstruction
    assert found.mae_hu.value > 0 and found.mae_hu.windows == 4 * PATIENTS
    assert set(found.mae_by_tissue_hu) == {"air", "lung", "mixed", "fat", "soft", "bone"} and found.ssim.value < 1


def test_a_second_run_gives_the_same_bytes_and_a_third_takes_its_windows_from_the_cache(
    certificate, bundle, cohort, tmp_path, monkeypatch
):
    again = certify_bundle(bundle, cohort / "list.csv", phantoms=0, cache=tmp_path)
    assert json.dumps(again.as_json()) == json.dumps(certificate.as_json())
    monkeypatch.setattr("app.research.data.changed_windows.preprocess", None)
    assert certify_bundle(bundle, cohort / "list.csv", phantoms=0, cache=tmp_path) == certificate


def test_a_damaged_cache_is_made_again(cohort, tmp_path):
    scan = find_scans(cohort / "list.csv")[0]
    first = see_scan(scan, SMALL_WINDOWS, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:5000])
    again = see_scan(scan, SMALL_WINDOWS, cache=tmp_path)
    assert all(np.array_equal(again.voxels[name], first.voxels[name]) for name in first.voxels)


def test_windows_are_moved_by_what_the_change_says(certificate):
    changes = certificate.changes
    assert changes["shift_voxels"].moved_mm == pytest.approx([16, 27, 27])  # 2 voxels of 8 × 16 × 16 mm, at most
    assert changes["noise_low"].moved_mm == (0, 0, 0)


def test_patients_that_were_trained_on_are_left_out(bundle, cohort, caplog):
    scans = find_scans(cohort / "list.csv")
    known = trained_on(trained_on(bundle, patients=["P0"]), patients=["P0"], scans=[scans[1].key])
    roles = roles_of(scans, known)
    assert sorted(scan.patient for scan in roles.measured) == ["P2", "P3", "P4"]
    assert "2 patients of the train and calibration splits are left out" in caplog.text


def test_those_that_a_list_says_were_trained_on_are_left_out_too(bundle, cohort):
    scans = [replace(scan, split="calibration") if scan.patient == "P3" else scan for scan in find_scans(cohort)]
    other = [replace(scan, split="test") for scan in scans]
    assert len(roles_of(scans, bundle).known) == sum(scan.split == "calibration" for scan in scans)
    assert len(roles_of(other, bundle).measured) == PATIENTS


def test_reference_patients_have_no_role(bundle, cohort, caplog):
    scans = find_scans(cohort / "list.csv")
    scans = [replace(scan, split="reference") if scan.patient == "P3" else scan for scan in scans]
    kept = trained_on(bundle, patients=["P0"], split="reference")
    roles = roles_of(scans, kept)
    assert {"P0", "P3"}.isdisjoint(scan.patient for scan in (*roles.measured, *roles.known))
    assert "2 patients of the reference split are left out" in caplog.text
    assert len(roles_of(scans, kept, force=True).measured) == len(scans)


def test_patients_of_the_test_split_are_measured(bundle, cohort):
    known = trained_on(bundle, patients=["P0", "P1"], split="test")
    assert len(roles_of(find_scans(cohort / "list.csv"), known).measured) == PATIENTS


def test_nobody_left_is_an_error_and_force_measures_all_the_same(bundle, cohort):
    scans = find_scans(cohort / "list.csv")
    known = trained_on(bundle, patients=[scan.patient for scan in scans])
    with pytest.raises(StartError, match="TRAINED_ON: all 5 patients"):
        roles_of(scans, known)
    assert len(roles_of(scans, known, force=True).measured) == PATIENTS


def test_whitening_is_learned_on_the_others(bundle, cohort, monkeypatch):
    monkeypatch.setattr("app.research.certify.metrics.LEAST_TO_WHITEN", 2)
    known = trained_on(bundle, patients=["P0", "P1"])
    found = certify_bundle(known, cohort / "list.csv", taps=["mu"], phantoms=0)
    assert found.data.patients == 3 and "whitened" in found.mu.identity.metrics


def test_those_that_were_trained_on_help_and_are_not_counted(bundle, cohort):
    known = trained_on(bundle, patients=["P0", "P1"])
    found = certify_bundle(known, cohort / "list.csv", taps=["mu"], phantoms=0)
    assert (found.data.helping_patients, found.data.helping_windows) == (2, 8)
    mu = found.mu
    assert mu.information.quantities["mean_hu"].windows == 12
    assert (mu.identity.looked_for, mu.identity.gallery) == (6, 10)
    assert found.reconstruction.mae_hu.windows == 12


def test_one_patient_is_too_few(bundle, cohort):
    with pytest.raises(StartError, match="TOO_FEW_PATIENTS: 1 patient"):
        certify_bundle(bundle, cohort / "p0", phantoms=0)


def test_a_scan_that_cannot_be_read_is_left_out(bundle, cohort, monkeypatch, caplog):
    scans = find_scans(cohort / "list.csv")

    def refuse():
        from operators.errors import SeriesRejected

        raise SeriesRejected("MISSING_SLICE", "made up")

    broken = Scan(patient="P9", split=None, source="", key="0" * 16, open=refuse)
    monkeypatch.setattr("app.research.certify.certify.find_scans", lambda *_: (*scans, broken))
    found = certify_bundle(bundle, cohort, taps=["mu"], phantoms=0)
    assert (found.data.scans, found.data.unreadable_scans) == (PATIENTS, 1)
    assert "MISSING_SLICE" in caplog.text and "P9" not in caplog.text


def test_a_bundle_for_arrays_alone_cannot_be_certified(bundle, cohort):
    with pytest.raises(StartError, match="ARRAYS_ONLY"):
        certify_bundle(replace(bundle, preprocessing=arrays_only((8, 16, 16))), cohort)


def test_a_layer_that_is_too_long_to_hold_is_refused(bundle, cohort, monkeypatch):
    monkeypatch.setattr("app.research.certify.certify.LONGEST", 16)
    with pytest.raises(StartError, match=r"TAP_TOO_LONG: taps of more than 16 values: block1.flatten;"):
        certify_bundle(bundle, cohort / "list.csv", taps=["block1:flatten"])


def test_an_unknown_layer_is_said_before_anything_is_read(bundle):
    with pytest.raises(StartError, match="UNKNOWN_TAP"):
        certify_bundle(bundle, Path("nowhere"), taps=["block9"])


def test_the_bundle_carries_it_and_stays_the_same_model(bundle, certificate, tmp_path):
    own = write_small_bundle(tmp_path / "small")
    before = (own.weights_sha256, own.onnx_sha256)
    written = write_certificate(own, certificate)
    assert (written.weights_sha256, written.onnx_sha256) == before
    assert read_certificate(own) == certificate
    assert "### From which layer?" in (own.path / "docs" / "README.md").read_text()
    assert "according to its certificate" in check_active(load_bundle(own.path)).detail


def test_a_damaged_certificate_is_replaced(certificate, tmp_path, caplog):
    own = write_small_bundle(tmp_path / "small")
    (own.path / "docs" / "certificate.json").write_text('{"schema_version": 1}')
    write_certificate(own, certificate)
    assert read_certificate(own) == certificate
    assert "the former certificate is replaced" in caplog.text and "bundle is missing" in caplog.text


def test_written_twice_the_card_has_one_section_and_the_same_bytes(certificate, tmp_path):
    own = write_small_bundle(tmp_path / "small")
    cards = []
    for _ in range(2):
        write_certificate(own, certificate)
        cards.append((own.path / "docs" / "README.md").read_text())
    assert cards[0] == cards[1] and cards[0].count("## Certificate") == 1


def test_in_an_edited_card_the_section_stands_before_the_limits_and_nothing_else_changes():
    card = "# a\n\n## Limits\n\n- one\n- mine\n"
    first = with_section(card, "## Certificate\n")
    assert first == f"# a\n\n{marked('## Certificate')}\n## Limits\n\n- one\n- mine\n"
    assert with_section(first, "## Other") == first.replace("## Certificate", "## Other")


def test_a_long_vector_has_figures_without_intervals(bundle, cohort, monkeypatch):
    monkeypatch.setattr("app.research.certify.metrics.LONG", 3)
    icc = certify_bundle(bundle, cohort / "list.csv", taps=["mu"], phantoms=0).mu.repeatability.mean_icc
    assert icc.value is not None and icc.low is None


def test_features_that_are_not_finite_are_an_error_of_each_scan(bundle, cohort, monkeypatch, caplog):
    def broken(encoder, voxels, taps):
        return {tap: np.full((len(voxels), 4), np.nan, np.float32) for tap in taps}

    monkeypatch.setattr("models.runtime.OnnxEncoder.run", broken)
    with pytest.raises(StartError, match="TOO_FEW_PATIENTS: 0 patients"):
        certify_bundle(bundle, cohort / "list.csv", taps=["mu"], phantoms=0)
    assert "NON_FINITE_FEATURES" in caplog.text


def test_few_patients_are_said_to_be_few(certificate):
    assert "These are few patients" in certificate_markdown(certificate)


def test_the_tables_of_the_card_are_whole(certificate):
    lines = certificate_markdown(certificate).splitlines()
    tables = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append(line.count(" | "))
        elif tables[-1]:
            tables.append([])
    assert (
        len(list(filter(None, tables))) == 8
    )  # changes, quantities, labels, layers, redundancy, groups, tissues, dimensions
    assert all(len(set(table)) <= 1 for table in tables)


def test_numbers_have_four_digits_and_what_is_none_is_null():
    values = {"a": (0.123456, np.float64(1234.56)), "b": [float("nan"), float("inf"), -1e-9, 7, None, "x", np.int64(3)]}
    assert rounded(values) == {"a": [0.1235, 1235.0], "b": [None, None, 0.0, 7, None, "x", 3]}
    assert json.dumps(rounded(-1e-9)) == "0.0"


def test_phantoms_are_measured_with_every_factor(bundle, cohort, monkeypatch):
    coarse = partial(phantom_volume, shape=(12, 64, 64), spacing_mm=(24.0, 6.4, 6.4))
    monkeypatch.setattr("app.research.certify.phantoms.phantom_volume", coarse)
    found = certify_bundle(bundle, cohort / "list.csv", taps=["mu"], phantoms=12).phantom
    assert found.phantoms == 12
    assert {"body_width_mm", "lung_scale", "emphysema_fraction", "nodule_diameter_mm", "spine_offset_mm"} < set(
        found.factors
    )


def test_a_phantom_is_what_the_reader_makes_of_its_files(tmp_path):
    factors = PhantomFactors(body_width_mm=300)
    here = phantom_volume(factors, SHAPE, SPACING_MM, seed=3)
    write_ct_series(here.voxels(), affine_for(SHAPE, SPACING_MM), tmp_path)
    read = build_volume(read_studies(tmp_path).studies[0].series[0])
    assert np.array_equal(read.voxels(), here.voxels())
    assert np.allclose(read.affine_lps_mm, here.affine_lps_mm) and read.spacing_mm == here.spacing_mm


def test_the_command_certifies(cohort, tmp_path, capfd):
    own = write_small_bundle(tmp_path / "small")
    code = main(["bundle", "certify", str(own.path), str(cohort / "list.csv"), "--taps", "dense", "--phantoms", "0"])
    assert code == 0 and (own.path / "docs" / "certificate.json").is_file()
    assert capfd.readouterr().out.startswith("small 0.0.1 on 20 windows of 5 patients: mean probe R² ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "NO_DATA"),
        (["LIST", "--labels", "nowhere.csv"], "BAD_LABELS"),
        (["LIST", "--phantoms", "3"], "FEW_"),
    ],
)
def test_what_is_wrong_with_the_call_is_one_line(arguments, reason, bundle, cohort, capfd):
    given = [str(cohort / "list.csv") if one == "LIST" else one for one in arguments]
    assert main(["bundle", "certify", str(bundle.path), *given]) == 3
    error = capfd.readouterr().err.strip()
    assert reason in error and len(error.splitlines()) == 1 and os.sep + "list.csv" not in error
