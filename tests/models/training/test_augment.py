"""What augmentation draws and does, against MONAI's and scipy's."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.training.augment import axis_operator, cut_windows, make_views, margin_voxels
from models.training.draws import Augmentation, draw_augmentation
from models.training.settings import TrainingSettings

with warnings.catch_warnings():  # holoscan, which MONAI finds and imports, has something to say on the stack's size
    warnings.simplefilter("ignore")
    from monai.networks.layers import GaussianFilter

SIZE = (8, 12, 16)
PLAIN = TrainingSettings(steps=1, noise=0.0, gain=0.0)
ALL = TrainingSettings(
    steps=1, invariance=1.0, blur=1.0, sharpen=0.5, shift=1.5, thickness=3.0, field_of_view=0.4, noise=0.05, gain=0.1
)


def scan(n: int = 3, size=(20, 30, 34), seed: int = 0) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((n, *size)), (0, 1, 1, 1))
    return (0.3 + (smooth - 0.5)).astype(np.float32)


def views(scans, settings: TrainingSettings, draws: list[Augmentation]):
    places = [(s, w) for s, windows in enumerate(scans) for w in range(len(windows))]
    return make_views(cut_windows(scans, places, draws, SIZE, margin_voxels(settings)), draws, SIZE, settings)


def draws_of(settings: TrainingSettings, numbers, windows: int = 3) -> list[Augmentation]:
    return [draw_augmentation(settings, SIZE, 4, windows, number) for number in numbers]


def operator(have: int, **changes: float) -> torch.Tensor:
    values = {"start": 0.0, "blur": 0.0, "sharpen": 0.0, "thickness": 0.0} | changes
    tensors = {name: torch.tensor([value]) for name, value in values.items()}
    start, blur, sharpen, thickness = (tensors[name] for name in ("start", "blur", "sharpen", "thickness"))
    return axis_operator(start, have, have, blur, sharpen, thickness)[0]


def test_what_is_drawn_depends_on_the_seed_and_the_windows_number_alone():
    draws_of(ALL, range(9))
    again, other = draw_augmentation(ALL, SIZE, 4, 3, 5), draw_augmentation(replace(ALL, seed=1), SIZE, 4, 3, 5)
    first = draws_of(ALL, [5])[0]
    assert first.views == again.views and first.place == again.place
    np.testing.assert_array_equal(first.epsilon, again.epsilon)
    assert first.views != other.views
    assert first.views != draw_augmentation(ALL, SIZE, 4, 3, 6).views


def test_each_window_is_taken_once_an_epoch_in_another_order_each_time():
    indices = [draw_augmentation(PLAIN, SIZE, 1, 10, number).index for number in range(30)]
    epochs = [indices[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_without_augmentation_a_window_of_the_networks_size_is_what_the_encoder_sees():
    windows = scan(size=SIZE)
    draws = draws_of(PLAIN, range(3))
    seen, target = views([windows], PLAIN, draws)
    np.testing.assert_array_equal(seen[:, 0], windows[[drawn.index for drawn in draws]])
    assert torch.equal(seen, target)


def test_a_larger_window_is_cut_at_the_drawn_place_whatever_is_around_it():
    windows, blurred = scan(), replace(PLAIN, blur=1.0)
    drawn = replace(draws_of(PLAIN, [0])[0], place=(0.999, 0.0, 0.5))
    for settings in (PLAIN, blurred):
        _, target = views([windows], settings, [drawn])
        expected = windows[drawn.index][12:20, 0:12, 9:25]
        np.testing.assert_array_equal(target[0, 0], expected)


def test_a_blur_is_monais():
    x = torch.from_numpy(scan(1)[0])[None, None]
    (z, y, x_axis), sd = (operator(length, blur=0.8) for length in x.shape[2:]), 0.8
    ours = torch.einsum("ai,bj,ck,ijk->abc", z, y, x_axis, x[0, 0])
    monais = GaussianFilter(3, sd, truncated=6.0, approx="erf")(x)[0, 0]
    inner = (slice(5, -5),) * 3
    torch.testing.assert_close(ours[inner], monais[inner], rtol=1e-4, atol=1e-5)


def test_averaging_slices_is_scipys_uniform_filter_and_keeps_the_mean_at_the_edge():
    x = np.random.default_rng(0).random(20)
    ours = operator(20, thickness=3.0).double().numpy() @ x
    np.testing.assert_allclose(ours[1:-1], ndimage.uniform_filter1d(x, 3)[1:-1], atol=1e-6)
    np.testing.assert_allclose(operator(20, thickness=3.7).sum(1), 1, atol=1e-5)


def test_one_slice_is_not_averaged():
    assert torch.equal(operator(9, thickness=0.7), torch.eye(9))


@pytest.mark.parametrize("shift", [1.0, 0.3, -1.6])
def test_a_shift_is_scipys_linear_one(shift):
    x = np.random.default_rng(0).random(20)
    ours = operator(20, start=shift).double().numpy() @ x
    np.testing.assert_allclose(ours, ndimage.shift(x, -shift, order=1, mode="nearest"), atol=1e-6)


def test_sharpening_takes_away_the_smoothed():
    x = np.random.default_rng(0).random(30)
    smooth = operator(30, blur=1.0).double().numpy() @ x
    np.testing.assert_allclose(operator(30, sharpen=0.5).double().numpy() @ x, x + 0.5 * (x - smooth), atol=1e-5)


def test_noise_has_the_drawn_deviation_and_is_not_in_the_target():
    settings = replace(PLAIN, noise=0.05)
    windows = np.full((2, 40, 40, 40), 0.5, np.float32)
    drawn = draw_augmentation(settings, (40, 40, 40), 4, 2, 3)
    seen, target = make_views(torch.from_numpy(windows[:1]), [drawn], (40, 40, 40), settings)
    assert float((seen - target).std()) == pytest.approx(drawn.views[0].noise, rel=0.02)
    assert (target == 0.5).all()


def test_two_views_have_one_target_and_noise_of_their_own():
    settings = replace(PLAIN, noise=0.05, invariance=1.0)
    seen, target = views([scan()], settings, draws_of(settings, range(2)))
    assert seen.shape == (4, 1, *SIZE) and target.shape == (2, 1, *SIZE)
    noise = (seen - torch.cat([target, target]))[:, 0].flatten(1)
    assert abs(float(torch.corrcoef(noise)[0, 2])) < 0.1
    assert (noise.std(1) > 1e-4).all()


def test_the_second_view_lies_beside_the_first():
    settings = replace(PLAIN, shift=2.0, invariance=1.0)
    windows = scan()
    drawn = draws_of(settings, [0])[0]
    moved = replace(drawn, place=(0.5, 0.5, 0.5), views=(drawn.views[0], replace(drawn.views[1], shift=(1.0, -2.0, 0))))
    seen, target = views([windows], settings, [moved])
    z, y, x = (12 // 2, 18 // 2, 18 // 2)
    torch.testing.assert_close(seen[0], target[0])
    np.testing.assert_allclose(seen[1, 0], windows[moved.index][z + 1 : z + 9, y - 2 : y + 10, x : x + 16], atol=1e-5)


def test_outside_the_field_of_view_is_air_and_inside_nothing_changes():
    settings = replace(PLAIN, field_of_view=0.4)
    draws = draws_of(settings, range(3))
    seen, target = views([scan()], settings, draws)
    for row, clean, drawn in zip(seen[:, 0], target[:, 0], draws, strict=True):
        top, bottom, left, right = drawn.views[0].window
        assert (bottom - top) >= 7 and (right - left) >= 9
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[:, top:bottom, left:right] = True
        assert torch.equal(row[inside], clean[inside])
        assert (row[~inside] == 0).all()
    assert any(drawn.views[0].window != (0, 12, 0, 16) for drawn in draws)


def test_a_gain_scales_what_is_seen_and_the_target_alike():
    settings = replace(PLAIN, gain=0.1)
    windows, drawn = scan(size=SIZE), draws_of(settings, [0])[0]
    seen, target = views([windows], settings, [drawn])
    assert torch.equal(seen, target)
    np.testing.assert_allclose(target[0, 0], (windows[drawn.index] * drawn.gain).clip(0, 1), rtol=1e-6)
    assert drawn.gain != 1


def test_with_everything_drawn_values_stay_in_range_and_windows_differ():
    seen, _ = views([scan().astype(np.float16)], ALL, draws_of(ALL, range(6)))
    assert seen.shape == (12, 1, *SIZE) and seen.dtype == torch.float32
    assert seen.min() >= 0 and seen.max() <= 1 and torch.isfinite(seen).all()
    assert (seen[:6] - seen[6:]).abs().flatten(1).mean(1).min() > 0.005
