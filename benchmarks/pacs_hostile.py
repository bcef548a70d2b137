"""Waves of hostile peers against a listener, and a good C-ECHO meanwhile.

    python benchmarks/pacs_hostile.py [--waves 3] [--wrong-titles 10000] [--json FILE]

A wave: bare connects, garbage, HL7, silent and dripping peers, PDUs of 4 GB, associations held open, and associations
with a wrong AE title, 50 at a time. After each wave, 10 s later: threads, handles and resident memory of the listener.
Bars: each C-ECHO within 2 s; all wrong titles rejected; threads and handles as before; third wave at most 20 MB more.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
from pacs_receive import receiving_ctvae

HL7 = b"\x0bMSH|^~\\&|LAB|A|B|C|20200101||ORU^R01|1|P|2.5\r\x1c\r"
ECHO_EVERY_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waves", type=int, default=3)
    parser.add_argument("--wrong-titles", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, receiving_ctvae(Path(name)) as (program, port):
        listener = psutil.Process(program.pid)
        states = [state(listener)]
        echoes: list[float] = []
        answers: Counter[str] = Counter()
        for number in range(asked.waves):
            stop = threading.Event()
            echoing = threading.Thread(target=echo_on, args=(port, stop, echoes))
            echoing.start()
            answers += wave(port, asked.wrong_titles)
            stop.set()
            echoing.join()
            time.sleep(10)
            states.append(state(listener))
            print(f"after wave {number + 1}: {states[-1]}, slowest C-ECHO {max(echoes):.2f} s", flush=True)
        print(f"at rest: {states[0]}; {len(echoes)} C-ECHO; wrong titles: {dict(answers)}")
        outside = sorted(path.name for path in Path(name).iterdir())
        print(
            f"files outside the spool: {[one for one in outside if one != 'spool' and not one.startswith('queue.db')]}"
        )
        if asked.json:
            asked.json.write_text(json.dumps({"states": states, "echoes_s": echoes, "answers": answers}, indent=1))


def state(listener: psutil.Process) -> dict[str, float]:
    memory = listener.memory_info().rss / 1e6
    return {"threads": listener.num_threads(), "handles": listener.num_fds(), "megabytes": round(memory, 1)}


def wave(port: int, wrong_titles: int) -> Counter[str]:
    for said in (b"", HL7, bytes(range(256)), b"\1\0\xff\xff\xff\xf0" + bytes(4096)):
        for _ in range(100):  # that leave at once
            with suppress(OSError), connect(port) as peer:
                peer.sendall(said)
    staying = [(connect(port), said) for said in (b"", HL7, request()[:60], b"\1\0\xff\xff\xff\xf0") for _ in range(20)]
    held = [connect(port) for _ in range(20)]
    for peer in held:
        peer.sendall(request())
    for peer, said in staying:
        with suppress(OSError):
            peer.sendall(said)
    stop = threading.Event()
    dripping = threading.Thread(target=drip, args=(port, stop))
    dripping.start()
    with ThreadPoolExecutor(50) as pool:
        answers = Counter(pool.map(lambda _: wrong_title(port), range(wrong_titles)))
    stop.set()
    dripping.join()
    for peer in (*held, *(peer for peer, _ in staying)):
        peer.close()
    return answers


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def drip(port: int, stop: threading.Event) -> None:
    """One byte each 0.2 s, on ten connections that are opened again and again."""
    peers: list[socket.socket] = []
    while not stop.wait(0.2):
        peers = [*peers, *(connect(port) for _ in range(10 - len(peers)))]
        for peer in list(peers):
            try:
                peer.sendall(b"\1\0"[:1])
            except OSError:
                peers.remove(peer)
                peer.close()
    for peer in peers:
        peer.close()


def wrong_title(port: int) -> str:
    """What an association with a called AE title that is not ours gets."""
    try:
        with connect(port) as peer:
            peer.sendall(request(b"OTHER"))
            answer = peer.recv(64)
    except OSError as error:
        return type(error).__name__
    return f"A-ASSOCIATE-RJ {answer[7:10].hex()}" if answer[:1] == b"\3" else f"other: {answer[:1].hex()}"


def request(called: bytes = b"CTVAE") -> bytes:
    """An A-ASSOCIATE-RQ for CT (PS3.8 9.3.2)."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    syntaxes = item(0x30, b"1.2.840.10008.5.1.4.1.1.2") + item(0x40, b"1.2.840.10008.1.2.1")
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\1\0\0\0" + syntaxes) + user
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16), b"PEER".ljust(16)) + items
    return struct.pack(">BBI", 1, 0, len(body)) + body


ECHO = """
import sys, time
from pynetdicom import AE
ae = AE("GOOD")
ae.add_requested_context("1.2.840.10008.1.1")
for line in sys.stdin:
    start = time.perf_counter()
    assoc = ae.associate("127.0.0.1", int(sys.argv[1]), ae_title="CTVAE", bind_address=("127.0.0.2", 0))
    status = assoc.send_c_echo().get("Status") if assoc.is_established else None
    assoc.release()
    print(time.perf_counter() - start if status == 0 else 999, flush=True)
"""


def echo_on(port: int, stop: threading.Event, echoes: list[float]) -> None:
    """C-ECHO from another address, in a process of its own, once a second."""
    command = [sys.executable, "-W", "ignore", "-c", ECHO, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        while not stop.wait(ECHO_EVERY_S):
            program.stdin.write("\n")
            program.stdin.flush()
            echoes.append(float(program.stdout.readline()))
        program.stdin.close()


if __name__ == "__main__":
    main()
