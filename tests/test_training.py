"""Training learns, repeats from its seed, splits by patient, and says what it was given."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from app.research import train as research_train
from app.research.scans import (
    MARGIN_VOXELS,
    Scan,
    cached_windows,
    find_scans,
    split_by_patient,
    with_margin,
)
from app.research.train import train_bundle
from models.bundle import load_bundle
from models.phantom import make_phantom
from models.runtime import open_encoder
from models.training import TrainingSettings, evaluate, learning_rate, train
from operators.preprocess import preprocess
from operators.types import StartError
from operators.write_ct import CtOptions, affine_for, write_ct_series
from tests.bundles import SMALL_CT_VAE, SMALL_WINDOWS

SETTINGS = TrainingSettings("ct_vae", SMALL_CT_VAE, steps=4, batch=4, threads=1)


def blobs(n: int, size=(8, 16, 16), seed: int = 0) -> np.ndarray:
    """Windows with one bright ball each, somewhere: something to learn."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    centres = rng.uniform(0.25, 0.75, (n, 1, 1, 1, 3)) * size
    return np.exp(-np.square((grid - centres) / 3).sum(-1)).astype(np.float16)


def nifti(path: Path, hu: np.ndarray, affine_ras: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(hu, affine_ras), path)
    return path


def scan(patient: str, split=None) -> Scan:
    return Scan(patient, split, "", patient, lambda: None)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three phantoms: two as DICOM of two patients, one as NIfTI; and a label map."""
    folder = tmp_path_factory.mktemp("cohort")
    shape, spacing = (12, 24, 24), (10.0, 15.0, 15.0)
    for number in (1, 2):
        hu = make_phantom(shape=shape, spacing_mm=spacing, seed=number)
        options = replace(CtOptions(), patient_id=f"SECRET{number}")
        write_ct_series(hu, affine_for(shape, spacing), folder / f"dicom{number}", options)
    hu = make_phantom(shape=shape, spacing_mm=spacing, seed=3)
    nifti(folder / "case3.nii.gz", hu.transpose(2, 1, 0), np.diag([-15.0, -15.0, 10.0, 1.0]))
    nifti(folder / "case3_labels.nii.gz", (hu > 0).astype(np.uint8).transpose(2, 1, 0), np.eye(4))
    return folder


def test_training_lowers_the_loss_and_uses_its_units():
    settings = replace(SETTINGS, steps=150, batch=8, learning_rate=3e-3)
    trained = train([blobs(64)], settings, report_every_s=0.0)
    assert trained.history[-1].rmse < 0.6 * trained.history[0].rmse
    assert trained.history[-1].active >= 3
    assert trained.steps == 150


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, again = train([blobs(8)], SETTINGS), train([blobs(8)], SETTINGS)
    other = train([blobs(8)], replace(SETTINGS, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first.vae.parameters(), again.vae.parameters(), strict=True))
    assert not torch.equal(first.vae.mu.weight, other.vae.mu.weight)


def test_training_leaves_torchs_random_state_and_threads_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train([blobs(8)], SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_windows_with_a_margin_are_cut_to_the_networks_size():
    trained = train([blobs(3, (10, 18, 20)), blobs(2, (8, 16, 16))], SETTINGS)
    assert trained.vae.window_voxels == (8, 16, 16)


def test_collapse_is_warned_of_while_it_happens(caplog):
    train([np.zeros((4, 8, 16, 16), np.float16)], replace(SETTINGS, noise=0.0, gain=0.0), report_every_s=0.0)
    assert caplog.text.count("posterior collapse: 0 of 4 units active") == 1


def test_a_loss_that_is_not_finite_ends_the_training():
    broken = np.full((4, 8, 16, 16), np.nan, np.float16)
    with pytest.raises(FloatingPointError, match="diverged"):
        train([broken], SETTINGS)


def test_training_takes_as_long_as_it_was_given():
    trained = train([blobs(4)], replace(SETTINGS, steps=None, minutes=0.01))
    assert 0.6 <= trained.elapsed_s < 10
    assert trained.steps > 1


def test_settings_need_a_time_or_a_number_of_steps():
    with pytest.raises(ValueError, match="minutes or steps"):
        TrainingSettings()


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(fraction, 1.0) for fraction in (0.0, 0.025, 0.05, 0.525, 1.0)]
    np.testing.assert_allclose(rates, [0.01, 0.505, 1.0, 0.505, 0.01])


def test_the_figures_are_those_of_numpy():
    trained = train([blobs(8)], SETTINGS)
    windows = blobs(5, seed=1)
    figures = evaluate(trained.vae, windows, (-1000.0, 1000.0), threads=1)
    with torch.no_grad():
        mu, _ = trained.vae.encode(torch.from_numpy(windows.astype(np.float32))[:, None])
        error = np.abs(trained.vae.decode(mu)[:, 0].clamp(0, 1).numpy() - windows) * 2000
    assert figures.windows == 5
    assert figures.mae_hu == pytest.approx(error.mean(), rel=1e-4)
    assert figures.mae_body_hu == pytest.approx(error[windows > 0.25].mean(), rel=1e-4)
    np.testing.assert_allclose(figures.mu_variance, mu.numpy().var(axis=0), atol=1e-5)


def test_no_patient_is_in_both_parts():
    scans = [scan(patient) for patient in "aabbccdd"]
    training, held_out = split_by_patient(scans, 0.25, seed=3)
    assert not {s.patient for s in training} & {s.patient for s in held_out}
    assert len({s.patient for s in held_out}) == 1
    assert split_by_patient(scans, 0.25, seed=3) == (training, held_out)


def test_a_list_that_puts_a_patient_into_both_parts_is_refused():
    with pytest.raises(StartError, match="patients in both splits: a"):
        split_by_patient([scan("a", "train"), scan("a", "held_out"), scan("b", "train")], 0.2, seed=0)


def test_a_single_patient_cannot_be_split():
    with pytest.raises(StartError, match="at least two patients"):
        split_by_patient([scan("a"), scan("a")], 0.2, seed=0)


def test_a_list_decides_over_the_draw():
    scans = [scan("a", "train"), scan("b", "train"), scan("c", "held_out")]
    assert split_by_patient(scans, 0.9, seed=0) == (tuple(scans[:2]), (scans[2],))


def test_dicom_and_nifti_are_found_and_a_label_map_is_not(cohort):
    scans = find_scans(cohort)
    assert len(scans) == 3
    assert len({found.patient for found in scans}) == 3


def test_a_patients_name_in_training_is_a_digest(cohort):
    assert all("SECRET" not in found.patient + found.key for found in find_scans(cohort))


def test_a_nifti_file_gives_the_windows_of_the_same_scan_as_dicom(tmp_path):
    shape, spacing = (12, 20, 24), (10.0, 15.0, 12.0)
    hu = make_phantom(shape=shape, spacing_mm=spacing, seed=5)
    affine = affine_for(shape, spacing)
    write_ct_series(hu, affine, tmp_path / "dicom", CtOptions())
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
    flipped = ras @ np.array([[-1.0, 0, 0, 23], [0, 1, 0, 0], [0, 0, -1, 11], [0, 0, 0, 1]])  # stored the other way
    nifti(tmp_path / "nifti" / "ct.nii.gz", hu.transpose(2, 1, 0)[::-1, :, ::-1].copy(), flipped)
    (dicom,) = find_scans(tmp_path / "dicom")
    (image,) = find_scans(tmp_path / "nifti")
    expected, got = preprocess(dicom.open(), SMALL_WINDOWS), preprocess(image.open(), SMALL_WINDOWS)
    np.testing.assert_allclose(got.voxels, expected.voxels, atol=1e-6)
    np.testing.assert_allclose(got.affines_lps_mm, expected.affines_lps_mm, atol=1e-4)


def test_cached_windows_are_read_without_the_scan(cohort, tmp_path):
    found = find_scans(cohort)[0]
    first = np.array(cached_windows(found, SMALL_WINDOWS, tmp_path))

    def gone():
        raise AssertionError("read again")

    np.testing.assert_array_equal(cached_windows(replace(found, open=gone), SMALL_WINDOWS, tmp_path), first)
    np.testing.assert_allclose(first, preprocess(found.open(), SMALL_WINDOWS).voxels[:, 0], atol=5e-4)


def test_another_preprocessing_has_windows_of_its_own(cohort, tmp_path):
    found, wider = find_scans(cohort)[0], with_margin(SMALL_WINDOWS)
    assert cached_windows(found, SMALL_WINDOWS, tmp_path).shape[1:] == (8, 16, 16)
    expected = tuple(size + 2 * margin for size, margin in zip((8, 16, 16), MARGIN_VOXELS, strict=True))
    assert cached_windows(found, wider, tmp_path).shape[1:] == expected


def test_a_list_names_patients_splits_and_sources(cohort, tmp_path):
    listed = tmp_path / "list.csv"
    with listed.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["path", "patient", "split", "source"])
        rows.writerow(["dicom1", "one", "train", "made up, CC0"])
        rows.writerow(["case3.nii.gz", "three", "held_out", ""])
    found = find_scans(listed, root=cohort)
    assert [(s.patient, s.split, s.source) for s in found] == [
        ("one", "train", "made up, CC0"),
        ("three", "held_out", ""),
    ]


@pytest.mark.parametrize("row", ["nowhere,a,train", "dicom1,a,validation", ",a,train", "case3_labels.nii.gz,a,train"])
def test_a_line_that_cannot_be_used_is_named(cohort, tmp_path, row):
    listed = tmp_path / "list.csv"
    listed.write_text(f"path,patient,split\n{row}\n")
    with pytest.raises(StartError, match="line 2"):
        find_scans(listed, root=cohort)


def test_a_folder_without_ct_is_one_clear_line(tmp_path):
    with pytest.raises(StartError, match="no CT among the training data"):
        find_scans(tmp_path)
    with pytest.raises(StartError, match="neither a folder nor a list"):
        find_scans(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train_bundle(
        cohort,
        folder / "tiny",
        SETTINGS,
        SMALL_WINDOWS,
        cache=folder / "cache",
        held_out=0.34,
        command="python -m app.research.train",
    )


def test_a_trained_bundle_loads_and_encodes(trained, cohort):
    bundle = load_bundle(trained.path)
    assert bundle.architecture_parameters["channels"] == [8, 16]
    voxels = preprocess(find_scans(cohort)[0].open(), bundle.preprocessing).voxels
    mu = open_encoder(bundle, "cpu").run(voxels, ["mu"])["mu"]
    assert mu.shape == (len(voxels), 4)
    assert np.isfinite(mu).all()


def test_a_trained_bundle_says_what_it_was_trained_on_and_how(trained):
    training = trained.training
    assert sorted(case["split"] for case in training["data"]) == ["held_out", "train", "train"]
    assert training["steps"] == 4
    assert len(training["figures"]["kl"]) == 4
    assert "SECRET" not in json.dumps(dict(training))


def test_the_card_has_the_measured_figures_and_the_warning(trained):
    card = (trained.path / "docs" / "README.md").read_text()
    assert "Not for clinical use" in card
    assert f"{trained.training['figures']['mae_hu']:.1f} HU" in card
    assert "| `block1` | 8 × 4 × 8 × 8 | mean | 64 × 160 × 160 mm |" in card


def test_the_command_trains_a_bundle(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(research_train.PREPROCESSING, "ct_vae", replace(SMALL_WINDOWS, window_voxels=(16, 16, 16)))
    app = Typer()
    app.command()(research_train.main)
    (tmp_path / "notes.md").write_text("- three phantoms, no patient")
    places = ["-o", str(tmp_path / "tiny"), "--cache", str(tmp_path / "cache"), "--notes", str(tmp_path / "notes.md")]
    ran = CliRunner().invoke(app, [str(cohort), *places, "--steps", "2", "--batch", "2"])
    assert ran.exit_code == 0, ran.output
    assert "units active" in ran.output
    assert "- three phantoms, no patient" in (tmp_path / "tiny" / "docs" / "README.md").read_text()
    assert load_bundle(tmp_path / "tiny").training["command"].endswith("--arch ct_vae --steps 2 --batch 2 --seed 0")


@pytest.mark.parametrize(("data", "arch", "says"), [("nowhere", "ct_vae", "NO_DATA"), (".", "resnet", "UNKNOWN_ARCH")])
def test_the_command_says_in_one_line_why_it_cannot_start(tmp_path, data, arch, says):
    app = Typer()
    app.command()(research_train.main)
    ran = CliRunner().invoke(app, [str(tmp_path / data), "-o", str(tmp_path / "out"), "--arch", arch, "--steps", "1"])
    assert ran.exit_code == 3
    assert says in ran.output
    assert "Traceback" not in ran.output
