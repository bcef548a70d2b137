"""Reconstruction errors against worked examples and other implementations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from models.statistics.image_error import absolute_errors, psnr, ssim


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    original = rng.uniform(-1000, 1000, (3, 10, 12, 14))
    return original, original + rng.normal(0, 80, original.shape)


def test_ssim_is_monais(pictures):
    original, made = pictures
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics.regression import compute_ssim_and_cs
    theirs, _ = compute_ssim_and_cs(
        *(torch.from_numpy(one)[:, None] for one in (made, original)),
        spatial_dims=3,
        kernel_size=(7, 7, 7),
        kernel_sigma=(1.5,) * 3,
        data_range=2000.0,
        kernel_type="uniform",
    )
    assert ssim(original, made, 2000) == pytest.approx(theirs.mean(dim=(1, 2, 3, 4)).numpy(), abs=1e-6)


def test_a_window_smaller_than_the_cube_has_an_ssim(pictures):
    original, made = (one[:, :4] for one in pictures)
    assert (ssim(original, made, 2000) < 1).all() and ssim(original, original, 2000) == pytest.approx(1)


def test_psnr_of_a_constant_error():
    assert psnr(np.zeros((1, 2, 2, 2)), np.full((1, 2, 2, 2), 20.0), 2000) == pytest.approx([40])


def test_errors_are_counted_by_the_tissue_of_the_original():
    original = np.array([-1000.0, -700, -100, 40, 500, -400]).reshape(1, 1, 2, 3)
    errors = absolute_errors(original, original + np.array([1.0, 2, 3, 4, 5, 6]).reshape(1, 1, 2, 3))
    assert {name: value.tolist() for name, value in errors.items()} == {
        "all": [3.5],
        "air": [1],
        "lung": [2],
        "mixed": [6],
        "fat": [3],
        "soft": [4],
        "bone": [5],
    }


def test_a_tissue_that_is_not_there_has_no_error():
    assert np.isnan(absolute_errors(np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2, 2)))["bone"]).all()
