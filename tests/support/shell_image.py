"""An image that runs: a shell script that answers as ctvae does, with this machine's dash and what it needs."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support.checkout import skip_or_fail
from tests.support.images import File, MadeImage, right_image

SERIES = "1.2.3"
RESULTS = {f"{SERIES}/features.json": b'{"mu": 1}\n', f"{SERIES}/features.sr.dcm": b"an SR\n"}
ENCODE = """
in=$HOLOSCAN_INPUT_PATH out=$HOLOSCAN_OUTPUT_PATH
[ -z "$MERCURE_IN_DIR" ] || in=$MERCURE_IN_DIR out=$MERCURE_OUT_DIR
[ "$1" != -i ] || in=$2 out=$4
trap 'echo "{}" >$out/outcome.json; exit 1' TERM
IFS= read -r first </opt/holoscan/app/__main__.py
case $first in raise*) exit 1 ;; esac
found=2
for file in $in/* $in/*/* $in/*/*/*; do
  [ -f "$file" ] || continue
  [ -r "$file" ] || { echo '{"series": [{"status": "failed"}]}' >$out/outcome.json; exit 1; }
  found=0
done
[ $found = 0 ] || exit 2
echo work >$out/lock
echo "$HOLOSCAN_OUTPUT_PATH" >/tmp/work
rm /tmp/work
mkdir $out/1.2.3
echo '{"mu": 1}' >$out/1.2.3/features.json
echo 'an SR' >$out/1.2.3/features.sr.dcm
"""
AT_WORK = ENCODE.replace("echo work >$out/lock", "echo work >$out/lock; /bin/sleep 600 & wait")
"""Works until its signal comes."""
SCRIPT = """#!/bin/sh
PATH=/bin
copy() { mkdir -p $2; cp -R $1/. $2; }
export=/var/run/holoscan/export
case $1 in
show)
  [ "$2" = pkg ] || cat /etc/holoscan/app.json
  echo
  [ "$2" = app ] || cat /etc/holoscan/pkg.json
  exit 0 ;;
env) export -p; exit 0 ;;
help) echo show env extract; exit 0 ;;
doctor) echo good golden values; exit 0 ;;
listen) exit 0 ;;
extract)
  if [ -d $export/config ]; then parts=config; else parts="app config models docs"; fi
  for part in $parts; do
    if [ $part = config ]; then
      mkdir -p $export/config
      cp /etc/holoscan/app.json /etc/holoscan/pkg.json /var/holoscan/app.yaml $export/config
    else copy /opt/holoscan/$part $export/$part; fi
  done
  exit 0 ;;
--nonesuch) echo "USAGE: $1" >&2; exit 3 ;;
esac
"""


@cache
def programs() -> dict[str, File]:
    """The programs of the script, and the libraries that they load, from this machine."""
    if shutil.which("bwrap") is None:
        skip_or_fail("bwrap is not installed")
    found = {}
    for name in ("dash", "cat", "cp", "mkdir", "rm", "sleep"):
        place = shutil.which(name)
        if place is None:
            skip_or_fail(f"{name} is not installed")
        found["bin/sh" if name == "dash" else f"bin/{name}"] = File(Path(place).read_bytes(), 0o755)
        listed = subprocess.run(["ldd", place], capture_output=True, text=True, check=True).stdout
        for word in listed.split():
            if word.startswith("/"):
                found[word[1:]] = File(Path(word).read_bytes(), 0o755)
    return found


def shell_image(encode: str = ENCODE, script: str = SCRIPT) -> MadeImage:
    """The right image, with a script that runs."""
    image = right_image()
    image.layers[0].update(programs())
    image.layers[0]["opt/start"] = File((script + encode).encode(), 0o755)
    image.layers[0]["var/holoscan/app.yaml"] = File(b"encode: {}\n")
    image.config["Entrypoint"] = ["/opt/start"]
    return image
