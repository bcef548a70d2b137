"""Phantoms as scans: what the reader would make of their files, to train on and to measure with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from app.research.data.scans import Scan
from models.phantom import PhantomFactors, make_phantom, sample_varied_factors
from operators.instance import Instance
from operators.synthetic.write_ct import affine_for
from operators.types import HuSlice, Series, Volume

SHAPE, SPACING_MM = (44, 256, 256), (6.5, 1.6, 1.6)
"""A whole chest; pixels that show the kernel."""


SOURCE = "phantoms of known factors, drawn by ctvae (models/phantom.py)"

_TRAINED_ON = 6271
"""Beside the seed, so that nothing is drawn twice: certificates draw phantoms with the seeds from 0 on."""


def phantom_scans(count: int, seed: int) -> tuple[Scan, ...]:
    """Return so many phantoms to train on, each a patient of its own, with factors, vessels and noise of its own.

    Args:
        count: how many.
        seed: of all that is drawn; the first phantoms of a seed are the same whatever the count.
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
    """Return what the reader makes of the phantom's files (see `operators.synthetic.write_ct`), without the files."""
    hu = make_phantom(factors, shape, spacing_mm, seed)
    series = Series("2.25.1", "2.25.2", ".", (Instance(Path("phantom"), Dataset()),))
    return Volume(series, shape, affine_for(shape, spacing_mm), spacing_mm, (), lambda d: HuSlice(hu[d]))
