"""Phantoms to train on are scans like any other, and the same for the same seed."""

from __future__ import annotations

import numpy as np

from app.research.data.phantoms import SHAPE, phantom_scans


def test_they_are_patients_of_their_own_in_train():
    scans = phantom_scans(3, seed=4)
    assert {scan.split for scan in scans} == {"train"}
    assert len({scan.patient for scan in scans}) == len({scan.key for scan in scans}) == 3


def test_the_first_ones_of_a_seed_do_not_depend_on_how_many_there_are():
    assert [scan.key for scan in phantom_scans(2, seed=4)] == [scan.key for scan in phantom_scans(3, seed=4)][:2]
    assert phantom_scans(1, seed=4)[0].key != phantom_scans(1, seed=5)[0].key


def test_it_opens_the_same_volume_each_time():
    scan = phantom_scans(1, seed=0)[0]
    first, again = scan.open(), scan.open()
    assert first.shape == SHAPE
    assert np.array_equal(first.read_slice(20).hu, again.read_slice(20).hu)


def test_none_are_drawn_where_none_are_asked_for():
    assert phantom_scans(0, seed=0) == ()
