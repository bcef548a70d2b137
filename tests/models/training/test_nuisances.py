"""What another scanner or another bed would do to a second view: an offset, a turn, no table, a tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.training.augment import cut_windows, make_views, margin_voxels
from models.training.body_masks import body_masks, body_of
from models.training.draws import draw_augmentation
from models.training.settings import TrainingSettings

SIZE = (4, 24, 32)


def settings(**changes: float) -> TrainingSettings:
    return TrainingSettings(steps=1, noise=0.0, gain=0.0, invariance=1.0, **changes)


def window() -> np.ndarray:
    """A body of soft tissue with some fat, and a table below it, with air around."""
    held = np.zeros((1, *SIZE), np.float32)
    held[:, :, 4:16, 6:26] = 0.52
    held[:, :, 8:12, 10:14] = 0.45
    held[:, :, 20:22, 2:30] = 0.25
    return held


def views(asked: TrainingSettings, numbers=range(8)):
    scans = [window()]
    draws = [draw_augmentation(asked, SIZE, 4, 1, number) for number in numbers]
    places = [(0, 0)]
    body = cut_windows(body_masks(scans), places, draws, SIZE, margin_voxels(asked)) if asked.bare else None
    seen, target = make_views(cut_windows(scans, places, draws, SIZE, margin_voxels(asked)), draws, SIZE, asked, body)
    first, second = seen[:, 0].chunk(2)
    return draws, first, second, target[:, 0]


def test_without_them_both_views_are_the_window():
    _, first, second, target = views(settings())
    assert torch.equal(first, target) and torch.equal(second, target)


def test_an_offset_is_of_each_view_and_leaves_padding_alone():
    draws, first, second, target = views(settings(offset=0.01))
    for v, seen in enumerate((first, second)):
        for row, whole, one in zip(seen, target, draws, strict=True):
            assert abs(one.views[v].offset) <= 0.01
            torch.testing.assert_close(row[whole > 0], whole[whole > 0] + one.views[v].offset)
            assert (row[whole == 0] == 0).all()
    assert draws[0].views[0].offset != draws[0].views[1].offset


def test_a_turn_is_scipys_and_of_the_second_view_alone():
    draws, first, second, target = views(settings(turn=5.0))
    assert torch.equal(first, target)
    for row, whole, one in zip(second, target, draws, strict=True):
        turned = ndimage.rotate(whole.numpy(), one.views[1].turn, axes=(1, 2), reshape=False, order=1)
        assert row.numpy() == pytest.approx(turned, abs=1e-4)
    assert not torch.equal(second, target)


def test_a_bare_view_has_no_table_and_the_whole_body():
    _, first, second, target = views(settings(bare=1.0))
    assert torch.equal(first, target)
    assert torch.equal(second[:, :, :18], target[:, :, :18])
    assert (second[:, :, 18:] == 0).all() and (target[:, :, 20:22, 2:30] > 0).all()


def test_a_bare_view_of_a_cropped_scan_is_of_the_same_crop():
    asked = settings(bare=1.0, crop=1.0)
    _, first, second, target = views(asked)
    assert torch.equal(first, target)
    assert torch.equal(second, torch.where(second > 0, target, torch.zeros_like(target)))
    assert (second > 0).any()


def test_a_tile_shows_a_part_of_what_is_not_air_at_its_place():
    draws, first, second, target = views(settings(tile=1.0), range(20))
    assert torch.equal(first, target)
    for row, whole in zip(second, target, strict=True):
        kept = row > 0
        assert torch.equal(row[kept], whole[kept])
        rows, columns = kept.any(0).any(1).sum() / 18, kept.any(0).any(0).sum() / 28  # of those of body and table
        assert max(rows, columns) <= 0.75
    assert (second > 0).any()
    assert len({one.views[1].window for one in draws}) > 10


def test_draws_without_them_are_as_they_were():
    plain, more = (
        draw_augmentation(settings(**changes), SIZE, 4, 1, 3) for changes in ({}, {"offset": 0.01, "tile": 0.5})
    )
    assert (plain.place, plain.gain) == (more.place, more.gain)
    assert plain.views[0].noise_seed == more.views[0].noise_seed


def test_a_window_of_air_is_kept_whole():
    assert body_of(np.zeros(SIZE, np.float32)).all()


@pytest.mark.parametrize("number", [0, 1])
def test_a_mask_is_found_once_and_is_that_of_its_window(number):
    windows = np.concatenate([window(), np.roll(window(), 3, axis=3)])
    masks = body_masks([windows])[0]
    assert np.array_equal(masks[number], body_of(windows[number]))
    assert np.array_equal(masks[number], masks[number])
