"""Each loss against a computation of its own: scipy's densities, loops, samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from models.training.local_statistics import gradient_magnitude, local_statistics, statistics_error, statistics_nll
from models.training.losses import (
    dip_ii,
    free_bits,
    kl_divergence,
    kl_warmup,
    likelihood_nll,
    mmd,
    pair_distance,
    penalty,
    total_correlation,
    voxel_error,
)
from models.training.objective import LossInputs, Passed, make_loss_inputs, objective
from models.training.settings import Likelihood, TrainingSettings

BINS = (0.0, 0.2, 0.5, 1.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def windows(n: int = 3, seed: int = 0, size=(8, 12, 16)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 1, *size))).float()


def nll(reconstruction: torch.Tensor, target: torch.Tensor, likelihood: Likelihood, scale: float | None = None):
    error = voxel_error(reconstruction, target, likelihood)
    return likelihood_nll(error, target[0].numel(), likelihood, scale)


@pytest.mark.parametrize(("likelihood", "density"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
def test_a_likelihood_of_fixed_scale_is_scipys(likelihood, density):
    x, y = windows(seed=1), windows(seed=2)
    expected = -density.logpdf(x.double(), loc=y.double(), scale=0.3).sum() / len(x)
    assert float(nll(y, x, likelihood, 0.3)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_a_learned_scale_is_the_one_that_fits_best(likelihood):
    x, y = windows(seed=1), windows(seed=2)
    scales = np.linspace(0.1, 0.9, 801)
    losses = [float(nll(y, x, likelihood, float(scale))) for scale in scales]
    assert float(nll(y, x, likelihood)) == pytest.approx(min(losses), rel=1e-5)
    assert 0.15 < scales[int(np.argmin(losses))] < 0.85


def test_a_learned_scale_is_differentiated_through():
    x, y = windows(seed=1), windows(seed=2).requires_grad_()
    nll(y, x, "gaussian").backward()
    alone = y.detach().clone().requires_grad_()
    (0.5 * x[0].numel() * (alone - x).square().mean().log()).backward()
    torch.testing.assert_close(y.grad, alone.grad)


def test_the_kl_is_torchs():
    mu, logvar = drawn(5, 4), drawn(5, 4, seed=1)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mu, logvar), expected, rtol=1e-4, atol=1e-5)


def test_the_kls_weight_rises_to_beta_and_stays():
    assert [kl_warmup(at, 0.2, 4.0) for at in (0.0, 0.1, 0.2, 0.9)] == pytest.approx([0.0, 2.0, 4.0, 4.0])
    assert kl_warmup(0.0, 0.0, 4.0) == 4.0


def test_total_correlation_is_the_sum_of_chen_written_as_loops():
    n, latents, dataset = 5, 3, 100
    mu, logvar = drawn(n, latents), 0.3 * drawn(n, latents, seed=1)
    z = mu + (0.5 * logvar).exp() * drawn(n, latents, seed=2)
    total = 0.0
    for i in range(n):
        density = stats.norm.pdf(z[i].double(), mu.double(), (0.5 * logvar).exp().double())  # (j, k)
        joint = np.log(density.prod(1).sum() / (n * dataset))
        single = sum(np.log(density[:, k].sum() / (n * dataset)) for k in range(latents))
        total += (joint - single) / n
    assert float(total_correlation(z, mu, logvar, dataset)) == pytest.approx(total, rel=1e-4)


def test_total_correlation_tells_dependent_dimensions_from_independent_ones():
    one = drawn(256, 1)
    logvar = torch.full((256, 2), -4.0)
    dependent, independent = torch.cat([one, one], 1), torch.cat([one, drawn(256, 1, seed=1)], 1)
    noise = torch.exp(0.5 * logvar) * drawn(256, 2, seed=2)
    same = total_correlation(dependent + noise, dependent, logvar, 256)
    assert same > total_correlation(independent + noise, independent, logvar, 256) + 0.5


def test_dip_ii_is_numpys_covariance_against_the_identity():
    mu, logvar = drawn(40, 3), drawn(40, 3, seed=1)
    covariance = np.cov(mu.double(), rowvar=False, bias=True) + np.diag(logvar.double().exp().mean(0))
    assert float(dip_ii(mu, logvar)) == pytest.approx(np.square(covariance - np.eye(3)).sum(), rel=1e-4)


def test_mmd_is_that_of_an_integral_over_the_prior():
    z = (0.5 * drawn(60, 3) + 0.4).double().numpy()
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    prior = np.stack(np.meshgrid(nodes, nodes, nodes), -1).reshape(-1, 3)
    of = np.prod(np.meshgrid(weights, weights, weights), axis=0).ravel() / weights.sum() ** 3

    def kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / 6)

    within = kernel(z, z)[~np.eye(60, dtype=bool)].mean()
    expected = within - 2 * (kernel(z, prior) @ of).mean() + of @ kernel(prior, prior) @ of
    assert float(mmd(torch.from_numpy(z))) == pytest.approx(expected, abs=1e-4)
    assert expected > 0.05


def test_mmd_of_the_prior_itself_is_nothing():
    assert abs(float(mmd(drawn(2000, 4)))) < 2e-3


def test_a_penalty_is_the_one_that_is_named():
    z, mu, logvar = drawn(6, 3), drawn(6, 3, seed=1), drawn(6, 3, seed=2)
    assert penalty("none", z, mu, logvar, 10) == 0
    assert penalty("beta_tc", z, mu, logvar, 10) == total_correlation(z, mu, logvar, 10)
    assert penalty("dip_ii", z, mu, logvar, 10) == dip_ii(mu, logvar)
    assert penalty("mmd", z, mu, logvar, 10) == mmd(z)


def test_the_pair_term_is_in_units_of_the_posterior_variance_and_cannot_be_had_by_raising_it():
    mu, other, logvar, other_logvar = (drawn(6, 3, seed=seed).requires_grad_() for seed in range(4))
    value = pair_distance(mu, other, logvar, other_logvar)
    with torch.no_grad():
        variance = 0.5 * (logvar.exp() + other_logvar.exp()).numpy()
        expected = (np.square((mu - other).numpy()) / variance).mean()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert logvar.grad is None and other_logvar.grad is None
    torch.testing.assert_close(mu.grad, -other.grad)


def test_occupancies_are_those_of_a_loop_over_voxels():
    x = windows(2, seed=3, size=(4, 4, 8))
    found = local_statistics(x, 4, BINS).numpy()
    assert found.shape == (2, 5, 1, 1, 2)
    for n in range(2):
        for block in range(2):
            voxels = x[n, 0, :, :, 4 * block : 4 * block + 4].numpy().ravel()
            for number in range(4):
                hat = np.interp(voxels, BINS, np.eye(4)[number])
                assert found[n, number, 0, 0, block] == pytest.approx(hat.mean(), abs=1e-5)


def test_occupancies_of_a_block_add_up_to_one_also_outside_the_bins():
    x = 3 * windows(2) - 1
    torch.testing.assert_close(local_statistics(x, 4, BINS)[:, :-1].sum(1), torch.ones(2, 2, 3, 4))


def test_the_gradient_is_numpys_forward_difference():
    x = windows(1)
    array = x[0, 0].double().numpy()
    squares = sum(np.diff(array, axis=axis, append=np.take(array, [-1], axis)) ** 2 for axis in range(3))
    np.testing.assert_allclose(gradient_magnitude(x)[0, 0], np.sqrt(squares), atol=1.5e-3)


def test_where_in_a_block_a_thing_is_does_not_matter_but_smoothing_it_does():
    target = torch.zeros(1, 1, 8, 8, 8)
    target[..., 2:4, 2:4, 2:4] = 1
    moved, smooth = target.roll(2, dims=4), torch.nn.functional.avg_pool3d(target, 3, 1, 1)
    assert (moved - target).square().mean() > (smooth - target).square().mean()
    error = {name: statistics_error(x, target, 8, BINS).sum() for name, x in (("moved", moved), ("smooth", smooth))}
    assert error["moved"] < 1e-10 < 1e-4 < error["smooth"]


def test_the_statistics_likelihood_is_a_gaussian_of_each_statistics_own_scale():
    x, y = windows(4, seed=1), windows(4, seed=2).requires_grad_()
    error = statistics_error(y, x, 4, BINS)
    with torch.no_grad():
        apart = (local_statistics(y, 4, BINS) - local_statistics(x, 4, BINS)).double().numpy()
    expected = np.mean(
        [-stats.norm.logpdf(apart[:, k], scale=np.sqrt(np.square(apart[:, k]).mean())).mean() for k in range(5)]
    )
    assert statistics_nll(error).item() == pytest.approx(expected, rel=1e-4)
    statistics_nll(error).backward()
    assert torch.isfinite(y.grad).all() and (y.grad != 0).any()


SETTINGS = TrainingSettings(
    steps=1,
    free_bits_nats=0.3,
    likelihood="laplace",
    penalty="dip_ii",
    penalty_weight=0.7,
    invariance=0.2,
    feature_weight=0.4,
    feature_block=4,
    feature_bins=BINS,
)


def rows_of(n: int = 4, settings: TrainingSettings = SETTINGS) -> LossInputs:
    mu, logvar = drawn(2 * n, 3), drawn(2 * n, 3, seed=1)
    return make_loss_inputs(Passed(mu, logvar, drawn(n, 3, seed=2), windows(n, 3)), windows(n, 4), settings)


def test_the_loss_is_the_sum_of_its_weighted_parts():
    x, y, voxels = windows(4, 4), windows(4, 3), 8 * 12 * 16
    mu, logvar, z = drawn(8, 3), drawn(8, 3, seed=1), drawn(4, 3, seed=2)
    parts = objective(rows_of(), SETTINGS, voxels=voxels, kl_weight=0.5, dataset=50)
    expected = (
        nll(y, x, "laplace")
        + 0.5 * free_bits(kl_divergence(mu[:4], logvar[:4]), 0.3)
        + 0.7 * penalty("dip_ii", z, mu[:4], logvar[:4], 50)
    ) / voxels
    expected += 0.2 * pair_distance(mu[:4], mu[4:], logvar[:4], logvar[4:])
    expected += 0.4 * statistics_nll(statistics_error(y, x, 4, BINS))
    torch.testing.assert_close(parts.loss, expected)
    torch.testing.assert_close(parts.rmse, (y - x).square().mean().sqrt())
    torch.testing.assert_close(parts.kl_by_dimension.sum(), parts.kl)


def test_the_rows_of_parts_are_those_of_the_whole():
    rows, whole = rows_of(), rows_of().tensors()
    halves = [LossInputs(**{name: tensor[part] for name, tensor in whole.items()}) for part in (slice(2), slice(2, 4))]
    for name, tensor in LossInputs.joined(halves).tensors().items():
        assert torch.equal(tensor, getattr(rows, name))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"likelihood": "cauchy"}, "likelihood is 'cauchy'; expected one of gaussian, laplace"),
        ({"batch": 0}, "batch is 0; expected a whole number, 1 or more"),
        ({"batch": 2.0}, "batch is 2.0; expected a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a number from"),
        ({"beta": "4"}, "beta is '4'; expected a number"),
        ({"scale": 0.0}, "scale is 0.0; expected 'learned' or a number"),
        ({"penalty": "mmd"}, "give both or neither"),
        ({"penalty_weight": 1.0}, "give both or neither"),
        ({"feature_bins": (0.5, 0.1)}, "ascending"),
        ({"batch": 3, "devices": 2}, "cannot be shared"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_a_setting_that_cannot_be_is_one_clear_line(wrong, says):
    with pytest.raises(ValueError, match=says) as caught:
        TrainingSettings(steps=1, **wrong)
    assert "\n" not in str(caught.value)
