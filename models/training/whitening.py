"""The change of axes at the end of a training: new latents, put exactly into the heads, decoder and describer.

mu and what is made of z are the same functions as before in other coordinates: decode'(A (z - c)) = decode(z) for every
z. Sigma becomes the exact marginal of each new dimension (`models.statistics.pca_whitening`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.networks.layers import MixVariance
from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.statistics.pca_whitening import LatentAxes, learn_axes
from models.statistics.repeatability import icc_a1
from models.training.augment import cut_windows, make_views, margin_voxels, window_places
from models.training.draws import draw_augmentation
from models.training.settings import TrainingSettings

WINDOWS = 1024
"""Number of windows that the axes are learned from, each seen as in training, so that few patients suffice."""
_AT_ONCE = 16


def can_be_whitened(vae: Vae) -> bool:
    """Return whether the network allows another choice of axes: linear ends, and a `MixVariance`."""
    return mixing(vae) is not None and isinstance(vae.mu, nn.Linear) and _first_linear(vae.decoder) is not None


@torch.no_grad()
def training_axes(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int = WINDOWS
) -> LatentAxes:
    """Return the axes of the codes of training windows, those that repeat best between two views of a window first.

    Where `settings.axes` says how many, they are the longest. Their scale and centre are those of windows without any
    change, as inference sees them: in changed ones mu varies more.

    Args:
        vae: a trained network, in eval mode.
        scans: the scans it was trained on.
        settings: settings that views are drawn with; without a second view the longest axis comes first.
        windows: number of windows to draw.
    """
    mu, sigma = codes_of(vae, scans, replace(settings, tile=0.0), windows)
    n, views, latents = mu.shape
    axes = learn_axes(mu.reshape(-1, latents), sigma.reshape(-1, latents), count=settings.axes or latents)
    if views > 1:
        axes = axes.ordered(np.nan_to_num(icc_a1(axes.of_mu(mu.reshape(-1, latents)).reshape(n, views, -1))))
    mu, sigma = codes_of(vae, scans, settings.unchanged, windows)
    return axes.scaled(mu[:, 0], sigma[:, 0])


def codes_of(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mu and sigma of drawn windows, (windows, views, latents) each."""
    mus, logvars, _ = zip(*drawn_codes(vae, scans, settings, windows), strict=True)
    mu, logvar = (torch.cat(heads, 1).transpose(0, 1).double().numpy() for heads in (mus, logvars))
    return mu, np.exp(0.5 * logvar)


@torch.no_grad()
def drawn_codes(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield mu and log-variance, (views, n, latents) each, of `drawn_views`, and their targets; on the CPU."""
    for seen, target in drawn_views(vae, scans, settings, windows):
        mu, logvar = (head.reshape(-1, len(target), head.shape[1]).cpu() for head in vae.encode(seen))
        yield mu, logvar, target.cpu()


def drawn_views(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first windows of a training as it sees them, some at a time: `make_views` of each.

    They are made on the network's device.
    """
    device = next(vae.parameters()).device
    places, size = window_places(scans), vae.window_voxels
    for first in range(0, windows, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, windows))
        draws = [draw_augmentation(settings, size, 1, len(places), number) for number in numbers]
        cut_out = cut_windows(scans, places, draws, size, margin_voxels(settings))
        yield make_views(cut_out.to(device), draws, size, settings)


def scans_drawn(
    vae: Vae, scans: Sequence[NDArray[np.floating[Any]]], settings: TrainingSettings, windows: int
) -> NDArray[np.intp]:
    """Return the scan that each of the windows of `drawn_views` is of, (windows,): its place among `scans`."""
    places, size = window_places(scans), vae.window_voxels
    draws = (draw_augmentation(settings, size, 1, len(places), number) for number in range(windows))
    return np.array([places[drawn.index][0] for drawn in draws], np.intp)


@torch.no_grad()
def with_axes(vae: Vae, axes: LatentAxes, mapped: NDArray[np.float64] | None = None) -> Vae:
    """Return a copy whose latents are z' = A (z - centre); along axes that are left out, z is decoded at the centre.

    Args:
        vae: a network that can be whitened.
        axes: A, with no more rows than columns, and the centre.
        mapped: the linear map from the latents whose log-variance the network gives to those of its mu, where these are
            others (`models.training.steady`). Sigma is then the exact marginal of both maps together.

    Raises:
        ValueError: the network cannot be whitened, or the map cannot be inverted.
    """
    if not can_be_whitened(vae):
        raise ValueError("this network's ends are not linear in the latents; it cannot be given other axes")
    made = copy.deepcopy(vae)
    matrix, centre = axes.matrix, axes.centre
    inverse = np.linalg.pinv(matrix)
    if not np.allclose(matrix @ inverse, np.eye(len(matrix)), atol=1e-6):
        raise ValueError("the axes cannot be undone to a millionth; shrink them more, or take fewer latents")
    head, mixed = made.mu, mixing(made)
    assert isinstance(head, nn.Linear) and mixed is not None
    _set(head, matrix @ _array(head.weight), matrix @ (_array(head.bias) - centre))
    squares = np.square(matrix) @ _array(mixed.squares) if mapped is None else np.square(matrix @ mapped)
    mixed.squares = torch.as_tensor(squares, dtype=mixed.squares.dtype, device=mixed.squares.device)
    for linear in fed_by_z(made):
        weight = _array(linear.weight)
        _set(linear, weight @ inverse, _array(linear.bias) + weight @ centre)
    return made


def fed_by_z(vae: Vae) -> list[nn.Linear]:
    """Return the linear layers that take z: the decoder's first and the describer; none if it begins otherwise."""
    first = _first_linear(vae.decoder)
    described = [vae.describer] if isinstance(vae, PooledVae) and isinstance(vae.describer, nn.Linear) else []
    return [] if first is None else [first, *described]


def mixing(vae: Vae) -> MixVariance | None:
    """Return the end of the log-variance's head that a linear map of the latents is put into; None without one."""
    last = vae.logvar[-1] if isinstance(vae.logvar, nn.Sequential) else None
    return last if isinstance(last, MixVariance) else None


def _first_linear(decoder: nn.Module | None) -> nn.Linear | None:
    first = decoder[0] if isinstance(decoder, nn.Sequential) else None
    return first if isinstance(first, nn.Linear) else None


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return tensor.detach().cpu().numpy().astype(np.float64)


def _set(linear: nn.Linear, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    for name, values in (("weight", weight), ("bias", bias)):
        before = getattr(linear, name)
        setattr(linear, name, nn.Parameter(torch.as_tensor(values, dtype=before.dtype, device=before.device)))
    linear.out_features, linear.in_features = weight.shape
