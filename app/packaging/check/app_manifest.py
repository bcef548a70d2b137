"""The clauses of the MAP specification 1.0.0 on the application manifest, `/etc/holoscan/app.json`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from app.packaging.check.clause import Clause, NotHeld
from app.packaging.check.image import APP_MANIFEST, Image

API_VERSION: Final = "1.0.0"
SEMANTIC: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The specification's table, "Table of Environment Variables"; what is to lie there.
VARIABLES: Final = {
    "HOLOSCAN_INPUT_PATH": "folder",
    "HOLOSCAN_OUTPUT_PATH": "folder",
    "HOLOSCAN_WORKDIR": "folder",
    "HOLOSCAN_MODEL_PATH": "folder",
    "HOLOSCAN_CONFIG_PATH": "file",
    "HOLOSCAN_APP_MANIFEST_PATH": "file",
    "HOLOSCAN_PKG_MANIFEST_PATH": "file",
    "HOLOSCAN_DOCS": "folder",
    "HOLOSCAN_LOGS": "folder",
}
WRITE: Final = "correct it where app.json is written"


def is_json(image: Image) -> str:
    """Check that the manifest is a JSON object in UTF-8."""
    return f"{len(image.document(APP_MANIFEST))} fields"


def api_version(image: Image) -> str:
    """Check that `apiVersion` is that of the specification, 1.0.0."""
    return api_version_in(image, APP_MANIFEST, WRITE)


def type_(image: Image) -> str:
    """Check that `type` says whether the container is a batch job or a service."""
    found = image.document(APP_MANIFEST).get("type")
    if found not in ("application", "service"):
        raise NotHeld("no type" if found is None else f"type is {found!r}", "'application' or 'service'", WRITE)
    return str(found)


def command(image: Image) -> str:
    """Check that `command` is a shell command whose program is in the image; mercure splits it at the spaces."""
    found = image.document(APP_MANIFEST).get("command")
    example = "a command such as 'python3 /opt/holoscan/app'"
    if not isinstance(found, str) or not found.strip():
        raise NotHeld(f"command is {found!r}", example, WRITE)
    if found.lstrip().startswith("["):
        raise NotHeld(f"command is the list {found!r} inside a string", example, WRITE)
    try:
        words = shlex.split(found)
    except ValueError as error:
        raise NotHeld(f"command {found!r} is no shell command ({error})", example, WRITE) from error
    if words != found.split():
        raise NotHeld(f"command {found!r} needs a shell to split it", "words without quotes", WRITE)
    program = executable(image, words[0])
    return f"{found}: {program}"


def environment(image: Image) -> str:
    """Check that `environment` holds names and texts, the nine variables of the specification among them."""
    given = image.document(APP_MANIFEST).get("environment")
    if not isinstance(given, dict):
        raise NotHeld(f"environment is {given!r}", "an object of names and texts", WRITE)
    bad = [name for name, value in given.items() if not NAME.fullmatch(name) or not isinstance(value, str)]
    if bad:
        raise NotHeld(f"environment holds {bad[0]!r}", "names of letters, digits and _, and texts", WRITE)
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise NotHeld(f"environment lacks {', '.join(missing)}", "all nine of the specification", WRITE)
    relative = [name for name in VARIABLES if not given[name].startswith("/")]
    if relative:
        raise NotHeld(f"{relative[0]} is {given[relative[0]]!r}", "a path from the root", WRITE)
    return f"{len(given)} variables"


def environment_paths(image: Image) -> str:
    """Check that what the nine variables name is in the image."""
    given = image.document(APP_MANIFEST).get("environment")
    paths: Mapping[str, Any] = given if isinstance(given, dict) else {}
    for name, kind in VARIABLES.items():
        entry = image.tree.find(str(paths.get(name, "")))
        if name not in paths or entry is None or entry.kind != kind:
            raise NotHeld(
                f"{name} names {paths.get(name)!r}, which is no {kind} here", f"a {kind}", "make it in the image"
            )
    return "all nine are there"


def input_(image: Image) -> str:
    """Check that `input` names its formats and a path."""
    return _described(image, "input", "formats", list)


def output(image: Image) -> str:
    """Check that `output` names its format and a path."""
    return _described(image, "output", "format", dict)


def _described(image: Image, side: str, key: str, kind: type) -> str:
    given = image.document(APP_MANIFEST).get(side)
    if not isinstance(given, dict):
        raise NotHeld(f"{side} is {given!r}", "an object", WRITE)
    formats, path = given.get(key), given.get("path", f"{side}/")
    if not isinstance(formats, kind) or not formats:
        others = ", ".join(sorted(given))
        raise NotHeld(
            f"{side}.{key} is {formats!r} ({side} has {others})", f"a {kind.__name__} that is not empty", WRITE
        )
    if not isinstance(path, str) or not path or ".." in path.split("/"):
        raise NotHeld(f"{side}.path is {path!r}", "a path, relative to the working directory or from the root", WRITE)
    return f"{path}: {formats}"


def readiness(image: Image) -> str:
    """Check that the probe `readiness`, where there is one, is complete."""
    return _probe(image, "readiness")


def liveness(image: Image) -> str:
    """Check that the probe `liveness`, where there is one, is complete."""
    return _probe(image, "liveness")


def _probe(image: Image, name: str) -> str:
    manifest = image.document(APP_MANIFEST)
    if name not in manifest:
        return "none, which a batch job does not need"
    probe = manifest[name]
    kind = probe.get("type") if isinstance(probe, dict) else None
    if kind not in ("tcp", "grpc", "http-get", "command"):
        raise NotHeld(f"{name} is {probe!r}", "a probe with a type, or no such field", WRITE)
    words = probe.get("command")
    if kind == "command":
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise NotHeld(f"{name}.command is {words!r}", "a list of texts", WRITE)
    elif type(probe.get("port")) is not int or not 1 <= probe["port"] <= 65535:
        raise NotHeld(f"{name}.port is {probe.get('port')!r}", "a number from 1 to 65535", WRITE)
    if kind == "http-get" and not str(probe.get("path", "")).startswith("/"):
        raise NotHeld(f"{name}.path is {probe.get('path')!r}", "a path that begins with /", WRITE)
    for seconds in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"):
        if seconds in probe and (type(probe[seconds]) is not int or probe[seconds] < 0):
            raise NotHeld(f"{name}.{seconds} is {probe[seconds]!r}", "a whole number", WRITE)
    return str(kind)


def sdk(image: Image) -> str:
    """Check that `sdk` and `sdkVersion` name what the application was made with."""
    manifest = image.document(APP_MANIFEST)
    name, version = manifest.get("sdk"), manifest.get("sdkVersion")
    if not isinstance(name, str) or not name:
        raise NotHeld(f"sdk is {name!r}", "a name such as 'monai-deploy'", WRITE)
    return f"{name} {semantic(version, 'sdkVersion', WRITE)}"


def timeout(image: Image) -> str:
    """Check that `timeout`, where there is one, is a whole number of seconds; 0 is none."""
    found = image.document(APP_MANIFEST).get("timeout", 0)
    if type(found) is not int or found < 0:
        raise NotHeld(f"timeout is {found!r}", "a whole number of seconds from 0 on", WRITE)
    return f"{found} s" if found else "none"


def version(image: Image) -> str:
    """Check that `version` is semantic, and the one of the label org.opencontainers.image.version."""
    found = semantic(image.document(APP_MANIFEST).get("version"), "version", WRITE)
    label = image.labels.get("org.opencontainers.image.version")
    if label != found:
        raise NotHeld(f"version is {found!r} and the image's label {label!r}", "one version", "label the image with it")
    return found


def working_directory(image: Image) -> str:
    """Check that `workingDirectory` is an absolute folder of the image, and the one it starts in."""
    found = image.document(APP_MANIFEST).get("workingDirectory", "/var/holoscan/")
    entry = image.tree.find(found) if isinstance(found, str) and found.startswith("/") else None
    if entry is None or entry.kind != "folder":
        raise NotHeld(f"workingDirectory is {found!r}", "an absolute folder that is in the image", WRITE)
    starts = str(image.config.get("WorkingDir") or "/")
    if starts.rstrip("/") != found.rstrip("/"):
        raise NotHeld(f"the image starts in {starts}, not in {found}", "one folder", "set WORKDIR to it")
    return str(found)


def api_version_in(image: Image, manifest: str, do: str) -> str:
    """Return the `apiVersion` of a manifest.

    Raises:
        NotHeld: it is another than the specification's; `do` says what to do then.
    """
    found = image.document(manifest).get("apiVersion")
    if found != API_VERSION:
        raise NotHeld(f"apiVersion is {found!r}", repr(API_VERSION), do)
    return API_VERSION


def semantic(found: object, what: str, do: str) -> str:
    """Return a semantic version.

    Raises:
        NotHeld: it is none; `do` says what to do then.
    """
    if not isinstance(found, str) or not SEMANTIC.fullmatch(found):
        raise NotHeld(f"{what} is {found!r}", "a semantic version such as '1.2.0'", do)
    return found


def executable(image: Image, program: str) -> str:
    """Return where a program of the image lies, looked for along its PATH as a container would.

    Raises:
        NotHeld: it is not there, or not everybody may run it.
    """
    places = (
        [program] if "/" in program else [f"{one}/{program}" for one in image.env.get("PATH", "").split(":") if one]
    )
    for place in places:
        entry = image.tree.find(place)
        if entry is not None and entry.kind == "file" and entry.mode & 0o001:
            return place
    raise NotHeld(f"no program {program!r} that everybody may run", "it on the image's PATH", "install it, mode 755")


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "APP_JSON": is_json,
    "APP_API_VERSION": api_version,
    "APP_TYPE": type_,
    "APP_COMMAND": command,
    "APP_ENVIRONMENT": environment,
    "APP_ENVIRONMENT_PATHS": environment_paths,
    "APP_INPUT": input_,
    "APP_OUTPUT": output,
    "APP_READINESS": readiness,
    "APP_LIVENESS": liveness,
    "APP_SDK": sdk,
    "APP_TIMEOUT": timeout,
    "APP_VERSION": version,
    "APP_WORKING_DIRECTORY": working_directory,
}
