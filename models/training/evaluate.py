"""How a network does on windows that training did not see. Knows no DICOM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.networks.vae import Vae
from models.statistics.units import active_units
from models.training.losses import kl_divergence
from models.training_record import Figures

WindowArray = NDArray[np.floating[Any]]

BODY_FROM_HU = -500.0


def evaluate(vae: Vae, windows: WindowArray, window_hu: tuple[float, float], *, threads: int = 2) -> Figures:
    """Return figures on windows (n, d, h, w) of the network's own size, one by one, from mu, without noise."""
    low, high = window_hu
    mus, kls, error, body_error, body_voxels = [], [], 0.0, 0.0, 0
    with torch.no_grad(), threads_and_seed(threads):
        for window in windows:
            x = torch.from_numpy(np.asarray(window, np.float32))[None, None]
            mu, logvar = vae.eval().encode(x)
            difference = (vae.decode(mu).clamp(0, 1) - x).abs().double() * (high - low)
            body = x * (high - low) + low > BODY_FROM_HU
            error += float(difference.mean())
            body_error, body_voxels = body_error + float(difference[body].sum()), body_voxels + int(body.sum())
            mus.append(mu)
            kls.append(kl_divergence(mu, logvar))
    mu = torch.cat(mus)
    return Figures(
        windows=len(mus),
        mae_hu=error / len(mus),
        mae_body_hu=body_error / max(body_voxels, 1),
        active=active_units(mu.numpy()),
        kl=tuple(torch.cat(kls).mean(0).tolist()),
        mu_variance=tuple(torch.var(mu, dim=0, correction=0).tolist()),
    )


@contextmanager
def threads_and_seed(threads: int, seed: int = 0) -> Iterator[None]:
    """Set torch's random state and threads, and restore the previous ones at the end."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
