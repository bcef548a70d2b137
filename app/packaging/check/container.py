"""Containers of an image, with a scan to encode, and what the same scan gives outside of the image."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.packaging.check.clause import NotHeld, named
from app.packaging.check.image import Image
from app.packaging.check.rootfs import Rootfs, write_rootfs
from app.packaging.check.sandbox import Ended, Mount, Start, given_to, require_sandbox, run
from operators.temporary_folder import temporary_folder

UID: Final = 4321
INPUT: Final = "/var/holoscan/input"
OUTPUT: Final = "/var/holoscan/output"
PHANTOM_SHAPE: Final = (30, 96, 96)
PHANTOM_SPACING_MM: Final = (5.0, 4.0, 4.0)
RESULTS: Final = ("features.json", "features.sr.dcm")


@dataclass(frozen=True)
class Container:
    """What is needed to run an image again and again.

    Attributes:
        image: that is run.
        rootfs: its files.
        work: a folder of this check's own.
        scan: a CT series, as files in a folder.
    """

    image: Image
    rootfs: Rootfs
    work: Path
    scan: Path

    @cached_property
    def own_uid(self) -> int:
        """The user that the image asks for; 1000 where it asks by name."""
        number = str(self.image.config.get("User") or "0").partition(":")[0]
        return int(number) if number.isdecimal() else 1000

    @cached_property
    def start(self) -> Start:
        """How the image starts when nobody says anything."""
        words = (*self.image.entry_point, *self.image.command)
        return Start(words, self.image.env, str(self.image.config.get("WorkingDir") or "/"), (), UID)

    @cached_property
    def expected(self) -> Mapping[str, bytes]:
        """Results of `ctvae encode` outside of the image, with its models and settings, by their path."""
        return encoded_outside(self.image, self.scan, Path(tempfile.mkdtemp(dir=self.work)))

    def call(
        self,
        *arguments: str,
        source: Path | None = None,
        places: tuple[str, str] = (INPUT, OUTPUT),
        start: Start | None = None,
        when: Callable[[int, Path], bool] | None = None,
        prepare: Callable[[Path], object] = lambda _: None,
    ) -> tuple[Ended, Path]:
        """Run the image on a folder.

        Args:
            arguments: after the entry point, in place of its usual ones.
            source: folder with the input; default: the scan.
            places: where input and output are mounted.
            start: how it is started; default: as the image says.
            when: when to send SIGTERM, by the process's number and the output folder.
            prepare: changes the copy of the input that the container gets.

        Returns:
            How it ended, and the output folder.
        """
        start = start or self.start
        start = replace(start, words=(*self.image.entry_point, *arguments)) if arguments else start
        given = Path(tempfile.mkdtemp(dir=self.work))
        shutil.copytree(source or self.scan, given / "in", copy_function=shutil.copy)
        (given / "out").mkdir()
        given.chmod(0o711)
        prepare(given / "in")
        for folder in ("in", "out"):
            given_to(given / folder, start.uid)
        mounts = (Mount(given / "in", places[0]), Mount(given / "out", places[1], True), *start.mounts)
        ready = None if when is None else lambda pid: when(pid, given / "out")
        return run(self.rootfs, replace(start, mounts=mounts), ready), given / "out"

    def check_results(self, ended: Ended, output: Path) -> str:
        """Return how long a run took that gave the expected results.

        Raises:
            NotHeld: it did not.
        """
        check_code(ended, 0)
        found = results_in(output)
        missing = sorted(set(self.expected) - set(found))
        if missing:
            text = f"exit code 0, and no {named(missing)} ({ended.last_line})"
            raise NotHeld(text, "the results, or another exit code", "see its stderr")
        wrong = sorted(path for path in found if found[path] != self.expected.get(path))
        if wrong:
            text = f"{named(wrong)} differ from those of ctvae encode outside of the image"
            raise NotHeld(text, "the same bytes", "compare versions of the libraries, settings and models")
        if ended.left:
            raise NotHeld(f"it left {named(list(ended.left))}", "an empty /tmp", "remove temporary files at the end")
        return f"exit 0 in {ended.seconds:.1f} s, {len(found)} results as outside of the image"


def check_code(ended: Ended, code: int, what: str = "it") -> None:
    """Check an exit code.

    Raises:
        NotHeld: it is another.
    """
    if ended.code != code:
        found = "no exit code: it did not end" if ended.code is None else f"exit code {ended.code}"
        raise NotHeld(f"{what} ended with {found} ({ended.last_line})", f"exit code {code}", "see its stderr")


def results_in(folder: Path) -> dict[str, bytes]:
    """Read the results of each series below an output folder, by their path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in RESULTS
        for path in sorted(folder.glob(f"*/{name}"))
        if path.is_file() and not path.is_symlink()
    }


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder at any depth, sorted."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def document_in(file: Path) -> Mapping[str, Any]:
    """Read a JSON object that a container wrote.

    Raises:
        NotHeld: it is missing, or something else.
    """
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise NotHeld(f"no {file.name} that is JSON", "it in the output", "write it however a run ends") from error
    return found if isinstance(found, dict) else {}


@contextmanager
def open_container(image: Image, scan: Path | None) -> Iterator[Container]:
    """Write the image's files to disk while the block runs, to run it.

    Args:
        image: that is open.
        scan: folder with CT to encode; None for a phantom.

    Raises:
        StartError: `NO_SANDBOX`.
    """
    require_sandbox()
    with temporary_folder("ctvae-map") as work:
        work.chmod(0o711)
        (work / "rootfs").mkdir()
        rootfs = write_rootfs(image, work / "rootfs")
        yield Container(image, rootfs, work, scan or phantom(work / "phantom"))


def phantom(folder: Path) -> Path:
    """Write the phantom as a CT series."""
    from operators.synthetic.write_ct import affine_for, write_ct_series

    write_ct_series(phantom_hu(), affine_for(PHANTOM_SHAPE, PHANTOM_SPACING_MM), folder)
    return folder


def phantom_hu() -> NDArray[np.int16]:
    """Return a small chest phantom, slice by slice."""
    from models.phantom import PhantomFactors, make_phantom

    return make_phantom(PhantomFactors(), shape=PHANTOM_SHAPE, spacing_mm=PHANTOM_SPACING_MM, seed=1)


def encoded_outside(image: Image, scan: Path, folder: Path) -> dict[str, bytes]:
    """Encode a scan here, with the models and the settings of the image.

    Args:
        image: whose models and settings are taken.
        scan: folder or file to encode.
        folder: to work in.

    Raises:
        NotHeld: it cannot be encoded here.
    """
    from app.encode_folder import encode_folder
    from app.settings import check_paths, load_settings

    root = image.env.get("HOLOSCAN_MODEL_PATH", "/opt/holoscan/models").rstrip("/")
    for path, entry in image.tree.below(root):
        if entry.kind == "file":
            target = folder / "models" / path[len(root) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image.content(entry))
    (folder / "app.yaml").write_bytes(image.read(image.env.get("HOLOSCAN_CONFIG_PATH", "/var/holoscan/app.yaml")))
    settings = load_settings(folder / "app.yaml", {})
    with redirect_stdout(StringIO()):
        code = encode_folder(check_paths(scan, folder / "out", folder / "models", {}), settings)
    if code != 0:
        raise NotHeld(f"ctvae encode ends with {code} on this input here", "0", "give CT that can be encoded")
    return results_in(folder / "out")
