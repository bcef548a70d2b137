"""Windows become vectors: pooled, mixed over the windows, never silently wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from models.runtime import open_encoder
from models.spec import Bundle, Preprocessing, TapSpec
from operators.encode import check_taps, configured_taps, encode, mixture_sigma
from operators.errors import SeriesFailed, StartError
from operators.instance import Instance
from operators.types import Finding, HuSlice, Series, Volume, Windows
from tests.support.bundles import write_small_bundle

PREPROCESSING = Preprocessing("window", (4, 4, 4), (1.0, 1.0, 1.0), (-1000.0, 1000.0))
TAPS = (TapSpec("mu", (2,), "none"), TapSpec("sigma", (2,), "none"), TapSpec("block1", (3, 2, 2, 2), "mean"))
BUNDLE = Bundle(Path("none"), "made", "1", "ct_vae", {}, PREPROCESSING, TAPS, "0" * 64)


class Given:
    """An encoder that gives what it was given."""

    runtime = "made up"
    fallback = None

    def __init__(self, **outputs):
        self.outputs = {name: np.asarray(values, np.float32) for name, values in outputs.items()}

    def run(self, windows, taps):
        return {name: self.outputs[name] for name in taps}


class Counted(Given):
    """One that remembers what it was asked for, each time."""

    def __init__(self, **outputs):
        super().__init__(**outputs)
        self.asked = []

    def run(self, windows, taps):
        self.asked.append(taps)
        return super().run(windows, taps)


def windows_of(n: int, size=(4, 4, 4)) -> Windows:
    series = Series("1.2.3.4", "1.2.3", ".", (Instance(Path("none.dcm"), Dataset()),))
    volume = Volume(series, (4, 4, 4), np.eye(4), (1.0, 1.0, 1.0), (), lambda d: HuSlice(np.zeros((4, 4), np.int16)))
    voxels = np.random.default_rng(0).random((n, 1, *size), np.float32)
    return Windows(volume, voxels, np.stack([np.eye(4)] * n), (1.0, 1.0, 1.0), np.ones(n, np.float32), ())


def test_the_vector_of_a_series_is_the_mean_of_mu_over_its_windows():
    encoding = encode(windows_of(2), Given(mu=[[1, 5], [3, -5]], sigma=[[1, 1], [1, 1]]), BUNDLE)
    assert encoding.taps["mu"].values.tolist() == [2, 0]
    assert encoding.taps["mu"].windows.tolist() == [[1, 5], [3, -5]]
    assert encoding.runtime == "made up"


def test_sigma_of_a_series_is_that_of_the_mixture_of_its_windows():
    mu, sigma = np.array([[0.0, 1.0], [4.0, 1.0], [-1.0, 1.0]]), np.array([[1.0, 0.5], [2.0, 0.5], [0.1, 0.5]])
    drawn = np.random.default_rng(0).normal(mu[:, None], sigma[:, None], (3, 400_000, 2)).reshape(-1, 2)
    np.testing.assert_allclose(mixture_sigma(mu, sigma), drawn.std(axis=0), rtol=0.01)
    encoding = encode(windows_of(3), Given(mu=mu, sigma=sigma), BUNDLE)
    np.testing.assert_allclose(encoding.taps["sigma"].values, mixture_sigma(mu, sigma), rtol=1e-6)


def test_one_window_is_the_series():
    encoding = encode(windows_of(1), Given(mu=[[0.1, 0.2]], sigma=[[0.3, 0.4]]), BUNDLE)
    assert encoding.taps["mu"].values.tobytes() == encoding.taps["mu"].windows[0].tobytes()
    assert encoding.taps["sigma"].values.tobytes() == encoding.taps["sigma"].windows[0].tobytes()


def test_a_layers_grid_is_pooled_by_its_mean_and_then_over_the_windows():
    block = np.random.default_rng(1).random((2, 3, 2, 2, 2), np.float32)
    encoding = encode(
        windows_of(2), Given(mu=np.zeros((2, 2)), sigma=np.ones((2, 2)), block1=block), BUNDLE, ["block1"]
    )
    tap = encoding.taps["block1"]
    assert (tap.pooling, tap.length) == ("mean", 3)
    np.testing.assert_allclose(tap.windows, block.astype(np.float64).mean(axis=(2, 3, 4)), rtol=1e-7)
    np.testing.assert_allclose(tap.values, block.astype(np.float64).mean(axis=(0, 2, 3, 4)), rtol=1e-7)


@pytest.mark.parametrize("pooling", ["max", "std", "flatten", "none"])
def test_another_pooling_is_another_vector_with_a_name_of_its_own(pooling):
    block = np.random.default_rng(1).standard_normal((2, 3, 2, 2, 2)).astype(np.float32)
    given = Given(mu=np.zeros((2, 2)), sigma=np.ones((2, 2)), block1=block)
    encoding = encode(windows_of(2), given, BUNDLE, [f"block1:{pooling}", "block1"])
    assert list(encoding.taps) == ["mu", "sigma", f"block1.{pooling}", "block1"]
    tap = encoding.taps[f"block1.{pooling}"]
    flat = block.reshape(2, 3, 8).astype(np.float64)
    expected = {"max": flat.max(axis=2), "std": flat.std(axis=2)}.get(pooling, block.reshape(2, -1))
    np.testing.assert_allclose(tap.windows, expected, rtol=1e-6)
    np.testing.assert_allclose(tap.values, np.mean(expected, axis=0), rtol=1e-5, atol=1e-7)
    assert (tap.pooling, tap.length) == (pooling, expected.shape[1])


def test_a_grid_that_is_kept_has_its_shape():
    block = np.random.default_rng(1).random((1, 3, 2, 2, 2), np.float32)
    given = Given(mu=[[0, 0]], sigma=[[1, 1]], block1=block)
    taps = encode(windows_of(1), given, BUNDLE, ["block1:none", "block1:flatten"]).taps
    assert np.array_equal(taps["block1.none"].values.reshape(taps["block1.none"].shape), block[0])
    assert taps["block1.flatten"].shape is None
    assert taps["mu"].shape is None


def test_the_pooling_that_the_bundle_has_is_the_tap_itself():
    assert check_taps(BUNDLE, ["block1:mean"]) == check_taps(BUNDLE, ["block1"])
    assert list(check_taps(BUNDLE, ["mu:none"])) == ["mu", "sigma"]


def test_the_default_pooling_is_the_bundles():
    taps = (*TAPS[:2], replace(TAPS[2], pooling="max"))
    given = Given(mu=[[0, 0]], sigma=[[1, 1]], block1=np.arange(24).reshape(1, 3, 2, 2, 2))
    tap = encode(windows_of(1), given, replace(BUNDLE, taps=taps), ["block1"]).taps["block1"]
    assert tap.values.tolist() == [7, 15, 23]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("block1:median", "cannot be pooled by 'median'; it can by none, mean, max, std, flatten"),
        ("block1:", "cannot be pooled by ''"),
        ("mu:max", "cannot be pooled by 'max'; it can by none"),
        ("block9:max", "no tap 'block9'"),
    ],
)
def test_a_pooling_that_cannot_be_is_one_line(asked, says):
    with pytest.raises(StartError) as caught:
        check_taps(BUNDLE, [asked])
    assert caught.value.reason == "UNKNOWN_TAP"
    assert says in caught.value.message


def test_an_encoder_that_left_the_gpu_is_a_finding():
    given = Given(mu=[[0, 0]], sigma=[[1, 1]])
    assert encode(windows_of(1), given, BUNDLE).windows.findings == ()
    given.fallback = "the GPU does not have enough free memory; encoded on the CPU"
    findings = encode(windows_of(1), given, BUNDLE).windows.findings
    assert findings == (Finding("ENCODED_ON_CPU", given.fallback),)


def test_sums_are_made_in_double_precision():
    block = np.full((1, 3, 2, 2, 2), 1.0, np.float32)
    block[0, :, 0, 0, 0] = 2.0**25
    encoding = encode(windows_of(1), Given(mu=[[0, 0]], sigma=[[1, 1]], block1=block), BUNDLE, ["block1"])
    assert encoding.taps["block1"].values.tolist() == [np.float32((2.0**25 + 7) / 8)] * 3


def test_mu_and_sigma_are_always_there_and_each_tap_once():
    given = Given(mu=[[0, 0]], sigma=[[1, 1]], block1=np.zeros((1, 3, 2, 2, 2)))
    assert list(encode(windows_of(1), given, BUNDLE).taps) == ["mu", "sigma"]
    assert list(encode(windows_of(1), given, BUNDLE, ["block1", "mu", "block1"]).taps) == ["mu", "sigma", "block1"]


def test_a_draw_is_of_each_windows_posterior_and_the_same_for_the_same_seed_and_series():
    n, mu, sigma = 4000, [3.0, -1.0], [0.5, 2.0]
    given = Given(mu=np.tile(mu, (n, 1)), sigma=np.tile(sigma, (n, 1)))
    windows = windows_of(n, (1, 1, 1))
    first, again, other = (encode(windows, given, BUNDLE, [asked]).taps["z"] for asked in ("z:7", "z:7", "z:8"))
    assert (first.windows == again.windows).all() and (first.windows != other.windows).all()
    np.testing.assert_allclose(first.windows.mean(axis=0), mu, atol=0.1)
    np.testing.assert_allclose(first.windows.std(axis=0), sigma, rtol=0.05)
    np.testing.assert_allclose(first.values, first.windows.mean(axis=0), rtol=1e-5)
    assert (first.seed, first.pooling) == (7, "none")
    elsewhere = replace(windows.volume, series=replace(windows.volume.series, series_instance_uid="1.2.3.9"))
    moved = encode(replace(windows, volume=elsewhere), given, BUNDLE, ["z:7"]).taps["z"]
    assert (moved.windows != first.windows).all()


def test_a_draw_enters_the_configuration_with_its_seed():
    assert configured_taps(BUNDLE, ["z:7", "block1"]) == ("mu", "sigma", "block1", "z:7")
    given = Given(mu=[[0, 0]], sigma=[[1, 1]], block1=np.zeros((1, 3, 2, 2, 2)))
    assert encode(windows_of(1), given, BUNDLE, ["z:7", "block1"]).configured_taps == ("mu", "sigma", "block1", "z:7")


@pytest.mark.parametrize("asked", [["z"], ["z:"], ["z:x"], ["z:-1"], ["z:1", "z:2"]])
def test_a_draw_needs_one_seed(asked):
    with pytest.raises(StartError, match="UNKNOWN_TAP: tap z is a random draw; give it one seed"):
        check_taps(BUNDLE, asked)


def test_a_layer_that_is_called_z_goes_before_the_draw():
    named = replace(BUNDLE, taps=(*TAPS, TapSpec("z", (2,), "none")))
    assert encode(windows_of(1), Given(mu=[[0, 0]], sigma=[[1, 1]], z=[[5, 6]]), named, ["z"]).taps["z"].seed is None


def test_vectors_are_float32():
    encoding = encode(windows_of(2), Given(mu=np.zeros((2, 2)), sigma=np.ones((2, 2))), BUNDLE)
    assert all(tap.values.dtype == tap.windows.dtype == np.float32 for tap in encoding.taps.values())


def test_an_unknown_tap_is_one_line_that_lists_those_there_are():
    with pytest.raises(StartError) as caught:
        check_taps(BUNDLE, ["mu", "block7"])
    assert caught.value.reason == "UNKNOWN_TAP"
    assert "'block7'; it has mu, sigma, block1" in caught.value.message


@pytest.mark.parametrize("tap", ["mu", "sigma", "block1"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_fails_the_series(tap, value):
    outputs = {"mu": np.zeros((2, 2)), "sigma": np.ones((2, 2)), "block1": np.zeros((2, 3, 2, 2, 2))}
    outputs[tap].flat[0] = value
    with pytest.raises(SeriesFailed) as caught:
        encode(windows_of(2), Given(**outputs), BUNDLE, ["block1"])
    assert caught.value.reason == "NON_FINITE_FEATURES"


WITH_OUTLIER = replace(BUNDLE, taps=(*TAPS, TapSpec("outlier", (1,), "none")))


@pytest.mark.parametrize("asked", [(), ("outlier",)])
def test_the_outlier_score_is_always_read_and_a_tap_only_if_it_was_asked_for(asked):
    given = Given(mu=np.zeros((3, 2)), sigma=np.ones((3, 2)), outlier=[[0.1], [-7.3], [2.5]])
    encoding = encode(windows_of(3), given, WITH_OUTLIER, asked)
    expected = np.float32(given.outputs["outlier"].astype(np.float64).mean())
    assert encoding.outlier == float(expected)
    assert tuple(encoding.taps) == encoding.configured_taps == ("mu", "sigma", *asked)
    if asked:
        assert encoding.taps["outlier"].values.tolist() == [expected]


def test_one_forward_pass_gives_the_outlier_score_too():
    given = Counted(mu=[[0, 0]], sigma=[[1, 1]], outlier=[[4.0]])
    encode(windows_of(1), given, WITH_OUTLIER, ["outlier"])
    encode(windows_of(1), given, WITH_OUTLIER)
    assert given.asked == [("mu", "sigma", "outlier")] * 2


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_outlier_score_that_is_no_number_fails_the_series(value):
    given = Given(mu=np.zeros((2, 2)), sigma=np.ones((2, 2)), outlier=[[0.5], [value]])
    with pytest.raises(SeriesFailed, match="NON_FINITE_FEATURES: tap outlier has"):
        encode(windows_of(2), given, WITH_OUTLIER)


@pytest.mark.parametrize(
    "bundle",
    [
        BUNDLE,
        replace(WITH_OUTLIER, architecture="keras"),
        replace(BUNDLE, taps=(*TAPS, TapSpec("outlier", (3, 2, 2, 2), "mean"))),
    ],
    ids=["no such tap", "a layer that is called so", "a grid"],
)
def test_without_such_a_tap_there_is_no_outlier_score(bundle):
    assert encode(windows_of(1), Given(mu=[[0, 0]], sigma=[[1, 1]]), bundle).outlier is None


WITH_ORIENTATION = replace(BUNDLE, taps=(*TAPS, TapSpec("orientation", (2,), "none")))


@pytest.mark.parametrize("asked", [(), ("orientation",)])
@pytest.mark.parametrize("larger", [0, 1])
def test_the_orientation_score_is_the_larger_of_two_means_and_a_tap_only_if_it_was_asked_for(asked, larger):
    """Of upside down and back to front; not the mean of the windows' larger ones."""
    each = np.array([[0.1, -9.0], [-7.3, 3.0], [2.5, -0.3]])
    given = Given(mu=np.zeros((3, 2)), sigma=np.ones((3, 2)), orientation=each if larger == 0 else each[:, ::-1])
    encoding = encode(windows_of(3), given, WITH_ORIENTATION, asked)
    means = given.outputs["orientation"].astype(np.float64).mean(axis=0).astype(np.float32)
    assert encoding.orientation == float(means[larger]) == float(means.max())
    assert encoding.outlier is None
    assert tuple(encoding.taps) == encoding.configured_taps == ("mu", "sigma", *asked)
    if asked:
        assert np.array_equal(encoding.taps["orientation"].values, means)


def test_where_no_window_has_lung_the_orientation_score_is_zero_without_a_sign():
    given = Given(mu=np.zeros((3, 2)), sigma=np.ones((3, 2)), orientation=np.full((3, 2), -0.0))
    assert str(encode(windows_of(3), given, WITH_ORIENTATION).orientation) == "0.0"


def test_one_forward_pass_gives_both_scores_each_once():
    both = replace(WITH_OUTLIER, taps=(*WITH_OUTLIER.taps, TapSpec("orientation", (2,), "none")))
    given = Counted(mu=[[0, 0]], sigma=[[1, 1]], outlier=[[4.0]], orientation=[[-2.0, -3.0]])
    encodings = [encode(windows_of(1), given, both, taps) for taps in ((), ("orientation",))]
    assert [set(taps) for taps in given.asked] == [{"mu", "sigma", "outlier", "orientation"}] * 2
    assert [len(taps) for taps in given.asked] == [4, 4]
    assert [(encoding.outlier, encoding.orientation) for encoding in encodings] == [(4.0, -2.0)] * 2


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_orientation_score_that_is_no_number_fails_the_series(value):
    given = Given(mu=np.zeros((2, 2)), sigma=np.ones((2, 2)), orientation=[[0.5, 1.0], [1.0, value]])
    with pytest.raises(SeriesFailed, match="NON_FINITE_FEATURES: tap orientation has"):
        encode(windows_of(2), given, WITH_ORIENTATION)


@pytest.mark.parametrize(
    "bundle",
    [
        WITH_OUTLIER,
        replace(WITH_ORIENTATION, architecture="keras"),
        replace(BUNDLE, taps=(*TAPS, TapSpec("orientation", (2, 2, 2, 2), "mean"))),
        replace(BUNDLE, taps=(*TAPS, TapSpec("orientation", (3,), "none"))),
    ],
    ids=["no such tap", "a layer that is called so", "a grid", "another length"],
)
def test_without_such_a_tap_there_is_no_orientation_score(bundle):
    given = Given(mu=[[0, 0]], sigma=[[1, 1]], outlier=[[4.0]])
    assert encode(windows_of(1), given, bundle).orientation is None


def test_a_number_too_large_for_float32_fails_the_series():
    with pytest.raises(SeriesFailed, match="NON_FINITE_FEATURES"):
        encode(windows_of(2), Given(mu=[[3e38, 0], [-3e38, 0]], sigma=[[3e38, 1], [3e38, 1]]), BUNDLE)


def test_a_real_encoders_taps_are_those_of_the_bundle(tmp_path):
    bundle = write_small_bundle(tmp_path / "small")
    encoding = encode(windows_of(3, (8, 16, 16)), open_encoder(bundle, "cpu"), bundle, ["block2", "dense"])
    assert {name: (tap.pooling, tap.length, tap.windows.shape) for name, tap in encoding.taps.items()} == {
        "mu": ("none", 4, (3, 4)),
        "sigma": ("none", 4, (3, 4)),
        "block2": ("mean", 16, (3, 16)),
        "dense": ("none", 16, (3, 16)),
    }
    assert (encoding.taps["sigma"].values > 0).all()
    assert (encoding.outlier, encoding.orientation) == (None, None)


def test_a_real_encoder_gives_the_mean_of_its_outlier_scores(tmp_path):
    bundle = write_small_bundle(tmp_path / "small", outlier=True)
    windows, encoder = windows_of(3, (8, 16, 16)), open_encoder(bundle, "cpu")
    each = encoder.run(windows.voxels, ("outlier",))["outlier"]
    encoding = encode(windows, encoder, bundle)
    assert each.shape == (3, 1) and encoding.outlier == np.float32(each.astype(np.float64).mean())
    assert list(encoding.taps) == ["mu", "sigma"]


def test_a_real_encoder_gives_the_larger_mean_of_its_orientation_scores(tmp_path):
    """Of windows that are lung, for without any the score is 0."""
    bundle = write_small_bundle(tmp_path / "small", orientation=True)
    made, encoder = windows_of(3, (8, 16, 16)), open_encoder(bundle, "cpu")
    lung = np.random.default_rng(2).uniform(0.03, 0.24, made.voxels.shape).astype(np.float32)
    windows = replace(made, voxels=lung)
    each = encoder.run(windows.voxels, ("orientation",))["orientation"]
    encoding = encode(windows, encoder, bundle)
    assert each.shape == (3, 2) and each.all()
    assert encoding.orientation == each.astype(np.float64).mean(axis=0).astype(np.float32).max()
    assert (list(encoding.taps), encoding.outlier) == (["mu", "sigma"], None)
    without = replace(made, voxels=np.full_like(lung, 0.5))
    assert encode(without, encoder, bundle).orientation == 0
