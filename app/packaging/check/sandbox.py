"""A container without a daemon: bubblewrap, with a read-only root, no network, no capabilities and any user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.packaging.check.rootfs import Rootfs
from operators.errors import StartError
from operators.temporary_folder import temporary_folder

TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.02
CANNOT_START: Final = 126  # what docker says of a program that is not there, or cannot be run
TEMPORARY: Final = "/tmp"  # noqa: S108 - of the container
FIXED: Final = ("/proc", "/dev", TEMPORARY)


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of this machine that the container sees.

    Attributes:
        source: on this machine.
        path: in the container.
        writable: whether the container may write to it.
    """

    source: Path
    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """How a container is started.

    Attributes:
        words: program and arguments.
        env: its whole environment.
        folder: it starts in.
        mounts: what it sees of this machine.
        uid: of its user and group.
        hidden: files of the image that it finds empty and cannot run.
    """

    words: tuple[str, ...]
    env: Mapping[str, str]
    folder: str
    mounts: tuple[Mount, ...] = ()
    uid: int = 4321
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended.

    Attributes:
        code: its exit code; 128 and the signal's number where a signal ended it; None where it ran too long.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        left: what it left in /tmp.
        seconds: it ran.
        stopped: whether SIGTERM was sent to it.
    """

    code: int | None
    out: str
    err: str
    left: tuple[str, ...] = ()
    seconds: float = 0
    stopped: bool = False

    @property
    def last_line(self) -> str:
        """The last line of stderr, which says why."""
        return (self.err.strip().splitlines() or [""])[-1]


def require_sandbox() -> None:
    """Raise where no container can be run.

    Raises:
        StartError: `NO_SANDBOX`.
    """
    if shutil.which("bwrap") is None:
        text = "found no bwrap; expected bubblewrap, which runs an image without a daemon; apt-get install bubblewrap"
        raise StartError("NO_SANDBOX", text)


def run(rootfs: Rootfs, start: Start, when: Callable[[int], bool] | None = None) -> Ended:
    """Run a container to its end.

    Args:
        rootfs: of the image.
        start: how it is started.
        when: asked again and again with the process's number; SIGTERM is sent when it says so.

    Raises:
        StartError: `NO_SANDBOX`; the sandbox cannot be set up on this machine.
    """
    paths = [*FIXED, *(mount.path for mount in start.mounts if mount.source.is_dir())]
    with _scratch(start.uid) as temporary, rootfs.mount_points(paths) as places, tempfile.TemporaryFile() as err:
        folders = dict(zip(paths, places, strict=True))
        with tempfile.TemporaryFile() as out:
            began = time.monotonic()
            code, stopped = _run(_words(rootfs, start, folders, temporary), out.fileno(), err.fileno(), when)
            seconds = time.monotonic() - began
            out.seek(0)
            err.seek(0)
            message = err.read().decode("utf-8", "replace")
            if code == 1 and message.startswith("bwrap: execvp "):
                code = CANNOT_START
            elif code == 1 and message.startswith("bwrap: "):
                text = f"bwrap cannot run the image ({message.splitlines()[0]}); allow user namespaces, or run as root"
                raise StartError("NO_SANDBOX", text)
            mounted = {mount.path for mount in start.mounts}
            left = [f"{TEMPORARY}/{path.relative_to(temporary)}" for path in sorted(temporary.rglob("*"))]
            left = [path for path in left if path not in mounted]
            return Ended(code, out.read().decode("utf-8", "replace"), message, tuple(left), seconds, stopped)


def _words(rootfs: Rootfs, start: Start, folders: Mapping[str, str], temporary: Path) -> list[str]:
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    words += ["--ro-bind", str(rootfs.folder), "/", "--proc", "/proc", "--dev", "/dev"]
    words += ["--bind", str(temporary), folders[TEMPORARY], "--info-fd", "{info}"]
    for mount in start.mounts:
        place = folders.get(mount.path) or rootfs.tree.resolve(mount.path) or mount.path
        words += ["--bind" if mount.writable else "--ro-bind", str(mount.source), place]
    for path in start.hidden:
        words += ["--ro-bind", "/dev/null", rootfs.tree.resolve(path) or path]
    if os.geteuid() != 0:
        words += ["--uid", str(start.uid), "--gid", str(start.uid)]
    elif start.uid:
        user = str(start.uid)
        words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--", *words]
    words += ["--clearenv", *(word for name, value in start.env.items() for word in ("--setenv", name, value))]
    return [*words, "--chdir", start.folder, "--", *start.words]


def _run(words: list[str], out: int, err: int, when: Callable[[int], bool] | None) -> tuple[int | None, bool]:
    """Start the sandbox, send SIGTERM when asked to; return the exit code, and whether the signal was sent."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  the image is run on purpose, in a sandbox
            [str(writing) if word == "{info}" else word for word in words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=[writing],
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as info, process:
        try:
            described = info.read()
            pid = int(json.loads(described)["child-pid"]) if described else 0
            stopped = when is not None and pid != 0 and _wait(process, pid, when)
            if stopped:
                os.kill(pid, signal.SIGTERM)
            try:
                return process.wait(TIMEOUT_S), stopped
            except subprocess.TimeoutExpired:
                return None, stopped
        finally:
            process.kill()


def _wait(process: subprocess.Popen[bytes], pid: int, when: Callable[[int], bool]) -> bool:
    """Wait until the container is ready for its signal; False where it ended before."""
    end = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < end:
        if when(pid):
            return True
        time.sleep(POLL_S)
    return False


@contextmanager
def _scratch(uid: int) -> Iterator[Path]:
    """Yield a folder for the container's /tmp, which its user alone can read on this machine."""
    with temporary_folder("ctvae-tmp") as folder:
        yield given_to(folder, uid)


def given_to(folder: Path, uid: int) -> Path:
    """Make a folder and all in it belong to the container's user, and to nobody else."""
    folder.chmod(0o700)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)
    return folder
