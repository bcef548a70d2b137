"""Phantoms as scans, in the form in which the reader would return their files, to train on and to measure with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from app.research.data.scan import Scan
from models.phantom import PhantomFactors, make_phantom, sample_varied_factors
from operators.instance import Instance
from operators.synthetic.write_ct import affine_for
from operators.types import HuSlice, Series, Volume

SHAPE, SPACING_MM = (44, 256, 256), (6.5, 1.6, 1.6)
"""A whole chest, with pixels small enough to show the kernel."""


SOURCE = "phantoms of known factors, drawn by ctvae (models/phantom.py)"

_TRAINED_ON = 6271
"""Added to the seed, so that nothing is drawn twice: certificates use phantoms of the seeds from 0 on."""


def phantom_scans(count: int, seed: int) -> tuple[Scan, ...]:
    """Return phantoms to train on, each its own patient, with its own factors, vessels and noise.

    Args:
        count: number of phantoms.
        seed: seed of all draws; the first phantoms of a seed are the same whatever the count.
    """
    rng = np.random.default_rng((_TRAINED_ON, seed))
    scans = []
    for number in range(count):
        factors, own = sample_varied_factors(rng), int(rng.integers(2**62))
        text = json.dumps([asdict(factors), own, SHAPE, SPACING_MM])
        scans.append(
            Scan(
                patient=f"phantom {seed}-{number + 1}",
                split="train",
                source=SOURCE,
                key=hashlib.sha256(text.encode()).hexdigest(),
                open=partial(phantom_volume, factors, seed=own),
            )
        )
    return tuple(scans)


def phantom_volume(
    factors: PhantomFactors,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    *,
    seed: int = 0,
) -> Volume:
    """Return the volume that reading the phantom's files (`operators.synthetic.write_ct`) would give, without files."""
    hu = make_phantom(factors, shape, spacing_mm, seed)
    series = Series("2.25.1", "2.25.2", ".", (Instance(Path("phantom"), Dataset()),))
    return Volume(series, shape, affine_for(shape, spacing_mm), spacing_mm, (), lambda d: HuSlice(hu[d]))
