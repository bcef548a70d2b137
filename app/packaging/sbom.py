"""The bill of materials of the image in CycloneDX 1.6: Python packages, Debian packages, the model, the application."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from app.packaging.debian import DebianPackage
from app.packaging.layout import MODELS
from app.packaging.manifests import LICENCE, TITLE
from operators import __version__

_CLASSIFIER: Final = "License :: OSI Approved :: "
LONGEST_NAME: Final = 80  # some packages put the whole text where the name belongs
UNKNOWN: Final = "see the licence files of the package"


def bill_of_materials(
    libraries: Path, debian: Iterable[DebianPackage], further: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the bill as CycloneDX JSON; the same image gives the same bytes.

    Args:
        libraries: folder with the installed Python packages.
        debian: packages of the base that stayed.
        further: components that the build knows of: the bundles' weights.
    """
    python = sorted((_python(one) for one in distributions(path=[str(libraries)])), key=lambda one: str(one["purl"]))
    components = [*further, *python, *map(_debian, debian)]
    application = {
        "bom-ref": TITLE,
        "type": "application",
        "name": TITLE,
        "version": __version__,
        "licenses": [{"license": {"id": LICENCE}}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": application},
        "components": components,
        "dependencies": [{"ref": TITLE, "dependsOn": sorted(str(one["bom-ref"]) for one in components)}],
    }


def model_components(bundle: Path, version: str) -> list[dict[str, Any]]:
    """Return a component per file of weights of a bundle: its digest, its licence and the bundle's model card.

    Args:
        bundle: folder of the bundle.
        version: of the bundle.
    """
    card = {
        "modelParameters": {"task": "feature extraction", "architectureFamily": "variational autoencoder"},
        "properties": [
            {"name": "ctvae:card", "value": f"{MODELS}/{bundle.name}/docs/README.md"},
            {"name": "ctvae:card:sha256", "value": _sha256(bundle / "docs" / "README.md")},
        ],
    }
    return [
        {
            "bom-ref": f"model:{bundle.name}/{file.name}",
            "type": "machine-learning-model",
            "name": f"{bundle.name}/{file.name}",
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": _sha256(file)}],
            "licenses": [{"license": {"id": LICENCE}}],
            "modelCard": card,
        }
        for file in sorted((bundle / "models").iterdir())
    ]


def _sha256(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def _python(package: Distribution) -> dict[str, Any]:
    name = package.metadata["Name"].lower().replace("_", "-")
    purl = f"pkg:pypi/{name}@{quote(package.version, safe='')}"
    return {
        "bom-ref": purl,
        "type": "library",
        "name": name,
        "version": package.version,
        "licenses": [{"license": {"name": _licence(package)}}],
        "purl": purl,
    }


def _licence(package: Distribution) -> str:
    """Return the licence's name: the SPDX expression, else the short text, else the classifiers."""
    fields = package.metadata.json
    stated = str(fields.get("license_expression") or fields.get("license") or "")
    if stated.strip() and stated.strip() != "UNKNOWN" and "\n" not in stated and len(stated) <= LONGEST_NAME:
        return stated.strip()
    classifiers = package.metadata.get_all("Classifier") or []
    named = [line.removeprefix(_CLASSIFIER) for line in classifiers if line.startswith(_CLASSIFIER)]
    return " AND ".join(named) or UNKNOWN


def _debian(package: DebianPackage) -> dict[str, Any]:
    version = quote(package.version, safe="")
    purl = f"pkg:deb/debian/{quote(package.name, safe='')}@{version}?arch={package.architecture}"
    named = [{"license": {"name": name}} for name in package.licences] or [{"license": {"name": UNKNOWN}}]
    return {
        "bom-ref": purl,
        "type": "library",
        "name": package.name,
        "version": package.version,
        "licenses": named,
        "purl": purl,
    }
