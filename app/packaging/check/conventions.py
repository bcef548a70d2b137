"""The clauses of the platforms that start the image by their own conventions, as far as files show them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

from app.packaging.check.app_manifest import executable
from app.packaging.check.clause import Clause, NotHeld, named
from app.packaging.check.image import APP_MANIFEST, Image

MONAI_MANIFEST: Final = "/etc/monai/app.json"
KAAPANA: Final = "/processing-container.json"
XNAT: Final = "/etc/holoscan/command.json"
XNAT_LABEL: Final = "org.nrg.commands"
_KEY: Final = re.compile(r"#\w+#")


def mercure(image: Image) -> str:
    """Check that mercure finds the manifest at /etc/monai/app.json, and the program that prints it."""
    if image.read(MONAI_MANIFEST) != image.read(APP_MANIFEST):
        raise NotHeld(
            f"{MONAI_MANIFEST} differs from {APP_MANIFEST}", "the same file", "link /etc/monai to /etc/holoscan"
        )
    return f"{MONAI_MANIFEST}, printed by {executable(image, 'cat')}"


def kaapana(image: Image) -> str:
    """Check that /processing-container.json is valid by the schema of Kaapana's Task API."""
    document = image.document(KAAPANA)
    _fits(document, "kaapana.schema.json", KAAPANA)
    templates = document["templates"]
    for template in templates:
        paths = [mount["mounted_path"] for mount in (*template["inputs"], *template["outputs"])]
        if len(set(paths)) != len(paths):
            raise NotHeld(
                f"{template['identifier']} mounts two channels at one path", "a path per channel", "rename one"
            )
        for word in (template.get("command") or [])[:1]:
            executable(image, word)
    return ", ".join(str(template["identifier"]) for template in templates)


def xnat_command(image: Image) -> str:
    """Check that command.json describes command line, mounts and wrapper as XNAT's Container Service reads them."""
    command = image.document(XNAT)
    _fits(command, "xnat.schema.json", XNAT)
    if command.get("override-entrypoint"):
        executable(
            image, "/bin/sh"
        )  # with it the Container Service starts a command line that replaces the entry point
    mounts = _names(command["mounts"])
    inputs = _names(command.get("inputs", []))
    keys = {f"#{one}#" for one in inputs} | {one.get("replacement-key") for one in command.get("inputs", [])}
    _known("command-line", set(_KEY.findall(command["command-line"])), keys)
    _known("outputs", {one["mount"] for one in command["outputs"]}, mounts)
    for wrapper in command["xnat"]:
        given = [*wrapper["external-inputs"], *wrapper.get("derived-inputs", [])]
        _known("provides-files-for-command-mount", _values(given, "provides-files-for-command-mount"), mounts)
        _known("provides-value-for-command-input", _values(given, "provides-value-for-command-input"), inputs)
        handlers = wrapper["output-handlers"]
        _known("accepts-command-output", _values(handlers, "accepts-command-output"), _names(command["outputs"]))
        _known("as-a-child-of", _values(handlers, "as-a-child-of"), _names(given))
        if not _values(given, "provides-files-for-command-mount"):
            raise NotHeld(f"no input of {wrapper['name']} fills a mount", "one", "add provides-files-for-command-mount")
    return f"{command['name']}: {command['command-line']}"


def xnat_label(image: Image) -> str:
    """Check that the label org.nrg.commands holds the command of command.json."""
    try:
        given = json.loads(image.labels.get(XNAT_LABEL, ""))
    except (ValueError, RecursionError) as error:
        raise NotHeld(
            f"the label {XNAT_LABEL} is missing or no JSON", "a list of commands", "label the image"
        ) from error
    if not isinstance(given, list) or image.document(XNAT) not in given:
        raise NotHeld(
            f"the label {XNAT_LABEL} holds another command than {XNAT}", "a list with it", "label the image anew"
        )
    return f"{len(given)} command"


def _fits(document: Mapping[str, Any], schema: str, what: str) -> None:
    from jsonschema import Draft202012Validator

    text = resources.files("app.packaging.check").joinpath("schemas", schema).read_text(encoding="utf-8")
    wrong = next(Draft202012Validator(json.loads(text)).iter_errors(document), None)
    if wrong is not None:
        raise NotHeld(f"{what}: {wrong.json_path}: {wrong.message[:120]}", "valid by its schema", "correct it")


def _names(given: Iterable[Mapping[str, Any]]) -> set[str]:
    return {str(one["name"]) for one in given}


def _values(given: Iterable[Mapping[str, Any]], key: str) -> set[str]:
    return {str(one[key]) for one in given if one.get(key)}


def _known(field: str, found: set[str], known: set[Any]) -> None:
    unknown = sorted(found - known)
    if unknown:
        raise NotHeld(f"{field} names {named(unknown)}", f"one of {sorted(map(str, known))}", "correct command.json")


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "AS_MERCURE": mercure,
    "AS_KAAPANA": kaapana,
    "AS_XNAT": xnat_command,
    "AS_XNAT_LABEL": xnat_label,
}
