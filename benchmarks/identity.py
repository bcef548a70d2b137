"""Whether mu finds a changed window again, among test and reference patients together: counts for each change.

    python benchmarks/identity.py [BUNDLE]

A window counts as found where its own original is the nearest in the gallery, by Euclidean distance. The gallery has
the windows of these patients that do not overlap. A certificate measures the same on test patients alone, among more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import recipe_trials as trials
import torch

ROOT = Path(__file__).resolve().parents[1]

from steadiness import found_by_change, readings, see_all  # noqa: E402

from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan  # noqa: E402
from models.bundle.store import find_bundle, load_bundle  # noqa: E402
from models.runtime import load_vae  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "models" / "ct_vae")
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    args = parser.parse_args()
    vae = load_vae(load_bundle(find_bundle(args.bundle))).eval()
    plan = make_plan(load_recipe(trials.SHIPPED / "ct_vae.yaml"), training={}, data={})
    scans = find_scans(trials.SHIPPED / "ct_vae.csv", args.root)
    asked = trials.readable([scan for scan in scans if scan.split in ("test", "reference")], plan, args.cache)
    seen = see_all(vae, asked, plan, args.cache)
    split = {scan.patient: scan.split for scan in asked}
    with torch.inference_mode():
        heads = {name: vae.heads(torch.from_numpy(read)) for name, read in readings(seen).items()}
    mu = {name: found.double().numpy() for name, (found, _) in heads.items()}
    for names in (("test",), ("reference",), ("test", "reference")):
        of = np.array([split[patient] in names for patient in seen["patient"]])
        found = found_by_change(mu, seen, of)
        mean, worst = np.mean([one.mean() for one in found.values()]), min(one.mean() for one in found.values())
        missed = ", ".join(f"{name} {one.sum()} of {one.size}" for name, one in found.items() if not one.all())
        print(f"{' and '.join(names)}: mean {mean:.3f}, worst {worst:.3f}; {missed or 'all are found'}", flush=True)


if __name__ == "__main__":
    main()
