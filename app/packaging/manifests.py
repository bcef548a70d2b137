"""The files by which others recognise the image: app.json, pkg.json, Kaapana's, XNAT's, and the OCI labels.

app.json and pkg.json come from the SDK's packager, corrected where the MAP specification 1.0.0 says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from app.packaging.layout import (
    API_VERSION,
    APP,
    COMMAND,
    ENVIRONMENT,
    INPUT,
    MODELS,
    OUTPUT,
    PROGRAM,
    WORK,
)
from operators import __version__

TITLE: Final = "ctvae"
DESCRIPTION: Final = "A CT study in, reproducible VAE features out, as DICOM SR and JSON. Not for diagnosis."
LICENCE: Final = "Apache-2.0"
INPUT_FORMATS: Final = (
    {"type": "file", "format": "DICOM", "modality": "CT"},
    {"type": "file", "format": "NIfTI"},
    {"type": "file", "format": "NRRD"},
    {"type": "file", "format": "MetaImage"},
)
OUTPUT_FORMAT: Final = {"type": "file", "formats": ["DICOM SR (Comprehensive 3D SR, TID 1500)", "JSON"]}
# `doctor` reproduces the bundle's golden values: after that, the application can do its work.
PROBE: Final = {
    "type": "command",
    "command": [*PROGRAM, "doctor"],
    "initialDelaySeconds": 1,
    "periodSeconds": 60,
    "timeoutSeconds": 30,
    "failureThreshold": 3,
}


def app_and_pkg(staged: Path, settings: Path, bundles: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return app.json and pkg.json.

    Args:
        staged: the application's folder, with its `__main__.py`.
        settings: app.yaml, whose sections `application` and `resources` the packager reads.
        bundles: names of the bundles in the models folder.
    """
    # The SDK's packager takes a second to import, and only a build needs it.
    from holoscan_cli.packager.config_reader import ApplicationConfiguration
    from holoscan_cli.packager.parameters import PackageBuildParameters

    config, parameters = ApplicationConfiguration(), PackageBuildParameters()  # type: ignore[no-untyped-call]
    config.read(settings)
    parameters.application = staged
    parameters.models = {name: staged / name for name in bundles}
    parameters.version = __version__
    return (
        corrected_app(config.populate_app_manifest(parameters).data),
        corrected_pkg(config.populate_package_manifest(parameters).data, bundles),
    )


def corrected_app(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return app.json as the specification has it.

    The packager's lacks `type`, has a list inside the string `command`, relative paths, other names of two variables,
    and no probes for an application.
    """
    return {
        **given,
        "apiVersion": API_VERSION,
        "type": "application",
        "command": COMMAND,
        "environment": dict(ENVIRONMENT),
        "input": {"path": f"{INPUT}/", "formats": [dict(one) for one in INPUT_FORMATS]},
        "output": {"path": f"{OUTPUT}/", "format": dict(OUTPUT_FORMAT)},
        "readiness": dict(PROBE),
        "liveness": dict(PROBE),
        "sdk": "monai-deploy",
        "sdkVersion": version("monai-deploy-app-sdk"),
        "workingDirectory": f"{WORK}/",
    }


def corrected_pkg(given: Mapping[str, Any], bundles: Sequence[str]) -> dict[str, Any]:
    """Return pkg.json as the specification has it: the packager's `models` is an object, and paths lack their slash."""
    kept = {name: value for name, value in given.items() if value is not None}
    return {
        **kept,
        "apiVersion": API_VERSION,
        "applicationRoot": f"{APP}/",
        "modelRoot": f"{MODELS}/",
        "models": [{"name": name, "path": name} for name in bundles],
    }


def processing_container() -> dict[str, Any]:
    """Return `/processing-container.json`, which Kaapana's Task API demands at the root of an image."""
    source, target = "/kaapana/input", "/kaapana/output"
    return {
        "name": TITLE,
        "description": DESCRIPTION,
        "templates": [
            {
                "identifier": "encode",
                "description": "Encode each CT series: features.json and features.sr.dcm in a folder per series.",
                "inputs": [
                    {"name": "input", "mounted_path": source, "description": "CT as DICOM, in folders of any depth."}
                ],
                "outputs": [
                    {
                        "name": "features",
                        "mounted_path": target,
                        "description": "One folder per series, named by its SeriesInstanceUID; outcome.json beside it.",
                    }
                ],
                "env": [
                    _env("OPERATOR_IN_DIR", source, "Where the input channel is mounted."),
                    _env("OPERATOR_OUT_DIR", target, "Where the output channel is mounted."),
                ],
                "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
            }
        ],
    }


def _env(name: str, value: str, description: str) -> dict[str, Any]:
    return {"name": name, "value": value, "type": "string", "adjustable": False, "description": description}


def xnat_command(image: str) -> dict[str, Any]:
    """Return XNAT's `command.json`: how its Container Service starts the image on a scan and files the results.

    Args:
        image: name with tag under which the server's Docker knows the image.
    """
    return {
        "name": TITLE,
        "label": "CT features",
        "description": DESCRIPTION,
        "version": __version__,
        "schema-version": "1.0",
        "type": "docker",
        "image": image,
        "override-entrypoint": False,
        "command-line": "-i /xnat/input -o /xnat/output",
        "reserve-memory": 2048,
        "limit-cpu": 2,
        "mounts": [
            {"name": "in", "writable": False, "path": "/xnat/input"},
            {"name": "out", "writable": True, "path": "/xnat/output"},
        ],
        "environment-variables": {},
        "ports": {},
        "inputs": [],
        "outputs": [{"name": "features", "description": "One folder per series", "required": True, "mount": "out"}],
        "xnat": [
            {
                "name": "ctvae-scan",
                "label": "CT features of a scan",
                "description": "Encode the DICOM files of a scan",
                "contexts": ["xnat:imageScanData"],
                "external-inputs": [
                    {
                        "name": "scan",
                        "description": "CT scan",
                        "type": "Scan",
                        "required": True,
                        "matcher": "'DICOM' in @.resources[*].label",
                    }
                ],
                "derived-inputs": [
                    {
                        "name": "scan-dicom",
                        "description": "Its DICOM files",
                        "type": "Resource",
                        "required": True,
                        "matcher": "@.label == 'DICOM'",
                        "derived-from-wrapper-input": "scan",
                        "provides-files-for-command-mount": "in",
                    }
                ],
                "output-handlers": [
                    {
                        "name": "features-resource",
                        "accepts-command-output": "features",
                        "as-a-child-of": "scan",
                        "type": "Resource",
                        "label": "CTVAE",
                    }
                ],
            }
        ],
    }


def labels(image: str, source: str, revision: str, created: str, base: str) -> dict[str, str]:
    """Return the image's labels: the OCI annotations, and XNAT's command.

    Args:
        image: name with tag.
        source: URL of the repository.
        revision: commit.
        created: time of the commit, RFC 3339.
        base: the base image as it was named.
    """
    prefix = "org.opencontainers.image"
    return {
        f"{prefix}.title": TITLE,
        f"{prefix}.description": DESCRIPTION,
        f"{prefix}.version": __version__,
        f"{prefix}.revision": revision,
        f"{prefix}.created": created,
        f"{prefix}.source": source,
        f"{prefix}.licenses": LICENCE,
        f"{prefix}.base.name": base,
        "org.nrg.commands": json.dumps([xnat_command(image)], separators=(",", ":")),
    }
