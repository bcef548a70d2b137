"""A bundle's encoder for MONAI's configurations: `configs/inference.json` and `monai.bundle`'s checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.bundle.store import load_bundle
from models.networks.vae import Vae
from models.runtime import load_vae
from models.statistics.body import patient_mask


class PosteriorMean(nn.Module):
    """Windows (n, 1, d, h, w) in [0, 1] → mu (n, length)."""

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        """Return the posterior mean; no sample is drawn."""
        return self.vae.taps(x, ("mu",))["mu"]


def posterior_mean(bundle_root: str) -> PosteriorMean:
    """Return the encoder of the bundle in this folder, with its weights, in eval mode.

    Raises:
        BundleError: the bundle does not load.
    """
    return PosteriorMean(load_vae(load_bundle(Path(bundle_root)))).eval()


class OutsideAir:
    """MONAI's transforms end with this before the scaling where a bundle's `outside` is `air`: HU (1, z, y, x) to HU.

    The scan is cut to a window's height and width about its centre, and what is not the patient becomes air.
    """

    def __init__(self, window_voxels: Sequence[int], air_hu: float) -> None:
        self.plane, self.air_hu = tuple(window_voxels[1:]), air_hu

    def __call__(self, image: Any) -> Any:
        """Return the image with its axes as they were; `image.pixdim` is its spacing in mm (a `MetaTensor`)."""
        z, y, x = (float(mm) for mm in image.pixdim)
        image = _centred(image, (image.shape[1], *map(min, image.shape[2:], self.plane)))
        kept = torch.from_numpy(patient_mask(image[0].numpy(), (z, y, x)))
        return torch.where(kept, image, self.air_hu)


def series_mu(network: nn.Module, image: Tensor, window_voxels: Sequence[int], overlap: float) -> NDArray[np.float32]:
    """Return the mean of mu over the windows of a scan that is on the bundle's grid.

    Args:
        network: computes mu of windows.
        image: (1, z, y, x) in [0, 1]; cropped, or padded with air, to a window's height and width about its centre;
            along z it is covered by evenly spread windows.
        window_voxels: (d, h, w).
        overlap: minimum overlap of windows along z.

    Returns:
        float32 (length,).
    """
    depth = window_voxels[0]
    volume = image.as_tensor() if hasattr(image, "as_tensor") else image
    volume = _centred(volume.to(torch.float32), (max(depth, volume.shape[1]), *window_voxels[1:]))
    room = volume.shape[1] - depth
    gaps = -(-room // max(1, depth - math.ceil(overlap * depth - 1e-9)))
    starts = [(2 * at * room + gaps) // (2 * gaps) for at in range(gaps + 1)] if gaps else [0]
    device = next(network.parameters()).device
    with torch.no_grad():
        each = [network(volume[None, :, start : start + depth].to(device)) for start in starts]
    mean: NDArray[np.float32] = torch.cat(each).double().mean(dim=0).float().cpu().numpy()
    return mean


def _centred(volume: Tensor, size: Sequence[int]) -> Tensor:
    """Return the volume cropped, or padded with 0 (air), to (z, y, x) about its centre."""
    for axis, wanted in enumerate(size, 1):
        extra = volume.shape[axis] - wanted
        if extra > 0:
            volume = volume.narrow(axis, extra // 2, wanted)
        elif extra < 0:
            pads = [0] * 6
            pads[2 * (3 - axis)], pads[2 * (3 - axis) + 1] = -extra // 2, -extra - (-extra // 2)
            volume = functional.pad(volume, pads)
    return volume
