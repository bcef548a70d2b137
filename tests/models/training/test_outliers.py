"""The tap `outlier`: what is made up is no window of a patient, and a head that is fitted tells the two apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from models.networks.registry import build_vae
from models.training.outliers import RIDGE, fitted, learn_outliers, made_up, shape, slabs
from models.training.settings import TrainingSettings
from tests.support.bundles import SMALL_CT_VAE

SIZE = (8, 16, 16)
SETTINGS = TrainingSettings(steps=2, invariance=0.1, shift=2.0, blur=1.0, tile=0.5, crop=0.5)


@pytest.fixture(scope="module")
def scans():
    """Bodies of soft tissue with a lung, of several sizes, with noise."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        scan = np.zeros((4, *SIZE), np.float32)
        edge = 2 + number % 3
        scan[:, :, edge:-edge, 2:-2] = 0.52
        scan[:, :, 6:10, 4:7] = 0.08
        made.append(np.clip(scan + rng.normal(0, 0.01, scan.shape) * (scan > 0), 0, 1).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def learned(scans):
    torch.manual_seed(0)
    vae = build_vae("ct_vae", SMALL_CT_VAE | {"outlier": True}).eval()
    learn_outliers(vae, scans, SETTINGS, windows=64)
    return vae


def scores(vae, windows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return vae.taps(torch.from_numpy(windows[:, None]), ["outlier"])["outlier"].numpy()[:, 0]


def test_what_is_no_window_of_the_scans_scores_more_than_they_do(learned, scans):
    windows = np.concatenate(scans)
    own = scores(learned, windows)
    assert (own < 0).mean() > 0.9
    for name, made in made_up(windows, np.random.default_rng(9)).items():
        assert np.median(scores(learned, made)) > np.quantile(own, 0.9), name


def test_it_is_the_same_in_every_training_of_the_same_settings(learned, scans):
    torch.manual_seed(0)
    again = build_vae("ct_vae", SMALL_CT_VAE | {"outlier": True}).eval()
    learn_outliers(again, scans, SETTINGS, windows=64)
    assert torch.equal(again.outlier.weight, learned.outlier.weight)
    read = learned.outlier.weight[0]
    assert set(read.nonzero()[:, 0].tolist()) <= set(learned.content_readings.tolist()) and read.any()
    other = build_vae("ct_vae", SMALL_CT_VAE | {"outlier": True}).eval()
    other.load_state_dict(again.state_dict())
    learn_outliers(other, scans, replace(SETTINGS, seed=1), windows=64)
    assert not torch.equal(again.outlier.weight, other.outlier.weight)


def test_a_network_without_the_tap_stays_as_it_is(scans):
    vae = build_vae("ct_vae", SMALL_CT_VAE).eval()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    learn_outliers(vae, scans, SETTINGS, windows=8)
    assert "outlier" not in vae.tap_names
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())


def test_the_head_is_scikit_learns_logistic_regression():
    rng = np.random.default_rng(0)
    inside = rng.normal(0, [1.0, 5.0, 0.2], (60, 3)) + np.array([3.0, -2.0, 0.5])
    outside = rng.normal(0, [2.0, 5.0, 0.2], (150, 3)) + np.array([4.0, 1.0, 0.4])
    weight, bias = fitted(torch.from_numpy(inside), torch.from_numpy(outside))

    mean, deviation = inside.mean(0), inside.std(0, ddof=1)
    read = (np.concatenate([inside, outside]) - mean) / deviation
    theirs = LogisticRegression(C=1 / (2 * RIDGE), tol=1e-10, max_iter=10_000)
    counts = np.repeat([0.5 / 60, 0.5 / 150], [60, 150])
    theirs.fit(read, np.repeat([0, 1], [60, 150]), sample_weight=counts)
    assert weight.numpy() * deviation == pytest.approx(theirs.coef_[0], rel=1e-3)
    assert bias + weight.numpy() @ mean == pytest.approx(theirs.intercept_[0], rel=1e-3)


def test_short_scans_keep_the_slices_that_they_have(scans):
    windows = np.concatenate(scans)
    made = slabs(windows, np.random.default_rng(1))
    kept = (made != 0).any(axis=(2, 3))
    assert np.array_equal(made[kept], windows[kept])
    assert 0.1 < (~kept.all(axis=1)).mean() < 0.6
    assert kept.sum(axis=1).min() >= 2


@pytest.mark.parametrize("seed", range(4))
def test_a_shape_is_an_object_in_air_within_the_window(seed):
    made = shape((8, 24, 32), np.random.default_rng(seed))
    assert made.shape == (8, 24, 32) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1
    assert 0.01 < (made > 0.4).mean() < 0.7
    assert (made[:, 0] == 0).all() and (made[:, :, -1] == 0).all()
