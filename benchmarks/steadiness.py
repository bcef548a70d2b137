"""Choose the steadiness of the head of mu, and how many axes remain, by cross-validation over the training patients.

    python benchmarks/steadiness.py CHECKPOINT [--steadiness S ...] [--axes N ...] [--windows N]

CHECKPOINT is that of a finished training, before its last steps (`models.training.last_steps`). The head is solved for
five times, each without a fifth of the training patients, whose codes it then makes; those of the calibration patients
are made by the first. The axes are those of all training patients, each stretched to the same length, as a training
ends. Printed are the bars within the tumour crops, identity, the score of the probes beside that of the strongest
rival, and the mean absolute correlation of one window per patient over that of independent draws. The trunk has seen
all training patients: compare rows with each other.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import recipe_trials as trials
import torch

ROOT = Path(__file__).resolve().parents[1]

from app.research.certify.rivals import describing, rival_length, score_features  # noqa: E402
from app.research.data.changed_windows import ORIGINAL, see_scan  # noqa: E402
from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.data.phantoms import phantom_scans  # noqa: E402
from app.research.data.window_cache import cached_windows, with_margin  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan  # noqa: E402
from models.networks.registry import build_vae  # noqa: E402
from models.statistics.identity import found_again, non_overlapping  # noqa: E402
from models.statistics.pca_whitening import learn_axes  # noqa: E402
from models.statistics.redundancy import null_redundancy, redundancy_by_patient  # noqa: E402
from models.statistics.repeatability import icc_a1  # noqa: E402
from models.statistics.rivals import principal_components  # noqa: E402
from models.training.checkpoint import load_checkpoint  # noqa: E402
from models.training.settings import TrainingSettings  # noqa: E402
from models.training.steady import solved  # noqa: E402
from models.training.whitening import drawn_views, scans_drawn  # noqa: E402

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steadiness", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--axes", type=int, nargs="+", default=[12, 14, 16, 18, 20, 24, 32])
    parser.add_argument("--windows", type=int, default=3072)
    parser.add_argument("--recipe", type=Path, default=trials.SHIPPED / "ct_vae.yaml")
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    args = parser.parse_args()
    plan = make_plan(load_recipe(args.recipe), training={}, data={})
    vae, settings = trained(args.checkpoint)
    scans = find_scans(trials.SHIPPED / "ct_vae.csv", args.root)
    learned = trials.readable([scan for scan in scans if scan.split == "train"], plan, args.cache)
    seen = see_all(vae, [*learned, *(scan for scan in scans if scan.split == "calibration")], plan, args.cache)
    with_phantoms = [*learned, *phantom_scans(plan.data.phantoms, plan.data.seed)]
    margin = with_margin(plan.preprocessing)
    windows = [np.asarray(cached_windows(scan, margin, args.cache).voxels) for scan in with_phantoms]
    patients = np.array([scan.patient for scan in with_phantoms])
    read, of_scan = drawn(vae, windows, settings, args.windows)
    print(f"strongest rival: probes {rival(vae, seen):.3f}")
    for steadiness in args.steadiness:
        for axes in args.axes:
            codes = held_out(vae, read, patients[of_scan], seen, steadiness, axes)
            print(f"steadiness {steadiness:g}, axes {axes}: {bars(codes, seen)}", flush=True)


def trained(path: Path) -> tuple[Any, TrainingSettings]:
    """The network of a finished training, with the averaged weights, and its settings."""
    tensors, state = load_checkpoint(path)
    settings = TrainingSettings(**state["settings"])
    vae = build_vae(settings.architecture, settings.parameters).eval()
    kept = {name.removeprefix("average/"): tensor for name, tensor in tensors.items() if name.startswith("average/")}
    vae.load_state_dict(kept)
    return vae, settings


@torch.inference_mode()
def see_all(vae: Any, scans: list[Any], plan: Any, cache: Path) -> dict[str, Any]:
    """What the heads read of each window under each change, and what is needed to judge the codes."""
    columns: dict[str, list[Any]] = {}
    for scan in scans:
        seen = see_scan(scan, plan.preprocessing, cache=cache)
        row: dict[str, Any] = {
            f"read {name}": np.concatenate([vae.trunk(torch.from_numpy(one[None])).numpy() for one in voxels])
            for name, voxels in seen.voxels.items()
        }
        original = seen.voxels[ORIGINAL][:, 0]
        row |= trials.targets_of(original, plan)
        n = len(original)
        row |= {"windows": original, "low_mm": seen.low_mm, "high_mm": seen.high_mm}
        row |= {"patient": np.full(n, scan.patient), "learned": np.full(n, scan.split == "train")}
        row["crop"] = np.full(n, "cropped around the tumour" in scan.source)
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


@torch.inference_mode()
def drawn(vae: Any, windows: list[Any], settings: TrainingSettings, count: int) -> tuple[torch.Tensor, Any]:
    """What the heads read of two views of drawn windows, and the scan of each."""
    untiled = replace(settings, tile=0.0)
    views = drawn_views(vae, windows, untiled, count)
    read = torch.cat([vae.trunk(seen).reshape(2, len(target), -1) for seen, target in views], 1)
    return read.double(), scans_drawn(vae, windows, untiled, count)


def held_out(
    vae: Any, read: torch.Tensor, patients: Any, seen: dict[str, Any], steadiness: float, count: int
) -> dict[str, np.ndarray]:
    """mu of every window under each change, of training patients by the head that was solved for without them."""
    wanted = vae.mu(read[0].float()).double().detach()
    learned = np.unique(seen["patient"][seen["learned"]])
    weight, bias = solved(read, wanted, steadiness)
    made = (read[0] @ weight.T + bias).numpy()[np.isin(patients, learned)]
    axes = learn_axes(made, np.zeros_like(made), shrinkage=0.0, count=count)
    order = np.random.default_rng(1).permutation(learned)
    fold = {patient: number % FOLDS for number, patient in enumerate(order)}
    of_window = np.array([fold.get(one, 0) for one in seen["patient"]])
    codes = {name.removeprefix("read "): np.zeros((len(of_window), count)) for name in seen if "read " in name}
    for number in range(FOLDS):
        rows = torch.from_numpy(np.array([fold.get(one, -1) != number for one in patients]))
        weight, bias = (part.numpy() for part in solved(read[:, rows], wanted[rows], steadiness))
        here = of_window == number
        for name, code in codes.items():
            code[here] = axes.of_mu(seen[f"read {name}"][here] @ weight.T + bias)
    return codes


def bars(codes: dict[str, np.ndarray], seen: dict[str, Any]) -> str:
    mu, crop = codes[ORIGINAL], seen["crop"]
    changed = {name: code for name, code in codes.items() if name != ORIGINAL}
    icc = {name: icc_a1(np.stack([mu[crop], code[crop]], axis=1)) for name, code in changed.items()}
    steady = int((np.mean(list(icc.values()), axis=0) >= 0.95).sum())
    places = non_overlapping(seen["low_mm"], seen["high_mm"], seen["patient"])
    found = [found_again(mu[places], code[places]).mean() for code in changed.values()]
    crop_icc, patients = float(np.median(icc["field_of_view"])), seen["patient"]
    null = null_redundancy(len(np.unique(patients)), mu.shape[1])
    alike = redundancy_by_patient(mu, patients).mean_abs_r / null.mean_abs_r
    return (
        f"steady dimensions {steady}  crop {crop_icc:.3f}  identity {np.mean(found):.3f}, {min(found):.2f}  "
        f"probes {probes(mu, seen):.3f}  alike {alike:.2f}"
    )


def probes(features: np.ndarray, seen: dict[str, Any]) -> float:
    targets = {name.removeprefix("target "): values for name, values in seen.items() if name.startswith("target ")}
    scores = score_features({"mu": features}, targets, seen["patient"], np.ones(len(features), bool))
    assert scores is not None
    return scores["mu"].value


def rival(vae: Any, seen: dict[str, Any]) -> float:
    """Composition, filled up with principal components of the training windows."""
    length = rival_length(vae.mu.out_features)
    components = principal_components(seen["windows"][seen["learned"]], length)
    described = describing(components, vae, length)(seen["windows"])
    return probes(described["composition and components"], seen)


if __name__ == "__main__":
    main()
