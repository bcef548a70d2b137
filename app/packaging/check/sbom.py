"""The clauses on the bill of materials, `/etc/holoscan/sbom.json`: valid, complete, with licences."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from typing import Any, Final
from urllib.parse import unquote

from app.packaging.check.clause import CannotTell, Clause, NotHeld, named
from app.packaging.check.image import PACKAGE_MANIFEST, Image
from app.packaging.check.python_folders import metadata_files

SBOM: Final = "/etc/holoscan/sbom.json"
BESIDE: Final = ".sbom.json"
SPEC_VERSION: Final = "1.6"
DPKG: Final = re.compile(r"/var/lib/dpkg/(status|status\.d/(?!.*\.md5sums).+)")
WEIGHTS: Final = re.compile(r".*\.(onnx|safetensors|pt|ts)")
WRITE: Final = "make the SBOM of what is installed, in the last step of the build"


def valid(image: Image) -> str:
    """Check that the SBOM is valid CycloneDX 1.6."""
    document = image.document(SBOM)
    if document.get("bomFormat") != "CycloneDX" or document.get("specVersion") != SPEC_VERSION:
        found = f"{document.get('bomFormat')!r} {document.get('specVersion')!r}"
        raise NotHeld(f"the SBOM is {found}", f"CycloneDX {SPEC_VERSION}", "write it in that version")
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ModuleNotFoundError as error:
        raise CannotTell(f"{error.name} is not installed; install ctvae[map] to compare with the schema") from error
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    if wrong is not None:
        raise NotHeld(f"the schema of CycloneDX {SPEC_VERSION} refuses it: {_problem(wrong)}", "valid", WRITE)
    return f"CycloneDX {SPEC_VERSION}, {len(_components(image))} components"


def _problem(wrong: Any) -> str:
    message, path = getattr(wrong.data, "message", str(wrong.data)), getattr(wrong.data, "json_path", "")
    return f"{path} {str(message)[:120]}"


def python_packages(image: Image) -> str:
    """Check that every Python package that is installed is in the SBOM."""
    return _covered(image, _distributions(image), "Python packages")


def debian_packages(image: Image) -> str:
    """Check that every Debian package that is installed is in the SBOM."""
    return _covered(image, _debian(image), "Debian packages")


def _covered(image: Image, installed: set[str], what: str) -> str:
    missing = sorted(installed - _listed(image))
    if missing:
        raise NotHeld(f"{len(missing)} of {len(installed)} {what} not listed: {named(missing)}", "all of them", WRITE)
    return f"{len(installed)} {what}, all listed"


def nothing_else(image: Image) -> str:
    """Check that the SBOM lists no Python or Debian package that is not there, as after a cut."""
    unknown = _listed(image) - _distributions(image) - _debian(image)
    absent = sorted(one for one in unknown if one.startswith(("pkg:pypi/", "pkg:deb/")))
    if absent:
        raise NotHeld(f"lists {len(absent)} packages that are not there: {named(absent)}", "what is there", WRITE)
    return "all that is listed is there"


def models(image: Image) -> str:
    """Check that each model is a component with the SHA-256 of its weights, and its card."""
    given = str(image.document(PACKAGE_MANIFEST).get("modelRoot", "/opt/holoscan/models/"))
    root = (image.tree.resolve(given) or given).rstrip("/")
    digests: dict[str, set[str]] = {}
    for path, entry in image.tree.below(root):
        if entry.kind == "file" and WEIGHTS.fullmatch(path):
            model = path[len(root) + 1 :].partition("/")[0]
            digests.setdefault(model, set()).add(hashlib.sha256(image.content(entry)).hexdigest())
    if not digests:
        raise NotHeld(f"no weights in {root}", "a model", "copy the bundle there")
    components = [one for one in _components(image) if one.get("type") == "machine-learning-model"]
    known = {str(one.get("content")) for component in components for one in _hashes(component)}
    missing = [model for model, found in digests.items() if not found & known]
    if missing:
        text = f"no component of type machine-learning-model has the SHA-256 of the weights of {named(missing)}"
        raise NotHeld(text, "a component per model, with its digest", WRITE)
    bare = [str(one.get("name")) for one in components if not _has_card(one)]
    if bare:
        raise NotHeld(f"no model card for {named(bare)}", "modelCard, or a reference to the card", WRITE)
    return f"{', '.join(digests)}: by the digest of the weights, with a card"


def _hashes(component: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the hashes of a component and of the components in it."""
    yield from component.get("hashes") or []
    for inner in component.get("components") or []:
        yield from _hashes(inner)


def _has_card(component: Mapping[str, Any]) -> bool:
    references = component.get("externalReferences") or []
    return bool(component.get("modelCard")) or any("card" in str(one.get("type")) for one in references)


def licences(image: Image) -> str:
    """Check that every component names its licence."""
    components = _components(image)
    bare = [str(one.get("name")) for one in components if not one.get("licenses")]
    if bare:
        raise NotHeld(
            f"{len(bare)} of {len(components)} components without a licence: {named(bare)}", "one each", WRITE
        )
    return f"{len(components)} components, each with a licence"


def beside(image: Image) -> str:
    """Check that the copy of the SBOM beside the archive is the one inside."""
    file = image.archive.with_name(image.archive.name.removesuffix(".tar").removesuffix(".oci") + BESIDE)
    if not file.is_file():
        raise NotHeld(f"no {file.name} beside the archive", "a copy of the SBOM", "copy it there")
    if file.read_bytes() != image.read(SBOM):
        raise NotHeld(f"{file.name} is another SBOM than the one inside", "the same", "copy it there again")
    return file.name


def purl(text: str) -> str:
    """Return a package URL without its qualifiers, percent signs decoded."""
    return unquote(text.partition("?")[0].partition("#")[0])


def _components(image: Image) -> list[Mapping[str, Any]]:
    given = image.document(SBOM).get("components")
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []


def _listed(image: Image) -> set[str]:
    """Return the package URLs of the components."""
    return {purl(str(one.get("purl", ""))) for one in _components(image)}


def _distributions(image: Image) -> set[str]:
    """Return the package URLs of the Python packages that are installed."""
    installed = set()
    for path in metadata_files(image.tree):
        found = HeaderParser().parsestr(image.read(path).decode("utf-8", "replace"))
        name = re.sub(r"[-_.]+", "-", str(found["Name"])).lower()
        installed.add(f"pkg:pypi/{name}@{found['Version']}")
    return installed


def _debian(image: Image) -> set[str]:
    """Return the package URLs of the Debian packages that are installed."""
    installed = set()
    for path, entry in image.tree.below("/var/lib/dpkg"):
        if entry.kind != "file" or not DPKG.fullmatch(path):
            continue
        for paragraph in image.content(entry).decode("utf-8", "replace").split("\n\n"):
            found = HeaderParser().parsestr(paragraph.strip())
            if found["Package"] and str(found.get("Status", "install ok installed")).endswith(" installed"):
                installed.add(f"pkg:deb/debian/{found['Package']}@{found['Version']}")
    return installed


CLAUSES: Final[Mapping[str, Clause[Image]]] = {
    "SBOM_VALID": valid,
    "SBOM_PYTHON": python_packages,
    "SBOM_DEBIAN": debian_packages,
    "SBOM_NOTHING_ELSE": nothing_else,
    "SBOM_MODELS": models,
    "SBOM_LICENCES": licences,
    "SBOM_BESIDE": beside,
}
