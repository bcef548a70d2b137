"""Latents are bent at the end of a training: the prior's mean and variance, one to one, and the decoder follows."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch

from models.bundle.export import encoder_onnx
from models.networks.registry import build_vae
from models.training.bending import bend_latents, straighten
from models.training.last_steps import parameters_of
from models.training.settings import TrainingSettings
from models.training.whitening import codes_of, drawn_views
from tests.support.bundles import SMALL_CT_VAE

PARAMETERS = SMALL_CT_VAE | {"whitened": True, "moments": True}
SETTINGS = TrainingSettings(steps=2, invariance=0.1, shift=1.0)


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((6, 10, 18, 18), np.float32) ** power for power in (0.5, 1.0, 2.0, 4.0)]


@pytest.fixture(scope="module")
def straight() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_vae("ct_vae", PARAMETERS).eval()


@pytest.fixture(scope="module")
def bent(straight, scans) -> torch.nn.Module:
    made = copy.deepcopy(straight)
    bend_latents(made, scans, SETTINGS, windows=64)
    return made


@pytest.fixture(scope="module")
def windows(straight, scans) -> torch.Tensor:
    return torch.cat([seen for seen, _ in drawn_views(straight, scans, SETTINGS.unchanged, 64)])


def test_the_aggregate_posterior_has_the_priors_mean_and_variance(bent, scans):
    mu, sigma = (codes[:, 0] for codes in codes_of(bent, scans, SETTINGS.unchanged, 64))
    assert mu.mean(0) == pytest.approx(0.0, abs=1e-5)
    assert mu.var(0) + np.square(sigma).mean(0) == pytest.approx(1.0, abs=1e-4)


@torch.no_grad()
def test_each_value_is_bent_alone_and_the_decoder_follows(straight, bent, windows):
    (before, _), (after, _) = straight.encode(windows), bent.encode(windows)
    expected = (np.arcsinh(1.5 * before.numpy()) - bent.arcsinh.centre.numpy()) / bent.arcsinh.scale.numpy()
    assert after.numpy() == pytest.approx(expected, abs=1e-5)
    for there, here in (
        (straight.decode(before), bent.decode(after)),
        (straight.describe(before), bent.describe(after)),
    ):
        assert (here - there).square().mean() < 0.1 * (there - there.mean(0)).square().mean()


@torch.no_grad()
def test_it_is_built_from_its_parameters_and_exported(bent, windows):
    parameters = parameters_of(bent, PARAMETERS)
    assert parameters == PARAMETERS | {"arcsinh": True}
    built = build_vae("ct_vae", parameters).eval()
    built.load_state_dict(bent.state_dict())
    session = onnxruntime.InferenceSession(encoder_onnx(built), providers=["CPUExecutionProvider"])
    exported = session.run(["mu", "sigma"], {session.get_inputs()[0].name: windows[:1].numpy()})
    for name, value in zip(("mu", "sigma"), exported, strict=True):
        assert value == pytest.approx(bent.taps(windows[:1], (name,))[name].numpy(), abs=1e-4)


@torch.no_grad()
def test_a_training_that_goes_on_begins_its_last_steps_with_straight_latents(straight, bent, scans, windows):
    again = copy.deepcopy(bent)
    straighten(again, scans, SETTINGS, windows=64)
    assert torch.equal(again.encode(windows)[0], straight.encode(windows)[0])
    assert parameters_of(again, PARAMETERS) is PARAMETERS
    there, here = straight.decode(straight.encode(windows)[0]), again.decode(again.encode(windows)[0])
    assert (here - there).square().mean() < 0.2 * (there - there.mean(0)).square().mean()
    straighten(again, scans, SETTINGS, windows=64)
    assert torch.equal(again.decode(again.encode(windows)[0]), here)
