"""`ctvae bundle reference`: reference patients become part of a bundle, and every result says whether to believe it."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from app.cli import main
from app.research.data.find_scans import find_scans
from app.research.reference import reference_scans
from app.research.train.train import _with_reference
from models.bundle.reference import read_reference
from models.bundle.store import add_reference, load_bundle
from models.spec import BundleError
from models.training_record import Case, TrainingRecord
from operators.errors import StartError
from operators.results.write_json import features_schema
from operators.sr.read import read_sr
from tests.support.bundles import write_small_bundle
from tests.support.cohorts import write_cohort, write_list, write_patient
from tests.support.quick_export import quick_decoder_onnx


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), 9)


@pytest.fixture(scope="module")
def bundle(plain, cohort, tmp_path_factory):
    """With the nine patients as its reference."""
    path = Path(shutil.copytree(plain.path, tmp_path_factory.mktemp("models") / "small"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.bundle.export.decoder_onnx", quick_decoder_onnx)
        assert main(["bundle", "reference", str(path), str(cohort), "-l", "ERROR"]) == 0
    return load_bundle(path)


@pytest.fixture(scope="module")
def results(bundle, tmp_path_factory):
    """Of a patient who is not among them: the output folder."""
    folder = tmp_path_factory.mktemp("run")
    write_patient(folder / "in" / "p", 42)
    assert main(["encode", str(folder / "in"), "-o", str(folder / "out"), "-m", str(bundle.path), "-l", "ERROR"]) == 0
    return folder / "out"


def test_the_bundle_gets_its_decoder_and_its_patients_and_the_model_stays_the_same(plain, bundle):
    assert bundle.weights_sha256 == plain.weights_sha256
    assert bundle.decoder_sha256 is not None
    population = read_reference(bundle)
    assert population.patients == 9 and population.error_ratios.min() > 0


def test_the_file_names_no_patient(bundle):
    assert "SECRET" not in bundle.reference_path.read_text(encoding="utf-8")


def test_made_again_of_the_same_patients_it_is_the_same_file(bundle, cohort, tmp_path):
    again = Path(shutil.copytree(bundle.path, tmp_path / "small"))
    assert main(["bundle", "reference", str(again), str(cohort), "-l", "ERROR"]) == 0
    assert load_bundle(again).reference_sha256 == bundle.reference_sha256


def test_it_replaces_one_that_is_damaged_or_older_than_what_reads_it(bundle, cohort, tmp_path):
    again = Path(shutil.copytree(bundle.path, tmp_path / "small"))
    (again / "configs" / "reference.json").write_bytes(b"{}")
    assert main(["bundle", "show", str(again), "-l", "CRITICAL"]) == 3
    assert main(["bundle", "reference", str(again), str(cohort), "-l", "ERROR"]) == 0
    assert load_bundle(again).reference_sha256 == bundle.reference_sha256


def test_json_sr_outcome_and_result_say_whether_to_believe_the_numbers(bundle, results):
    (features,) = (json.loads(file.read_text()) for file in results.glob("*/features.json"))
    (report,) = (read_sr(file).typicality for file in results.glob("*/features.sr.dcm"))
    jsonschema.validate(features, json.loads(features_schema()))
    found = features["reliability"]
    assert (found["n_reference"], found["reference_sha256"]) == (9, bundle.reference_sha256)
    assert len(found["percentiles"]["mu"]) == 4
    assert (found["outlier_score"], found["percentiles"]["outlier"], report.outlier_score) == (None, None, None)
    turned = found["orientation_score"], found["percentiles"]["orientation"], report.orientation_score
    assert turned == (None, None, None)
    for name in ("p_conformal", "mahalanobis", "reconstruction_mae_hu", "reconstruction_ratio"):
        assert np.float32(getattr(report, name)) == np.float32(found[name])
    assert (report.verdict, list(report.reasons)) == (found["verdict"], found["reasons"])
    assert report.percentile == np.float32(found["percentiles"]["combined"])

    (outcome,) = json.loads((results / "outcome.json").read_text())["series"]
    assert outcome["verdict"] == found["verdict"]
    assert outcome["seconds"]["reliability"] > 0
    summary = json.loads((results / "result.json").read_text())
    assert summary["verdicts"][found["verdict"]] == 1
    said = summary["__mercure_notification"]
    assert f"1 {found['verdict'].replace('_', ' ')}" in said["text"]
    assert said["requested"] is (found["verdict"] == "out_of_distribution")


def test_a_network_with_scores_has_them_of_its_reference_patients_and_of_each_scan(cohort, tmp_path):
    path = write_small_bundle(tmp_path / "small", decoder=True, outlier=True, orientation=True).path
    assert main(["bundle", "reference", str(path), str(cohort), "-l", "ERROR"]) == 0
    bundle = load_bundle(path)
    population = read_reference(bundle)
    of_patients = {"outlier": population.outliers, "orientation": population.orientations}
    assert all(scores.shape == (9,) and np.ptp(scores) > 0 for scores in of_patients.values())

    write_patient(tmp_path / "in" / "p", 42)
    arguments = ["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(path), "-l", "ERROR"]
    assert main(arguments) == 0
    (features,) = (json.loads(file.read_text()) for file in (tmp_path / "out").glob("*/features.json"))
    (report,) = (read_sr(file).typicality for file in (tmp_path / "out").glob("*/features.sr.dcm"))
    jsonschema.validate(features, json.loads(features_schema()))
    found = features["reliability"]
    assert list(features["taps"]) == ["mu", "sigma"]
    for kind, theirs in of_patients.items():
        score = np.float32(found[f"{kind}_score"])
        assert np.float32(getattr(report, f"{kind}_score")) == score
        assert found["percentiles"][kind] == pytest.approx(100 * np.mean(theirs < score))

        document = json.loads(bundle.reference_path.read_bytes())
        del document[f"{kind}_scores"]
        with pytest.raises(BundleError, match=f"has no {kind} scores, but the network gives some; make it again"):
            add_reference(path, json.dumps(document).encode())


def test_another_reference_is_another_configuration_of_the_same_model(bundle, plain, results, tmp_path):
    write_patient(tmp_path / "in" / "p", 42)
    assert main(["encode", str(tmp_path / "in"), "-o", str(tmp_path), "-m", str(plain.path), "-l", "ERROR"]) == 3
    out = tmp_path / "out"
    assert main(["encode", str(tmp_path / "in"), "-o", str(out), "-m", str(plain.path), "-l", "ERROR"]) == 0
    (without,), (with_reference,) = (
        [json.loads(file.read_text()) for file in folder.glob("*/features.json")] for folder in (out, results)
    )
    assert without["reliability"] is None
    assert without["model"] == with_reference["model"]
    assert without["taps"] == with_reference["taps"]
    assert without["config_digest"] != with_reference["config_digest"]


def test_of_a_list_only_the_split_reference_is_taken_and_nobody_twice(plain, cohort, tmp_path):
    rows = [(f"p{number}", f"P{min(number, 6)}", "reference" if number > 2 else "train") for number in range(1, 10)]
    listed = write_list(tmp_path / "list.csv", ("path", "patient", "split"), *rows)
    scans = reference_scans(find_scans(listed, cohort), plain)
    assert {scan.patient for scan in scans} == {"P3", "P4", "P5", "P6"}
    path = Path(shutil.copytree(plain.path, tmp_path / "small"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.bundle.export.decoder_onnx", quick_decoder_onnx)
        arguments = ["bundle", "reference", str(path), str(listed), "--root", str(cohort), "-l", "ERROR"]
        assert main(arguments) == 0
    document = json.loads(load_bundle(path).reference_path.read_text())
    assert [one["patient"] for one in document["series"]] == ["P3", "P4", "P5", "P6"]
    first = min(scan.key for scan in scans if scan.patient == "P6")
    assert document["series"][3]["scan"] == first


def test_a_training_ends_with_the_population_of_its_reference_split(plain, cohort, tmp_path, caplog, quick_export):
    """The trainer's last step: nine patients make a population; one makes none, the log says so, the bundle stays."""
    path = Path(shutil.copytree(plain.path, tmp_path / "small"))
    scans = find_scans(cohort)
    with caplog.at_level(logging.WARNING, "app.research"):
        assert _with_reference(load_bundle(path), scans[:1], lambda text, fraction: None).reference_sha256 is None
    assert "the bundle has no reference population: 1 reference patients could be read" in caplog.text
    written = _with_reference(load_bundle(path), scans, lambda text, fraction: None)
    assert read_reference(written).patients == 9


def test_whom_the_bundle_has_learned_from_is_left_out(plain, cohort, caplog):
    scans = find_scans(cohort)
    known = [Case(scans[0].patient, "", "train"), Case("other", scans[1].key, "calibration")]
    trained = replace(plain, training=TrainingRecord(data=tuple(known)))
    with caplog.at_level(logging.WARNING, "app.research.reference"):
        left = reference_scans(scans, trained)
    assert len(left) == 7 and not {scan.key for scan in left} & {scans[0].key, scans[1].key}
    assert "2 reference patients are left out" in caplog.text


def test_a_bundle_that_has_learned_from_everybody_is_one_error(plain, cohort):
    scans = find_scans(cohort)
    trained = replace(plain, training=TrainingRecord(data=tuple(Case(one.patient, one.key, "train") for one in scans)))
    with pytest.raises(StartError, match=r"TRAINED_ON: small has learned from all 9 reference patients"):
        reference_scans(scans, trained)


@pytest.mark.parametrize(("patients", "reason"), [(1, "TOO_FEW_PATIENTS"), (0, "BAD_SPLIT")])
def test_too_few_patients_are_one_line(bundle, cohort, tmp_path, capsys, patients, reason):
    split = "reference" if patients else "test"
    listed = write_list(tmp_path / "list.csv", ("path", "patient", "split"), ("p1", "P1", split))
    before = bundle.reference_path.read_bytes()
    arguments = ["bundle", "reference", str(bundle.path), str(listed), "--root", str(cohort), "-l", "ERROR"]
    assert main(arguments) == 3
    said = capsys.readouterr().err
    assert f" {reason}: " in said and said.count("\n") == 1
    assert bundle.reference_path.read_bytes() == before
