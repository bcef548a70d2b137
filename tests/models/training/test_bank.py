"""The bank: which rows it keeps, who makes the codes of them, and what learns from them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from models.networks.registry import build_vae
from models.training.bank import Bank, bank_of
from models.training.objective import LossInputs, Passed, VaeForward, make_loss_inputs, objective
from models.training.settings import TrainingSettings
from models.training.settled import begin_at_components
from models.training.whitening import drawn_views
from tests.support.bundles import SMALL_CT_VAE

SETTINGS = TrainingSettings(
    steps=1,
    aggregate=0.5,
    mmd=2.0,
    invariance=0.3,
    invariance_scale="whitened",
    bank=8,
    trunk_until=0.5,
    feature_weight=0.1,
)
WINDOW = (8, 16, 16)


def test_the_newest_rows_stay():
    rows = [Bank(torch.full((3, 2, 5), float(n)), torch.full((3, 4), float(n)), torch.zeros(3, 1)) for n in range(4)]
    bank = rows[0]
    for newest in rows[1:]:
        bank = bank.with_newest(newest, 7)
    assert bank.read[:, 1, 0].tolist() == bank.epsilon[:, 0].tolist() == [1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("views", [1, 2])
def test_the_heads_of_now_make_the_codes_of_what_is_kept(views):
    network = VaeForward(build_vae("ct_vae", SMALL_CT_VAE))
    seen, epsilon = torch.rand(views * 4, 1, *WINDOW), torch.randn(4, 4)
    before = network(seen, epsilon)
    bank = bank_of(before.read, epsilon, torch.zeros(4, 1))
    with torch.no_grad():
        network.vae.mu.weight.mul_(2.0)
    passed = network(torch.rand(2, 1, *WINDOW), torch.randn(2, 4), bank.views())
    codes = bank.codes(passed.kept_mu, passed.kept_logvar)
    mu, logvar = network.vae.encode(seen)
    torch.testing.assert_close(codes.mu, mu[:4])
    torch.testing.assert_close(codes.other, mu[4:] if views == 2 else mu.new_zeros(4, 0))
    torch.testing.assert_close(codes.z, mu[:4] + torch.exp(0.5 * logvar[:4]) * epsilon)
    assert not torch.allclose(codes.mu, before.mu[:4])


def test_kept_codes_count_as_those_of_the_batch():
    network = VaeForward(build_vae("ct_vae", SMALL_CT_VAE))
    network.settled = True
    seen, epsilon = torch.rand(24, 1, *WINDOW), torch.randn(12, 4)
    seen[:3, ..., :5] = 0.0  # tiles
    whole, _ = _inputs(network, seen, epsilon, seen[:12])
    first, second = ([*range(5), *range(12, 17)], [*range(5, 12), *range(17, 24)])
    earlier, passed = _inputs(network, seen[first], epsilon[:5], seen[:5])
    bank = bank_of(passed.read, epsilon[:5], earlier.group)
    rows, passed = _inputs(network, seen[second], epsilon[5:], seen[5:12], bank)
    codes = bank.codes(passed.kept_mu, passed.kept_logvar)
    at_once, with_kept = (
        objective(given, SETTINGS, voxels=2048, kl_weight=0.0, dataset=8, kept=kept)
        for given, kept in ((whole, None), (rows, codes))
    )
    torch.testing.assert_close(with_kept.aggregate, at_once.aggregate)
    torch.testing.assert_close(with_kept.invariance, at_once.invariance)
    (with_kept.aggregate + with_kept.invariance).backward()
    assert network.vae.mu.weight.grad is not None
    assert all(weight.grad is None for weight in network.vae.stages.parameters())


def test_settling_gives_uncorrelated_codes_and_the_decoder_follows():
    settings = TrainingSettings(steps=2, invariance=0.1, shift=1.0, bank=8, trunk_until=0.5)
    scans = four_scans()
    vae = build_vae("ct_vae", SMALL_CT_VAE).eval()
    settled = copy.deepcopy(vae)
    begin_at_components(settled, scans, settings, windows=64)
    views = torch.cat([seen for seen, _ in drawn_views(vae, scans, settings, 64)])
    with torch.no_grad():
        before, after = (network.encode(views)[0] for network in (vae, settled))
        rebuilt, again = vae.decode(before), settled.decode(after)
    assert torch.cov(after.T).numpy() == pytest.approx(np.eye(4), abs=0.02)
    assert (again - rebuilt).square().mean() < 0.2 * (rebuilt - rebuilt.mean(0)).square().mean()
    assert torch.equal(next(settled.stages.parameters()), next(vae.stages.parameters()))


def four_scans() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((6, 10, 18, 18), np.float32) ** power for power in (0.5, 1.0, 2.0, 4.0)]


@torch.no_grad()
def test_with_moments_the_codes_begin_at_what_no_training_makes():
    settings = TrainingSettings(steps=2, invariance=0.1, shift=1.0, bank=8, trunk_until=0.5)
    scans = four_scans()
    told = {}
    for moments in (False, True):
        torch.manual_seed(0)
        vae = build_vae("ct_vae", SMALL_CT_VAE | {"moments": moments}).eval()
        begin_at_components(vae, scans, settings, windows=64)
        views = torch.cat([seen for seen, _ in drawn_views(vae, scans, settings, 64)])
        read, mu = vae.trunk(views).double(), vae.encode(views)[0].double()
        untrained = read[:, vae.untrained_readings]
        assert torch.equal(untrained.float(), vae.untrained(views))
        rest = torch.linalg.lstsq(untrained - untrained.mean(0), mu - mu.mean(0))
        guessed = (untrained - untrained.mean(0)) @ rest.solution
        told[moments] = float((mu - mu.mean(0) - guessed).square().sum() / (mu - mu.mean(0)).square().sum())
    assert told[True] < 0.5 * told[False]


@pytest.mark.parametrize(("bank", "until"), [(0, 0.5), (8, 1.0)])
def test_a_bank_needs_a_trunk_that_stays(bank, until):
    with pytest.raises(ValueError, match="expected a bank and a part below 1, or 0 and 1"):
        TrainingSettings(steps=1, bank=bank, trunk_until=until)


def _inputs(
    network: VaeForward, seen: torch.Tensor, epsilon: torch.Tensor, target: torch.Tensor, bank: Bank | None = None
) -> tuple[LossInputs, Passed]:
    passed = network(seen, epsilon, None if bank is None else bank.views())
    return make_loss_inputs(passed, target, SETTINGS, network.vae), passed
