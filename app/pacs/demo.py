"""`make pacs-demo`: a PACS, a listener and a CT, in a network of their own; what happens is printed.

    python -m app.pacs.demo [FOLDER]

Debian's Orthanc listens on every address whatever its settings say, so it and the listener run in a network namespace
that has nothing but loopback. The status page is relayed to 127.0.0.1 of this machine through a Unix socket.
KEEP=1 leaves everything up until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from operators.errors import StartError

ROOT: Final = Path(__file__).resolve().parents[2]
PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
INSIDE: Final = "CTVAE_DEMO_INSIDE"
CTVAE: Final = str(Path(sys.executable).with_name("ctvae"))
ORTHANC: Final = "http://127.0.0.1:8042"
PAGE_PORT, RELAYED_PORT = 8099, 18099
STABLE_S, QUIET_S, PATIENCE_S = 3, 3, 300.0
_PIPE_BYTES: Final = 1 << 16


def main(arguments: Sequence[str]) -> int:
    """Run the demo: outside the namespace, which it makes, or inside."""
    try:
        if INSIDE in os.environ:
            return _inside(Path(os.environ[INSIDE]), [Path(one) for one in arguments])
        return _outside(arguments)
    except StartError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 3
    except KeyboardInterrupt:
        return 0


def _outside(arguments: Sequence[str]) -> int:
    missing = [name for name in ("Orthanc", "unshare", "ip") if shutil.which(name, path=PATH) is None]
    if missing:
        raise StartError("NO_PROGRAM", f"no {', '.join(missing)}; apt-get install orthanc util-linux iproute2")
    namespace = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:  # noqa: S603
        raise StartError(
            "NOT_ACCESSIBLE", "this machine allows no network namespace (`unshare --net`); nothing was done"
        )
    with tempfile.TemporaryDirectory(prefix="ctvae-demo-") as name, _relayed(RELAYED_PORT, Path(name) / "page"):
        command = [
            *namespace,
            "sh",
            "-c",
            'ip link set lo up && exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "app.pacs.demo",
        ]
        environment = {**os.environ, "PATH": PATH, INSIDE: name}
        with subprocess.Popen([*command, *arguments], env=environment) as program:  # noqa: S603
            try:
                return program.wait()
            except KeyboardInterrupt:  # it got it too, and ends in order
                return program.wait()


def _inside(folder: Path, inputs: Sequence[Path]) -> int:
    files = _scans(folder, inputs)
    say(f"Orthanc, a PACS, and `ctvae listen` start in a private network; {len(files)} CT slices are ready")
    settings = listener_settings(folder)
    listen = [CTVAE, "listen", "-c", str(settings), "-l", "WARN"]
    with _orthanc(folder), _program(listen) as listening, _relayed(folder / "page", PAGE_PORT):
        _until(lambda: _answers(f"http://127.0.0.1:{PAGE_PORT}/readyz"), "the listener", listening)
        say(f"status page: http://127.0.0.1:{RELAYED_PORT}/")
        sent = time.monotonic()
        for file in files:
            _ask(f"{ORTHANC}/instances", file.read_bytes())
        say(
            "the CT was sent to Orthanc, as a scanner would send it; Orthanc forwards a series when nothing has come "
            f"for {STABLE_S} s, and the listener encodes it when nothing has come for another {QUIET_S} s"
        )
        _until(lambda: bool(_reports()), "an SR in Orthanc", listening)
        say(f"{time.monotonic() - sent:.0f} s later Orthanc holds the CT and, beside it, the SR with the features:\n")
        _show(_ask(f"{ORTHANC}/instances/{_reports()[0]}/file"))
        audit = [CTVAE, "queue", "audit", "-c", str(settings)]
        say("$ ctvae queue audit")
        code = subprocess.run(audit, check=False).returncode  # noqa: S603
        if os.environ.get("KEEP"):
            say(f"everything keeps running: http://127.0.0.1:{RELAYED_PORT}/; Ctrl-C ends it")
            signal.pause()
    say("everything was stopped; KEEP=1 keeps it running, and docs/pacs.md says how to set up your own")
    return code


def _scans(folder: Path, inputs: Sequence[Path]) -> list[Path]:
    if not inputs:
        inputs = [_phantom(folder / "ct")]
    files = sorted(path for one in inputs for path in one.rglob("*") if path.is_file())
    if not files:
        raise StartError("NO_DATA", f"no file in {inputs[0]}; give a folder with CT")
    return files


def _phantom(folder: Path) -> Path:
    from models.phantom import PhantomFactors, make_phantom
    from operators.synthetic.write_ct import affine_for, write_ct_series

    shape, spacing_mm = (40, 256, 256), (5.0, 1.5, 1.5)
    hu = make_phantom(PhantomFactors(), shape=shape, spacing_mm=spacing_mm, seed=1)
    write_ct_series(hu, affine_for(shape, spacing_mm), folder)
    return folder


def listener_settings(folder: Path) -> Path:
    """Write the settings of the demo's listener into a folder; return the file."""
    listener: dict[str, Any] = {
        "folder": str(folder / "listener"),
        "reserve_mb": 64,
        "quiet_s": QUIET_S,
        "page": {"port": PAGE_PORT},
        "log": {"audit_file": str(folder / "audit.jsonl")},
        "destinations": [{"name": "orthanc", "ae_title": "ORTHANC", "port": 4242}],
    }
    file = folder / "app.yaml"
    file.write_text(json.dumps({"listener": listener}), encoding="utf-8")  # JSON is YAML
    return file


def orthanc_settings(store: str, listener: str, script: str) -> dict[str, Any]:
    """Return the settings of an Orthanc that sends each stable CT series to the listener.

    Args:
        store: folder of its database.
        listener: host.
        script: path of ctvae.lua.
    """
    return {
        "StorageDirectory": store,
        "IndexDirectory": store,
        "DicomAet": "ORTHANC",
        "DicomPort": 4242,
        "HttpPort": 8042,
        "StableAge": STABLE_S,
        "DicomModalities": {"ctvae": ["CTVAE", listener, 11112]},
        "LuaScripts": [script],
    }


@contextmanager
def _orthanc(folder: Path) -> Iterator[None]:
    store = folder / "orthanc"
    store.mkdir()
    settings = orthanc_settings(str(store), "127.0.0.1", str(ROOT / "integrations" / "orthanc" / "ctvae.lua"))
    (store / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with _program(["Orthanc", str(store / "orthanc.json")], store / "log") as program:
        _until(lambda: _answers(f"{ORTHANC}/system"), "Orthanc", program)
        yield


@contextmanager
def _program(command: Sequence[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; what it says goes to the file."""
    to: Any = None if log is None else log.open("wb")
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with subprocess.Popen(command, stdout=to, stderr=to, env=environment, process_group=0) as program:  # noqa: S603
        try:
            yield program
        finally:
            program.terminate()


def _until(holds: Callable[[], bool], what: str, by: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end or by.poll() is not None:
            raise StartError("SERVER_FAILED", f"{what} did not come, or its program ended; see the messages above")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        _ask(url)
    except OSError:
        return False
    return True


def _ask(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:  # noqa: S310 — our own
        return bytes(answer.read())


def _reports() -> list[str]:
    wanted = json.dumps({"Level": "Instance", "Query": {"Modality": "SR"}}).encode()
    return list(json.loads(_ask(f"{ORTHANC}/tools/find", wanted)))


def _show(report: bytes) -> None:
    from io import BytesIO

    from pydicom import dcmread

    from operators.sr.text import sr_text

    sys.stdout.write(sr_text(dcmread(BytesIO(report))) + "\n\n")


def say(text: str) -> None:
    """Print a line at once, for other programs print between them."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def _relayed(at: int | Path, to: int | Path) -> Iterator[None]:
    """Relay connections from a port on loopback, or a Unix socket, to another one, in a thread."""
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event] | OSError] = queue.Queue()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await _open(to)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, other[1]), _copy(other[0], writer), return_exceptions=True)

    async def serve() -> None:
        stop = asyncio.Event()
        try:
            if isinstance(at, Path):
                server = await asyncio.start_unix_server(relay, at)
            else:
                server = await asyncio.start_server(relay, "127.0.0.1", at)
        except OSError as error:
            started.put(error)
            return
        started.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="relay", daemon=True)
    thread.start()
    found = started.get(timeout=PATIENCE_S)
    if isinstance(found, OSError):
        raise StartError(
            "PORT_UNUSABLE", f"cannot relay the page from {at} ({found.strerror}); is another demo running?"
        )
    try:
        yield
    finally:
        found[0].call_soon_threadsafe(found[1].set)
        thread.join(10)


async def _open(to: int | Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(to, Path):
        return await asyncio.open_unix_connection(to)
    return await asyncio.open_connection("127.0.0.1", to)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIPE_BYTES):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
