"""Solve for the head of a bundle's mu instead of learning it, and measure the bars on the calibration patients.

    python benchmarks/solved_heads.py [BUNDLE] [--steadiness S ...] [--windows N]

The heads of a `ct_vae` are linear in what the encoder makes of a window. Of all linear heads, reduced-rank regression
(Izenman 1975, doi 10.1016/0047-259X(75)90042-1) gives the one whose whitened directions predict best what the window
holds: its principal components, each over the root of its deviation, and its composition. The penalty on what differs
between two views of a window, as training draws them, is the steadiness. Decoder and describer follow by least squares.
Beside the bundle as it is; docs/training.md says what came of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import recipe_trials as trials
import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]

from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan  # noqa: E402
from app.research.train.train import TrainingPaths, read_to_train  # noqa: E402
from models.bundle.store import find_bundle, load_bundle  # noqa: E402
from models.runtime import load_vae  # noqa: E402
from models.training.settled import set_head  # noqa: E402
from models.training.whitening import drawn_views, training_axes, with_axes  # noqa: E402

RIDGE = 0.1
COMPONENTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--steadiness", type=float, nargs="+", default=[0.3, 0.5, 1.0, 3.0])
    parser.add_argument("--composition", type=float, default=2.0, help="root of its weight beside the components")
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--recipe", type=Path, default=trials.SHIPPED / "ct_vae.yaml")
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    args = parser.parse_args()
    plan = make_plan(load_recipe(args.recipe), training={}, data={})
    listed = trials.SHIPPED / "ct_vae.csv"
    given = read_to_train(TrainingPaths(listed, Path("none"), args.root, args.cache), plan)
    settings = replace(given.settings, bare=0.5)
    scans = find_scans(listed, args.root)
    train = trials.readable([scan for scan in scans if scan.split == "train"], plan, args.cache)
    seen = trials.see_all([scan for scan in scans if scan.split == "calibration"], plan, args.cache)
    known = trials.learn_all(train, plan, args.cache)
    vae = load_vae(load_bundle(args.bundle or find_bundle()))
    show("as it is", vae, seen, known)
    read, held = drawn(vae, given.scans, settings, args.windows, args.composition)
    for steadiness in args.steadiness:
        made = solved(vae, read, held, steadiness)
        axes = training_axes(made, given.scans, settings)
        show(f"steadiness {steadiness:g}", with_axes(made, axes), seen, known)


def show(name: str, vae: Any, seen: dict[str, Any], known: dict[str, Any]) -> None:
    print(f"\n{name}")
    for bar, value in trials.measure(vae, seen, known).items():
        print(f"  {bar:44} {json.dumps(value)}", flush=True)


@torch.no_grad()
def drawn(vae: Any, scans: Sequence[Any], settings: Any, windows: int, composed: float) -> tuple[Tensor, Tensor]:
    """What the head reads of each view, (views, n, values), and what the window holds, (n, values); float64."""
    read, images, composition = [], [], []
    for seen, target in drawn_views(vae, scans, settings, windows):
        read.append(vae.trunk(seen).reshape(len(seen) // len(target), len(target), -1))
        images.append(functional.avg_pool3d(target, 2).flatten(1))
        composition.append(vae.describable(target))
    described = torch.cat(composition).double()
    held = [principal_scores(torch.cat(images)), composed * of_unit_variance(described - described.mean(0))]
    return torch.cat(read, 1).double(), torch.cat(held, 1)


def principal_scores(images: Tensor) -> Tensor:
    centred = images - images.mean(0)
    squares, axes = torch.linalg.eigh((centred @ centred.T).double())
    deviation = squares[-COMPONENTS:].clamp_min(0).sqrt()
    return of_unit_variance(axes[:, -COMPONENTS:] * deviation.sqrt())


def of_unit_variance(values: Tensor) -> Tensor:
    return values / values.square().sum(1).mean().sqrt()


def best_directions(read: Tensor, held: Tensor, count: int, steadiness: float) -> Tensor:
    """Directions (values, count) of standardised readings whose codes are whitened and predict best what is held."""
    every = read.flatten(0, 1)
    every, apart = every - every.mean(0), read[0] - read[1]
    metric = every.T @ every / len(every) + steadiness * (apart.T @ apart) / len(every)
    metric = metric + RIDGE * torch.eye(len(metric), dtype=read.dtype)
    together = every.T @ (held - held.mean(0)).repeat(2, 1) / len(every)
    slopes = torch.linalg.solve(metric, together)
    directions = slopes @ torch.linalg.eigh(slopes.T @ together)[1][:, -count:]
    lengths, turned = torch.linalg.eigh(directions.T @ (every.T @ every / len(every)) @ directions)
    return directions @ (turned / lengths.sqrt())


@torch.no_grad()
def solved(vae: Any, read: Tensor, held: Tensor, steadiness: float) -> Any:
    made = copy.deepcopy(vae)
    every = read.flatten(0, 1)
    mean, deviation = every.mean(0), every.std(0).clamp_min(1e-3)
    directions = best_directions((read - mean) / deviation, held, made.mu.out_features, steadiness)
    set_head(made, every, mean, (directions / deviation[:, None]).T)
    made.logvar[-1].squares.copy_(torch.eye(made.mu.out_features))  # of the bundle's own change of axes
    return made


if __name__ == "__main__":
    sys.exit(main())
