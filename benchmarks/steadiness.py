"""Choose the steadiness of the head of mu, and how many axes remain, by cross-validation over the training patients.

    python benchmarks/steadiness.py CHECKPOINT [--steadiness S ...] [--axes N ...] [--steepness K ...] [--begin C,M …]

CHECKPOINT is that of a finished training, before its last steps (`models.training.last_steps`). Nine times the head is
solved for and the axes are learned without a third of the training patients, bent as a training ends, and the goals are
measured on that third: what they say of patients whom the head never saw. The probes learn from the other two thirds
and the calibration patients as well, as a certificate's do. Printed are the means, and the probes of the rivals on the
same thirds. `--steepness` is that of the bend (`models.networks.layers.Arcsinh`), 0 for none. With `--begin` the
head is not that of mu, but the components that the heads begin at, with these weights of composition and moments
(`models.training.settled`). The trunk has seen all training patients: what is made of it looks better here than on
others.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
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
from models.networks.layers import Arcsinh  # noqa: E402
from models.networks.registry import build_vae  # noqa: E402
from models.statistics.identity import found_again, non_overlapping  # noqa: E402
from models.statistics.pca_whitening import learn_axes  # noqa: E402
from models.statistics.redundancy import null_redundancy, redundancy_by_patient  # noqa: E402
from models.statistics.repeatability import icc_a1  # noqa: E402
from models.training.checkpoint import load_checkpoint  # noqa: E402
from models.training.settings import TrainingSettings  # noqa: E402
from models.training.settled import units_of  # noqa: E402
from models.training.steady import solved  # noqa: E402
from models.training.whitening import drawn_views, scans_drawn  # noqa: E402

THIRDS, DRAWS = 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steadiness", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--axes", type=int, nargs="+", default=[16, 20, 24, 28, 32])
    parser.add_argument("--steepness", type=float, nargs="+", default=[Arcsinh.STEEPNESS])
    parser.add_argument("--begin", nargs="+", default=[])
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
    left_out = splits(np.unique(seen["patient"][seen["learned"]]))
    scored = [np.isin(seen["patient"], list(out)) for out in left_out]
    for name, score in rivals(vae, seen, scored).items():
        print(f"{name}: probes {score:.3f}")
    mu = vae.mu(read[0].float()).double().detach()
    wanted = {f"begin {said}": components(vae, read[0], weights_of(said)) for said in args.begin} or {"mu": mu}
    of_patient = patients[of_scan]
    for (said, goal), steadiness, axes, steepness in product(
        wanted.items(), args.steadiness, args.axes, args.steepness
    ):
        each = [
            bars(codes_without(read, goal, of_patient, seen, out, steadiness, axes, steepness), seen, of)
            for out, of in zip(left_out, scored, strict=True)
        ]
        means = "  ".join(f"{name} {np.mean([one[name] for one in each]):.3f}" for name in each[0])
        print(f"{said}, steadiness {steadiness:g}, axes {axes}, steepness {steepness:g}: {means}", flush=True)


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


def splits(learned: Any) -> list[set[str]]:
    """The training patients left out, a third at a time, of each of `DRAWS` draws."""
    orders = (np.random.default_rng(10 + draw).permutation(learned) for draw in range(DRAWS))
    return [set(order[third::THIRDS]) for order in orders for third in range(THIRDS)]


def components(vae: Any, read: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """The principal components of what the heads read, as long as they are; as many as mu has values."""
    scaled = (read - read.mean(0)) / units_of(vae, read, *weights)
    _, vectors = torch.linalg.eigh(scaled.T @ scaled)
    return scaled @ vectors[:, -vae.mu.out_features :]


def weights_of(said: str) -> tuple[float, float]:
    composition, moments = map(float, said.split(","))
    return composition, moments


def codes_without(
    read: torch.Tensor,
    wanted: torch.Tensor,
    patients: Any,
    seen: dict[str, Any],
    out: set[str],
    steadiness: float,
    count: int,
    steepness: float,
) -> dict[str, np.ndarray]:
    """mu of every window under each change, by a head and axes that were learned without the patients `out`."""
    kept = ~np.isin(patients, list(out))
    rows = torch.from_numpy(kept)
    weight, bias = (part.numpy() for part in solved(read[:, rows], wanted[rows], steadiness))
    made = read[0].numpy()[kept & np.isin(patients, seen["patient"])] @ weight.T + bias  # no phantoms
    axes = learn_axes(made, np.zeros_like(made), shrinkage=0.0, count=count)
    codes = {name: axes.of_mu(one @ weight.T + bias) for name, one in readings(seen).items()}
    known = seen["learned"] & ~np.isin(seen["patient"], list(out))
    codes = in_units(codes, known)
    return in_units({name: np.arcsinh(steepness * one) for name, one in codes.items()}, known) if steepness else codes


def readings(seen: dict[str, Any]) -> dict[str, Any]:
    """What the heads read of every window under each change."""
    return {name.removeprefix("read "): one for name, one in seen.items() if name.startswith("read ")}


def in_units(codes: dict[str, np.ndarray], known: Any) -> dict[str, np.ndarray]:
    """The codes in units in which those known, as they are, have mean 0 and variance 1."""
    centre, scale = codes[ORIGINAL][known].mean(axis=0), codes[ORIGINAL][known].std(axis=0)
    return {name: (code - centre) / scale for name, code in codes.items()}


def bars(codes: dict[str, np.ndarray], seen: dict[str, Any], scored: Any) -> dict[str, float]:
    """The goals, on the windows that are scored."""
    mu, crop = codes[ORIGINAL][scored], scored & seen["crop"]
    icc = {
        name: icc_a1(np.stack([codes[ORIGINAL][crop], code[crop]], axis=1))
        for name, code in codes.items()
        if name != ORIGINAL
    }
    patients = seen["patient"][scored]
    found = [one.mean() for one in found_by_change(codes, seen, scored).values()]
    null = null_redundancy(len(np.unique(patients)), mu.shape[1])
    variance, correlation = mu.var(axis=0), np.corrcoef(mu.T)
    return {
        "steady": float((np.mean(list(icc.values()), axis=0) >= 0.95).mean() * mu.shape[1]),
        "crop": float(np.median(icc["field_of_view"])),
        "identity": float(np.mean(found)),
        "worst": float(min(found)),
        "probes": probes(codes[ORIGINAL], seen, scored),
        "alike": redundancy_by_patient(mu, patients).mean_abs_r / null.mean_abs_r,
        "r": float(np.abs(correlation[np.triu_indices_from(correlation, 1)]).mean()),
        "near unit variance": float(((variance >= 0.5) & (variance <= 2)).sum()),
    }


def found_by_change(codes: dict[str, np.ndarray], seen: dict[str, Any], scored: Any) -> dict[str, np.ndarray]:
    """Whether each window, of those scored that do not overlap, is the nearest to itself after each change."""
    low, high, patients = (seen[name][scored] for name in ("low_mm", "high_mm", "patient"))
    places = non_overlapping(low, high, patients)
    own = codes[ORIGINAL][scored][places]
    return {name: found_again(own, code[scored][places]) for name, code in codes.items() if name != ORIGINAL}


def probes(features: np.ndarray, seen: dict[str, Any], scored: Any) -> float:
    targets = {name.removeprefix("target "): values for name, values in seen.items() if name.startswith("target ")}
    scores = score_features({"mu": features}, targets, seen["patient"], scored)
    assert scores is not None
    return scores["mu"].value


def rivals(vae: Any, seen: dict[str, Any], out: list[Any]) -> dict[str, float]:
    """Probe score of each rival, learned from the training windows."""
    described = describing(seen["windows"][seen["learned"]], vae, rival_length(vae.mu.out_features))(seen["windows"])
    return {name: float(np.mean([probes(one, seen, scored) for scored in out])) for name, one in described.items()}


if __name__ == "__main__":
    main()
