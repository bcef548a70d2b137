"""What the heads read stays within what training saw: exactly as it was there, and bounded elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.networks.registry import build_vae
from models.training.reading_range import clip_readings
from models.training.settings import TrainingSettings
from tests.support.bundles import SMALL_CT_VAE

SETTINGS = TrainingSettings(steps=2, invariance=0.1, shift=2.0, tile=0.5, noise=0.0)


def network(clipped: bool):
    torch.manual_seed(0)
    return build_vae("ct_vae", SMALL_CT_VAE | ({"clipped": True} if clipped else {})).eval()


@pytest.fixture(scope="module")
def scans():
    rng = np.random.default_rng(0)
    return [np.asarray(0.4 + 0.2 * rng.random((3, 8, 16, 16)), np.float32) for _ in range(3)]


def test_until_it_is_set_a_network_is_what_it_is_without(scans):
    x = torch.from_numpy(10 * scans[0][:, None])
    assert torch.equal(network(True).trunk(x), network(False).trunk(x))


def test_windows_like_those_learned_from_are_read_as_before_and_others_within_bounds(scans):
    vae, free = network(True), network(False)
    clip_readings(vae, scans, SETTINGS, windows=32)
    own = torch.from_numpy(scans[0][:, None])
    assert torch.equal(vae.trunk(own), free.trunk(own))
    strange = torch.from_numpy(np.random.default_rng(1).random((4, 1, 8, 16, 16), np.float32) * 20)
    bounded, unbounded = vae.trunk(strange), free.trunk(strange)
    assert (bounded >= vae.clip.low).all() and (bounded <= vae.clip.high).all()
    assert not torch.equal(bounded, unbounded)
    low, high = vae.clip.low.clone(), vae.clip.high.clone()
    clip_readings(vae, scans, SETTINGS, windows=32)
    assert torch.equal(vae.clip.low, low) and torch.equal(vae.clip.high, high), "not of what was clipped before"
    assert vae.taps(strange, ["mu"])["mu"].abs().max() < free.taps(strange, ["mu"])["mu"].abs().max()


def test_a_network_without_it_stays_as_it_is(scans):
    vae = network(False)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    clip_readings(vae, scans, SETTINGS, windows=4)
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())
