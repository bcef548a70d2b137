"""A short training by a recipe, and the bars of the features, measured on the calibration patients alone.

    python benchmarks/recipe_trials.py NAME [--set training.KEY=VALUE ...] [--minutes M | --steps N] [--seed S]

Trains on the `train` split of the shipped list, measures on `calibration`, prints the table of the bars and appends a
line to --log. Never reads `reference` or `test`: choices are made here. Four patients are few: what is read off this
table is which of two trials is far better, not what a bundle is worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402

from app.research.certify.rivals import describing, rival_length, score_features  # noqa: E402
from app.research.data.changed_windows import ORIGINAL, see_scan  # noqa: E402
from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.data.phantoms import phantom_scans  # noqa: E402
from app.research.data.scan import Scan  # noqa: E402
from app.research.data.window_cache import cached_windows, with_margin  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan, parse_recipe  # noqa: E402
from models.statistics.aggregate import aggregate_kl, aggregate_kl_null  # noqa: E402
from models.statistics.group_variance import best_split_share, flag_share, split_null  # noqa: E402
from models.statistics.identity import found_again, non_overlapping  # noqa: E402
from models.statistics.redundancy import null_redundancy, redundancy, redundancy_by_patient  # noqa: E402
from models.statistics.repeatability import icc_a1  # noqa: E402
from models.statistics.rivals import PrincipalComponents, principal_components  # noqa: E402
from operators.errors import SeriesError  # noqa: E402
from operators.measure.probe_targets import probe_targets  # noqa: E402

SHIPPED = ROOT / "app" / "research" / "shipped"
Arrays = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of train.yaml")
    parser.add_argument("--recipe", type=Path, default=SHIPPED / "ct_vae.yaml")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    parser.add_argument("--log", type=Path, default=ROOT / ".cache" / "recipe_trials.jsonl")
    args = parser.parse_args()
    plan = plan_of(args)
    scans = [scan for scan in find_scans(SHIPPED / "ct_vae.csv", args.root) if scan.split in ("train", "calibration")]
    train = [scan for scan in scans if scan.split == "train"]
    began = time.monotonic()
    train = readable(train, plan, args.cache)
    learned = [*train, *phantom_scans(plan.data.phantoms, plan.data.seed)]
    vae, course = trained(
        plan, [cached_windows(scan, with_margin(plan.preprocessing), args.cache).voxels for scan in learned]
    )
    seen = see_all([scan for scan in scans if scan.split == "calibration"], plan, args.cache)
    known = learn_all(train, plan, args.cache)
    bars = measure(vae, seen, known)
    line = {"name": args.name, "set": args.set, "seconds": round(time.monotonic() - began), **course, "bars": bars}
    print("\n".join(f"{name:44} {value}" for name, value in bars.items()))
    args.log.parent.mkdir(parents=True, exist_ok=True)
    with args.log.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def readable(scans: list[Scan], plan: Any, cache: Path) -> list[Scan]:
    found = []
    for scan in scans:
        try:
            cached_windows(scan, plan.preprocessing, cache)
            found.append(scan)
        except SeriesError as error:
            print(f"a scan of {scan.patient} is left out: {error}", flush=True)
    return found


def plan_of(args: argparse.Namespace) -> Any:
    """The recipe of the file, with what the command line sets in its place."""
    given = load_recipe(args.recipe)
    sections: dict[str, dict[str, Any]] = {
        "training": dict(given.training),
        "preprocessing": dict(given.preprocessing),
        "data": dict(given.data),
    }
    for one in args.set:
        where, _, value = one.partition("=")
        section, _, key = where.partition(".")
        sections[section][key] = yaml.safe_load(value)
    if args.minutes or args.steps:
        sections["training"].pop("minutes", None)
    training = {"minutes": args.minutes, "steps": args.steps, "seed": args.seed}
    return make_plan(parse_recipe(sections), training=training, data={"root": str(args.root)})


def trained(plan: Any, windows: list[np.ndarray]) -> tuple[Any, Arrays]:
    from models.training.train import train

    done = train(
        windows,
        plan.training,
        lambda at: print(progress(at), flush=True),
        report_every_s=30.0,
        phantoms=plan.data.phantoms,
    )
    last = done.history[-1]
    return done.vae, {
        "steps": done.steps,
        "seconds_training": round(done.elapsed_s),
        "last": {name: round(getattr(last, name), 4) for name in ("loss", "rmse", "kl", "invariance", "aggregate")},
    }


def progress(at: Any) -> str:
    return f"{at.line()}  features {at.features:.3f}  pairs {at.invariance:.3f}  aggregate {at.aggregate:.3f}"


def see_all(scans: list[Scan], plan: Any, cache: Path) -> Arrays:
    """The calibration windows as they are and changed; what is measured on them; which are cropped around a tumour."""
    columns: dict[str, list[Any]] = {}
    for scan in scans:
        seen = see_scan(scan, plan.preprocessing, cache=cache)
        row: Arrays = {f"change {name}": voxels[:, 0] for name, voxels in seen.voxels.items()}
        original = seen.voxels[ORIGINAL][:, 0]
        row |= targets_of(original, plan)
        row |= {"low_mm": seen.low_mm, "high_mm": seen.high_mm, "patient": np.full(len(original), scan.patient)}
        row["crop"] = np.full(len(original), "cropped around the tumour" in scan.source)
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


def learn_all(scans: list[Scan], plan: Any, cache: Path) -> Arrays:
    """The training windows as inference sees them: probes, components and the gallery learn from them."""
    columns: dict[str, list[Any]] = {}
    for scan in scans:
        voxels = np.asarray(cached_windows(scan, plan.preprocessing, cache).voxels, np.float32)
        row = {"windows": voxels, "patient": np.full(len(voxels), scan.patient), **targets_of(voxels, plan)}
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


def targets_of(windows: np.ndarray, plan: Any) -> Arrays:
    low, high = plan.preprocessing.window_hu
    measured = [
        probe_targets(low + one.astype(np.float64) * (high - low), plan.preprocessing.spacing_mm) for one in windows
    ]
    return {f"target {name}": np.array([one[name] for one in measured]) for name in measured[0]}


def measure(vae: Any, seen: Arrays, known: Arrays) -> Arrays:
    """The table of the bars, on calibration windows."""
    changes = {name.removeprefix("change "): values for name, values in seen.items() if name.startswith("change ")}
    codes = {name: encode(vae, values) for name, values in changes.items()}
    (mu, sigma), gallery = codes[ORIGINAL], encode(vae, known["windows"])[0]
    n, k = mu.shape
    crop, patients = seen["crop"], seen["patient"]
    all_windows, null = redundancy(mu), null_redundancy(n, k)
    one_each = redundancy_by_patient(mu, patients)
    known_redundancy = redundancy(gallery)
    icc = {
        name: icc_a1(np.stack([mu[crop], other[crop]], axis=1))
        for name, (other, _) in codes.items()
        if name != ORIGINAL
    }
    mean_icc = np.mean(list(icc.values()), axis=0)
    places = non_overlapping(seen["low_mm"], seen["high_mm"], patients)
    found = {
        name: found_again(mu[places], other[places], distractors=gallery)
        for name, (other, _) in codes.items()
        if name != ORIGINAL
    }
    variance = mu.var(axis=0)
    bars: Arrays = {
        "windows, patients": (n, len(np.unique(patients))),
        "mean abs r (null), train": (*rounded(all_windows.mean_abs_r, null.mean_abs_r, known_redundancy.mean_abs_r),),
        "mean abs r, one per patient": rounded(
            one_each.mean_abs_r, null_redundancy(len(np.unique(patients)), k).mean_abs_r
        ),
        "participation ratio (null), train": rounded(
            all_windows.participation_ratio, null.participation_ratio, known_redundancy.participation_ratio
        ),
        "share of the crop flag": rounded(flag_share(mu, crop)),
        "best split (null)": rounded(best_split_share(mu), split_null(n, k, draws=10)),
        "dimensions of mean ICC >= 0.95, crops": int((mean_icc >= 0.95).sum()),
        "dimensions of mean ICC >= 0.90, crops": int((mean_icc >= 0.90).sum()),
        "median ICC by change, crops": {name: round(float(np.median(one)), 3) for name, one in icc.items()},
        "identity, mean / worst": rounded(
            np.mean([one.mean() for one in found.values()]), min(one.mean() for one in found.values())
        ),
        "identity by change": {name: f"{int(one.sum())}/{one.size}" for name, one in found.items()},
        "variance 0.5 to 2": int(((variance >= 0.5) & (variance <= 2)).sum()),
        "aggregate KL (null)": rounded(
            aggregate_kl(mu, sigma), aggregate_kl_null(n, k, variance=np.minimum(np.square(sigma).mean(axis=0), 1))
        ),
        "sigma squared, mean by dimension": rounded(*np.quantile(np.square(sigma).mean(axis=0), (0, 0.5, 1))),
    }
    components = principal_components(known["windows"], rival_length(k))
    return bars | probes(vae, seen, known, mu, gallery) | reconstruction(vae, seen, mu, components)


def probes(vae: Any, seen: Arrays, known: Arrays, mu: np.ndarray, gallery: np.ndarray) -> Arrays:
    """Max(R², 0), mean over probes and over the seeds of the folds: ours and the rivals'."""
    windows = np.concatenate([known["windows"], seen[f"change {ORIGINAL}"]])
    patients = np.concatenate([known["patient"], seen["patient"]])
    scored = np.arange(len(patients)) >= len(known["patient"])
    names = [name for name in seen if name.startswith("target ")]
    targets = {name.removeprefix("target "): np.concatenate([known[name], seen[name]]) for name in names}
    rivals = describing(known["windows"], vae, rival_length(mu.shape[1]))(windows)
    scores = score_features({"mu": np.concatenate([gallery, mu])} | rivals, targets, patients, scored)
    found: Arrays = {f"probe score, {method}": round(score.value, 3) for method, score in scores.items()}
    for method in ("mu", "composition and components"):
        if method in scores:
            found[f"probes, {method}"] = {name: round(value, 2) for name, value in scores[method].by_probe.items()}
    return found


def reconstruction(vae: Any, seen: Arrays, mu: np.ndarray, components: PrincipalComponents) -> Arrays:
    """Mean absolute error in HU over all voxels, ours and that of as many principal components."""
    import torch

    windows = seen[f"change {ORIGINAL}"]
    with torch.inference_mode():
        made = np.concatenate([vae.decode(torch.from_numpy(one[None]).float()).numpy()[:, 0] for one in mu])
    rebuilt = components.rebuilt(windows)
    ours, theirs = (2000 * float(np.abs(np.clip(one, 0, 1) - windows).mean()) for one in (made, rebuilt))
    return {"reconstruction, HU (PCA, ratio)": (*rounded(ours, theirs), round(ours / theirs, 3))}


def encode(vae: Any, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mu, sigma), float64 (n, k) each."""
    import torch

    with torch.inference_mode():
        heads = [vae.encode(torch.from_numpy(one[None, None]).float()) for one in windows]
    mu, logvar = (np.concatenate([head[at].numpy() for head in heads]).astype(np.float64) for at in (0, 1))
    return mu, np.exp(0.5 * logvar)


def rounded(*values: float) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


if __name__ == "__main__":
    main()
