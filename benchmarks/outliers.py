"""What the tap `outlier` finds, by cross-validation over the training and calibration patients of the shipped list.

    python benchmarks/outliers.py [BUNDLE] [--windows N]

The head is fitted five times on what the network of BUNDLE makes of drawn windows of the training patients, each time
without a fifth of them, who are then scored by it; the calibration patients are scored by all five. Printed are the
largest scores of patients, and the part of the patients whose scans score more than all others but one after each
change, and the scores of a head and of a test object. The trunk has seen the training patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import recipe_trials as trials
import torch

ROOT = Path(__file__).resolve().parents[1]

from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.data.phantoms import phantom_scans  # noqa: E402
from app.research.data.window_cache import cached_windows, with_margin  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan  # noqa: E402
from models.bundle.store import find_bundle, load_bundle  # noqa: E402
from models.runtime import load_vae  # noqa: E402
from models.training.outliers import drawn_readings, fitted, made_up  # noqa: E402
from models.training.whitening import scans_drawn  # noqa: E402

FOLDS = 5
OTHERS = ("invesalius_cranium", "dcmqact_philips_tilt_phantom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ROOT / "models" / "ct_vae")
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    args = parser.parse_args()
    bundle = load_bundle(find_bundle(args.bundle))
    vae = load_vae(bundle).eval()
    plan = make_plan(load_recipe(trials.SHIPPED / "ct_vae.yaml"), training={}, data={})
    plan = replace(plan, preprocessing=bundle.preprocessing)
    scans = find_scans(trials.SHIPPED / "ct_vae.csv", args.root)
    learned = trials.readable([scan for scan in scans if scan.split == "train"], plan, args.cache)
    with_phantoms = [*learned, *phantom_scans(plan.data.phantoms, plan.data.seed)]
    inside, outside, whose = drawn(vae, with_phantoms, plan, args)
    watched = [*learned, *(scan for scan in scans if scan.split == "calibration")]
    names, seen = read_changed(vae, watched, plan, args.cache)
    strange = {
        name: np.concatenate([read(vae, one) for one in windows_of(args.root / name, plan, args.cache)])
        for name in OTHERS
    }
    order = np.random.default_rng(1).permutation(np.unique([scan.patient for scan in learned]))
    fold = {patient: number % FOLDS for number, patient in enumerate(order)}
    scores = {name: {patient: [] for patient in names} for name in seen[names[0]]}
    found: dict[str, list[float]] = {name: [] for name in OTHERS}
    for number in range(FOLDS):
        rows = torch.from_numpy(np.array([fold.get(one, -1) != number for one in whose]))
        kinds = len(outside) // len(inside)
        weight, bias = fitted(inside[rows], outside[rows.repeat(kinds)])
        head = weight.numpy()
        for patient in names:
            if fold.get(patient, number) == number:
                for name, values in seen[patient].items():
                    scores[name][patient].append(float((values @ head).mean() + bias))
        for name, values in strange.items():
            found[name].append(float((values @ head).mean() + bias))
    report(scores, found)


def report(scores: Mapping[str, Mapping[str, list[float]]], found: Mapping[str, list[float]]) -> None:
    by_change = {name: np.array([np.mean(one) for one in of.values()]) for name, of in scores.items()}
    patients, real = list(scores["as it is"]), by_change.pop("as it is")
    highest = ", ".join(f"{patients[at]} {real[at]:.1f}" for at in np.argsort(real)[::-1][:3])
    print(f"patients: {highest}, median {np.median(real):.1f}")
    for name, values in by_change.items():
        above = np.mean(values > np.sort(real)[-2])
        print(f"{name:20} median {np.median(values):5.1f}, above all patients but one {above:.2f}")
    for name, one in found.items():
        print(f"{name:30} {np.mean(one):5.1f} ({min(one):.1f} to {max(one):.1f})")


@torch.inference_mode()
def read(vae: Any, windows: np.ndarray) -> np.ndarray:
    made = (torch.from_numpy(one[None, None].astype(np.float32)) for one in windows)
    return np.concatenate([vae.content(one).numpy() for one in made])


def windows_of(data: Path, plan: Any, cache: Path) -> list[np.ndarray]:
    return [np.asarray(cached_windows(scan, plan.preprocessing, cache).voxels) for scan in find_scans(data)]


def drawn(vae: Any, scans: list[Any], plan: Any, args: Any) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Readings of drawn windows and, kind by kind in the same order, of what was made of them; the patient of each."""
    margin = with_margin(plan.preprocessing)
    windows = [np.asarray(cached_windows(scan, margin, args.cache).voxels) for scan in scans]
    inside, outside = zip(*drawn_readings(vae, windows, plan.training, args.windows), strict=True)
    whose = np.array([scans[at].patient for at in scans_drawn(vae, windows, plan.training, args.windows)])
    return torch.cat(inside), torch.cat(outside, 1).flatten(0, 1), whose


def read_changed(vae: Any, scans: list[Any], plan: Any, cache: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Patient → change → readings of all windows."""
    seen: dict[str, dict[str, Any]] = {}
    for scan in scans:
        voxels = np.asarray(cached_windows(scan, plan.preprocessing, cache).voxels, np.float32)
        made = {"as it is": voxels, "upside down": voxels[:, :, ::-1], "turned by 90°": np.rot90(voxels, 1, (2, 3))}
        depth, height = voxels.shape[1:3]
        rows, slices = (
            np.linspace(0, have - 1, want).round().astype(int) for have, want in ((height, depth), (depth, height))
        )
        made["sliced along y"] = voxels.transpose(0, 2, 1, 3)[:, rows][:, :, slices]
        made |= made_up(voxels, np.random.default_rng(2))
        del made["shapes"]
        for name, one in made.items():
            rows = read(vae, np.ascontiguousarray(one))
            mine = seen.setdefault(scan.patient, {})
            mine[name] = np.concatenate([mine[name], rows]) if name in mine else rows
    return list(seen), seen


if __name__ == "__main__":
    main()
