"""Train on a machine that has a GPU but neither the scans nor what reads them.

    python benchmarks/train_elsewhere.py pack windows.xz           where the scans are
    python benchmarks/train_elsewhere.py train windows.xz CHECKPOINT [--set KEY=VALUE ...]     where the GPU is

`pack` writes the windows that `ctvae train` would learn from and be calibrated by, with the recipe's settings, into one
file: images of patients as much as the scans are. `train` needs torch, lightning, numpy, scipy and safetensors. Put its
checkpoint beside the bundle to be, as NAME.checkpoint, and give `ctvae train` with `--resume` the same recipe: it
finds the training finished, measures it on the test patients and writes the bundle.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SHIPPED = ROOT / "app" / "research" / "shipped"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": 1 << 24}]
"""The windows of a scan overlap, so that a slice comes up to four times within some megabytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    act = parser.add_subparsers(required=True)
    packing = act.add_parser("pack")
    packing.set_defaults(act=pack)
    packing.add_argument("file", type=Path)
    packing.add_argument("--data", type=Path, default=SHIPPED / "ct_vae.csv")
    packing.add_argument("--recipe", type=Path, default=SHIPPED / "ct_vae.yaml")
    packing.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "ct")
    packing.add_argument("--cache", type=Path, default=ROOT / ".cache" / "windows")
    training = act.add_parser("train")
    training.set_defaults(act=train)
    training.add_argument("file", type=Path)
    training.add_argument("checkpoint", type=Path)
    training.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe's training")
    args = parser.parse_args()
    args.act(args)


def pack(args: argparse.Namespace) -> None:
    from app.research.train.recipe import load_recipe, make_plan
    from app.research.train.train import TrainingPaths, read_to_train

    plan = make_plan(load_recipe(args.recipe), training={}, data={})
    given = read_to_train(TrainingPaths(args.data, Path("packed"), args.root, args.cache), plan)
    calibration = [windows for scans in given.calibration.values() for windows in scans]
    about = {
        "settings": asdict(given.settings),
        "patients": given.patients,
        "learned": len(given.scans),
        "calibration": len(calibration),
    }
    with lzma.open(args.file, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as packed:
        packed.write(json.dumps(about).encode() + b"\n")
        for windows in (*given.scans, *calibration):
            np.save(cast(BinaryIO, packed), windows, allow_pickle=False)
    print(f"{about['learned']} scans of {given.patients} patients, {args.file.stat().st_size / 1e6:.1f} MB")


def train(args: argparse.Namespace) -> None:
    from models.training.settings import TrainingSettings
    from models.training.train import train as train_on

    with lzma.open(args.file) as packed:
        about = json.loads(packed.readline())
        windows = [
            np.load(cast(BinaryIO, packed), allow_pickle=False) for _ in range(about["learned"] + about["calibration"])
        ]
    changed = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in args.set)}
    changed["parameters"] = about["settings"]["parameters"] | changed.get("parameters", {})
    settings = replace(TrainingSettings(**about["settings"]), **changed)
    train_on(
        windows[: about["learned"]],
        settings,
        lambda at: print(f"{at.elapsed_s:5.0f} s  {at.line()}  pairs {at.invariance:.3f}", flush=True),
        report_every_s=10.0,
        calibration=windows[about["learned"] :],
        patients=about["patients"],
        checkpoint=args.checkpoint,
    )


if __name__ == "__main__":
    main()
