"""Broken input, drawn from a seed: whole and real files are changed, and what comes out is watched from outside.

`Worker` is a process of its own with a bound on memory, so that a crash of a decoder, a hang or a bomb is an entry in
the results and not the end of them. A case is known by (seed, index) alone, and can be run again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkout import ROOT

REAL = ROOT.parent / "shared" / "ct"
REAL_FILES = ("nema_wg04_ct", "panimg_toshiba4d_tinyheaders", "pydicom_data_singles", "cip_chest", "lidc_partial")
MAX_REAL_BYTES = 600_000

SECONDS = 20.0
"""Of processor time that a case may take; ten times that by the clock."""

MEMORY_MIB = 1024
"""Of memory that a case may take above the process with its imports; the address space ends at twice that."""

Files = dict[str, bytes]
Rng = np.random.Generator


# What is changed


def originals(scratch: Path, real: bool) -> dict[str, Files]:
    """Name → the files of one series, whole."""
    found = {name: _files(scratch / name) for name in _write_synthetic(scratch)}
    found |= {f"zip of {name}": {"a.zip": _zipped(found[name])} for name in ("explicit", "nifti gz")}
    if real:
        for top in REAL_FILES:
            folders: dict[Path, Files] = {}
            for path in sorted((REAL / top).rglob("*")):
                if path.is_file() and path.stat().st_size <= MAX_REAL_BYTES and path.suffix not in (".txt", ".xml"):
                    files = folders.setdefault(path.parent, {})
                    if len(files) < 5:
                        files[path.name] = path.read_bytes()
            found |= {f"real {folder.relative_to(REAL)}": files for folder, files in folders.items()}
    return found


def _write_synthetic(scratch: Path) -> Iterator[str]:
    import nibabel
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

    from operators.synthetic.write_ct import CtOptions, affine_for
    from operators.synthetic.write_enhanced_ct import write_enhanced_ct
    from tests.support.tiny_ct import CODECS, compress, stored_values, write_tiny_ct

    plain = {
        "explicit": "1.2.840.10008.1.2.1",
        "implicit": ImplicitVRLittleEndian,
        "big": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
    }
    for name, syntax in plain.items():
        write_tiny_ct(scratch / name, syntax=syntax)
        yield name
    for syntax in CODECS:
        write_tiny_ct(scratch / f"codec {syntax}", change=compress(syntax))
        yield f"codec {syntax}"
    hu, affine = stored_values(), affine_for((5, 6, 8), (2.0, 0.5, 0.75))
    for name, syntax in {**plain, "rle": "1.2.840.10008.1.2.5", "htj2k": "1.2.840.10008.1.2.4.201"}.items():
        write_enhanced_ct(hu, affine, scratch / f"enhanced {name}", CtOptions(transfer_syntax=syntax))
        yield f"enhanced {name}"
    (scratch / "nifti gz").mkdir()
    image = nibabel.Nifti1Image(hu.T, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, scratch / "nifti gz" / "a.nii.gz")
    yield "nifti gz"
    for name, text in {
        "nrrd": _nrrd("raw"),
        "nrrd gz": _nrrd("gzip"),
        "mha": _META % "False",
        "mhz": _META % "True",
    }.items():
        packed = {"nrrd gz": gzip.compress, "mhz": zlib.compress}.get(name, bytes)
        (scratch / name).mkdir()
        (scratch / name / f"a.{name[:4] if 'nrrd' in name else 'mha'}").write_bytes(
            text.encode() + packed(hu.tobytes())
        )
        yield name


def _nrrd(encoding: str) -> str:
    return (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 6 5\nencoding: {encoding}\n"
        "space directions: (0.75,0,0) (0,0.5,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
        "space origin: (1,2,3)\n\n"
    )


_META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = %s\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 0.75 0.5 2\nDimSize = 8 6 5\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


def _files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _zipped(files: Files) -> bytes:
    with io.BytesIO() as whole:
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(f"folder/{name}", data)
        return whole.getvalue()


# How it is changed


def mutated(files: Files, rng: Rng) -> Files:
    """The files of a series with one of them, or all, changed in one to three ways."""
    changed = dict(files)
    names = sorted(files)
    if rng.random() < 0.1:
        return _other_files(changed, rng)
    chosen = names if rng.random() < 0.2 else [names[rng.integers(len(names))]]
    ways = [WAYS[rng.integers(len(WAYS))] for _ in range(rng.integers(1, 4))]
    seed = int(rng.integers(1 << 32))
    for name in chosen:
        own = np.random.default_rng(seed)  # all files alike
        for way in ways:
            changed[name] = _within(way, changed[name], own)
    return changed


def _within(way: Callable[[bytes, Rng], bytes], data: bytes, rng: Rng) -> bytes:
    """Sometimes what is packed is changed inside."""
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        try:
            return gzip.compress(way(gzip.decompress(data), rng))
        except (OSError, EOFError, zlib.error):
            return data
    if data[:2] == b"PK" and rng.random() < 0.5:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                files = {one.filename.split("/")[-1]: archive.read(one) for one in archive.infolist()}
        except Exception:  # noqa: BLE001 — whatever zipfile makes of what was changed before
            return data
        name = sorted(files)[rng.integers(len(files))]
        return _zipped(files | {name: way(files[name], rng)})
    return way(data, rng)


def _other_files(files: Files, rng: Rng) -> Files:
    names = sorted(files)
    name, other = names[rng.integers(len(names))], names[rng.integers(len(names))]
    kind = rng.integers(4)
    if kind == 0:
        files["copy"] = files[name]
    elif kind == 1 and len(files) > 1:
        del files[name]
    elif kind == 2:
        files[name] = b""
    else:
        files[name] = files[other]
    return files


def _flip(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.integers(8)
    return bytes(changed)


def _place(data: bytes, rng: Rng) -> int:
    """Mostly where headers are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 2000)
    return int(rng.integers(max(1, end)))


def _truncate(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _zero(data: bytes, rng: Rng) -> bytes:
    at, length = _place(data, rng), int(rng.integers(1, 600))
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def _cut(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _repeat(data: bytes, rng: Rng) -> bytes:
    at, length = _place(data, rng), int(rng.integers(1, 600))
    return data[: at + length] + data[at : at + length] * int(rng.integers(1, 5)) + data[at + length :]


def _insert(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def _number(data: bytes, rng: Rng) -> bytes:
    """Two, four or eight bytes, such as a length, an offset or a size, become an odd number."""
    width, order = (2, 4, 8)[rng.integers(3)], "<>"[rng.integers(2)]
    value = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, -1)
    number = value[rng.integers(len(value))] % (1 << 8 * width)
    at = _place(data, rng) & ~1
    return data[:at] + struct.pack(order + {2: "H", 4: "I", 8: "Q"}[width], number) + data[at + width :]


_ALL_TAGS = bytes.fromhex(
    "00020010 00080016 00080018 00080060 0020000d 0020000e 00200013 00200032 00200037 00200052 00280002 00280004"
    "00280008 00280010 00280011 00280030 00280100 00280101 00280102 00280103 00280120 00281052 00281053 00281054"
    "00180050 52009229 52009230 7fe00001 7fe00010 fffee000 fffee00d fffee0dd"
)
_TAGS = [_ALL_TAGS[at : at + 4] for at in range(0, len(_ALL_TAGS), 4)]


def _element(data: bytes, rng: Rng) -> bytes:
    """An element of a header gets another tag, VR or length, is doubled, or lost."""
    tag = _TAGS[rng.integers(len(_TAGS))]
    little = tag[1::-1] + tag[:1:-1]
    places = [at for at in (data.find(little), data.find(tag)) if at > 0]
    if not places:
        return _number(data, rng)
    at, kind = places[0], rng.integers(5)
    length = int.from_bytes(data[at + 6 : at + 8], "little") % 512
    if kind == 0:
        other = _TAGS[rng.integers(len(_TAGS))]
        return data[:at] + other[1::-1] + other[:1:-1] + data[at + 4 :]
    if kind == 1:
        vrs = b"OBOWUNSQUTDSISUIUSULFDLOCSPNATXX\0\0"
        pick = 2 * int(rng.integers(len(vrs) // 2))
        return data[: at + 4] + vrs[pick : pick + 2] + data[at + 6 :]
    if kind == 2:
        at += (4, 6, 8)[rng.integers(3)]
        return data[:at] + rng.bytes(2) + data[at + 2 :]
    if kind == 3:
        return data[:at] + data[at : at + 8 + length] + data[at:]
    return data[:at] + data[at + 8 + length :]


_VALUES = (
    *(b"nan", b"inf", b"-1", b"0", b"1e999", b"1E-300", b"9" * 40, b"1\\2\\3", b"", b"abc", b"1,5", b"-0.0"),
    b"\xff\xfe\0",
)


def _value(data: bytes, rng: Rng) -> bytes:
    """A number in text becomes an odd one: of DS and IS, and in the headers of NRRD and MetaImage."""
    digits = [at for at in range(min(len(data), 4000)) if data[at : at + 1].isdigit()]
    if not digits:
        return _flip(data, rng)
    at = digits[rng.integers(len(digits))]
    end = at
    while data[end : end + 1] and data[end : end + 1] in b"0123456789.-e":
        end += 1
    value = _VALUES[rng.integers(len(_VALUES))]
    if data[128:132] == b"DICM":  # lengths stay
        value = value[: end - at].ljust(end - at)
    return data[:at] + value + data[end:]


def _nest(data: bytes, rng: Rng) -> bytes:
    """Sequences of undefined length in one another, or with very many elements, before an element."""
    at = data.find(b"\x28\0\x02\0")
    at = at if at > 0 else _place(data, rng)
    many = int(10 ** rng.uniform(0, 5))
    begin, item = (
        struct.pack("<HH2sHI", 0x20, 0x9222, b"SQ", 0, 0xFFFFFFFF),
        struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF),
    )
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    empty = struct.pack("<HH2sH", 0x20, 0x9222, b"LO", 0)
    what = (
        (begin + item) * many + ends * many,
        begin + item + empty * many + ends,
        empty * many,
        (begin + item) * many,
    )
    return data[:at] + what[rng.integers(len(what))] + data[at:]


def _bomb(data: bytes, rng: Rng) -> bytes:
    """A few kilobytes that unfold to many megabytes, where they are inflated."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(bytes(1 << 25)) + bomb.flush()
    if b"1.2.840.10008.1.2.1.99" in data:
        length = struct.unpack_from("<I", data, 140)[0] if len(data) > 144 else 0
        return data[: 144 + length] + packed
    return data + packed


def _rest(data: bytes, rng: Rng) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 2000)))


_ENDS = ("", ".1", ".2", ".5", ".1.99", ".4.70", ".4.80", ".4.90", ".4.201", ".4.50")
_UIDS = [f"1.2.840.10008.1.2{end}".encode() for end in _ENDS]


def _syntax(data: bytes, rng: Rng) -> bytes:
    at = data.find(b"\x02\0\x10\0UI")
    if at < 0:
        return _flip(data, rng)
    length = struct.unpack_from("<H", data.ljust(at + 8, b"\0"), at + 6)[0]
    return data[: at + 8] + _UIDS[rng.integers(len(_UIDS))][:length].ljust(length, b"\0") + data[at + 8 + length :]


WAYS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(_flip, _flip, _truncate, _zero, _cut, _repeat, _insert, _number, _number, _element, _element, _element),
    *(_value, _value, _nest, _bomb, _rest, _syntax),
)


# What comes out


def case(found: dict[str, Files], seed: int, index: int) -> tuple[str, Files]:
    """The name of the original and the files of one case."""
    rng = np.random.default_rng([seed, index])
    names = sorted(found)
    name = names[rng.integers(len(names))]
    return name, mutated(found[name], rng)


def come_out(folder: Path) -> list[str]:
    """What becomes of all series in a folder: `ok <digest>` for a volume, or the code of an error of ours.

    Everything else is raised, and is a defect.
    """
    from operators.build_volume import build_volume
    from operators.errors import SeriesError
    from operators.geometry.policy import NO_REPAIR, GeometryPolicy
    from operators.input.archives import unpacked
    from operators.read_study import read_studies
    from operators.series.ct_images import keep_ct_images

    repairs = GeometryPolicy(
        missing_slice="interpolate",
        irregular_spacing="resample",
        min_slices=2,
        missing_rescale="assume_hu",
        truncated_pixels="drop",
    )
    with unpacked(folder) as archives:
        reading = read_studies(folder, archives=archives)
        results = [outcome.reason or "?" for outcome in reading.unreadable]
        for series in (one for study in reading.studies for one in study.series):
            for policy in (NO_REPAIR, repairs):
                try:
                    volume = build_volume(keep_ct_images(series), policy)
                    digest = hashlib.sha256(volume.affine_lps_mm.tobytes())
                    for one in volume.slices():
                        digest.update(one.hu.tobytes())
                    results.append(f"ok {digest.hexdigest()[:12]}")
                    break
                except SeriesError as error:
                    results.append(error.reason)
            else:
                results += [_decoded(instance) for instance in series.instances if not series.image]
    return results


def _decoded(instance: Any) -> str:
    """What becomes of a slice, whatever is wrong with its series: decoders are tried more often so."""
    from operators.dicom.decode_slice import decode_slice
    from operators.errors import SeriesError

    try:
        decode_slice(instance)
        return "slice-ok"
    except SeriesError as error:
        return f"slice-{error.reason}"


def serve(seed: int, real: bool) -> None:
    """The worker's side: an index a line comes in, a result a line goes out."""
    import imagecodecs  # noqa: F401 — what is imported now is not counted as memory of a case
    import nibabel  # noqa: F401
    import nrrd  # noqa: F401

    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as cases:
        found = originals(Path(scratch), real)
        for number, files in enumerate(found.values()):
            come_out(_written(Path(cases) / f"whole {number}", files))
        before = _peak_mib()
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (2 * MEMORY_MIB << 20),) * 2)
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            name, files = case(found, seed, int(line))
            folder = _written(Path(cases) / line.strip(), files)
            started = time.perf_counter()
            try:
                results: list[str] = come_out(folder)
            except BaseException:  # noqa: BLE001 — that is what is looked for
                results = [f"DEFECT {traceback.format_exc()}"]
            seconds = time.perf_counter() - started
            for path in folder.iterdir():
                path.unlink()
            print(json.dumps([name, results, seconds, _peak_mib() - before, len(files)]), flush=True)  # noqa: T201


def _written(folder: Path, files: Files) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _computed_s(pid: int) -> float:
    """Seconds of processor time that a process has had, or 0 once it has ended."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Result:
    """Of one case.

    Attributes:
        defect: a crash, a hang, too much memory, or an error that is none of ours; empty if nothing is wrong.
        peak_mib: the highest so far in this process, above its imports.
    """

    index: int
    name: str
    outcomes: tuple[str, ...]
    seconds: float
    peak_mib: int
    files: int
    defect: str = ""


class Worker:
    """The process that reads."""

    def __init__(self, seed: int, real: bool) -> None:
        self._command = [sys.executable, "-c", f"from tests.support.fuzzing import serve; serve({seed}, {real})"]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the worker does not start")
        return process

    def run(self, index: int) -> Result:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"%d\n" % index)
        process.stdin.flush()
        ready = self._answers()
        line = process.stdout.readline() if ready else b""
        if not line:
            if not ready:
                process.kill()
            code = process.wait()
            self._process = self._start()
            return Result(index, "", (), SECONDS, 0, 0, f"the process ended with {code}" if ready else "a hang")
        name, outcomes, seconds, peak_mib, files = json.loads(line)
        defect = next((one for one in outcomes if one.startswith("DEFECT")), "")
        if peak_mib > MEMORY_MIB:
            defect = defect or f"{peak_mib} MiB of memory"
            self.close()
            self._process = self._start()
        return Result(index, name, tuple(outcomes), seconds, peak_mib, files, defect)

    def _answers(self) -> bool:
        """Whether an answer comes before the process has computed too long, or slept: a machine may stall."""
        begun, end = _computed_s(self._process.pid), time.monotonic() + 10 * SECONDS
        while not select.select([self._process.stdout], [], [], 1.0)[0]:
            if _computed_s(self._process.pid) - begun > SECONDS or time.monotonic() > end:
                return False
        return True

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
