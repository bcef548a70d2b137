"""The shipped architecture: what its stem counts, what its heads see, what it describes, and what its recipe draws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from models.networks.ct_vae import LEVELS as LEVELS_OF_CT_VAE
from models.networks.layers import Arcsinh, Fold, PatchStatistics, mean_and_spread
from models.networks.pooled import PooledVae, composed, moment_values, moments
from models.networks.registry import build_vae
from models.training.augment import make_views
from models.training.draws import draw_augmentation
from models.training.losses import pair_ratio
from models.training.settings import TrainingSettings

SMALL = {"window_voxels": [8, 16, 16], "fold": [2, 4, 4], "channels": [8, 16], "neck": 4, "dense": 16, "latents": 4}
LEVELS = (0.0, 0.2, 0.5, 1.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, np.float32))


def small(**parameters: bool) -> PooledVae:
    torch.manual_seed(0)
    vae = build_vae("ct_vae", SMALL | parameters).eval()
    assert isinstance(vae, PooledVae)
    return vae


def test_patch_statistics_are_those_of_each_patch():
    windows = noise(2, 1, 4, 8, 8)

    found = PatchStatistics((2, 4, 4), LEVELS)(Fold((2, 4, 4))(windows)).numpy()

    patch = windows[1, 0, 2:4, 4:8, 0:4].numpy()
    filled = [((patch.clip(low, high) - low) / (high - low)).mean() for low, high in pairwise(LEVELS)]
    steps = np.stack([np.diff(patch, axis=axis)[:1, :3, :3] for axis in range(3)])
    expected = [*filled, 10 * np.sqrt((steps**2).sum(0)).mean(), 10 * patch.std()]
    assert found[1, :, 1, 1, 0] == pytest.approx(expected, abs=1e-3)


def test_mean_and_spread_are_those_over_the_window():
    x = noise(2, 3, 2, 4, 5)

    flat = x.flatten(2).numpy()
    assert mean_and_spread(x).numpy() == pytest.approx(np.concatenate([flat.mean(2), flat.std(2)], 1), abs=1e-5)


def test_a_window_moved_by_whole_patches_keeps_its_composition():
    vae, window = small(), torch.zeros(1, 1, 8, 16, 16)
    window[:, :, 2:4, 4:8, 4:8] = noise(2, 4, 4)

    here = vae.taps(window, ["pooled"])["pooled"]
    there = vae.taps(window.roll((2, 4, -4), (2, 3, 4)), ["pooled"])["pooled"]

    assert torch.allclose(
        here[:, : composed(vae.patches.channels)], there[:, : composed(vae.patches.channels)], atol=1e-5
    )


def test_moments_are_the_centroid_and_the_spread_of_what_lies_above_each_level():
    filled = noise(2, 3, 5, 6, 7)
    filled[:, 1] *= 1e-6  # as good as nothing: it lies in the middle, and is as small as can be
    found = moments(torch.cat([filled, noise(2, 2, 5, 6, 7, seed=1)], 1)).numpy().reshape(2, 2, 3, 3)

    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in (5, 6, 7)), indexing="ij"))
    for level in (0, 2):
        mass = filled[1, level].numpy().astype(np.float64)
        total = mass.sum() + 0.16
        centre = (mass * places).sum((1, 2, 3)) / total
        variance = (mass * (places - centre[:, None, None, None]) ** 2).sum((1, 2, 3)) / total
        assert found[1, 0, :, level] == pytest.approx(7.5 * centre, abs=1e-5)
        assert found[1, 1, :, level] == pytest.approx(1.25 * np.log(variance + 0.01), abs=1e-5)
    assert found[1, 0, :, 1] == pytest.approx(0.0, abs=1e-2) and found[1, 1, :, 1] == pytest.approx(-5.72, abs=0.01)


def test_a_body_moved_by_a_patch_moves_its_centroids_alone():
    vae, window = small(moments=True), torch.zeros(1, 1, 8, 16, 16)
    window[:, :, 2:6, 4:12, 4:8] = 0.4 + 0.2 * noise(4, 8, 4)

    here, there = vae.untrained(window), vae.untrained(window.roll(4, 4))

    values, levels = moment_values(vae.patches.channels), vae.patches.channels - 2
    along_columns = slice(here.shape[1] - values + 2 * levels, here.shape[1] - values + 3 * levels)
    moved = (there - here)[0]
    held = window.max() > torch.tensor([0.0, *LEVELS_OF_CT_VAE])
    assert (moved[along_columns][held] > 0.5).all()
    rest = torch.cat([moved[: along_columns.start], moved[along_columns.stop :]])
    assert torch.allclose(rest[: rest.numel() - levels], torch.zeros(()), atol=1e-5)
    assert vae.taps(window, ["pooled"])["pooled"][0, : here.shape[1]].tolist() == here[0].tolist()


def test_a_network_without_moments_is_as_it_was():
    vae, window = small(), noise(1, 1, 8, 16, 16)
    assert torch.equal(vae.untrained(window), vae.describable(window))
    assert small(moments=True).mu.in_features == vae.mu.in_features + moment_values(vae.patches.channels)


def test_bent_latents_keep_their_order_and_their_variance_follows_the_slope():
    bent = Arcsinh(3)
    bent.centre.copy_(torch.tensor([0.1, 0.0, -0.3]))
    bent.scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = torch.linspace(-1000, 1000, 201, dtype=torch.float64)[:, None].repeat(1, 3)

    assert bent(x).numpy() == pytest.approx((np.arcsinh(1.5 * x.numpy()) - bent.centre.numpy()) / bent.scale.numpy())
    assert (bent(x).diff(dim=0) > 0).all()
    draws = 0.2 + 0.01 * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told = bent.log_variance(torch.full((1, 3), 0.2), torch.full((1, 3), 1e-4).log())
    assert told.exp()[0].numpy() == pytest.approx(bent(draws).var(0).numpy(), rel=0.01)


def test_the_heads_see_the_pooled_stages():
    vae, window = small(), noise(1, 1, 8, 16, 16)
    taps = vae.taps(window, ["dense", "pooled", "mu"])

    assert torch.allclose(vae.mu(torch.cat([taps["dense"], taps["pooled"]], 1)), taps["mu"])
    assert torch.allclose(vae.encode(window)[0], taps["mu"])


def test_a_composition_is_the_roots_of_a_soft_histograms_parts_and_the_texture():
    vae, windows = small(), noise(2, 1, 8, 16, 16)

    wanted = vae.describable(windows).numpy()

    levels, x = np.array((0.0, *LEVELS_OF_CT_VAE, 1.0)), windows[1].numpy().ravel()
    parts = [np.interp(x, levels, np.eye(len(levels))[at]).mean() for at in range(len(levels))]
    assert wanted.shape == vae.describe(torch.zeros(2, 4)).shape
    assert wanted[1, :-4] == pytest.approx(10 * np.sqrt(np.array(parts) + 1e-3), abs=1e-3)
    texture = vae.patches(vae.fold(windows))[:, -2:]
    assert wanted[:, -4:] == pytest.approx(4 * mean_and_spread(texture).numpy())


def test_the_pair_ratio_is_half_the_log_of_the_part_that_views_differ_by():
    mu, other = noise(50, 3, seed=1), noise(50, 3, seed=2)

    ratio = ((mu - other) ** 2).mean(0) / (0.5 * (mu.var(0) + other.var(0)))
    assert pair_ratio(mu, other).item() == pytest.approx(0.5 * torch.log(ratio + 1e-3).mean().item(), rel=1e-5)


def test_a_smaller_mu_does_not_please_the_pair_ratio():
    mu, other = noise(50, 3, seed=1), noise(50, 3, seed=2)

    assert pair_ratio(0.3 * mu, 0.3 * other).item() == pytest.approx(pair_ratio(mu, other).item(), rel=1e-4)


def framed(settings: TrainingSettings, number: int, window: torch.Tensor) -> np.ndarray:
    drawn = draw_augmentation(settings, (4, 32, 32), 4, 1, number)
    return make_views(window, [drawn], (4, 32, 32), settings)[1][0, 0].numpy()


def test_a_crop_is_a_part_of_the_window_in_the_middle_of_air():
    settings = TrainingSettings(steps=1, noise=0.0, gain=0.0, crop=1.0)
    window = torch.full((1, 4, 32, 32), 0.5)

    for number in range(8):
        target = framed(settings, number, window)
        rows, columns = (np.flatnonzero((target > 0).any(axis=(0, other))) for other in (2, 1))
        assert 10 < len(rows) <= 32 and set(np.unique(target)) <= {0.0, 0.5}
        for held in (rows, columns):
            assert abs((held[0] + held[-1]) / 2 - 15.5) <= 0.5


def test_a_zoom_changes_the_size_of_what_is_in_the_middle():
    settings = TrainingSettings(steps=1, noise=0.0, gain=0.0, zoom=0.5)
    window = torch.zeros(1, 4, 32, 32)
    window[:, :, 10:22, 10:22] = 1.0

    sizes = [framed(settings, number, window)[0].sum() / 144 for number in range(40)]

    assert 1 / 1.6**2 < min(sizes) < 0.7 and 1.5 < max(sizes) < 1.6**2
