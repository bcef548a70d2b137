"""The clauses of the MAP specification 1.0.0 on the package manifest, `/etc/holoscan/pkg.json`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Final

from app.packaging.check.app_manifest import api_version_in, semantic
from app.packaging.check.clause import Clause, NotHeld, named
from app.packaging.check.image import APP_MANIFEST, PACKAGE_MANIFEST, Image

WRITE: Final = "correct it where pkg.json is written"
MEMORY: Final = re.compile(r"\d+(\.\d)?(Mi|Gi)")
COUNTS: Final = ("cpu", "cpuLimit", "gpu", "gpuLimit")
MEMORIES: Final = ("memory", "memoryLimit", "gpuMemory", "gpuMemoryLimit", "sharedMemory", "sharedMemoryLimit")
LONGEST_NAME: Final = 128


def is_json(image: Image) -> str:
    """Check that the manifest is a JSON object in UTF-8."""
    return f"{len(image.document(PACKAGE_MANIFEST))} fields"


def api_version(image: Image) -> str:
    """Check that `apiVersion` is that of the specification, 1.0.0."""
    return api_version_in(image, PACKAGE_MANIFEST, WRITE)


def application_root(image: Image) -> str:
    """Check that `applicationRoot` is /opt/holoscan/app, and that the application lies there."""
    found = image.document(PACKAGE_MANIFEST).get("applicationRoot", "/opt/holoscan/app/")
    if not isinstance(found, str) or posixpath.normpath(found) != "/opt/holoscan/app":
        raise NotHeld(f"applicationRoot is {found!r}", "'/opt/holoscan/app/', where all code has to lie", WRITE)
    return f"{found}: {_filled(image, found)} files"


def model_root(image: Image) -> str:
    """Check that `modelRoot` is an absolute folder that holds the models."""
    found = image.document(PACKAGE_MANIFEST).get("modelRoot", "/opt/holoscan/models/")
    if not isinstance(found, str) or not found.startswith("/"):
        raise NotHeld(f"modelRoot is {found!r}", "an absolute path", WRITE)
    return f"{found}: {_filled(image, found)} files"


def _filled(image: Image, folder: str) -> int:
    place = image.tree.resolve(folder)
    count = sum(entry.kind == "file" for _, entry in image.tree.below(place)) if place else 0
    if count == 0:
        raise NotHeld(f"no files in {folder}", "some", "copy them there")
    return count


def models(image: Image) -> str:
    """Check that `models` is a list of names and paths, and each path a folder in the image."""
    manifest = image.document(PACKAGE_MANIFEST)
    given, root = manifest.get("models"), str(manifest.get("modelRoot", "/opt/holoscan/models/"))
    if not isinstance(given, list) or not given:
        raise NotHeld(f"models is {given!r}", "a list of objects with name and path", WRITE)
    found = []
    for model in given:
        name = model.get("name") if isinstance(model, dict) else None
        if not isinstance(name, str) or not name or len(name.encode()) > LONGEST_NAME or not _one_word(name):
            raise NotHeld(f"models holds {model!r}", "a name of up to 128 bytes without spaces", WRITE)
        path = model.get("path", name)
        entry = image.tree.find(posixpath.join(root, str(path)))
        if entry is None or entry.kind != "folder":
            raise NotHeld(f"the model {name} lies in {path!r}, which is no folder here", f"one in {root}", WRITE)
        found.append(name)
    return ", ".join(found)


def _one_word(name: str) -> bool:
    return name.isprintable() and not any(one.isspace() for one in name)


def model_folders(image: Image) -> str:
    """Check that each model has a folder of its own below `modelRoot`."""
    root = str(image.document(PACKAGE_MANIFEST).get("modelRoot", "/opt/holoscan/models/")).rstrip("/")
    beside = [
        path for path, entry in image.tree.below(root) if entry.kind != "folder" and posixpath.dirname(path) == root
    ]
    if beside:
        raise NotHeld(f"{named(beside)} directly in {root}", "a folder per model", "move them")
    return "a folder per model"


def resources(image: Image) -> str:
    """Check that `resources` has counts with at most one decimal, and memory in Mi or Gi."""
    given = image.document(PACKAGE_MANIFEST).get("resources")
    if not isinstance(given, dict):
        raise NotHeld(f"resources is {given!r}", "an object with cpu, gpu and memory", WRITE)
    for key in COUNTS:
        value = given.get(key, 1)
        count = type(value) in (int, float)
        if not count or value < 0 or round(value, 1) != value or (key.startswith("cpu") and value == 0):
            raise NotHeld(f"resources.{key} is {value!r}", "a positive number with at most one decimal", WRITE)
    for key in MEMORIES:
        value = given.get(key, "1Gi")
        if not isinstance(value, str) or not MEMORY.fullmatch(value):
            raise NotHeld(f"resources.{key} is {value!r}", "a size such as '2Gi' or '512Mi'", WRITE)
    return ", ".join(f"{key} {given[key]}" for key in (*COUNTS, *MEMORIES) if key in given)


def version(image: Image) -> str:
    """Check that `version` is semantic, and the one of app.json."""
    found = semantic(image.document(PACKAGE_MANIFEST).get("version"), "version", WRITE)
    other = image.document(APP_MANIFEST).get("version")
    if other != found:
        raise NotHeld(f"version is {found!r}, and {other!r} in app.json", "one version", WRITE)
    return found


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "PKG_JSON": is_json,
    "PKG_API_VERSION": api_version,
    "PKG_APPLICATION_ROOT": application_root,
    "PKG_MODEL_ROOT": model_root,
    "PKG_MODELS": models,
    "PKG_MODEL_FOLDERS": model_folders,
    "PKG_RESOURCES": resources,
    "PKG_VERSION": version,
}
