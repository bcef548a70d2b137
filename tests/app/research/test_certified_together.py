"""Figures of all windows together, on made features of which it is known what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.research.certify.encode_scans import Measured
from app.research.certify.rivals import rival_figures, rivals_from
from app.research.certify.together import draw_figures, group_figures, prior_figures, redundancy_figures, repeat_figures
from app.research.certify.together_text import (
    draws_section,
    groups_section,
    redundancy_section,
    repeats_section,
    rivals_section,
)
from app.research.data.changed_windows import ORIGINAL
from models.networks.registry import build_vae
from models.statistics.cropped import cropped_tiles
from models.training.aggregate_losses import tile_group
from tests.support.bundles import SMALL_CT_VAE
from tests.support.certificates import small_certificate

PATIENTS, EACH, LATENTS = 12, 4, 20
SIZE = (4, 32, 32)


def measured(seed: int = 0, *, patients: int = PATIENTS, mu: np.ndarray | None = None, first: int = 0) -> Measured:
    """Windows of noise in two groups; a target that only their place knows; features that do not hold it by default."""
    rng = np.random.default_rng(seed)
    n = patients * EACH
    voxels = rng.random((n, *SIZE)).astype(np.float16) * 0.5 + 0.25
    cropped = np.arange(n) % EACH == 0
    voxels[cropped, :, :, 8:] = 0
    mu = rng.standard_normal((n, LATENTS)) if mu is None else mu
    place = np.tile(np.arange(EACH) * 100.0, patients)
    return Measured(
        features={
            ORIGINAL: {"mu": mu, "sigma": np.full((n, LATENTS), 0.5)},
            "noise": {"mu": mu + 0.1 * rng.standard_normal(mu.shape)},
            "turn": {"mu": mu + 2.0 * rng.standard_normal(mu.shape)},
        },
        targets={"mean_hu": mu[:, 0] + 0.1 * rng.standard_normal(n)},
        unlike={"asymmetry": mu[:, 1] + 0.2 * rng.standard_normal(n), "noise": mu[:, 2]},
        rivals={},
        labels={},
        sources=np.where(np.arange(n) < n // 2, "First (TCIA), CC BY 3.0", "Second, CC BY 4.0"),
        cropped=cropped,
        windows=voxels,
        errors={},
        patients=np.repeat([f"P{first + number}" for number in range(patients)], EACH),
        low_mm=place,
        high_mm=place + 90.0,
        scans=2 * patients,
        of_scan=np.arange(n) // (EACH // 2),
        moved_mm={},
    )


def test_copies_of_one_dimension_are_one_dimension():
    rng = np.random.default_rng(1)
    one = rng.standard_normal((PATIENTS * EACH, 1))
    copies = redundancy_figures(measured(mu=one + 0.01 * rng.standard_normal((PATIENTS * EACH, LATENTS))), seed=0)
    apart = redundancy_figures(measured(), seed=0)
    assert copies.mean_abs_r.value > 0.99 and copies.participation_ratio.value < 1.1
    assert apart.mean_abs_r.value == pytest.approx(apart.mean_abs_r.null, abs=0.02)
    assert apart.participation_ratio.value == pytest.approx(apart.participation_ratio.null, rel=0.1)
    assert (apart.windows, apart.patients) == (PATIENTS * EACH, PATIENTS)


def test_a_flag_is_found_in_the_variance_and_none_is_none():
    made = measured()
    flagged = replace(made, features={ORIGINAL: {"mu": made.features[ORIGINAL]["mu"] + 8.0 * made.cropped[:, None]}})
    assert redundancy_figures(flagged, seed=0).crop_share > 0.8
    assert redundancy_figures(made, seed=0).crop_share < 0.1
    whole = replace(made, cropped=np.zeros_like(made.cropped))
    assert redundancy_figures(whole, seed=0).crop_share is None


def test_a_code_that_is_the_prior_is_as_near_as_the_null():
    rng = np.random.default_rng(2)
    mu = rng.standard_normal((PATIENTS * EACH, LATENTS)) * np.sqrt(0.75)
    found = prior_figures(measured(mu=mu), seed=0)
    assert found.aggregate_kl_nats.value == pytest.approx(found.aggregate_kl_nats.null, rel=0.3)
    assert found.near_unit_variance >= LATENTS - 2
    assert prior_figures(measured(mu=10 * mu), seed=0).aggregate_kl_nats.value > 100


def test_two_draws_repeat_as_their_sigma_says():
    """Variance 1 of mu beside 0.25 of each draw: an ICC of 0.8."""
    found = draw_figures(measured(), seed=0)
    assert found.median_icc == pytest.approx(0.8, abs=0.06)
    assert found.looked_for == PATIENTS * EACH and found.found < 1.0


def test_groups_are_crop_kinds_and_sources():
    found = group_figures(measured(), measured(3, first=50), seed=0)
    assert list(found) == ["cropped tile", "whole field of view", "First (TCIA)", "Second"]
    tile = found["cropped tile"]
    assert (tile.windows, tile.patients, tile.looked_for) == (PATIENTS, PATIENTS, PATIENTS)
    assert tile.median_icc["noise"] > 0.98 > tile.median_icc["turn"]
    assert tile.found["noise"] == PATIENTS > tile.found["turn"]
    assert tile.steady_dimensions == 0
    assert tile.mean_r2 > 0.8


def test_a_group_of_one_patient_is_not_measured_by_itself():
    made = measured()
    assert "whole field of view" in group_figures(made, None, seed=0)
    alone = replace(made, cropped=made.patients == "P3")
    assert "cropped tile" not in group_figures(alone, None, seed=0)


@pytest.fixture(scope="module")
def vae():
    return build_vae("ct_vae", SMALL_CT_VAE | {"window_voxels": SIZE}).eval()


def test_mu_that_holds_what_no_rival_holds_is_above_them_and_noise_is_not(vae):
    made, rivals = measured(), rivals_from(measured(5, first=50), vae, LATENTS)
    made = replace(made, rivals=rivals.describe(made.windows.astype(np.float32)))
    assert {"components", "histogram", "composition"} <= set(made.rivals)
    found = rival_figures(made, rivals)
    assert found.scores["mu"].value > 0.8
    assert found.over_strongest.low > 0 and found.over_strongest_80 >= found.over_strongest.low
    assert found.by_probe["mu"].keys() == {"asymmetry", "noise"}

    rng = np.random.default_rng(9)
    noise = {ORIGINAL: {"mu": rng.standard_normal((PATIENTS * EACH, LATENTS))}}
    learned = replace(rivals.learned, features=noise)
    nothing = rival_figures(replace(made, features=noise), replace(rivals, learned=learned))
    assert nothing.scores["mu"].value < 0.1 and not nothing.over_strongest.low > 0


def test_no_more_windows_are_learned_from_than_are_held(monkeypatch, vae):
    monkeypatch.setattr("app.research.certify.rivals.MOST_WINDOWS", 10)
    rivals = rivals_from(measured(), vae, LATENTS)
    kept = rivals.learned
    assert len(rivals.described["histogram"]) == len(kept.patients) == len(kept.features[ORIGINAL]["mu"]) == 10


def test_the_flag_is_the_one_that_training_groups_by():
    import torch

    windows = measured().windows.astype(np.float32)
    flags = tile_group(torch.from_numpy(windows)[:, None]).squeeze(1).bool().numpy()
    assert (cropped_tiles(windows) == flags).all() and flags.any() and not flags.all()
    assert cropped_tiles(np.zeros((1, *SIZE))).tolist() == [True]


def test_the_card_says_it_and_says_nothing_where_nothing_was_measured():
    made = measured()
    certificate = replace(
        small_certificate(),
        redundancy=redundancy_figures(made, seed=0),
        prior=prior_figures(made, seed=0),
        draws=draw_figures(made, seed=0),
    )
    assert "participation ratio" in redundancy_section(certificate)
    assert "ICC" in draws_section(certificate)
    assert "whole field of view" in groups_section(group_figures(made, None, seed=0))
    empty = small_certificate()
    assert redundancy_section(empty) == draws_section(empty) == groups_section({}) == rivals_section(None) == ""


def test_scans_of_one_patient_that_are_alike_find_each_other_and_the_patient_has_the_variance():
    rng = np.random.default_rng(3)
    of_patient = np.repeat(np.arange(PATIENTS), EACH)
    known = rng.standard_normal((PATIENTS, LATENTS))[of_patient]
    alike = repeat_figures(measured(mu=known + 0.1 * rng.standard_normal(known.shape)), seed=0)
    assert (alike.patients, alike.scans) == (PATIENTS, 2 * PATIENTS)
    assert alike.patient_share.value > 0.95 and alike.patient_share.low > 0.9
    assert alike.nearest.value == alike.mutual.value == 1.0
    none = repeat_figures(measured(), seed=0)
    assert none.patient_share.value < 0.2 and none.nearest.value < 0.4
    assert none.patient_share.value + none.acquisition_share.value == pytest.approx(1)


def test_of_patients_with_one_scan_it_says_nothing():
    one_each = measured()
    one_each = replace(one_each, of_scan=np.arange(len(one_each.patients)) // EACH, scans=PATIENTS)
    assert repeat_figures(one_each, seed=0) is None
    assert repeats_section(None) == ""


def test_the_card_says_what_repeat_scans_have_in_common():
    text = repeats_section(repeat_figures(measured(), seed=0))
    assert f"{2 * PATIENTS} scans of {PATIENTS} patients" in text
    assert "mutual" in text and "| acquisition |" in text
