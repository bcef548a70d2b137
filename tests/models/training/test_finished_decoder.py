"""The decoder that goes on alone: it is better, and nothing else is changed."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.networks.registry import build_vae
from models.training.finished_decoder import finish_decoder
from models.training.settings import TrainingSettings
from tests.support.bundles import SMALL_CT_VAE

SETTINGS = TrainingSettings(steps=2, invariance=0.1, shift=1.0, tile=0.5, decoder_steps=150)


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.random((2, 4, 12, 20, 20), np.float32)
    return [noise[0] + np.float32(0.2), noise[1] + np.float32(0.7)]


@pytest.fixture(scope="module")
def vae() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_vae("ct_vae", SMALL_CT_VAE).eval()


@torch.no_grad()
def error(vae, scans) -> float:
    whole = torch.cat([torch.from_numpy(scan[:, None, 2:10, 2:18, 2:18]) for scan in scans])
    return float((vae.decode(vae.encode(whole)[0]) - whole).abs().mean())


def test_it_rebuilds_better_and_the_encoder_stays(vae, scans):
    made = copy.deepcopy(vae)
    finish_decoder(made, scans, SETTINGS, windows=64)
    assert error(made, scans) < 0.5 * error(vae, scans)
    before, after = vae.state_dict(), made.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    assert all(weight.grad is None for weight in made.parameters())


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 20])
def test_any_number_of_steps_will_do(vae, scans, steps):
    made = copy.deepcopy(vae)
    finish_decoder(made, scans, replace(SETTINGS, decoder_steps=steps), windows=16)
    assert all(bool(torch.isfinite(weight).all()) for weight in made.parameters())


def test_twice_is_the_same_and_without_steps_nothing_changes(vae, scans):
    twice = [copy.deepcopy(vae) for _ in range(2)]
    for made in twice:
        finish_decoder(made, scans, replace(SETTINGS, decoder_steps=3), windows=20)
    same, still = copy.deepcopy(vae), [vae.state_dict()[name] for name in vae.state_dict()]
    finish_decoder(same, scans, replace(SETTINGS, decoder_steps=0))
    assert all(torch.equal(*pair) for pair in zip(*(one.state_dict().values() for one in twice), strict=True))
    assert all(torch.equal(*pair) for pair in zip(same.state_dict().values(), still, strict=True))
