"""The clauses of each way in which others call the image: their folders, variables and words, and equal results."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.packaging.check.clause import Clause, NotHeld
from app.packaging.check.container import (
    PHANTOM_SHAPE,
    PHANTOM_SPACING_MM,
    UID,
    Container,
    check_code,
    document_in,
    encoded_outside,
    files_below,
    phantom_hu,
    results_in,
)
from app.packaging.check.conventions import KAAPANA, MONAI_MANIFEST, XNAT
from app.packaging.check.image import APP_MANIFEST
from app.packaging.check.sandbox import Start

MERCURE: Final = ("/tmp/data", "/tmp/output")  # noqa: S108 - of the container
CHALLENGE: Final = ("/input", "/output")


def plain(container: Container) -> str:
    """Check that `docker run IMAGE -i IN -o OUT` encodes, and that `doctor` and `listen` are commands of the image."""
    found = container.check_results(
        *container.call("-i", "/data/in", "-o", "/data/out", places=("/data/in", "/data/out"))
    )
    for words in (("doctor",), ("listen", "--help")):
        ended, _ = container.call(*words)
        check_code(ended, 0, " ".join(words))
    return found


def monai_package(container: Container) -> str:
    """Check that the command of app.json, in its environment, encodes the folders that it names."""
    manifest = container.image.document(APP_MANIFEST)
    environment = {**container.image.env, **manifest["environment"]}
    start = replace(container.start, words=tuple(shlex.split(manifest["command"])), env=environment)
    places = (environment["HOLOSCAN_INPUT_PATH"], environment["HOLOSCAN_OUTPUT_PATH"])
    return container.check_results(*container.call(places=places, start=start))


def mercure_monai(container: Container) -> str:
    """Check that mercure, which runs a MONAI package as root with the command that `cat` prints, gets the results."""
    printed, _ = container.call(start=replace(container.start, words=("cat", MONAI_MANIFEST)))
    check_code(printed, 0, f"cat {MONAI_MANIFEST}")
    words = tuple(json.loads(printed.out)["command"].split())
    start = replace(container.start, words=words, env=_mercure(container), uid=0)
    return container.check_results(*container.call(prepare=_as_mercure, places=MERCURE, start=start))


def mercure(container: Container) -> str:
    """Check that mercure gets results and result.json by MERCURE_IN_DIR and MERCURE_OUT_DIR, settings by task.json."""
    environment = {name: value for name, value in _mercure(container).items() if not name.startswith("MONAI_")}
    start = replace(container.start, env=environment)
    ended, output = container.call(prepare=_as_mercure, places=MERCURE, start=start)
    found = container.check_results(ended, output)
    notification = document_in(output / "result.json").get("__mercure_notification")
    if not isinstance(notification, dict) or not isinstance(notification.get("requested"), bool):
        raise NotHeld("result.json has no __mercure_notification", "text and requested", "write it for every run")
    if not isinstance(notification.get("text"), str) or not notification["text"]:
        raise NotHeld("the notification has no text", "the verdict in words", "write it for every run")
    sent = [path.name for path in output.iterdir() if path.suffix == ".dcm" and "#" in path.name]
    if not sent:
        raise NotHeld("no SERIES#FILE.dcm in the output", "each DICOM result at the top", "mercure sends only those")
    ended, _ = container.call(prepare=_with_wrong_settings, places=MERCURE, start=start)
    check_code(ended, 3, "settings of task.json that are wrong")
    return f"{found}; {len(sent)} files to send; settings of task.json are read"


def _mercure(container: Container) -> dict[str, str]:
    names = (
        ("MERCURE_IN_DIR", "MONAI_INPUTPATH", "HOLOSCAN_INPUT_PATH"),
        ("MERCURE_OUT_DIR", "MONAI_OUTPUTPATH", "HOLOSCAN_OUTPUT_PATH"),
    )
    folders = {name: place for sides, place in zip(names, MERCURE, strict=True) for name in sides}
    return {**container.image.env, **folders}


def _as_mercure(folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Move files to where mercure puts them: one folder, SERIES#FILE.dcm, and task.json."""
    from pydicom import dcmread

    for number, path in enumerate(files_below(folder)):
        uid = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
        path.rename(folder / f"{uid}#{number:06}.dcm")
    task = {"id": "check", "process": {"module_name": "ctvae", "settings": dict(settings or {})}}
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")


def _with_wrong_settings(folder: Path) -> None:
    _as_mercure(folder, {"nonesuch": True})


def kaapana(container: Container) -> str:
    """Check that each task template of Kaapana encodes, with its command after the entry point and in its place."""
    found, entry = "no template", container.image.entry_point
    for template in container.image.document(KAAPANA)["templates"]:
        places = (template["inputs"][0]["mounted_path"], template["outputs"][0]["mounted_path"])
        environment = {**container.image.env, **{one["name"]: one["value"] for one in template["env"]}}
        command = tuple(template.get("command") or ())
        for words in dict.fromkeys((command or entry, (*entry, *command))):  # Kubernetes, Docker
            start = replace(_own(container), words=words, env=environment)
            ended, output = container.call(places=places, start=start)
            check_code(ended, 0, " ".join(words))
            found = container.check_results(ended, output)
    return found


def xnat(container: Container) -> str:
    """Check that XNAT's command line encodes what its mounts hold."""
    command = container.image.document(XNAT)
    mounts = {mount["name"]: mount["path"] for mount in command["mounts"]}
    target = command["outputs"][0]["mount"]
    source = next(name for name in mounts if name != target)
    line, entry = str(command["command-line"]), container.image.entry_point
    words = ("/bin/sh", "-c", line) if command.get("override-entrypoint") else (*entry, *shlex.split(line))
    environment = {**container.image.env, **command.get("environment-variables", {})}
    folder = command.get("working-directory") or container.start.folder
    start = replace(_own(container), words=words, env=environment, folder=folder)
    return container.check_results(*container.call(places=(mounts[source], mounts[target]), start=start))


def _own(container: Container) -> Start:
    return replace(container.start, uid=container.own_uid or UID)


def grand_challenge(container: Container) -> str:
    """Check that Grand Challenge's MHA in a read-only /input gives results in /output, and a broken one an error."""
    source = Path(tempfile.mkdtemp(dir=container.work))
    images = source / "images" / "ct"
    images.mkdir(parents=True)
    write_phantom_mha(images / "case.mha")
    expected = encoded_outside(container.image, source, Path(tempfile.mkdtemp(dir=container.work)))
    ended, output = container.call(source=source, places=CHALLENGE, start=_own(container))
    check_code(ended, 0, "one case")
    if results_in(output) != expected:
        raise NotHeld("the results differ from those of ctvae encode", "the same bytes", "compare the libraries")
    beside = [path.name for path in output.glob("*.json") if path.read_bytes() in expected.values()]
    if not beside:
        raise NotHeld("no file in /output itself has the features", "a JSON file for the interface", "write one")
    (images / "case.mha").write_bytes(b"ObjectType = Image\n")
    broken, _ = container.call(source=source, places=CHALLENGE, start=_own(container))
    if broken.code in (0, None):
        raise NotHeld(f"a broken image ends with exit code {broken.code}", "another than 0", "hand the code on")
    return f"exit 0 in {ended.seconds:.1f} s, {beside[0]} in /output; a broken image: exit {broken.code}"


def write_phantom_mha(file: Path) -> None:
    """Write the phantom as MetaImage, uncompressed."""
    hu = np.asarray(phantom_hu(), "<i2")
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = False", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0"]
    lines += [f"ElementSpacing = {' '.join(map(str, reversed(PHANTOM_SPACING_MM)))}"]
    lines += [f"DimSize = {' '.join(map(str, reversed(PHANTOM_SHAPE)))}"]
    lines += ["ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]
    file.write_bytes("\n".join(lines).encode() + hu.tobytes())


CLAUSES: Final[Mapping[str, Clause[Container]]] = {
    "CALL_PLAIN": plain,
    "CALL_MAP": monai_package,
    "CALL_MERCURE_MONAI": mercure_monai,
    "CALL_MERCURE": mercure,
    "CALL_KAAPANA": kaapana,
    "CALL_XNAT": xnat,
    "CALL_GRAND_CHALLENGE": grand_challenge,
}
