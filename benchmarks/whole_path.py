"""Time one native series from files to the SR on the disk in a warm process: ours, and the SDK with MONAI and torch.

    python benchmarks/whole_path.py [--runs N] [--shape D H W] [--json FILE]

Ours: headers, gate, decoding combined with preprocessing, ONNX Runtime, the record, JSON and SR, fsynced. Theirs: the
SDK's loader, selector and volume operators, then Orientation, Spacing, ResizeWithPadOrCrop and ScaleIntensityRange to
the same windows, then the same network in torch eager, then a TID 1500 report of mu and sigma by highdicom, which is
given the whole data sets and written with fsync. Both use the shipped bundle, each in its own process, interleaved.
Times are medians, with the stages of each; "processor" is the time of all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from race import race

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
STAGES = ("headers", "select", "gate", "decode and preprocess", "encode", "record", "JSON and SR, on the disk")
THEIR_STAGES = ("SDK operators", "transforms", "encode", "SR", "on the disk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(CONTENDERS[args.contender](), args.folder)
        return
    from reading import SYNTAXES, write_series

    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), args.shape, SYNTAXES["native"])
        own = [sys.executable, "-W", "ignore", __file__, "--folder"]
        measured = race({name: [*own, Path(folder, "ct"), "--contender", name] for name in CONTENDERS}, args.runs + 1)
    report(measured, args)


def contend(run, folder: Path) -> None:
    out, sys.stdout = sys.stdout, sys.stderr
    for _ in sys.stdin:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter(), time.process_time()
            with tempfile.TemporaryDirectory() as target:
                mu, stages = run(folder, Path(target))
                seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
        line = {"seconds": seconds, "processor": processor, "stages": stages}
        line["mu"] = np.asarray(mu, np.float64).mean(axis=0).tolist()
        print(json.dumps(line), file=out, flush=True)


def ours():
    from models.bundle.store import find_bundle, load_bundle
    from models.runtime import open_encoder
    from operators.build_volume import build_volume
    from operators.encode import encode
    from operators.make_record import NOTHING_DISCLOSED, make_record
    from operators.preprocess import preprocess
    from operators.read_study import read_studies
    from operators.series.ct_images import keep_ct_images
    from operators.write_features import write_features

    bundle = load_bundle(find_bundle())
    encoder = open_encoder(bundle, "cpu")

    def run(folder, target):
        clock = [time.perf_counter()]
        (study,) = read_studies(folder).studies
        clock.append(time.perf_counter())
        series = keep_ct_images(study.series[0])
        clock.append(time.perf_counter())
        volume = build_volume(series)
        clock.append(time.perf_counter())
        windows = preprocess(volume, bundle.preprocessing)
        clock.append(time.perf_counter())
        encoding = encode(windows, encoder, bundle)
        clock.append(time.perf_counter())
        record = make_record(encoding, bundle, NOTHING_DISCLOSED)
        clock.append(time.perf_counter())
        write_features(record, target)
        clock.append(time.perf_counter())
        return encoding.taps["mu"].windows, dict(zip(STAGES, np.diff(clock).tolist(), strict=True))

    return run


def theirs():
    to_mu, bundle = theirs_to_mu()

    def run(folder, target):
        clock = [time.perf_counter()]
        mu, sigma = to_mu(folder, clock)
        report = plain_report(folder, mu.mean(axis=0), sigma.mean(axis=0), bundle.weights_sha256)
        clock.append(time.perf_counter())
        with (target / "features.sr.dcm").open("wb") as file:
            report.save_as(file)
            file.flush()
            os.fsync(file.fileno())
        clock.append(time.perf_counter())
        return mu, dict(zip(THEIR_STAGES, np.diff(clock).tolist(), strict=True))

    return run


def theirs_to_mu():
    """From a folder to mu and sigma of each window, with the time after each stage appended to a clock; the bundle."""
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Compose, EnsureChannelFirst, Orientation, ScaleIntensityRange, Spacing
    from monai.transforms import ResizeWithPadOrCrop as PadOrCrop
    from reading import sdk_image

    from models.bundle.store import find_bundle, load_bundle
    from models.runtime import load_vae
    from models.statistics.body import patient_mask
    from operators.geometry.windows import window_starts

    bundle = load_bundle(find_bundle())
    settings, vae = bundle.preprocessing, load_vae(bundle)
    torch.set_num_threads(os.cpu_count() or 1)
    depth, height, width = settings.window_voxels
    resample = Compose(
        [
            EnsureChannelFirst(channel_dim="no_channel"),
            Orientation(axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacing(settings.spacing_mm, mode="bilinear"),
        ]
    )
    scale = ScaleIntensityRange(*settings.window_hu, 0.0, 1.0, clip=True)

    def run(folder, clock):
        image = sdk_image(folder)
        clock.append(time.perf_counter())
        affine = np.asarray(image.metadata()["nifti_affine_transform"])
        voxels = MetaTensor(torch.from_numpy(image.asnumpy().transpose(2, 1, 0).copy()), affine=affine)
        canvas = resample(voxels)
        canvas = PadOrCrop((max(depth, canvas.shape[1]), height, width), value=settings.window_hu[0])(canvas)
        if settings.outside == "air":
            canvas[0][torch.from_numpy(~patient_mask(canvas[0].numpy(), settings.spacing_mm))] = settings.window_hu[0]
        canvas = scale(canvas).float()
        clock.append(time.perf_counter())
        starts = window_starts(canvas.shape[1], depth, settings.overlap)
        with torch.inference_mode():
            posteriors = [vae.encode(canvas[None, :, start : start + depth].as_tensor()) for start in starts]
        mu, log_variance = (torch.cat(part).numpy() for part in zip(*posteriors, strict=True))
        clock.append(time.perf_counter())
        return mu, np.exp(log_variance / 2)

    return run, bundle


def plain_report(folder, mu, sigma, weights):
    """TID 1500 with a measurement per dimension, as highdicom's documentation has it, given the images with pixels."""
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    images = [dcmread(path) for path in sorted(folder.iterdir())]
    unit = codes.UCUM.NoUnits
    numbers = [
        hd.sr.Measurement(
            hd.sr.CodedConcept(f"VAE-{kind}-{k:03d}", "99CTVAE", f"VAE latent {k} {kind}"), float(v), unit
        )
        for kind, values in (("mu", mu), ("sigma", sigma))
        for k, v in enumerate(values)
    ]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), "windows of the series"),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(image) for image in images],
        algorithm_id=hd.sr.AlgorithmIdentification("ct_vae", "0.2.0", [f"weights_sha256={weights}"]),
        measurements=numbers,
    )
    device = hd.sr.ObserverContext(
        codes.DCM.Device, hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name="ctvae")
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    return hd.sr.Comprehensive3DSR(
        evidence=images,
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=9901,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="ctvae",
        is_complete=True,
        is_verified=False,
    )


CONTENDERS = {"ours": ours, "theirs": theirs}


def report(measured, args) -> None:
    median = {name: statistics.median(run["seconds"] for run in runs[1:]) for name, runs in measured.items()}
    stages = {
        name: {stage: statistics.median(run["stages"][stage] for run in runs[1:]) for stage in runs[0]["stages"]}
        for name, runs in measured.items()
    }
    apart = np.abs(np.subtract(measured["ours"][0]["mu"], measured["theirs"][0]["mu"])).max()
    ratio = median["ours"] / median["theirs"]
    print(f"{tuple(args.shape)} native, {args.runs} runs, {os.cpu_count()} cores")
    print(f"ours {median['ours']:.3f} s, theirs {median['theirs']:.3f} s: ours ÷ theirs {ratio:.3f}")
    busy = {name: statistics.median(run["processor"] for run in runs[1:]) for name, runs in measured.items()}
    print(f"processor: {busy['ours']:.3f} s, {busy['theirs']:.3f} s: ours ÷ theirs {busy['ours'] / busy['theirs']:.3f}")
    print(
        f"largest difference of mu: {apart:.3f} (theirs samples, ours averages; the grids lie up to half a voxel apart)"
    )
    for name, parts in stages.items():
        print(name + ": " + ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in parts.items()))
    if args.json:
        about = {"shape": args.shape, "runs": args.runs, "cores": os.cpu_count(), "ratio": ratio}
        args.json.write_text(json.dumps({**about, "seconds": median, "stages": stages}, indent=2) + "\n")


if __name__ == "__main__":
    main()
