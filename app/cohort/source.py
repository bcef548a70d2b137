"""DATA of a cohort → its files, one after the other: a folder tree, a CSV of paths, a DICOMDIR or a DICOMweb server."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage

from app.cohort.row import Row
from app.cohort.server import Server
from app.folder_listing import FILE, FOLDER, LINK, Listing
from app.process import starting
from app.settings import check_apart, check_input
from operators.errors import StartError
from operators.input.archives import unpacked
from operators.input.files import InputRoots, input_files, not_opened
from operators.types import Outcome

logger = logging.getLogger(__name__)

_PATH_COLUMN = "path"
_REPORT_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files of a cohort are.

    Attributes:
        root: folder that all of them lie below; what is written of their places is relative to it.
        places: files and folders that were named, in their order; a folder is searched.
        digest: SHA-256 of where DATA lies: a second run into the same output must be of the same data.
        server: where the instances are instead; there are then no places.
    """

    root: Path
    places: tuple[Path, ...]
    digest: str
    server: Server | None = None

    @property
    def roots(self) -> InputRoots:
        """The same for whoever reads the files."""
        return InputRoots(self.root)

    def count(self, on_files: Callable[[int], None] = lambda done: None) -> int:
        """Return the number of files, and of places that cannot be opened, without opening one."""
        if self.server:
            return self.server.count()
        below = (_below(place, self.roots) if place.is_dir() else (place,) for place in self.places)
        files = 0
        for found in chain.from_iterable(below):
            files += found is not None
            if files % _REPORT_EVERY == 0:
                on_files(files)
        return files

    def files(self) -> Iterator[Path | Row | Outcome]:
        """Yield every regular file, and an outcome for each place that cannot be opened; none is held.

        Symbolic links below a folder are not followed. Of a server's instances all is known, so they are rows already.
        """
        if self.server:
            yield from self.server.rows()
        links = 0
        for place in self.places:
            if place.is_dir():
                for found in _below(place, self.roots):
                    if found is None:
                        links += 1
                    else:
                        yield found
            elif place.is_file():
                yield place
            else:
                yield not_opened(place, place.parent, self.roots, FileNotFoundError(2, os.strerror(2)))
        if links:
            logger.warning("%d symbolic links were not followed; give the folder that they lead to", links)


@starting()
def open_source(data: Path | Server, output: Path) -> Source:
    """Find out what DATA is; no file of it is read but a list, and no server is asked.

    Raises:
        StartError: `INPUT_MISSING`, `INPUT_NOT_A_FOLDER`, `BAD_LIST`, `BAD_DICOMDIR` or `INPUT_AND_OUTPUT_OVERLAP`.
    """
    if isinstance(data, Server):
        named = "\n".join([data.url, *map("=".join, data.filters)])
        return Source(Path(), (), hashlib.sha256(named.encode()).hexdigest(), data)
    data = data.absolute()
    if data.is_file() and data.suffix.lower() == ".csv":
        places = _listed(data)
        root = Path(os.path.commonpath([place.parent for place in places]))
        for place in places:
            check_apart(place, output)
    elif data.is_file() and (listed := _dicomdir(data)):
        root, places = data.parent, listed
        check_apart(root, output)
    else:
        places = (check_input(data).resolve(),)
        root = places[0] if data.is_dir() else places[0].parent
        check_apart(data, output)
    return Source(root, places, hashlib.sha256(os.fsencode(data.resolve())).hexdigest())


def _below(folder: Path, roots: InputRoots) -> Iterator[Path | Outcome | None]:
    """Yield the files below a folder in a fixed order; None for a symbolic link."""
    try:
        names = Listing(folder)
    except OSError as error:
        yield not_opened(folder, folder, roots, error)
        return
    for name, kind in names:
        if kind == LINK:
            yield None
        elif kind == FOLDER:
            yield from _below(folder / name, roots)
        elif kind == FILE:
            yield folder / name


def _listed(file: Path) -> tuple[Path, ...]:
    """Return the paths that a CSV names, each once; relative ones start at the CSV's own folder."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if _PATH_COLUMN not in (rows.fieldnames or ()):
                found = ", ".join(str(name)[:40] for name in rows.fieldnames or ()) or "nothing"
                raise StartError("BAD_LIST", f"the list has the columns {found}; expected one called {_PATH_COLUMN}")
            named = [(row[_PATH_COLUMN] or "").strip() for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        text = f"the list cannot be read ({type(error).__name__}); expected CSV in UTF-8 with a column {_PATH_COLUMN}"
        raise StartError("BAD_LIST", text) from error
    places = dict.fromkeys(Path(os.path.normpath(file.parent / name)) for name in named if name)
    if not places:
        raise StartError("BAD_LIST", "the list names no path; expected one file or folder per row")
    return tuple(places)


def _dicomdir(file: Path) -> tuple[Path, ...]:
    """Return the files that a DICOMDIR (PS3.3 F.5) references, in its order; nothing if the file is not a DICOMDIR.

    Raises:
        StartError: `BAD_DICOMDIR`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, which may be names
            header = dcmread(file)
        if header.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
            return ()
        records = header.get("DirectoryRecordSequence") or []
        named = [one.get("ReferencedFileID") for one in records]
    except InvalidDicomError:
        return ()
    except (OSError, ValueError, AttributeError, KeyError, TypeError, EOFError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # an error of the system: the file may not even be a DICOMDIR
        text = f"the DICOMDIR cannot be read ({type(error).__name__}); give the folder that it lies in instead"
        raise StartError("BAD_DICOMDIR", text) from error
    components = [[name] if isinstance(name, str) else [str(part) for part in name] for name in named if name]
    if any(part in ("", ".", "..") or "/" in part or "\\" in part for parts in components for part in parts):
        text = "the DICOMDIR references a file outside of its folder; give the folder that holds the images instead"
        raise StartError("BAD_DICOMDIR", text)
    if not components:
        raise StartError("BAD_DICOMDIR", "the DICOMDIR references no file; give the folder that holds the images")
    return tuple(dict.fromkeys(file.parent.joinpath(*parts) for parts in components))


@dataclass(frozen=True, slots=True)
class OpenArchive:
    """A ZIP archive, unpacked for as long as it is open.

    Attributes:
        roots: for whoever reads its files; their places are relative to the cohort's root.
        paths: its files, in a fixed order.
        closed: what of it could not be opened: all of it where it was refused.
        folder: where it is unpacked; the archive itself where it was refused.
    """

    roots: InputRoots
    paths: tuple[Path, ...]
    closed: tuple[Outcome, ...]
    folder: Path


@contextmanager
def open_archive(path: Path, root: Path) -> Iterator[OpenArchive]:
    """Unpack a ZIP archive until the block ends."""
    with unpacked(path) as archives:
        renamed = [replace(one, name=InputRoots(root).folder(path)) for one in archives]
        roots, paths, closed = input_files(path, renamed)
        folder = next((one.folder for one in renamed if one.folder), path)
        yield OpenArchive(roots, tuple(paths), tuple(closed), folder)
