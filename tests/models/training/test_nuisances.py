"""What another scanner or another bed would do to a second view: an offset, a turn, a tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.training.augment import cut_windows, make_views, margin_voxels
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
    seen, target = make_views(cut_windows(scans, [(0, 0)], draws, SIZE, margin_voxels(asked)), draws, SIZE, asked)
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
