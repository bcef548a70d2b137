"""Compare a bundle's reconstruction of its test patients with that of as many principal components, 32 at least.

    python benchmarks/reconstruction.py [BUNDLE] [--root ../shared/ct] [--cache .cache/windows]

Mean absolute error in HU over all voxels of all windows. The components are of the windows of the train split, and see
the same windows as the bundle.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.research.certify.certify import decoder_of  # noqa: E402
from app.research.certify.rivals import rival_length  # noqa: E402
from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.data.window_cache import cached_windows  # noqa: E402
from models.bundle.store import load_bundle  # noqa: E402
from models.runtime import load_vae  # noqa: E402
from models.spec import Bundle  # noqa: E402
from models.statistics.rivals import principal_components  # noqa: E402
from operators.errors import SeriesError  # noqa: E402

LIST = ROOT / "app" / "research" / "shipped" / "ct_vae.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "models" / "ct_vae")
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    vae = load_vae(bundle)
    decode = decoder_of(vae)
    if decode is None:
        raise SystemExit("the bundle has no decoder")
    low, high = bundle.preprocessing.window_hu
    train, test = (windows_of(split, bundle, args) for split in ("train", "test"))
    with torch.inference_mode():
        mu = np.concatenate([vae.encode(torch.from_numpy(one[None, None]))[0].numpy() for one in test])
    count = rival_length(mu.shape[1])
    components = principal_components(train, count)
    rebuilt = {"bundle": decode(mu)[:, 0], "components": components.rebuilt(test)}
    errors = {name: (high - low) * float(np.abs(np.clip(made, 0, 1) - test).mean()) for name, made in rebuilt.items()}
    print(f"{len(test)} windows of the test patients; mu of {mu.shape[1]}; {count} components of {len(train)} windows")
    print(f"{errors['bundle']:.1f} HU, components {errors['components']:.1f} HU")
    print(f"ratio {errors['bundle'] / errors['components']:.3f}")


def windows_of(split: str, bundle: Bundle, args: argparse.Namespace) -> NDArray[np.float32]:
    """Return the windows of a split as inference sees them, (n, d, h, w) in [0, 1]."""
    found = []
    for scan in find_scans(LIST, args.root):
        if scan.split == split:
            try:
                found.append(np.asarray(cached_windows(scan, bundle.preprocessing, args.cache).voxels, np.float32))
            except SeriesError as error:
                print(f"a scan of {scan.patient} is left out: {error}", file=sys.stderr)
    return np.concatenate(found)


if __name__ == "__main__":
    main()
