"""Compare the shipped bundle's features with the obvious alternatives, on the same windows and patients.

    python benchmarks/features.py train --root ../shared/ct [--minutes M] [--seeds 3] [--radiomics-python PATH]
    python benchmarks/features.py table [--json FILE] [--markdown FILE]

`train` makes what is missing in --folder, one file per method and seed; after an interruption it continues. `table`
needs no data. All networks of `train` get the same windows, training patients and minutes; the shipped bundle was
trained for longer and has its own row. PCA, whitening and the choice of a distance (Euclidean, cosine, whitened) use
training patients only, from whom the probes learn too; all figures are of the list's test patients. Intervals are over
bootstrap samples of patients, over all seeds of a method together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.research.data.changed_windows import ORIGINAL, see_scan  # noqa: E402
from app.research.data.find_scans import find_scans  # noqa: E402
from app.research.data.window_cache import cached_windows, with_margin  # noqa: E402
from app.research.train.recipe import load_recipe, make_plan  # noqa: E402
from models.bundle.store import load_bundle  # noqa: E402
from models.statistics.identity import METRICS, found_again, non_overlapping, whiten  # noqa: E402
from models.statistics.patients import mean_interval  # noqa: E402
from models.statistics.probes import mean_score, ridge_probes, score_difference  # noqa: E402
from models.statistics.repeatability import repeatability  # noqa: E402
from models.statistics.units import ACTIVE_VARIANCE  # noqa: E402
from operators.measure.quantities import QUANTITIES, window_quantities  # noqa: E402

RECIPE, LIST = (
    ROOT / "app" / "research" / "shipped" / "ct_vae.yaml",
    ROOT / "app" / "research" / "shipped" / "ct_vae.csv",
)
SHIPPED = ROOT / "models" / "ct_vae"
OURS, PCA, UNTRAINED, TEXTURE = "this recipe", "PCA", "untrained encoder", "pyradiomics"
QUESTION = {"question, linear heads": "linear", "question, ReLU heads": "relu"}
LINEAR = ("mean_hu", "body_area_cm2", "height_in_scan")
R2_MARGIN, ICC_MARGIN, COMPARABLE = 0.15, 0.02, 0.1

Arrays = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct", help="of the list's paths")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "features", help="of what is made")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, each network and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--radiomics-python", type=Path, help="a Python that has pyradiomics")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == "train":
        make_all(args)
    else:
        show(args)


# What is made: windows, then the features of each method and seed.


def make_all(args: argparse.Namespace) -> None:
    plan = make_plan(load_recipe(RECIPE), training={}, data={"root": str(args.root)})
    windows = see_all(args, plan.preprocessing)
    changed = changes_of(windows)

    def make(name: str, seed: int, encoder: Callable[[], Callable[[np.ndarray], np.ndarray]]) -> None:
        file = args.folder / f"{name.replace(' ', '_').replace(',', '')}-{seed}.npz"
        if not file.exists():
            print(f"{name}, seed {seed}", flush=True)
            encode = encoder()
            save(file, {change: encode(windows[change]) for change in changed})

    if (args.bundle / "configs" / "metadata.json").is_file():
        make("shipped", 0, lambda: shipped(args.bundle, plan.preprocessing))
    make(PCA, 0, lambda: principal(args, plan))
    for seed in range(args.seeds):
        make(UNTRAINED, seed, lambda seed=seed: trained(args, plan, seed, {}, steps=0))
        make(OURS, seed, lambda seed=seed: trained(args, plan, seed, {}))
        for name, heads in QUESTION.items():
            make(name, seed, lambda seed=seed, heads=heads: trained(args, plan, seed, {"heads": heads}))
    if args.radiomics_python:
        make(TEXTURE, 0, lambda: radiomics(args.radiomics_python, windows["spacing_mm"]))


def see_all(args: argparse.Namespace, preprocessing) -> Arrays:
    """Windows of test and training patients, as they are and changed, with all that is measured on them."""
    file = args.folder / f"windows-{preprocessing.digest()[:12]}.npz"
    if file.exists():
        return dict(np.load(file, allow_pickle=False))
    columns: dict[str, list] = {}
    for scan in find_scans(LIST, args.root):
        if scan.split in ("calibration", "reference"):
            continue
        seen = see_scan(scan, preprocessing, cache=args.cache)
        low, high = preprocessing.window_hu
        hu = low + seen.voxels[ORIGINAL][:, 0].astype(np.float64) * (high - low)
        measured = [window_quantities(window, seen.spacing_mm) for window in hu]
        row = {change: voxels[:, 0].astype(np.float16) for change, voxels in seen.voxels.items()}
        row |= {f"target {name}": np.array([one[name] for one in measured]) for name in QUANTITIES}
        row |= {"target height_in_scan": seen.height, "low_mm": seen.low_mm, "high_mm": seen.high_mm}
        row |= {"patient": np.full(len(hu), scan.patient), "test": np.full(len(hu), scan.split == "test")}
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
        print(f"{scan.split}: {len(hu)} windows", flush=True)
    found = {name: np.concatenate(values) for name, values in columns.items()}
    found["spacing_mm"] = np.array(preprocessing.spacing_mm)
    save(file, found)
    save(args.folder / "about.npz", {name: values for name, values in found.items() if values.ndim == 1})
    return found


def changes_of(windows: Arrays) -> list[str]:
    return [name for name, values in windows.items() if values.ndim == 4]


def training_windows(args: argparse.Namespace, plan) -> list[np.ndarray]:
    scans = [scan for scan in find_scans(LIST, args.root) if scan.split == "train"]
    return [cached_windows(scan, with_margin(plan.preprocessing), args.cache).voxels for scan in scans]


def trained(args: argparse.Namespace, plan, seed: int, question: dict, steps: int | None = None):
    """A network after its minutes: the recipe, or the question's with what training it has by default."""
    import torch

    from models.networks.registry import build_vae
    from models.training.settings import TrainingSettings
    from models.training.train import train

    size = {"window_voxels": list(plan.preprocessing.window_voxels)}
    if question:
        settings = TrainingSettings("question", size | question, seed=seed, minutes=args.minutes)
    else:
        parameters = dict(plan.training.parameters) | size
        settings = replace(plan.training, parameters=parameters, seed=seed, minutes=args.minutes, steps=None)
    if steps == 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae = build_vae(settings.architecture, settings.parameters).eval()
    else:
        done = train(training_windows(args, plan), settings)
        print(f"  {done.steps} steps", flush=True)
        vae = done.vae

    def encode(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([vae.encode(torch.from_numpy(one[None, None]).float())[0].numpy() for one in windows])

    return encode


def shipped(path: Path, preprocessing):
    from models.runtime import open_encoder

    bundle = load_bundle(path)
    if bundle.preprocessing.digest() != preprocessing.digest():
        raise SystemExit("the bundle has another preprocessing than the recipe: train it anew")
    encoder = open_encoder(bundle, "cpu")
    return lambda windows: encoder.run(windows[:, None].astype(np.float32), ("mu",))["mu"]


def principal(args: argparse.Namespace, plan):
    """As many components as the network has latents, of all training windows, their margins cut off."""
    inner = plan.preprocessing.window_voxels
    cut = []
    for voxels in training_windows(args, plan):
        edges = [(have - want) // 2 for have, want in zip(voxels.shape[1:], inner, strict=True)]
        where = tuple(slice(edge, edge + want) for edge, want in zip(edges, inner, strict=True))
        cut.append(voxels[(slice(None), *where)].reshape(len(voxels), -1).astype(np.float32))
    x = np.concatenate(cut)
    centre = x.mean(axis=0)
    components = np.linalg.svd(x - centre, full_matrices=False)[2][: latents(plan)]
    return lambda windows: (windows.reshape(len(windows), -1).astype(np.float32) - centre) @ components.T


def latents(plan) -> int:
    from models.networks.registry import all_parameters

    return int(all_parameters("ct_vae", plan.training.parameters)["latents"])


_RADIOMICS = """
import sys, logging, numpy as np, SimpleITK as sitk
from radiomics import featureextractor
logging.getLogger("radiomics").setLevel(logging.ERROR)
given = np.load(sys.argv[1]); z, y, x = given["spacing_mm"]
extractor = featureextractor.RadiomicsFeatureExtractor(binWidth=25)
extractor.disableAllFeatures()
for name in ("firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm"):
    extractor.enableFeatureClassByName(name)
rows = []
for hu, body in zip(given["hu"], given["body"]):
    image, mask = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(body.astype("uint8"))
    for one in (image, mask):
        one.SetSpacing((float(x), float(y), float(z)))
    found = extractor.execute(image, mask)
    rows.append([float(found[k]) for k in sorted(found) if k.startswith("original_")])
np.save(sys.argv[2], np.array(rows))
"""


def radiomics(python: Path, spacing_mm: np.ndarray):
    """First-order and texture features of the body in each window, by another Python."""
    from models.statistics.body import body_mask

    def encode(windows: np.ndarray) -> np.ndarray:
        hu = -1000 + 2000 * windows.astype(np.float64)
        body = np.stack([body_mask(one) for one in hu])
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder, "given.npz"), Path(folder, "found.npy")
            np.savez(given, hu=hu.astype(np.float32), body=body, spacing_mm=spacing_mm)
            subprocess.run([str(python), "-c", _RADIOMICS, str(given), str(found)], check=True)
            return np.nan_to_num(np.load(found))

    return encode


def save(file: Path, arrays: Arrays) -> None:
    unfinished = file.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)
    unfinished.rename(file)


# What is shown.


def show(args: argparse.Namespace) -> None:
    about = dict(np.load(args.folder / "about.npz", allow_pickle=False))
    methods: dict[str, list[Arrays]] = {}
    for name in ("shipped", OURS, *QUESTION, PCA, UNTRAINED, TEXTURE):
        for file in sorted(args.folder.glob(f"{name.replace(' ', '_').replace(',', '')}-*.npz")):
            methods.setdefault(name, []).append(dict(np.load(file, allow_pickle=False)))
    measured = {
        name: [measure(features, about, name not in (PCA, TEXTURE)) for features in seeds]
        for name, seeds in methods.items()
    }
    first = next(iter(measured))
    rows = {name: row(name, measured, first, about) for name in measured}
    test = about["test"]
    head = {
        "windows": int(test.sum()),
        "patients": len(np.unique(about["patient"][test])),
        "gallery": len(non_overlapping(about["low_mm"], about["high_mm"], about["patient"])),
        "minutes": args.minutes,
    }
    text = markdown(head, rows)
    print(text)
    print("\n".join(verdicts(rows, first)))
    if args.json:
        args.json.write_text(json.dumps({**head, "methods": rows, "verdicts": verdicts(rows, first)}, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(text + "\n")


def measure(features: Arrays, about: Arrays, posterior: bool) -> dict:
    """Of one method and seed: probes, ICC by dimension, and which windows were found again under which change.

    Of a posterior mean, dead units count as 0 in the ICC.
    """
    test, patient = about["test"], about["patient"]
    targets = {name.removeprefix("target "): values for name, values in about.items() if name.startswith("target ")}
    changed = {name: values for name, values in features.items() if name != ORIGINAL}
    original = features[ORIGINAL]
    dead = ACTIVE_VARIANCE if posterior else 0.0
    pairs = {name: values[test] for name, values in changed.items()}
    repeats = repeatability(original[test], pairs, patient[test], resamples=0, dead_variance=dead)
    metric = max(METRICS, key=lambda metric: np.mean([hits.mean() for hits in again(features, about, metric, False)]))
    return {
        "probes": ridge_probes(original, targets, patient, scored=test),
        "icc": np.mean(list(repeats.icc.values()), axis=0),
        "by_change": {name: float(values.mean()) for name, values in repeats.icc.items()},
        "metric": metric,
        "hits": dict(zip(changed, again(features, about, metric, True), strict=True)),
        "length": original.shape[1],
    }


def again(features: Arrays, about: Arrays, metric: str, of_test: bool) -> list[np.ndarray]:
    """For each change, which windows find themselves; those of the other patients stand in the gallery beside them."""
    asked = about["test"] == of_test
    places = non_overlapping(about["low_mm"], about["high_mm"], about["patient"])
    here, others = places[asked[places]], places[~asked[places]]
    original = features[ORIGINAL]
    whitening = whiten(original[~about["test"]]) if metric == "whitened" else None
    return [
        found_again(original[here], values[here], distractors=original[others], metric=metric, whitening=whitening)
        for name, values in features.items()
        if name != ORIGINAL
    ]


def row(name: str, measured: dict, first: str, about: Arrays) -> dict:
    seeds, best = measured[name], measured[first]
    count = max(len(seeds), len(best))

    def joined(of: list[dict]) -> dict:
        """The probes of all seeds side by side; of a single one as often as there are of the other."""
        return {f"{target} {n}": of[n % len(of)]["probes"][target] for n in range(count) for target in of[0]["probes"]}

    places = non_overlapping(about["low_mm"], about["high_mm"], about["patient"])
    patients = about["patient"][places[about["test"][places]]]
    hits = {
        key: np.mean([np.mean(list(one["hits"].values()), axis=0) for one in of], axis=0)
        for key, of in (("own", seeds), ("best", best))
    }
    targets = list(seeds[0]["probes"])
    scores = {target: float(np.mean([one["probes"][target].score.value for one in seeds])) for target in targets}
    icc = np.concatenate([one["icc"] for one in seeds])
    changes = list(seeds[0]["hits"])
    return {
        "seeds": len(seeds),
        "length": seeds[0]["length"],
        "r2": list(mean_score(joined(seeds))),
        "r2_linear": float(np.mean([scores[target] for target in targets if target in LINEAR])),
        "r2_other": float(np.mean([scores[target] for target in targets if target not in LINEAR])),
        "r2_by_quantity": scores,
        "r2_behind": None if name == first else list(score_difference(joined(best), joined(seeds))),
        "identity": list(mean_interval(hits["own"], patients)),
        "identity_by_change": {c: float(np.mean([one["hits"][c].mean() for one in seeds])) for c in changes},
        "identity_behind": None if name == first else list(mean_interval(hits["best"] - hits["own"], patients)),
        "distance": [one["metric"] for one in seeds],
        "icc_mean": float(icc.mean()),
        "icc_median": float(np.median(icc)),
        "icc_by_change": {c: float(np.mean([one["by_change"][c] for one in seeds])) for c in changes},
    }


def markdown(head: dict, rows: dict) -> str:
    lines = [
        f"{head['windows']} windows of {head['patients']} test patients; {head['gallery']} windows in the gallery.",
        "",
        "| features | length | probe R² | linear / others | behind in R² | found: mean, worst | ICC: mean, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in rows.items():
        behind = "" if one["r2_behind"] is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*one["r2_behind"])
        lines.append(
            f"| {name}{' × ' + str(one['seeds']) if one['seeds'] > 1 else ''} | {one['length']} "
            f"| {one['r2'][0]:.2f} ({one['r2'][1]:.2f} to {one['r2'][2]:.2f}) "
            f"| {one['r2_linear']:.2f} / {one['r2_other']:.2f} | {behind} "
            f"| {one['identity'][0]:.3f}, {min(one['identity_by_change'].values()):.2f} "
            f"| {one['icc_mean']:.3f}, {one['icc_median']:.3f} |"
        )
    return "\n".join(lines)


def verdicts(rows: dict, first: str) -> list[str]:
    """Whether the bars are reached, a line each."""
    own, rivals = rows[first], {name: one for name, one in rows.items() if name not in (first, OURS)}
    said = []

    def bar(text: str, reached: bool) -> None:
        said.append(f"{'reached' if reached else 'MISSED '}  {text}")

    bar("first in mean probe R²", all(own["r2"][0] >= one["r2"][0] for one in rivals.values()))
    bar("first in identity", all(own["identity"][0] >= one["identity"][0] for one in rivals.values()))
    if PCA in rows and first != PCA:
        low, lowest = rows[PCA]["r2_behind"], rows[PCA]["identity_behind"]
        bar(f"R² above PCA by {low[0]:.3f} ({low[1]:.3f} to {low[2]:.3f}), interval above 0", low[1] > 0)
        bar(
            f"identity above PCA by {lowest[0]:.3f} ({lowest[1]:.3f} to {lowest[2]:.3f}), interval above 0",
            lowest[1] > 0,
        )
        bar(f"aim: R² above PCA by {R2_MARGIN}", low[0] >= R2_MARGIN)
    near = [
        one["icc_median"]
        for one in rows.values()
        if one["r2"][0] >= max(o["r2"][0] for o in rows.values()) - COMPARABLE
    ]
    bar(
        f"median ICC {own['icc_median']:.3f} within {ICC_MARGIN} of {max(near):.3f}",
        own["icc_median"] >= max(near) - ICC_MARGIN,
    )
    worst = min(own["identity_by_change"], key=own["identity_by_change"].get)
    bar(
        f"aim: identity ≥ 0.95 under every change (lowest {own['identity_by_change'][worst]:.3f}, {worst})",
        own["identity_by_change"][worst] >= 0.95,
    )
    bar(f"aim: mean ICC ≥ 0.99 ({own['icc_mean']:.4f})", own["icc_mean"] >= 0.99)
    return said


if __name__ == "__main__":
    main()
