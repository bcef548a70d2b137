"""Measure time and memory of reading a CT series into int16 HU: ours and the other readers.

    python benchmarks/reading.py [--runs N] [--shape D H W] [--syntax NAME …] [--json FILE]

A phantom series is written once per transfer syntax. Each contender is a separate warm process, with the files in the
page cache; runs are interleaved, times are medians, memory is the peak of the first run above that of the process with
its imports. Each result is compared with the voxels that were written: `same` says whether HU and order are right.

`floor` is the least possible: for native files their bytes, one `np.frombuffer` and one addition, in one thread; for
compressed files the bare decoder on the same codestreams, with two threads. Readers that are not installed are left
out; `pip install dicomsdl==0.109.4 dcm2niix==1.0.20260724` installs dicomsdl and dcm2niix.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from race import race

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SYNTAXES = {
    "native": "1.2.840.10008.1.2.1",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-lossless": "1.2.840.10008.1.2.4.57",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
IN_HU = -1024  # the intercept of unsigned series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--syntax", choices=SYNTAXES, nargs="+", default=list(SYNTAXES))
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.folder)
        return
    results = {}
    for syntax in args.syntax:
        with tempfile.TemporaryDirectory() as folder:
            truth = write_series(Path(folder), args.shape, SYNTAXES[syntax])
            results[syntax] = report(syntax, read_by_all(Path(folder), args), truth, args)
    if args.json:
        about = {"shape": args.shape, "runs": args.runs, "cores": os.cpu_count()}
        args.json.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


def write_series(folder: Path, shape, syntax: str):
    """A phantom of this shape as CT files; what its voxels are known by."""
    from models.phantom import PhantomFactors, phantom_slices
    from operators.synthetic.write_ct import CtOptions, affine_for, write_ct_series

    spacing_mm = (300 / shape[0], 360 / shape[1], 360 / shape[2])
    hu = np.stack(list(phantom_slices(PhantomFactors(), shape, spacing_mm)))
    write_ct_series(hu, affine_for(shape, spacing_mm), folder / "ct", CtOptions(transfer_syntax=syntax, signed=False))
    return fingerprint(hu)


def fingerprint(hu):
    """Sums that tell apart other values and another order of slices."""
    sums = hu.reshape(len(hu), -1).sum(axis=1, dtype=np.int64)
    return [int(sums.sum()), int((sums * np.arange(1, len(hu) + 1)).sum())]


def read_by_all(folder: Path, args):
    """What each contender that is installed said of its runs; one that cannot read these files drops out."""
    own = [sys.executable, "-W", "ignore", __file__, "--folder", folder / "ct", "--contender"]
    return race({name: [*own, name] for name in args.only if available(name)}, args.runs + 1, may_fail=True)


def available(name: str) -> bool:
    module = {"dicomsdl": "dicomsdl", "simpleitk": "SimpleITK"}.get(name)
    if name == "dcm2niix":
        return (Path(sys.executable).parent / "dcm2niix").exists()
    return module is None or find_spec(module) is not None


def contend(name: str, folder: Path) -> None:
    """One contender: imports and a small run first, then a run for each line that is read."""
    run, out = CONTENDERS[name], sys.stdout
    sys.stdout = sys.stderr
    prepared = PREPARE.get(name, lambda folder: folder)(folder)
    if name != "dcm2niix":
        run_quietly(run, prepared)
    for _ in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mib()
        start = time.perf_counter()
        result = run_quietly(run, prepared)
        seconds = time.perf_counter() - start
        peak = peak_mib() - before
        print(
            json.dumps({"seconds": seconds, "peak_mib": peak, "sums": fingerprint(np.asarray(result))}),
            file=out,
            flush=True,
        )
        del result


def run_quietly(run, prepared):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(prepared)


def peak_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def ours(folder):
    from operators.build_volume import build_volume
    from operators.read_study import read_studies
    from operators.series.ct_images import keep_ct_images

    (study,) = read_studies(folder).studies
    return build_volume(keep_ct_images(study.series[0])).voxels()


def list_codestreams(folder):
    """For the floor: where the pixels of each file begin, in the order of the slices."""
    from operators.build_volume import build_volume
    from operators.read_study import read_studies

    (study,) = read_studies(folder).studies
    series = study.series[0]
    build_volume(series)
    ordered = sorted(series.instances, key=lambda one: float(one.header.ImagePositionPatient[2]))
    syntax = str(ordered[0].header.file_meta.TransferSyntaxUID)
    places = [(one.path, one.pixels and one.pixels.offset) for one in ordered]
    return (
        syntax,
        places,
        int(series.first.Rows),
        int(series.first.Columns),
    )


def floor(prepared):
    syntax, places, rows, columns = prepared
    volume = np.empty((len(places), rows, columns), np.int16)

    def native(d):
        path, offset = places[d]
        data = path.read_bytes()
        np.add(
            np.frombuffer(data, "<u2", rows * columns, offset + 12).reshape(rows, columns).view("<i2"),
            IN_HU,
            out=volume[d],
        )

    if syntax == SYNTAXES["native"]:
        for d in range(len(places)):
            native(d)
        return volume
    from concurrent.futures import ThreadPoolExecutor

    import imagecodecs

    decode = {
        "rle": lambda data: packbits(data, rows * columns),
        "jpeg-lossless": imagecodecs.jpeg8_decode,
        "jpeg-ls": imagecodecs.jpegls_decode,
        "jpeg2000": imagecodecs.jpeg2k_decode,
        "htj2k": imagecodecs.jpeg2k_decode,
    }[next(name for name, uid in SYNTAXES.items() if uid == syntax)]

    def compressed(d):
        path, offset = places[d]
        data = path.read_bytes()
        start = data.index(b"\xfe\xff\x00\xe0", offset + 20)  # the second item: the frame
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        decoded = np.asarray(decode(data[start + 8 : start + 8 + length])).reshape(rows, columns)
        np.add(decoded.view(np.int16), IN_HU, out=volume[d])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compressed, range(len(places))))
    return volume


def packbits(data, count):
    """DICOM's RLE of 16 bits: two segments of PackBits, the high bytes first (PS3.5 G)."""
    import imagecodecs

    _, high, low = struct.unpack_from("<3I", data)
    stored = np.empty((count, 2), np.uint8)
    for at, (start, end) in enumerate(((low, len(data)), (high, low))):
        stored[:, at] = np.frombuffer(imagecodecs.packbits_decode(data[start:end]), np.uint8, count)
    return stored.view("<u2")


def sdk(folder):
    return sdk_image(folder).asnumpy()


def sdk_image(folder):
    """What the SDK's loader, selector and volume operators make of a folder."""
    from monai.deploy.core import Fragment
    from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
    from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
    from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator

    fragment = Fragment()
    studies = DICOMDataLoaderOperator(fragment, name="load").load_data_to_studies(folder)
    chosen = DICOMSeriesSelectorOperator(fragment, name="select").filter(None, studies)
    return DICOMSeriesToVolumeOperator(fragment, name="convert").convert_to_image(chosen)


def simpleitk(folder):
    import SimpleITK as sitk  # noqa: N813  its own documentation calls it so

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def dicomsdl(folder):
    import dicomsdl as dicom

    slices = [dicom.open(str(path)) for path in folder.iterdir()]
    slices.sort(key=lambda one: one.getDataElement("ImagePositionPatient").value()[2])
    return np.stack([one.pixelData(storedvalue=False) for one in slices]).astype(np.int16)


def pydicom_loop(folder):
    from pydicom import dcmread

    slices = sorted((dcmread(path) for path in folder.iterdir()), key=lambda one: one.ImagePositionPatient[2])
    return np.stack([one.pixel_array.astype(np.int16) + np.int16(one.RescaleIntercept) for one in slices])


def dcm2niix(folder):
    import nibabel

    program = Path(sys.executable).parent / "dcm2niix"
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([program, "-z", "n", "-b", "n", "-f", "v", "-o", out, folder], check=True, capture_output=True)
        (path,) = Path(out).glob("*.nii")
        return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)[:, ::-1]


def monai(folder):
    from monai.transforms import LoadImage

    image = LoadImage(reader="PydicomReader", image_only=True, swap_ij=True)(str(folder))
    return image.numpy().transpose(2, 1, 0)


CONTENDERS = {
    "ours": ours,
    "floor": floor,
    "sdk": sdk,
    "simpleitk": simpleitk,
    "dicomsdl": dicomsdl,
    "pydicom": pydicom_loop,
    "dcm2niix": dcm2niix,
    "monai": monai,
}
PREPARE = {"floor": list_codestreams}


def report(syntax: str, measured, truth, args):
    volume_mib = np.prod(args.shape) * 2 / 2**20
    rows = {}
    for name, runs in measured.items():
        if len(runs) < 2:
            rows[name] = None
            continue
        rows[name] = {
            "seconds": statistics.median(run["seconds"] for run in runs[1:]),
            "peak_volumes": runs[0]["peak_mib"] / volume_mib,
            "same": runs[0]["sums"] == truth,
        }
    print(f"\n{syntax}: {tuple(args.shape)} int16 ({volume_mib:.0f} MiB), {args.runs} runs, {os.cpu_count()} cores")
    print(f"{'':12}{'seconds':>10}{'ours ÷':>10}{'peak, volumes':>16}{'same':>8}")
    for name, row in rows.items():
        if row is None:
            print(f"{name:12}{'cannot read it':>20}")
            continue
        row["ours_divided_by"] = rows["ours"]["seconds"] / row["seconds"] if rows.get("ours") else None
        ratio = f"{row['ours_divided_by']:10.3f}" if row["ours_divided_by"] else " " * 10
        print(f"{name:12}{row['seconds']:10.3f}{ratio}{row['peak_volumes']:16.2f}{'yes' if row['same'] else 'NO':>8}")
    return rows


if __name__ == "__main__":
    main()
