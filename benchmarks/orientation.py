"""Does the tap `orientation` find chests of patients that it never saw upside down, or back to front?

    python benchmarks/orientation.py [--root ../shared/ct] [--cache .cache/windows]

It is learned from the training patients of the shipped list without one of those who have a chest, who is then
scored as the scan is and reversed, and so on for each of them; the calibration patients are scored by the one that is
learned from all. Nothing of the network but the size of its windows matters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import recipe_trials as trials
import torch

ROOT = Path(__file__).resolve().parents[1]

from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.data.window_cache import cached_windows, with_margin  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan  # noqa: E402
from models.networks.pooled import PooledVae  # noqa: E402
from models.networks.registry import build_vae  # noqa: E402
from models.training.orientation import learn_orientation  # noqa: E402

STATES = {"as it is": (), "upside down": (2,), "back to front": (3,), "both": (2, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    args = parser.parse_args()
    plan = make_plan(load_recipe(trials.SHIPPED / "ct_vae.yaml"), training={}, data={})
    vae = build_vae(plan.training.architecture, plan.training.parameters).eval()
    assert isinstance(vae, PooledVae) and vae.orientation is not None
    scans = find_scans(trials.SHIPPED / "ct_vae.csv", args.root)
    learned = trials.readable([scan for scan in scans if scan.split == "train"], plan, args.cache)
    watched = [scan for scan in scans if scan.split == "calibration"]
    seen = {
        scan.key: torch.from_numpy(np.asarray(cached_windows(scan, plan.preprocessing, args.cache).voxels, np.float32))
        for scan in (*learned, *watched)
    }
    chests = {scan.patient for scan in learned if vae.orientation.lung(seen[scan.key][:, None]).max() > 0}
    print(f"{'scan':24}" + "".join(f"{state:>16}" for state in STATES) + "   upside down, back to front")
    for left_out in (*sorted(chests), None):
        kept = [scan for scan in learned if scan.patient != left_out]
        windows = [
            np.asarray(cached_windows(scan, with_margin(plan.preprocessing), args.cache).voxels) for scan in kept
        ]
        learn_orientation(vae, windows, plan.training)
        for scan in watched if left_out is None else (scan for scan in learned if scan.patient == left_out):
            row = [scores(vae, seen[scan.key], axes) for axes in STATES.values()]
            print(f"{scan.patient:24}" + "".join(f"{one[0]:8.1f}{one[1]:8.1f}" for one in row), flush=True)


@torch.inference_mode()
def scores(vae: PooledVae, windows: torch.Tensor, axes: tuple[int, ...]) -> np.ndarray:
    """Means over the windows, with these axes of (n, 1, d, h, w) reversed."""
    assert vae.orientation is not None
    return vae.orientation(windows[:, None].flip(axes)).mean(0).numpy()


if __name__ == "__main__":
    main()
