"""The tap that tells chests from the same upside down and back to front."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from models.networks.layers import Orientation
from models.networks.registry import build_vae
from models.spec import ORIENTATION
from models.training.orientation import changed, drawn_chests, flipped, learn_orientation
from models.training.settings import TrainingSettings
from tests.support.bundles import SMALL_CT_VAE

SETTINGS = TrainingSettings(steps=2, seed=3, zoom=0.3, crop=0.5)
SIZE = (16, 32, 32)
TISSUE, LUNG, BONE = 0.525, 0.1, 0.65


def chest(rng: np.random.Generator, windows: int = 3) -> np.ndarray:
    """Windows (n, 16, 32, 32): lungs that widen towards the feet (z = 0), and a spine at the back."""
    made = np.zeros((windows, *SIZE), np.float32)
    made[:, :, 4:28, 3:29] = TISSUE
    for one in made:
        for z in range(SIZE[0]):
            wide = round(4 + 5 * (1 - z / SIZE[0]) + rng.uniform(0, 1))
            one[z, 8:22, 15 - wide : 13] = one[z, 8:22, 19 : 17 + wide] = LUNG
        one[:, 23:27, 14 + rng.integers(-1, 2) :][:, :, :4] = BONE
    return made + 0.01 * rng.random(made.shape, np.float32)


def limb(rng: np.random.Generator) -> np.ndarray:
    made = np.zeros((3, *SIZE), np.float32)
    made[:, :, 10:22, 10:22] = TISSUE
    made[:, :, 14:18, 14:18] = BONE
    return made + 0.01 * rng.random(made.shape, np.float32)


def network(**more: object) -> torch.nn.Module:
    parameters = SMALL_CT_VAE | {"window_voxels": list(SIZE), "orientation": True, **more}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_vae("ct_vae", parameters).eval()


@pytest.fixture(scope="module")
def learned() -> torch.nn.Module:
    vae, rng = network(), np.random.default_rng(1)
    learn_orientation(vae, [*(chest(rng) for _ in range(4)), limb(rng)], SETTINGS, windows=60, steps=200)
    return vae


@torch.no_grad()
def seen(vae: torch.nn.Module, windows: np.ndarray) -> np.ndarray:
    return vae.taps(torch.from_numpy(windows[:, None].copy()), (ORIENTATION,))[ORIENTATION].numpy()


def test_a_chest_that_it_never_saw_is_told_from_itself_upside_down_and_back_to_front(learned):
    fresh = chest(np.random.default_rng(7))
    assert (seen(learned, fresh) < -1).all()
    upside_down, back_to_front = seen(learned, fresh[:, ::-1]), seen(learned, fresh[:, :, ::-1])
    assert (upside_down[:, 0] > 1).all() and (upside_down[:, 1] < -1).all()
    assert (back_to_front[:, 0] < -1).all() and (back_to_front[:, 1] > 1).all()
    assert (seen(learned, fresh[:, ::-1, ::-1]) > 1).all()


def test_where_there_is_no_lung_nothing_is_said(learned):
    assert (seen(learned, limb(np.random.default_rng(8))) == 0).all()
    assert (seen(learned, np.zeros((1, *SIZE), np.float32)) == 0).all()


def test_it_is_learned_the_same_twice_and_changes_nothing_else(learned):
    rng, again = np.random.default_rng(1), network()
    before = copy.deepcopy(again.state_dict())
    torch.rand(5)  # whatever was drawn before does not matter
    learn_orientation(again, [*(chest(rng) for _ in range(4)), limb(rng)], SETTINGS, windows=60, steps=200)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, learned.state_dict()[name])
        assert name.startswith("orientation.") or torch.equal(weight, before[name])


def test_without_a_chest_or_without_the_tap_it_stays_as_it_was():
    rng, vae, without = np.random.default_rng(2), network(), network(orientation=False)
    before = copy.deepcopy(vae.state_dict())
    learn_orientation(vae, [limb(rng)], SETTINGS, windows=10, steps=2)
    learn_orientation(without, [chest(rng)], SETTINGS, windows=10, steps=2)
    assert all(torch.equal(weight, before[name]) for name, weight in vae.state_dict().items())
    assert ORIENTATION in vae.tap_names and ORIENTATION not in without.tap_names


def test_every_scan_counts_as_much_and_only_what_holds_lung():
    rng = np.random.default_rng(3)
    found = drawn_chests(network(), [chest(rng, 1), chest(rng, 6), limb(rng)], SETTINGS, 80)
    assert found is not None and found.halved.shape[1:] == (1, 8, 16, 16)
    weights, counts = torch.unique(found.weight, return_counts=True)
    assert (weights * counts).tolist() == pytest.approx([1.0, 1.0])


def test_flips_are_numpys_and_what_is_changed_stays_a_window():
    windows = torch.rand(4, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    wrong = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    expected = [windows[0], windows[1].flip(1), windows[2].flip(2), windows[3].flip(1).flip(2)]
    assert torch.equal(flipped(windows, wrong), torch.stack(expected))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert changed(windows).shape == windows.shape and torch.isfinite(changed(windows)).all()


def test_skin_and_bowel_gas_are_no_lung():
    part = Orientation(SIZE)
    skin = torch.zeros(1, 1, *SIZE)
    skin[:, :, :, 8:24, 8:24], skin[:, :, :, 7, 7:25], skin[:, :, :, 7:25, 7] = TISSUE, LUNG, LUNG
    gas = torch.full((1, 1, *SIZE), TISSUE)
    gas[:, :, :, 8:16, 8:16] = 0.0
    assert part.lung(torch.cat([skin, gas])).tolist() == [0, 0]
    assert part.lung(torch.full((1, 1, *SIZE), LUNG)).tolist() == [1]
