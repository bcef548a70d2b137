"""The clauses that only a run of the image shows: exit codes, what it leaves, what it prints, how it stops."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from app.packaging.check.clause import CannotTell, Clause, NotHeld, named
from app.packaging.check.container import UID, Container, check_code, document_in, files_below
from app.packaging.check.image import APP_MANIFEST, PACKAGE_MANIFEST
from app.packaging.check.sandbox import Mount, given_to
from app.packaging.check.start import SHELLS

EXPORT: Final = "/var/run/holoscan/export"
SETTLED_S: Final = 0.3  # after the first file in the output, so that the ledger is open
_SIGTERM_BIT: Final = 1 << 14


def encode(container: Container) -> str:
    """Check that it encodes as uid 4321 with a read-only root, no network and no capabilities, and leaves no files."""
    return container.check_results(*container.call())


def any_user(container: Container) -> str:
    """Check that it encodes as the image's own user and as root, too."""
    for uid in (container.own_uid, 0):
        container.check_results(*container.call(start=replace(container.start, uid=uid)))
    return f"uid {container.own_uid} and uid 0 give the same results"


def no_shell(container: Container) -> str:
    """Check that it encodes without any shell."""
    places = [f"{folder}/{name}" for folder in ("/bin", "/usr/bin", "/usr/local/bin") for name in SHELLS]
    shells = [path for path in places if (entry := container.image.tree.find(path)) and entry.kind == "file"]
    if not shells:
        raise CannotTell("the image has no shell")
    hidden = {str(container.image.tree.resolve(path)) for path in shells}
    return container.check_results(*container.call(start=replace(container.start, hidden=tuple(sorted(hidden)))))


def crash(container: Container) -> str:
    """Check that a crash of the application ends with exit code 1."""
    main = "/opt/holoscan/app/__main__.py"
    container.image.file(main)
    broken = Path(tempfile.mkdtemp(dir=container.work)) / "__main__.py"
    broken.write_text("raise RuntimeError('made to crash')\n", encoding="utf-8")
    broken.parent.chmod(0o755)
    folder = "/opt/holoscan/app/__pycache__/"
    compiled = [path for path, _ in container.image.tree.below(folder) if path.startswith(f"{folder}__main__.")]
    mounts = (*container.start.mounts, Mount(broken, main))  # its bytecode must not answer for it
    ended, _ = container.call(start=replace(container.start, mounts=mounts, hidden=tuple(compiled)))
    check_code(ended, 1, "an application that raises")
    return "exit 1"


def failed(container: Container) -> str:
    """Check that a series whose file cannot be opened is failed in outcome.json, and the exit code 1."""
    ended, output = container.call(prepare=lambda source: files_below(source)[0].chmod(0))
    check_code(ended, 1, "a file that it may not open")
    statuses = {one.get("status") for one in document_in(output / "outcome.json").get("series", [])}
    if "failed" not in statuses:
        raise NotHeld(f"outcome.json has the statuses {sorted(map(str, statuses))}", "'failed' among them", "enter it")
    return "exit 1, failed in outcome.json"


def nothing_eligible(container: Container) -> str:
    """Check that an input without CT ends with exit code 2."""
    ended, _ = container.call(source=Path(tempfile.mkdtemp(dir=container.work)))
    check_code(ended, 2, "an empty input")
    return "exit 2"


def wrong_call(container: Container) -> str:
    """Check that a wrong call ends with exit code 3."""
    ended, _ = container.call("--nonesuch")
    check_code(ended, 3, "a wrong call")
    return ended.last_line


def show(container: Container) -> str:
    """Check that `show` prints both manifests, and `show app` and `show pkg` one."""
    manifests = {"app": container.image.document(APP_MANIFEST), "pkg": container.image.document(PACKAGE_MANIFEST)}
    for name, manifest in manifests.items():
        ended, _ = container.call("show", name)
        check_code(ended, 0, f"show {name}")
        if manifest not in _documents(ended.out):
            raise NotHeld(f"show {name} does not print {name}.json", "the manifest", "print the file as it is")
    ended, _ = container.call("show")
    check_code(ended, 0, "show")
    if any(manifest not in _documents(ended.out) for manifest in manifests.values()):
        raise NotHeld("show does not print both manifests", "app.json and pkg.json", "print both files")
    return "app.json and pkg.json"


def _documents(text: str) -> list[object]:
    """Return every JSON object that begins at the start of a line."""
    found, decoder = [], json.JSONDecoder()
    for at in [0, *(at + 1 for at, one in enumerate(text) if one == "\n")]:
        if text[at : at + 1] == "{":
            try:
                found.append(decoder.raw_decode(text, at)[0])
            except ValueError:
                continue
    return found


def env(container: Container) -> str:
    """Check that `env` prints the environment, and hides what may be secret."""
    ended, _ = container.call("env", start=container.start)
    check_code(ended, 0, "env")
    missing = [name for name in container.image.env if name.startswith("HOLOSCAN_") and f"{name}=" not in ended.out]
    if missing:
        raise NotHeld(f"env does not print {named(missing)}", "every variable", "print the environment")
    return f"{len(ended.out.splitlines())} variables"


def help_(container: Container) -> str:
    """Check that `help` names the verbs."""
    ended, _ = container.call("help")
    check_code(ended, 0, "help")
    missing = [word for word in ("show", "env", "extract") if word not in ended.out]
    if missing:
        raise NotHeld(f"help does not name {named(missing)}", "every verb", "name them")
    return f"{len(ended.out.splitlines())} lines"


def extract(container: Container) -> str:
    """Check that `extract` copies application, settings, manifests, models and documents to a mounted folder."""
    wanted = {
        "app/__main__.py": "/opt/holoscan/app/__main__.py",
        "config/app.json": APP_MANIFEST,
        "config/pkg.json": PACKAGE_MANIFEST,
        "config/app.yaml": container.image.env.get("HOLOSCAN_CONFIG_PATH", "/var/holoscan/app.yaml"),
        **{f"{part}/{path[len(root) + 1 :]}": path for part, root in _PARTS for path in _files(container, root)},
    }
    _extracted(container, (), wanted)
    _extracted(container, ("config",), {name: path for name, path in wanted.items() if name.startswith("config/")})
    return f"{len(wanted)} files as in the image; with a folder config, only that"


_PARTS: Final = (("models", "/opt/holoscan/models"), ("docs", "/opt/holoscan/docs"))


def _files(container: Container, root: str) -> list[str]:
    return [path for path, entry in container.image.tree.below(root) if entry.kind == "file"]


def _extracted(container: Container, folders: tuple[str, ...], wanted: Mapping[str, str]) -> None:
    target = Path(tempfile.mkdtemp(dir=container.work))
    for folder in folders:
        (target / folder).mkdir()
    mounts = (*container.start.mounts, Mount(given_to(target, UID), EXPORT, True))
    ended, _ = container.call("extract", start=replace(container.start, mounts=mounts))
    check_code(ended, 0, "extract")
    for name, path in wanted.items():
        found = target / name
        if not found.is_file() or found.is_symlink() or found.read_bytes() != container.image.read(path):
            raise NotHeld(f"extract does not copy {path} to {EXPORT}/{name}", "the same file", "copy it")
    others = sorted(path.name for path in target.iterdir() if folders and path.name not in folders)
    if others:
        raise NotHeld(f"extract also copies {named(others)}", f"{named(list(folders))} alone", "look what is mounted")


def stop(container: Container) -> str:
    """Check that SIGTERM ends it in order: exit code 1, a ledger, nothing left in /tmp."""
    ended, output = container.call(when=_is_working)
    if not ended.stopped:
        raise CannotTell("it had ended before the signal came; give a larger scan with --input")
    check_code(ended, 1, "SIGTERM")
    document_in(output / "outcome.json")
    if ended.left:
        raise NotHeld(f"SIGTERM left {named(list(ended.left))}", "an empty /tmp", "remove temporary files on SIGTERM")
    return f"exit 1 after {ended.seconds:.1f} s, with outcome.json"


def _is_working(pid: int, output: Path) -> bool:
    """Return whether a container has installed its signal handler and has begun to write."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        begun = [path.lstat().st_mtime for path in output.iterdir()]
    except OSError:  # it has ended, or renamed or removed a file meanwhile: look again
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) & _SIGTERM_BIT) and bool(begun) and time.time() - min(begun) > SETTLED_S


def doctor(container: Container) -> str:
    """Check that `doctor` reproduces the golden values of the model, as the probes ask it to."""
    ended, _ = container.call("doctor")
    check_code(ended, 0, "doctor")
    if "golden" not in ended.out or "BAD" in ended.out:
        raise NotHeld(f"doctor prints no good golden values ({ended.last_line})", "a line for them", "see its output")
    return f"{len(ended.out.splitlines())} lines, all good, in {ended.seconds:.1f} s"


CLAUSES: Final[Mapping[str, Clause[Container]]] = {
    "RUN_ENCODE": encode,
    "RUN_ANY_USER": any_user,
    "RUN_NO_SHELL": no_shell,
    "RUN_CRASH": crash,
    "RUN_FAILED": failed,
    "RUN_NOTHING_ELIGIBLE": nothing_eligible,
    "RUN_WRONG_CALL": wrong_call,
    "RUN_SHOW": show,
    "RUN_ENV": env,
    "RUN_HELP": help_,
    "RUN_EXTRACT": extract,
    "RUN_STOP": stop,
    "RUN_DOCTOR": doctor,
}
