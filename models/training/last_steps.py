"""The last steps of a training: what is made of a network once its weights are learned, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.networks.pooled import PooledVae
from models.networks.vae import Vae
from models.training.bending import bend_latents, straighten
from models.training.finished_decoder import finish_decoder
from models.training.orientation import learn_orientation
from models.training.outliers import learn_outliers
from models.training.reading_range import clip_readings
from models.training.settings import TrainingSettings
from models.training.steady import steady_head
from models.training.whitening import can_be_whitened, mixing, training_axes, with_axes


def check_last_steps(vae: Vae, settings: TrainingSettings) -> None:
    """Check before a training that its last steps will be possible.

    Raises:
        ValueError: they will not be.
    """
    if (settings.steadiness or settings.axes) and not can_be_whitened(vae):
        given = f"steadiness is {settings.steadiness:g} and axes {settings.axes}"
        raise ValueError(f"{given}; this network cannot be whitened, so expected 0")
    if isinstance(vae.mu, nn.Linear) and settings.axes > vae.mu.out_features:
        raise ValueError(f"axes is {settings.axes}; expected at most the {vae.mu.out_features} latents of the network")


def last_steps(
    vae: Vae,
    scans: Sequence[NDArray[np.floating[Any]]],
    settings: TrainingSettings,
    *,
    phantoms: int = 0,
    announce: Callable[[str], None] = lambda text: None,
) -> Vae:
    """Return the network with its last steps done; it may have fewer latents than before.

    Args:
        vae: a trained network, in eval mode; it is changed.
        scans: windows it was trained on, phantoms last.
        settings: how it was trained.
        phantoms: number of phantoms among the scans.
        announce: called with what comes next, before it begins. It may raise, and nothing more is done.
    """
    patients = scans[: len(scans) - phantoms] or scans
    if isinstance(vae, PooledVae) and vae.clip is not None:
        announce("finding the range of what the heads read")
        clip_readings(vae, scans, settings)
    if isinstance(vae, PooledVae) and vae.outlier is not None:
        announce("learning what is no patient")
        learn_outliers(vae, scans, settings)
    if can_be_whitened(vae):
        announce("solving for the heads")
        straighten(vae, patients, settings)
        mapped = steady_head(vae, scans, settings)
        vae = with_axes(vae, training_axes(vae, patients, settings), mapped)
        bend_latents(vae, patients, settings)
    if settings.decoder_steps:
        announce("the decoder goes on alone")
        finish_decoder(vae, patients, settings)
    if isinstance(vae, PooledVae) and vae.orientation is not None:
        announce("learning which way up a chest is")
        learn_orientation(vae, patients, settings)
    return vae


def parameters_of(vae: Vae, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters that build a network like this one, which was trained with these."""
    mixed = mixing(vae)
    if mixed is None:
        return parameters
    latents, learned = mixed.squares.shape
    changed: dict[str, Any] = {} if latents == learned else {"latents": latents, "learned_latents": learned}
    if isinstance(vae, PooledVae) and vae.arcsinh is not None:
        changed["arcsinh"] = True
    return {**parameters, **changed} if changed else parameters
