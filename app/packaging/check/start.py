"""The clauses on how a container starts: user, entry point, environment, labels, folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from app.packaging.check.app_manifest import VARIABLES, executable, semantic
from app.packaging.check.clause import Clause, NotHeld, named
from app.packaging.check.image import APP_MANIFEST, Image

LABEL: Final = "org.opencontainers.image."
SHELLS: Final = ("sh", "bash", "dash", "ash", "ksh", "zsh", "busybox")
FOLDERS: Final = ("/opt/holoscan/app", "/opt/holoscan/models", "/opt/holoscan/docs", "/var/holoscan")
MOUNTED: Final = ("/var/holoscan/input", "/var/holoscan/output", "/tmp")  # noqa: S108 - of the image
DOCS: Final = {"a readme": re.compile(r"readme.*", re.I), "a licence": re.compile(r"licen[cs]e.*", re.I)}


def platform(image: Image) -> str:
    """Check that the image says that it is for Linux, on amd64 or arm64."""
    system, machine = image.contents.document.get("os"), image.contents.document.get("architecture")
    if system != "linux" or machine not in ("amd64", "arm64"):
        raise NotHeld(f"the image is for {system} on {machine}", "linux on amd64 or arm64", "build it for one of them")
    return f"linux/{machine}"


def user(image: Image) -> str:
    """Check that the user is a number other than 0: Kubernetes cannot tell of a name whether it is root."""
    found = image.config.get("User")
    if not isinstance(found, str) or not re.fullmatch(r"[1-9]\d*(:\d+)?", found):
        raise NotHeld(f"the user is {found!r}", "numbers such as '1000:1000', not 0", "set USER to numbers")
    return found


def entry_point(image: Image) -> str:
    """Check that the entry point is a program in the image, and not a shell."""
    program = _program(image)
    if _is_shell(image, program):
        raise NotHeld(f"the entry point {program} is a shell", "the program itself", 'set ENTRYPOINT ["…"] to it')
    return " ".join((*image.entry_point, *image.command))


def entry_exit_code(image: Image) -> str:
    """Check that no shell script stands between the application and the exit code, unless it hands it on at its end."""
    program = _program(image)
    content = image.read(program) if image.file(program)[1].size < 1 << 20 else b""
    interpreter = _interpreter(content)
    if interpreter.rpartition("/")[2] not in SHELLS:
        return f"{program} is {'run by ' + interpreter if interpreter else 'a program'}, not by a shell"
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line and not line.startswith("#")), "")
    if not last.startswith(("exec ", "exit ")):
        text = f"{program} is a shell script that ends with {last!r}, so the application's exit code may be lost"
        raise NotHeld(text, "exec or exit in its last line", "start the application itself")
    return f"{program} is a shell script that ends with {last!r}"


def _is_shell(image: Image, program: str) -> bool:
    place = image.tree.resolve(program) or program
    return program.rpartition("/")[2] in SHELLS or place.rpartition("/")[2] in SHELLS


def _interpreter(content: bytes) -> str:
    """Return what a script's first line names; the word after env where it names env."""
    if not content.startswith(b"#!"):
        return ""
    words = content[2:].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    return words[1] if len(words) > 1 and words[0].endswith("/env") else words[0] if words else ""


def _program(image: Image) -> str:
    """Return where the program of the entry point lies."""
    if not image.entry_point:
        raise NotHeld("no entry point", "a list of words", 'set ENTRYPOINT ["…"]')
    return executable(image, image.entry_point[0])


def environment(image: Image) -> str:
    """Check that the container has the variables of app.json, with the same values."""
    given = image.document(APP_MANIFEST).get("environment")
    wanted = given if isinstance(given, dict) else {}
    wrong = [name for name in {**dict.fromkeys(VARIABLES), **wanted} if image.env.get(name) != wanted.get(name)]
    if wrong:
        texts = [f"{name} is {image.env.get(name)!r} and {wanted.get(name)!r} in app.json" for name in wrong]
        raise NotHeld(named(texts), "the same values", "set ENV as in app.json")
    return f"{len(wanted)} variables as in app.json"


def labels(image: Image) -> str:
    """Check that the labels of the OCI are there: title, version, source, revision, licences, creation and base."""
    names = ("title", "version", "source", "revision", "licenses", "created", "base.name")
    missing = [LABEL + name for name in names if not image.labels.get(LABEL + name)]
    if missing:
        raise NotHeld(f"no label {named(missing)}", "all of " + ", ".join(names), "label the image")
    semantic(image.labels[LABEL + "version"], f"the label {LABEL}version", "label the image with it")
    if not re.fullmatch(r"[0-9a-f]{40}", image.labels[LABEL + "revision"]):
        raise NotHeld(f"the revision is {image.labels[LABEL + 'revision']!r}", "a commit", "label the image with it")
    return f"{image.labels[LABEL + 'title']} {image.labels[LABEL + 'version']}, {len(names)} labels"


def no_health_check(image: Image) -> str:
    """Check that there is no HEALTHCHECK, which an OCI image does not have; the manifests probe with `doctor`."""
    if image.config.get("Healthcheck"):
        raise NotHeld("a Healthcheck", "none", "take HEALTHCHECK out; probe from the compose file or the manifests")
    return "none"


def no_volumes(image: Image) -> str:
    """Check that no VOLUME is declared: anonymous volumes keep patient data when the container is gone."""
    if image.config.get("Volumes"):
        raise NotHeld(f"volumes {named(sorted(map(str, image.config['Volumes'])))}", "none", "take VOLUME out")
    return "none"


def folders(image: Image) -> str:
    """Check that the folders of the specification are there."""
    missing = [
        path for path in (*FOLDERS, *MOUNTED) if (entry := image.tree.find(path)) is None or entry.kind != "folder"
    ]
    if missing:
        raise NotHeld(f"no folder {named(missing)}", "it in the image", "make it: what is mounted needs a place")
    return f"{len(FOLDERS) + len(MOUNTED)} folders"


def documents(image: Image) -> str:
    """Check that /opt/holoscan/docs holds a readme and the licence."""
    names = [path.rpartition("/")[2] for path, entry in image.tree.below("/opt/holoscan/docs") if entry.kind == "file"]
    missing = [what for what, pattern in DOCS.items() if not any(pattern.fullmatch(name) for name in names)]
    if missing:
        raise NotHeld(f"/opt/holoscan/docs lacks {' and '.join(missing)}", "both", "copy them there")
    return f"{len(names)} files"


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "IMAGE_PLATFORM": platform,
    "IMAGE_USER": user,
    "IMAGE_ENTRYPOINT": entry_point,
    "IMAGE_EXIT_CODE": entry_exit_code,
    "IMAGE_ENVIRONMENT": environment,
    "IMAGE_LABELS": labels,
    "IMAGE_NO_HEALTHCHECK": no_health_check,
    "IMAGE_NO_VOLUMES": no_volumes,
    "IMAGE_FOLDERS": folders,
    "IMAGE_DOCUMENTS": documents,
}
