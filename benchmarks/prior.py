"""Draw what a bundle's decoder makes of the prior: samples of N(0, I), and walks along single dimensions.

    python benchmarks/prior.py [BUNDLE] [-o docs/images/prior.png] [--dimensions 5] [--seed 0]

Two rows of samples; then a row for each of the first dimensions, from -2 to 2 standard deviations, the others at 0. Of
each window its middle slice, from -300 to 400 HU. Bodies, blurred as a decoder makes them, are what is to be seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 8
LOW_HU, HIGH_HU = -300.0, 400.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "models" / "ct_vae")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images" / "prior.png")
    parser.add_argument("--dimensions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    decoder = onnxruntime.InferenceSession(args.bundle / "models" / "decoder.onnx")
    latents = int(decoder.get_inputs()[0].shape[1])
    drawn = np.random.default_rng(args.seed).standard_normal((2, COLUMNS, latents))
    walks = np.zeros((args.dimensions, COLUMNS, latents))
    for number, walk in enumerate(walks):
        walk[:, number] = np.linspace(-2, 2, COLUMNS)
    rows = [np.concatenate([slice_of(decoder, z) for z in row], axis=1) for row in (*drawn, *walks)]
    Image.fromarray((255 * np.concatenate(rows)).astype(np.uint8)).save(args.output, optimize=True)


def slice_of(decoder: onnxruntime.InferenceSession, z: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the middle slice of the window of z (latents), scaled to 0 to 1."""
    window = decoder.run(None, {decoder.get_inputs()[0].name: z[None].astype(np.float32)})[0][0, 0]
    hu = np.clip(window[len(window) // 2], 0, 1) * 2000 - 1000
    return np.clip((hu - LOW_HU) / (HIGH_HU - LOW_HU), 0, 1)


if __name__ == "__main__":
    main()
