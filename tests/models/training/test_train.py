"""Training learns, repeats from its seed, averages, stops when it gets no better, and warns while it fails."""

from __future__ import annotations

import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from app.research.train.recipe import load_recipe, make_plan
from models.networks.registry import build_vae
from models.statistics.aggregate import aggregate_kl
from models.statistics.redundancy import redundancy
from models.training import last_steps as last_steps_module
from models.training.aggregate_losses import aggregate_distance
from models.training.evaluate import evaluate
from models.training.finished_decoder import finish_decoder
from models.training.learning_rate import learning_rate
from models.training.progress import Progress, StepLog
from models.training.settings import TrainingSettings
from models.training.steady import steady_head
from models.training.train import TrainingInterrupted, train
from tests.support.bundles import SMALL_CT_VAE
from tests.support.checkout import ROOT
from tests.support.clocks import Clock

SETTINGS = TrainingSettings("ct_vae", SMALL_CT_VAE, steps=4, batch=4, threads=1, accelerator="cpu")


def blobs(n: int, size=(8, 16, 16), seed: int = 0) -> np.ndarray:
    """Windows with one bright ball each, somewhere: something to learn."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    centres = rng.uniform(0.25, 0.75, (n, 1, 1, 1, 3)) * size
    return np.exp(-np.square((grid - centres) / 3).sum(-1)).astype(np.float16)


def same(first: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@torch.no_grad()
def distance(first: torch.nn.Module, other: torch.nn.Module) -> float:
    return sum(float((a - b).square().sum()) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_training_lowers_the_loss_and_uses_its_units():
    settings = replace(SETTINGS, steps=30, batch=8, learning_rate=1e-2)
    trained = train([blobs(64)], settings, report_every_s=0.0)
    assert trained.history[-1].rmse < 0.6 * trained.history[0].rmse
    assert trained.history[-1].active >= 3
    assert (trained.steps, trained.ended, trained.rank) == (30, "finished", 0)
    assert not trained.vae.training


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, again = train([blobs(8)], SETTINGS), train([blobs(8)], SETTINGS)
    other = train([blobs(8)], replace(SETTINGS, seed=1))
    assert same(first.vae, again.vae)
    assert not torch.equal(first.vae.mu.weight, other.vae.mu.weight)


def test_training_leaves_torchs_random_state_and_threads_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train([blobs(8)], SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_windows_with_a_margin_are_cut_to_the_networks_size():
    trained = train([blobs(3, (10, 18, 20)), blobs(2, (8, 16, 16))], SETTINGS)
    assert trained.vae.window_voxels == (8, 16, 16)


def test_windows_smaller_than_the_networks_are_refused():
    with pytest.raises(ValueError, match=r"windows of \(8, 15, 16\) voxels; expected at least the network's"):
        train([blobs(3, (8, 15, 16))], SETTINGS)
    with pytest.raises(ValueError, match="no window to train on"):
        train([blobs(0)], SETTINGS)
    with pytest.raises(ValueError, match="calibration windows of"):
        train([blobs(4)], SETTINGS, calibration=[blobs(3, (8, 16, 18))])


def test_two_passes_of_half_a_batch_are_one_step_of_a_whole_one():
    fixed = replace(SETTINGS, steps=1, scale=0.1, free_bits_nats=0.0, batch=8)  # what is a mean over windows
    whole, halves = (train([blobs(16)], replace(fixed, batch=8 // n, accumulate=n)) for n in (1, 2))
    untrained = train([blobs(16)], replace(fixed, learning_rate=1e-8))
    assert distance(whole.vae, halves.vae) < 1e-4 * distance(whole.vae, untrained.vae)
    assert whole.history[-1].loss == pytest.approx(halves.history[-1].loss, rel=1e-5)


def test_a_pair_term_makes_mu_steadier_under_what_is_drawn():
    settings = replace(SETTINGS, steps=60, batch=8, noise=0.2, blur=1.0, learning_rate=1e-2)
    plain, steady = (
        train([blobs(64)], replace(settings, invariance=weight), report_every_s=0.0) for weight in (1e-6, 0.5)
    )
    ends = [np.mean([progress.invariance for progress in it.history[-20:]]) for it in (plain, steady)]
    assert ends[1] < 0.7 * ends[0]
    assert steady.history[-1].active >= 2


@pytest.mark.parametrize(
    "changes",
    [
        {"likelihood": "laplace"},
        {"likelihood": "laplace", "scale": 0.05},
        {"penalty": "beta_tc", "penalty_weight": 3.0},
        {"penalty": "dip_ii", "penalty_weight": 1.0},
        {"penalty": "mmd", "penalty_weight": 50.0},
        {"feature_weight": 0.5, "feature_block": 4},
        {"beta": 4.0, "sharpen": 0.5, "thickness": 2.5, "field_of_view": 0.3, "shift": 1.0, "invariance": 0.1},
        {"offset": 0.01, "turn": 5.0, "tile": 0.3, "shift": 1.0, "invariance": 0.1},
        {
            "batch": 8,
            "bank": 24,
            "trunk_until": 0.7,
            "aggregate": 0.02,
            "mmd": 0.1,
            "invariance": 0.01,
            "invariance_scale": "whitened",
        }
        | {"beta": 0.01, "kl_scale": "latent"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_every_kind_of_loss_and_view_trains(changes):
    settings = replace(SETTINGS, **({"steps": 60, "batch": 8} | changes))
    trained = train([blobs(32, (10, 18, 18))], settings, report_every_s=0.0, calibration=[blobs(5, seed=1)])
    assert trained.history[-1].rmse < 0.9 * trained.history[0].rmse


def test_the_recipe_of_the_shipped_bundle_trains_from_its_first_step_to_its_end(monkeypatch):
    """With all of its terms at once, and what is measured on the way and done at the end."""
    monkeypatch.setattr("models.training.last_steps.steady_head", partial(steady_head, windows=64))
    monkeypatch.setattr("models.training.last_steps.finish_decoder", partial(finish_decoder, windows=16))
    recipe = make_plan(load_recipe(ROOT / "app" / "research" / "shipped" / "ct_vae.yaml"), training={}, data={})
    small = SMALL_CT_VAE | {"whitened": True}
    short = {"steps": 12, "bank": 56, "axes": 3, "decoder_steps": 4}
    settings = replace(recipe.training, parameters=small, minutes=None, accelerator="cpu", **short)
    trained = train([blobs(16, (10, 18, 18)) for _ in range(2)], settings, calibration=[blobs(5, seed=1)])
    assert trained.steps == 12 and np.isfinite(trained.history[-1].calibration)
    assert trained.vae.mu.out_features == 3
    made = build_vae("ct_vae", trained.parameters)
    made.load_state_dict(trained.vae.state_dict())


LAST_STEPS = replace(
    SETTINGS,
    parameters=SMALL_CT_VAE | {"whitened": True, "outlier": True, "orientation": True},
    invariance=0.1,
    steadiness=1.0,
    axes=2,
    decoder_steps=3,
)


@pytest.fixture
def quick_last_steps(monkeypatch):
    for name, count in {"learn_outliers": 8, "steady_head": 64, "training_axes": 64, "finish_decoder": 16}.items():
        place = f"models.training.last_steps.{name}"
        monkeypatch.setattr(place, partial(getattr(last_steps_module, name), windows=count))


def test_a_training_stopped_in_its_last_steps_goes_on_there_and_ends_the_same(tmp_path, quick_last_steps):
    checkpoint, said = tmp_path / "x.checkpoint", []
    scans = [blobs(16, (10, 18, 18))]
    whole = train(scans, LAST_STEPS, announce=said.append)
    assert said == [
        "learning what is no patient",
        "solving for the heads",
        "the decoder goes on alone",
        "learning which way up a chest is",
    ]
    with pytest.raises(TrainingInterrupted, match="interrupted after its last step 4; start again with its checkpoint"):
        train(scans, LAST_STEPS, checkpoint=checkpoint, announce=lambda _: signal.raise_signal(signal.SIGTERM))
    resumed = train(scans, LAST_STEPS, checkpoint=checkpoint)
    assert same(resumed.vae, whole.vae) and resumed.steps == 4
    assert resumed.parameters["latents"] == 2 and resumed.parameters["learned_latents"] == SMALL_CT_VAE["latents"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [(SMALL_CT_VAE, "axes 2; this network cannot be whitened"), ({"latents": 1}, "expected at most the 1 latents")],
)
def test_more_axes_than_there_are_is_an_error_before_the_training(parameters, said):
    parameters = SMALL_CT_VAE | ({"whitened": True} if parameters is not SMALL_CT_VAE else {}) | parameters
    with pytest.raises(ValueError, match=said):
        train([blobs(4)], replace(SETTINGS, parameters=parameters, axes=2))


def test_the_divergence_of_all_codes_becomes_smaller_where_it_has_a_weight():
    settings = replace(SETTINGS, steps=30, batch=8, bank=56, trunk_until=0.3, learning_rate=1e-2)
    trained = [train([blobs(64)], replace(settings, aggregate=weight)).vae for weight in (0.0, 3.0)]
    without, weighed = (aggregate_distance(torch.from_numpy(codes_of(vae)[0])).item() for vae in trained)
    assert weighed < 0.3 * without


def test_a_network_with_room_for_it_ends_with_the_axes_of_its_codes():
    settings = replace(SETTINGS, steps=30, batch=8, invariance=0.1)
    with_room = replace(settings, parameters=SMALL_CT_VAE | {"whitened": True})
    plain, whitened = (codes_of(train([blobs(64)], one).vae) for one in (settings, with_room))
    assert redundancy(whitened[0]).mean_abs_r < 0.7 * redundancy(plain[0]).mean_abs_r
    assert aggregate_kl(*whitened) < min(0.5, 0.5 * aggregate_kl(*plain))


def codes_of(vae: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """(mu, sigma) of windows."""
    with torch.no_grad():
        mu, logvar = vae.encode(torch.from_numpy(blobs(64).astype(np.float32))[:, None])
    return mu.numpy(), (0.5 * logvar).exp().numpy()


def test_the_average_of_the_weights_is_what_is_returned():
    settings = replace(SETTINGS, steps=12)
    weights: dict[int, torch.Tensor] = {}

    def keep(vae, step):
        weights.setdefault(step, vae.mu.weight.detach())

    plain = train([blobs(8)], settings, pictures=keep, pictures_every_s=-1.0)
    averaged = train([blobs(8)], replace(settings, ema=0.9))
    expected = first_weight(settings)
    for step, now in sorted(weights.items()):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * now
    assert sorted(weights) == list(range(1, 13))
    torch.testing.assert_close(averaged.vae.mu.weight.detach(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(averaged.vae.mu.weight, plain.vae.mu.weight)


def first_weight(settings: TrainingSettings) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return build_vae(settings.architecture, settings.parameters).mu.weight.detach()


def test_training_ends_when_the_calibration_windows_get_no_better_and_returns_the_best():
    settings = replace(SETTINGS, steps=100, patience=3, learning_rate=0.1, kl_warmup=0.0, noise=0.0, gain=0.0)
    calibration = [blobs(6, seed=9)]
    seen: dict[int, torch.nn.Module] = {}
    reports: list[Progress] = []
    trained = train(
        [blobs(4)],
        settings,
        reports.append,
        report_every_s=0.0,
        calibration=calibration,
        pictures=lambda vae, step: seen.setdefault(step, vae),
        pictures_every_s=-1.0,
    )
    assert trained.ended == "early"
    losses = {report.step: report.calibration for report in reports if report.step % 2 == 0}
    best = min(losses, key=losses.get)
    assert trained.steps == best + 2 * 3 < 100
    assert same(trained.vae, seen[best])
    assert not same(trained.vae, seen[trained.steps - 2])


def test_patience_needs_calibration_windows():
    with pytest.raises(ValueError, match="patience is 2 without calibration windows"):
        train([blobs(4)], replace(SETTINGS, patience=2))


def test_the_calibration_loss_is_that_of_the_figures_of_mu():
    trained = train([blobs(8)], SETTINGS, calibration=[blobs(5, seed=1)])
    x = torch.from_numpy(blobs(5, seed=1).astype(np.float32))[:, None]
    with torch.no_grad():
        mu, logvar = trained.vae.encode(x)
        mse = (trained.vae.decode(mu) - x).square().mean().item()
        kl = (0.5 * (mu.square() + logvar.exp() - logvar - 1)).mean(0).clamp_min(SETTINGS.free_bits_nats).sum()
    expected = 0.5 * (np.log(mse) + 1 + np.log(2 * np.pi)) + kl / x[0].numel()
    assert trained.history[-1].calibration == pytest.approx(expected.item(), abs=1e-6)


def test_fine_tuning_starts_from_the_network_it_is_given_and_leaves_that_alone():
    start = train([blobs(32)], replace(SETTINGS, steps=60, batch=8)).vae
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    tuned = train([blobs(8, seed=3)], replace(SETTINGS, steps=2, learning_rate=1e-4), start=start).vae
    fresh = train([blobs(8, seed=3)], replace(SETTINGS, steps=2, learning_rate=1e-4)).vae
    assert 0 < distance(tuned, start) < 0.01 * distance(fresh, start)
    assert all(torch.equal(before[name], tensor) for name, tensor in start.state_dict().items())


@pytest.mark.parametrize(("patients", "kl", "warnings"), [(5, 0.0, 1), (4, 0.0, 0), (5, 6.0, 0)])
def test_collapse_is_warned_of_once_while_it_happens(caplog, patients, kl, warnings):
    log = StepLog(lambda at: None, 0, patients=patients, free_bits_nats=0.05)
    for step in (1, 2):
        parts = torch.tensor([0.0] * 8 + [kl] * 4)
        log.add(parts, torch.zeros(40, 4), {"weight": torch.zeros(2)})
        log.tick(step, 0.5, float(step), kl_weight=1.0, learning_rate=1e-3, calibration=None, last=True)
    assert caplog.text.count("posterior collapse: 4 of 4 dimensions are unused after step 1") == warnings


def test_a_loss_that_is_not_finite_ends_the_training():
    broken = np.full((4, 8, 16, 16), np.nan, np.float16)
    with pytest.raises(FloatingPointError, match="diverged: the loss is not finite; lower the learning rate"):
        train([broken], SETTINGS)


def test_a_gradient_that_is_not_finite_ends_the_training_and_is_named(monkeypatch):
    def with_a_fault(architecture, parameters):
        vae = build_vae(architecture, parameters)
        vae.mu.weight.register_hook(lambda gradient: gradient * torch.nan)
        return vae

    monkeypatch.setattr("models.training.run.build_vae", with_a_fault)
    with pytest.raises(FloatingPointError, match=r"the gradient of mu\.weight is not finite, although the loss is"):
        train([blobs(4)], SETTINGS)


def test_a_cpu_trains_in_float32_whatever_is_asked_for(caplog):
    exact, asked = (train([blobs(4)], replace(SETTINGS, precision=kind)) for kind in ("32-true", "bf16-mixed"))
    assert same(exact.vae, asked.vae)
    assert caplog.text.count("training in float32: precision bf16-mixed is for GPUs") == 1


def test_training_takes_as_long_as_it_was_given(monkeypatch):
    monkeypatch.setattr("models.training.train.time", Clock(step_s=7.0))  # 7 s per step
    trained = train([blobs(4)], replace(SETTINGS, steps=None, minutes=0.5))
    assert (trained.steps, trained.elapsed_s) == (5, 35)


def test_settings_need_a_time_or_a_number_of_steps():
    with pytest.raises(ValueError, match="minutes or steps"):
        TrainingSettings()


def test_settings_that_cannot_be_trained_with_say_why():
    with pytest.raises(ValueError, match="both were given"):
        TrainingSettings(steps=1, minutes=1)
    with pytest.raises(ValueError, match="two windows a batch"):
        TrainingSettings(steps=1, batch=1, invariance=0.1, invariance_scale="between")


def test_a_batch_larger_than_what_is_watched_is_watched_alone():
    reports = []
    log = StepLog(reports.append, 0)
    mu = torch.randn(1000, 4)
    log.add(torch.zeros(12), mu, {"weight": torch.zeros(2)})
    log.tick(1, 1.0, 1.0, kl_weight=1.0, learning_rate=1e-3, calibration=None, last=True)
    assert reports[0].active == 4


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(fraction, 1.0) for fraction in (0.0, 0.025, 0.05, 0.525, 1.0)]
    np.testing.assert_allclose(rates, [0.01, 0.505, 1.0, 0.505, 0.01])


def test_progress_says_what_the_loss_is_made_of():
    settings = replace(SETTINGS, kl_warmup=0.5, feature_weight=0.3, feature_block=4, free_bits_nats=0.0)
    progress = train([blobs(8)], settings, report_every_s=0.0).history[0]
    assert len(progress.kl_by_dimension) == progress.latents == 4
    assert sum(progress.kl_by_dimension) == pytest.approx(progress.kl, rel=1e-5)
    assert (progress.kl_weight, progress.learning_rate) == (pytest.approx(0.5), pytest.approx(2e-5))
    whole = progress.nll / (8 * 16 * 16) + 0.3 * progress.features
    assert progress.loss == pytest.approx(whole, rel=1e-5)  # the KL's weight was still 0 at this step


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
